"""The step of A-DPS, fitted on simulated validation scans; then what it gives on a real scan.

    python tests/benchmarks/bench_adps.py ../shared/data/brain256_val.zip [--scan SCAN.h5]

Scans are simulated from validation images (R = 4 random lines, three noise levels), prepared from
their undersampled data alone and reconstructed by A-DPS with every step of a grid; images are
compared with the noise-free RSS image inside the support. ``--scan`` is a fully sampled scan, which
is undersampled with one mask seed and reconstructed with the default step: it takes no part in the
choice. Prints one JSON line a step, and one for the scan. ``--quick`` runs one phantom with few
steps and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scoring import Case, case_of

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.methods import Adps, Aos
from mri_ambient.methods.baselines import ZeroFilled
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime

STEP_SIZES = (0.125, 0.25, 0.5, 0.75, 1.0)
NOISE = (0.003, 0.008, 0.02)
"""Per real channel, in units of the object's maximum."""

SEED = 77
"""Of the validation scans."""


def simulate(images: str, count: int, folder: Path, *, quick: bool) -> list[Case]:
    """``count`` scans for every noise level, each of an image of its own; or a small one."""
    source, size = open_images(images), (64, 64) if quick else (96, 96)
    n_scans = count * len(NOISE)
    names = sorted(source.names(n_scans, 1), key=lambda name: rng_for(SEED, name).initial_seed())
    configs = [
        SimulateConfig(size=size, coils=6, calib=12, noise=level, jitter=True, seed=SEED)
        for level in NOISE
        for _ in range(count)
    ]
    pairs = list(zip(names, configs, strict=False))[: 1 if quick else None]
    return [case_of(source, name, config, folder) for name, config in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("--count", type=int, default=2, help="scans per noise level")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prior", type=Path, default=None)
    parser.add_argument("--scan", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    prior = load_prior(args.prior or default_prior())
    grid, runtime = STEP_SIZES, Runtime("cpu")
    if args.quick:
        args.count, args.steps, grid = 1, 2, STEP_SIZES[2:3]

    with tempfile.TemporaryDirectory() as folder:
        cases = simulate(args.images, args.count, Path(folder), quick=args.quick)
        methods = [ZeroFilled(), Aos(), *(Adps(args.steps, step_size=step) for step in grid)]
        for method in methods[:3] if args.quick else methods:
            engine = Engine(Recipe(method, prior=prior, n_samples=1).resolve(), runtime)
            scores = [case.psnr(engine([case.scan])[0].img[0]) for case in cases]
            row = {
                "benchmark": "adps",
                "method": method.name,
                "step_size": getattr(method, "step_size", None),
                "steps": getattr(method, "n_steps", None),
                "psnr": round(float(np.mean(scores)), 3),
                "worst": round(min(scores), 3),
                "scans": len(scores),
                "prior_sha256": prior.facts.card["sha256"],
            }
            print(json.dumps(row), flush=True)
        if args.scan is not None:
            for method in (ZeroFilled(), Aos(), Adps(args.steps)):
                mask = MaskSpec("random", 4.0, 20)
                recipe = Recipe(method, prior=prior, n_samples=1, retrospective=mask)
                report = reconstruct(args.scan, recipe, runtime).report
                scores = {
                    key: round(report[which]["psnr"], 3)
                    for key, which in (("psnr_rss", "metrics"), ("psnr_sense", "metrics_sense"))
                }
                row = {"scan": args.scan.name, "method": method.name, "R": 4.0, "seed": 0}
                print(json.dumps(row | scores), flush=True)


if __name__ == "__main__":
    main()
