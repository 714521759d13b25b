"""Partial Fourier scans: homodyne, POCS and other classical methods beside the prior that ships.

    python tests/benchmarks/bench_partial_fourier.py VAL.zip WORK [--scans N]

simulates scans of validation images (128 x 128, 8 coils, sigma_n about 0.01 in normalised units)
whose columns are missing on one side beyond 5/8, 6/8 or 7/8 of k-space; of those that are left,
random lines are sampled at R = 1, 2 or 3. With an asymmetric echo the first rows are missing, up to
1/4, of every line. PSNR (dB) is against the noise-free RSS image of the
complete k-space, inside the support. All methods get the same prepared scan and coil maps and run
with their defaults.

Homodyne and POCS begin with CG-SENSE and take the image's phase from the columns around k = 0 that
are there on both sides. Homodyne (Noll et al. 1991) weights columns with a linear ramp and keeps
the part of the image in phase; POCS (Haacke et al. 1991; with coil maps Samsonov et al. 2004)
alternates between this phase and data consistency.

Prints a JSON line a setting and writes WORK/partial_fourier.json; what is there is not done again.
``--table RESULTS.json`` prints such a file as Markdown. ``--quick`` runs one phantom.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scoring import Case, case_of, mean_and_error
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.methods import CgSense, L1Wavelet, Method, ZeroFilled
from mri_ambient.methods.base import FINAL_CG, data_consistency
from mri_ambient.methods.presets import PRESETS
from mri_ambient.physics.fourier import fft2c, ifft2c
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.rng import rng_for
from mri_ambient.runtime.files import write_json
from mri_ambient.scan import Batch

Rows = dict[str, dict[str, list[float]]]

SEED, N_POCS, POCS_TAU = 61, 20, 0.1

DEFAULT = f"default ({default_prior().stem})"


def band(batch: Batch) -> tuple[Tensor, int]:
    """Places along the axis with a missing side, and half the width of the band with both sides.

    Returns:
        Distances from k = 0, positive on the side that is there, ``(x,)`` or of rows ``(y, 1)``;
        the largest distance that is there on both sides.
    """
    rows = batch.mask[0, 0].any(dim=1)
    acquired = batch.acquired[0] if bool(rows.all()) else rows
    n = len(acquired)
    k = torch.arange(n) - n // 2
    first, last = int(k[acquired].min()), int(k[acquired].max())
    k = k if last > -first else -k
    return (k if bool(rows.all()) else k[:, None]), min(last, -first)


def low_resolution_phase(img: Tensor, batch: Batch) -> Tensor:
    """``e^{i phi}`` by the part of k-space around k = 0 that is there on both sides."""
    k, half = band(batch)
    window = torch.where(k.abs() <= half, 0.5 + 0.5 * torch.cos(torch.pi * k / (half + 1)), 0.0)
    low = ifft2c(window * fft2c(img))
    return low / low.abs().clamp(min=1e-12)


def in_phase(img: Tensor, phase: Tensor) -> Tensor:
    """The part of an image that has this phase, where it is positive."""
    return (img * phase.conj()).real.clamp(min=0) * phase


def homodyne(batch: Batch) -> Tensor:
    """See the module."""
    img = CgSense()(None, batch, [])
    k, half = band(batch)
    ramp = (1 + k / max(half, 1)).clamp(0, 2)
    return in_phase(ifft2c(ramp * fft2c(img)), low_resolution_phase(img, batch))


def pocs(batch: Batch) -> Tensor:
    """See the module."""
    img = CgSense()(None, batch, [])
    phase = low_resolution_phase(img, batch)
    for _ in range(N_POCS):
        img = data_consistency(
            batch.op, batch.measured, in_phase(img, phase),
            noise_std=batch.noise_std, tau=POCS_TAU, n_iter=FINAL_CG,
        )  # fmt: skip
    return img


def methods(prior: Prior) -> dict[str, Callable[[Batch], Tensor]]:
    """What is compared."""

    def of(method: Method, prior: Prior | None = None) -> Callable[[Batch], Tensor]:
        return lambda batch: method(prior, batch, [rng_for(0)])

    return {
        "zero-filled": of(ZeroFilled()),
        "CG-SENSE": of(CgSense()),
        "homodyne": homodyne,
        "POCS": pocs,
        "L1-wavelet": of(L1Wavelet()),
        DEFAULT: of(PRESETS["fast"].method, prior),
    }


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        eighths: of k-space, the rest is missing on one side.
        rate: acceleration of what is left.
        echo: rows are missing, not columns.
    """

    eighths: int
    rate: float
    echo: bool = False

    @property
    def name(self) -> str:
        """In words."""
        return f"{'echo ' * self.echo}{self.eighths}/8, R = {self.rate:g}"

    def cases(self, images: str, n: int, folder: Path) -> list[Case]:
        """Simulated scans; those of all settings show the same images."""
        config = SimulateConfig(
            size=(128, 128), coils=8, calib=12, noise=0.005, jitter=True, bias=0.2,
            acceleration=self.rate, partial_fourier=1 if self.echo else self.eighths / 8,
            seed=SEED,
        )  # fmt: skip
        source = open_images(images)
        cases = [case_of(source, name, config, folder) for name in source.names(n, 1)[:n]]
        return [self.cut(case) for case in cases] if self.echo else cases

    def cut(self, case: Case) -> Case:
        """Without the first rows."""
        scan = case.scan
        n = scan.mask.shape[-2]
        mask = scan.mask & (torch.arange(n) >= n - self.eighths * n // 8)[:, None]
        return replace(case, scan=replace(scan, mask=mask, ksp=torch.where(mask, scan.ksp, 0)))


SETTINGS = (
    *(Setting(eighths, rate) for eighths in (5, 6, 7) for rate in (1.0, 2.0, 3.0)),
    *(Setting(6, rate, echo=True) for rate in (1.0, 2.0, 3.0)),
)


@torch.no_grad()
def score(cases: list[Case], prior: Prior) -> dict[str, list[float]]:
    """PSNR of every scan by every method."""
    return {
        name: [round(case.psnr(method(Batch.of([case.scan]))), 3) for case in cases]
        for name, method in methods(prior).items()
    }


def table(rows: Rows) -> Iterator[str]:
    """Markdown: means, and the lead of the default over the best of the others in each setting."""
    names = list(next(iter(rows.values())))
    yield f"| acquired, R | {' | '.join(names)} | lead over the best other |"
    yield "|---" * (len(names) + 2) + "|"
    for setting, row in rows.items():
        best = max((name for name in names if name != DEFAULT), key=lambda name: np.mean(row[name]))
        lead = mean_and_error(np.subtract(row[DEFAULT], row[best]))
        means = " | ".join(f"{np.mean(row[name]):.2f}" for name in names)
        yield f"| {setting} | {means} | {lead} ({best}) |"


def main() -> None:
    """Simulate, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("val", nargs="?", default="phantom")
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--table", type=Path, help="results to print, as Markdown")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.table is not None:
        print(*table(json.loads(args.table.read_text())), sep="\n")
        return
    settings = SETTINGS
    if args.quick:
        args.scans, settings, args.work = 1, SETTINGS[1:2], Path(tempfile.mkdtemp())
    elif args.work is None:
        parser.error("VAL and WORK are needed without --quick")
    path, prior = args.work / "partial_fourier.json", load_prior(default_prior())
    rows: Rows = json.loads(path.read_text()) if path.exists() else {}
    for setting in settings:
        if setting.name in rows:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            row = score(setting.cases(args.val, args.scans, Path(scratch)), prior)
        rows[setting.name] = row
        means = {name: round(float(np.mean(each)), 2) for name, each in row.items()}
        line = {"benchmark": "partial_fourier", "setting": setting.name, **means}
        print(json.dumps(line), flush=True)
        write_json(path, rows)


if __name__ == "__main__":
    main()
