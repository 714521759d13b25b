"""Every sampler on the same scans: quality, work, time, and whether its spread can be believed.

    python tests/benchmarks/bench_samplers.py VAL.zip [--scan SCAN.h5] [--prior PRIOR]

Scans are simulated from validation images (96 x 96, six coils, R = 4 random lines, three noise
levels) and prepared from their undersampled data alone. Each method reconstructs them, stochastic
ones with K samples. Printed, one JSON line a method: PSNR (dB, inside the support) and SSIM of the
image against the noise-free RSS image, network evaluations and seconds an image, the mean squared
error of one sample over that of the mean of K (for posterior samples 2/(1 + 1/K)), and the standard
deviation of the samples over the error of their mean (1/sqrt(1 + 1/K)), magnitudes, RMS over the
support. ``--scan`` adds the PSNR against SENSE on a real scan at R = 2, 4 and 8, with the worst of
three mask seeds, for masks of ``--mask-type``; ``--count 0`` leaves the simulated scans out.
``--quick`` runs one phantom with few steps and says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_adps import simulate
from scoring import Case

from mri_ambient.methods import Adps, Aos, CgSense, Dds, L1Wavelet, Method, Msm, Pula, ZeroFilled
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.metrics import volume_metrics
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.runtime.device import Runtime

METHODS: dict[str, Method] = {
    "zero-filled": ZeroFilled(),
    "cg-sense": CgSense(),
    "l1-wavelet": L1Wavelet(),
    "aos": Aos(),
    "dds 10": Dds(n_steps=10),
    "dds 20": Dds(n_steps=20),
    "dds 50": Dds(n_steps=50),
    "dds 20, eta 0": Dds(n_steps=20, eta=0.0),
    "dds 20, eta 1": Dds(n_steps=20, eta=1.0),
    "dds 20, diffpir 0.3": Dds(n_steps=20, eta=0.3, renoise="diffpir"),
    "dds 5 from aos": Dds(n_steps=5, start="aos"),
    "dds 10 from aos": Dds(n_steps=10, start="aos"),
    "dds 10 from cg-sense": Dds(n_steps=10, start="cg-sense"),
    "dds 5 from aos at 0.3": Dds(n_steps=5, start="aos", sigma_max=0.3),
    "msm 20 x 1": Msm(n_steps=20, n_masks=1),
    "msm 20 x 3": Msm(n_steps=20, n_masks=3),
    "msm 10 x 3 from aos": Msm(n_steps=10, n_masks=3, start="aos"),
    "pula 50": Pula(n_steps=50),
    "pula 20 from aos": Pula(n_steps=20, start="aos"),
    "adps 500": Adps(n_steps=500),
    "adps 500, step 0.5": Adps(n_steps=500, step_size=0.5),
}
REAL = ((2.0, 20), (4.0, 20), (8.0, 12))
"""Rates and calibration lines of the masks of the real scan."""


def judge(cases: list[Case], recipe: Recipe, runtime: Runtime) -> dict[str, float]:
    """Means over the cases."""
    engine, rows = Engine(recipe.resolve(), runtime), []
    for case in cases:
        started = time.perf_counter()
        (result,) = engine([case.scan])
        row = {"seconds": time.perf_counter() - started, "psnr": case.psnr(result.img[0])}
        ours = to_file_units(result.img.abs(), case.scan)
        row["ssim"] = volume_metrics(case.truth[None].numpy(), ours.numpy())["ssim"]
        if result.samples is not None:
            inside = ours[0] > 0
            error = (ours[0] - case.truth)[inside].square().mean()
            each = torch.cat([to_file_units(s.abs(), case.scan) for s in result.samples])
            one = (each - case.truth)[:, inside].square().mean()
            std = to_file_units(result.std, case.scan)[0][inside].square().mean()
            row["one_over_mean"] = float(one / error)
            row["std_over_error"] = float((std / error).sqrt())
        rows.append(row)
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def judge_real(args: argparse.Namespace, recipe: Recipe, runtime: Runtime) -> dict[str, float]:
    """PSNR on the real scan, mean and worst over mask seeds."""
    found = {}
    for rate, calib in REAL:
        scores = []
        for seed in range(args.seeds):
            mask = MaskSpec(args.mask_type, rate, calib)
            rec = reconstruct(args.scan, replace(recipe, seed=seed, retrospective=mask), runtime)
            scores.append(rec.report["metrics_sense"]["psnr"])
        found[f"real_R{rate:g}"] = round(float(np.mean(scores)), 3)
        found[f"real_R{rate:g}_worst"] = round(min(scores), 3)
    return found


def main() -> None:
    """Reconstruct, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("--count", type=int, default=2, help="scans per noise level")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--prior", type=Path, default=None)
    parser.add_argument("--scan", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3, help="masks of the real scan")
    parser.add_argument("--mask-type", default="random", help="of the real scan")
    parser.add_argument("--only", action="append", help="only these methods")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    methods = {name: m for name, m in METHODS.items() if not args.only or name in args.only}
    if args.quick:
        args.count, args.samples = 1, 2
        methods = {m.name: replace(m, n_steps=2) for m in (Dds(), Msm(), Pula(), Adps())}
    prior = load_prior(args.prior or default_prior())
    with tempfile.TemporaryDirectory() as folder:
        cases = simulate(args.images, args.count, Path(folder), quick=args.quick)
        for name, method in methods.items():
            n = args.samples if method.stochastic else 1
            recipe = Recipe(method, prior=prior, n_samples=n)
            runtime = Runtime(args.device, batch_size=n)
            row = {"benchmark": "samplers", "method": name, "samples": n}
            row["evaluations"] = n * method.n_evaluations
            row |= judge(cases, recipe, runtime) if cases else {}
            if args.scan is not None and not isinstance(method, Adps):
                row |= judge_real(args, recipe, runtime)
            print(json.dumps(row | {"prior_sha256": prior.facts.card["sha256"]}), flush=True)


if __name__ == "__main__":
    main()
