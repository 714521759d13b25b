"""Coil maps from a contrast's own calibration lines, from those of another, or from their sum.

    python tests/benchmarks/bench_contrasts.py IMAGES.zip [--slices 12]

simulates two contrasts of the same slice with the same coils (the second has inverted intensities)
and noise of three levels, keeps R = 4 random lines of the second with 24 or 12 calibration lines,
and reconstructs it (CG-SENSE and ``aos``) with maps from its own calibration lines, from those of
the first contrast, and from the sum of both. Prints PSNR in dB inside the support, against the RSS
image without noise, and one JSON line. ``--quick`` uses a phantom and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections import defaultdict

import torch
from scoring import psnr
from torch import Tensor

import mri_ambient as ma
from mri_ambient.data_prep.simulation.images import Anatomy, open_images
from mri_ambient.data_prep.simulation.scan_model import ScanModel, SimulateConfig
from mri_ambient.errors import NumericalWarning
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import complex_normal, rng_for

NOISES, LINES = (0.005, 0.02, 0.05), (24, 12)


def pictures(images: str, n: int, size: tuple[int, int]) -> list[Tensor]:
    """Magnitude images ``(y, x)``, at most 1."""
    source = open_images(images)
    names = source.names(n, 1)
    names = names[:: max(1, len(names) // n)][:n]
    return [source.read(name, size, 1, rng_for(0, name)).img[0] for name in names]


def contrast(img: Tensor, config: SimulateConfig, name: str, n: int) -> tuple[Tensor, Tensor]:
    """K-space ``(coil, y, x)`` of a contrast without and with noise; coils follow from the name."""
    model = ScanModel(Anatomy(img[None] / img.max(), name, 1.0), config, name)
    clean = model.clean(0)
    white = complex_normal((model.n_coils, clean[0].numel()), rng_for(n, name, "noise"))
    chol = torch.linalg.cholesky(model.cov).to(torch.complex64)
    return clean, clean + (chol @ white).view_as(clean)


def main() -> None:
    """Print a line per noise and number of lines, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?")
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    recipes = {name: ma.Recipe(name).resolve() for name in ("cg-sense", "aos")}
    size = (64, 64) if args.quick else (128, 128)
    args.slices = 1 if args.quick else args.slices
    images = pictures("phantom" if args.quick else args.images, args.slices, size)
    cases = [(noise, n) for noise in NOISES for n in LINES][
        slice(1, 2) if args.quick else slice(None)
    ]
    rows = []
    for noise, n_lines in cases:
        config = SimulateConfig(size, full=True, noise=noise, units=1.0)
        found: dict[str, list[float]] = defaultdict(list)
        for k, img in enumerate(images):
            inverted = torch.where(img > 0.08, 1.05 - img, 0)
            _, first = contrast(img, config, f"scan {k}", 1)
            clean, second = contrast(inverted, config, f"scan {k}", 2)
            truth = ifft2c(clean).abs().square().sum(dim=0).sqrt()
            mask = MaskSpec("random", 4, n_lines).draw(size, rng_for(0, k))[0]
            blocks = {"own": None, "other": first, "sum": first + second}
            for maps, block in blocks.items():
                acs = None if block is None else center_crop(block, (size[0], n_lines)).numpy()
                scan = ma.Scan.from_numpy((second * mask).numpy(), acs=acs)
                for name, recipe in recipes.items():
                    rec = ma.reconstruct(scan, recipe).magnitude[0]
                    found[f"{name}, {maps}"].append(psnr(torch.from_numpy(rec), truth))
        row = {"noise": noise, "lines": n_lines}
        row |= {name: round(statistics.fmean(values), 2) for name, values in found.items()}
        rows.append(row)
        print(row, flush=True)
    print(json.dumps({"benchmark": "contrasts", "slices": len(images), "psnr": rows}))


if __name__ == "__main__":
    main()
