"""How far samples of scans without spikes stick out, in units of what counts as a spike.

    python tests/benchmarks/bench_spikes.py IMAGES.zip [SCAN...] [--images 70]

simulates scans of the first pictures (128 x 128, 1 to 12 coils, noise of 0.0005 to 0.03, five masks
each: full, random and Poisson R = 4, equispaced R = 3, random R = 2 of 70 % of k-space) and prints
the largest energy of a sample over that of its largest neighbour (data_prep/faults/spikes.py; 50 is
a spike): median, 99 % and the largest over all scans, the largest of every real scan, and one JSON
line. Ends with 1 if anything is called a spike. ``--quick`` takes one phantom.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings

import numpy as np

from mri_ambient.data_prep.faults.spikes import LEAST_RATIO, outstanding
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.data_prep.simulation.scan_model import ScanModel, SimulateConfig
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import find_scans
from mri_ambient.rng import rng_for

SAMPLING = (
    {"full": True},
    {"mask": "random", "acceleration": 4.0},
    {"mask": "poisson", "acceleration": 4.0},
    {"mask": "equispaced", "acceleration": 3.0},
    {"mask": "random", "acceleration": 2.0, "partial_fourier": 0.7},
)


def main() -> int:
    """Print the largest ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--images", dest="count", type=int, default=70)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    n = 1 if args.quick else args.count
    source, found = open_images(args.images), []
    for name in source.names(n, 1)[:n]:
        for k, options in enumerate(SAMPLING):
            config = SimulateConfig(
                (128, 128), (1, 12), calib=16, noise=(0.0005, 0.03), jitter=True, **options
            )
            anatomy = source.read(name, config.size, 1, rng_for(0, name))
            found.append(
                float(outstanding(ScanModel(anatomy, config, f"{name} {k}").measure(0)).max())
            )
    real = {}
    for scan in find_scans(args.scans) if args.scans else ():
        file = scan.open()
        real[scan.name] = max(float(outstanding(part.ksp[0]).max()) for part in file)
    middle, high = np.quantile(found, [0.5, 0.99])
    row = {"scans": len(found), "median": middle, "99 %": high, "largest": max(found)} | real
    print(json.dumps({"benchmark": "spikes"} | {k: round(float(v), 2) for k, v in row.items()}))
    return int(max(*found, *real.values()) > LEAST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
