"""What benchmarks share: simulated scans with their truth, scores and their differences, times."""

from __future__ import annotations

import math
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_ambient.data_prep import ScanModel, SimulateConfig, plan_preparation, write_scan
from mri_ambient.data_prep.simulation.images import ImageSource
from mri_ambient.io import open_scan
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.recon.engine import to_file_units
from mri_ambient.rng import rng_for
from mri_ambient.scan import Scan


@dataclass(frozen=True)
class Case:
    """A prepared scan and the truth it was simulated from.

    Attributes:
        scan: prepared from the undersampled data.
        truth: noise-free RSS image in file units ``(y, x)``.
    """

    scan: Scan
    truth: Tensor

    def psnr(self, img: Tensor) -> float:
        """PSNR of an image in normalised units, inside the support, in dB."""
        ours = to_file_units(img.abs(), self.scan)[0]
        inside = ours > 0
        error = (ours - self.truth)[inside].square().mean()
        return float(10 * torch.log10(self.truth.max() ** 2 / error))


def case_of(source: ImageSource, name: str, config: SimulateConfig, folder: Path) -> Case:
    """Simulate one scan, and keep what it shows without noise and undersampling."""
    anatomy = source.read(name, config.size, 1, rng_for(config.seed, name, "object"))
    model = ScanModel(anatomy, config, name)
    path = folder / f"{name}.h5"
    write_scan(model, path)
    file = open_scan(path)
    coil_img = ifft2c(config.units * model.clean(0))
    rss = coil_img.abs().square().sum(dim=0).sqrt()
    return Case(plan_preparation(file).apply(file[0]), center_crop(rss, file.recon_shape))


def psnr(img: Tensor, truth: Tensor) -> float:
    """Inside the support, in dB."""
    inside = truth > 0.05 * truth.max()
    return 20 * math.log10(truth.max() / (img - truth)[inside].square().mean().sqrt())


def mean_and_error(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Mean and its standard error, with signs."""
    if len(values) < 2:
        return f"{np.mean(values):+.2f}" if len(values) else "not run"
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}"


def difference(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Mean difference of PSNR over the cases and its standard error."""
    if "psnr_each" not in row or "psnr_each" not in other:
        return ""
    return mean_and_error(np.subtract(row["psnr_each"], other["psnr_each"]))


def commit() -> str:
    """The commit this script is of; empty outside a repository."""
    words = ("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
