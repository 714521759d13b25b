"""How large is the null-space fraction when all scans have the same mask?

    python tests/benchmarks/bench_coverage.py IMAGES.zip [--scan SCAN.h5]

Coil maps of simulated scans with 1 to 12 coils, and of a real one, under random and equispaced
masks: :func:`mri_ambient.physics.coverage.null_space_fraction`. ``train`` refuses more than
``MAX_NULL_SPACE``. Prints one JSON line for every scan.

``--quick`` uses one phantom.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from mri_ambient.data_prep import SimulateConfig, prepare_file, simulate
from mri_ambient.io import PreparedFile
from mri_ambient.io.formats.prepared import mask_facts
from mri_ambient.physics.coverage import MAX_NULL_SPACE, null_space_fraction
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import rng_for

MASKS = [("random", 2.0), ("random", 3.0), ("random", 4.0)]
MASKS += [("equispaced", 2.0), ("equispaced", 3.0), ("equispaced", 4.0)]
COILS = (1, 2, 4, 8, 12)


def main() -> None:
    """Prepare, mask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("--scan", type=Path, help="a real, fully sampled scan")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scans = {}
        for coils in (3,) if args.quick else COILS:
            config = SimulateConfig(size=(64, 64), coils=coils, calib=8, full=True, noise=0.01)
            raw = simulate(args.images, work / f"raw{coils}", config, count=1)
            scans[f"{coils} simulated"] = (raw[0], 8)
        if args.scan is not None:
            scans[args.scan.stem] = (args.scan, 24)
        for name, (path, calib) in scans.items():
            facts = mask_facts(PreparedFile(prepare_file(path, work / name)))
            assert facts.read_op is not None
            op = facts.read_op()
            found = {}
            for kind, rate in MASKS:
                mask = MaskSpec(kind, rate, calib).draw(tuple(facts.mask.shape[-2:]), rng_for(1))
                fraction = null_space_fraction(op.with_mask(mask))
                found[f"{kind} {rate:g}"] = round(fraction, 3)
            row = {"benchmark": "coverage", "coils": name, "limit": MAX_NULL_SPACE, **found}
            print(json.dumps(row))


if __name__ == "__main__":
    main()
