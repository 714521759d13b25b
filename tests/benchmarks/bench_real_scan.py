"""One step with data consistency against L1-wavelet at its best, on a real scan.

    python tests/benchmarks/bench_real_scan.py SCAN.h5 [--prior PRIOR] [--acceleration 4]

undersamples a fully sampled scan with 10 mask seeds (20 calibration lines), reconstructs it from
the selected samples alone (maps, noise and scale included), and scores against |S^H F^H k| of the
full data, uncropped. L1-wavelet takes, for every mask, the best of 8 regularisation weights from
1e-4 to 3e-2 in hindsight, which no user could; a best weight at an edge ends the script with an
error. Prints a line per seed and one JSON line with the mean paired gain and the worst seed.

``--quick`` runs on a simulated scan with one seed and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, plan_preparation, simulate
from mri_ambient.io import Undersampled, open_scan
from mri_ambient.methods import Aos
from mri_ambient.methods.baselines import CgSense, L1Wavelet, ZeroFilled
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import reconstruct, to_file_units
from mri_ambient.scan import Batch, Scan

WEIGHTS = np.geomspace(1e-4, 3e-2, 8)


def psnr(img: Tensor, reference: Tensor) -> float:
    """In dB, with the reference's maximum as peak; magnitudes."""
    error = (img.abs() - reference).square().mean()
    return float(10 * torch.log10(reference.max() ** 2 / error))


def sense_reference(path: Path) -> Tensor:
    """|S^H F^H k| of the fully sampled scan with maps from the full data, file units."""
    file = open_scan(path)
    scan = plan_preparation(file).apply(file[0])
    batch = Batch.of([scan])
    return to_file_units(batch.op.adjoint(batch.ksp), scan).abs()


def score_mask(
    scan: Scan, reference: Tensor, prior: Prior, weights: np.ndarray
) -> dict[str, float]:
    """PSNR of every method on one undersampled slice."""

    def run(method: object) -> float:
        result = reconstruct(scan, method, prior)  # type: ignore[arg-type]
        return psnr(to_file_units(result.img, scan), reference)

    l1 = [run(L1Wavelet(lam=float(weight))) for weight in weights]
    best = int(np.argmax(l1))
    if len(weights) > 2 and best in (0, len(weights) - 1):
        sys.exit(f"the best L1 weight, {weights[best]:.2e}, lies at an edge of the range")
    started = time.perf_counter()
    aos = run(Aos())
    return {
        "zero_filled": run(ZeroFilled()),
        "cg_sense": run(CgSense()),
        "l1_wavelet": l1[best],
        "l1_weight": float(weights[best]),
        "aos": aos,
        "aos_seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Run all seeds and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument("--prior", type=Path, default=None)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--calib-lines", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        with tempfile.TemporaryDirectory() as folder:
            config = SimulateConfig(size=(64, 64), coils=4, full=True, noise=0.01)
            args.scan = simulate("phantom", Path(folder), config, count=1)[0]
            args.seeds, args.calib_lines = 1, 12
            compare(args, WEIGHTS[3:5])
    elif args.scan is None:
        parser.error("SCAN is needed without --quick")
    else:
        compare(args, WEIGHTS)


def compare(args: argparse.Namespace, weights: np.ndarray) -> None:
    """Every seed, then the mean paired gain."""
    prior = load_prior(args.prior or default_prior())
    reference = sense_reference(args.scan)
    rows = []
    for seed in range(args.seeds):
        spec = MaskSpec("random", args.acceleration, args.calib_lines)
        file = Undersampled(open_scan(args.scan), spec, seed)
        rows.append(score_mask(plan_preparation(file).apply(file[0]), reference, prior, weights))
        shown = ", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items())
        print(f"seed {seed}: {shown}", flush=True)
    gains = [row["aos"] - row["l1_wavelet"] for row in rows]
    means = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    print(
        json.dumps(
            {
                "benchmark": "real_scan",
                "scan": args.scan.name,
                "acceleration": args.acceleration,
                "seeds": args.seeds,
                "means": {name: round(value, 4) for name, value in means.items()},
                "mean_gain_over_l1_db": round(statistics.fmean(gains), 3),
                "worst_gain_over_l1_db": round(min(gains), 3),
                "prior_sha256": prior.facts.card["sha256"],
                "images_seen": prior.facts.card.get("images_seen"),
                "torch": torch.__version__,
                "machine": platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
