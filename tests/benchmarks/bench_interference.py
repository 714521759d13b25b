"""Zippers and offsets: how near scans without them come, and how strong they must be to be found.

    python tests/benchmarks/bench_interference.py IMAGES.zip [SCAN...] [--images 48]

simulates scans of the first pictures (96 x 80 to 256 x 256, 1 to 12 coils, noise of 0.0005 to 0.05,
five masks each: full, random R = 4, equispaced R = 3, gaussian R = 5 with oversampled readout,
random R = 2 of 70 % of k-space) and prints the ratios of the row that stands out most, and of the
middle (data_prep/faults/interference.py): median, 99 % and the largest, and how many were called
interference. Of every scan, 20 other pixels are moved to the middle, too. Then zippers of random
frequency and phases, and offsets, of 0.1 to 3 times the object's maximum are added (to a pixel, all
coils together), and the share that is found is printed. Ends with 1 if anything without them is
called interference. ``--quick`` takes one phantom and the strongest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mri_ambient.data_prep.faults.interference import (
    FEWEST,
    find_interference,
    interference_of,
    middle_ratio,
    outer_lines,
    row_ratios,
)
from mri_ambient.data_prep.oversampling import remove_oversampling
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.data_prep.simulation.scan_model import ScanModel, SimulateConfig
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import find_scans
from mri_ambient.physics.axis_fourier import ifftc
from mri_ambient.rng import complex_normal, rng_for

SAMPLING = (
    {"full": True},
    {"mask": "random", "acceleration": 4.0},
    {"mask": "equispaced", "acceleration": 3.0},
    {"mask": "gaussian", "acceleration": 5.0, "readout_oversampling": 2},
    {"mask": "random", "acceleration": 2.0, "partial_fourier": 0.7},
)
SIZES = ((128, 128), (256, 256), (96, 80))
NOISES = (0.0005, 0.003, 0.01, 0.05)
STRENGTHS = (0.1, 0.3, 1.0, 3.0)
N_MOVED = 20


def ratios(ksp: Tensor, mask: Tensor) -> tuple[float, list[float]]:
    """The largest of a row, and those of the middle, without and with other pixels there."""
    outer, lines = outer_lines(ksp, mask)
    ny, n = mask.shape[-2:]
    middles, rng = [middle_ratio(outer, lines, n)], np.random.default_rng(0)
    for _ in range(N_MOVED):
        y, x = int(rng.integers(ny)), int(rng.integers(n))
        turns = y / ny * torch.arange(ny)[:, None] + x / n * lines
        middles.append(middle_ratio(outer * torch.exp(2j * math.pi * turns), lines, n))
    return float(row_ratios(ifftc(outer, dim=-2)).max()), middles


def interference(kind: str, shape: tuple[int, ...], name: str) -> Tensor:
    """K-space ``(coil, y, x)`` of a row, or of a point, with 1 in every pixel of its image."""
    rng = rng_for(0, kind, name)
    gains = complex_normal((shape[0], 1, 1), rng)
    gains = gains / gains.norm() / math.sqrt(shape[1])
    if kind == "offset":
        return (gains / math.sqrt(shape[2])).expand(shape)
    frequency = float(torch.rand(1, generator=rng)) - 0.5
    turns = frequency * torch.arange(shape[1])[:, None] + torch.rand(shape[2], generator=rng)
    return gains * torch.exp(2j * math.pi * turns)


def models(images: str, count: int) -> Iterator[tuple[str, ScanModel]]:
    """Scans with enough lines."""
    source = open_images(images)
    for k, name in enumerate(source.names(count, 1)[:count]):
        for options in SAMPLING:
            config = SimulateConfig(
                SIZES[k % 3], (1, 12), calib=12, noise=NOISES[k // 3 % 4], jitter=True, units=1.0,
                **options,
            )  # fmt: skip
            label = f"{name} {options}"
            anatomy = source.read(name, config.size, 1, rng_for(0, name))
            model = ScanModel(anatomy, config, label)
            if int(model.mask[0].any(dim=0).sum()) >= FEWEST:
                yield label, model


def main() -> int:
    """Print ratios and shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--images", dest="count", type=int, default=48)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    rows, middles, found = [], [], Counter()
    for label, model in models(args.images, 1 if args.quick else args.count):
        ksp, mask = model.measure(0), model.mask
        row, moved = ratios(ksp, mask)
        rows.append(row)
        middles += moved
        none = find_interference(ksp, mask)
        found["false alarms"] += bool(none.rows) or none.offset
        for kind in ("zipper", "offset"):
            for strength in STRENGTHS[-1 if args.quick else 0 :]:
                added = ksp + strength * interference(kind, tuple(ksp.shape), label) * mask
                seen = find_interference(added, mask)
                found[f"{kind} {strength}"] += bool(seen.rows) if kind == "zipper" else seen.offset
    for scan in find_scans(args.scans) if args.scans else ():
        file = scan.open()
        n_rows = round(file.shape[2] / file.readout_oversampling)
        alarms = [bool(interference_of(remove_oversampling(part, n_rows))) for part in file]
        found["false alarms"] += not file.is_3d and any(alarms)
    row = {"scans": len(rows), "false alarms": found.pop("false alarms")}
    for name, values in (("rows", rows), ("middles", middles)):
        sizes = [*np.quantile(values, [0.5, 0.99]), max(values)]
        row[f"{name}: median, 99 %, largest of {len(values)}"] = [round(float(v), 2) for v in sizes]
    shares = {name: round(count / len(rows), 2) for name, count in found.items()}
    print(json.dumps({"benchmark": "interference"} | row | shares))
    return int(row["false alarms"] > 0)


if __name__ == "__main__":
    sys.exit(main())
