"""What ``aos`` does after the network: its rounds beside a single solve, and none.

    python tests/benchmarks/bench_last_step.py IMAGES_VAL.zip [--count 2]

simulates scans at several rates, noise levels, masks and sizes, prepares them from their
undersampled data alone, evaluates the shipped prior once and scores (PSNR in dB inside the support,
against the noise-free RSS image) what the last step makes of its image: one data-consistency
solve; nothing; one solve with the best of eight tau for the scan in hindsight; the network's image
denoised in wavelets, then one solve; and the rounds of ``aos``. Prints gains over the single solve
(mean, worst scan) a group, and one JSON line. ``--quick`` takes one small phantom and says nothing
about quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from scoring import Case, case_of
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.errors import NumericalWarning
from mri_ambient.methods import Aos
from mri_ambient.methods.base import FINAL_CG, data_consistency, one_step
from mri_ambient.physics.wavelets import without_noise
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.rng import rng_for
from mri_ambient.scan import Batch

TAUS = (0.005, 0.01, 0.016, 0.023, 0.032, 0.045, 0.09, 0.2)
BASE = SimulateConfig(jitter=True, seed=11)
NOISE = (0.003, 0.01, 0.03, 0.1)
"""In normalised units; half of that in units of the object's maximum."""

LINES = {
    f"random, R = {rate:g}, noise {noise:g}": replace(
        BASE, acceleration=rate, noise=noise / 2, calib=12 if rate == 8 else 20
    )
    for rate, noise in product((1.5, 2.0, 3.0, 4.0, 8.0), NOISE)
}
OTHERS = {
    f"{mask}, R = 2, noise {noise:g}": replace(BASE, mask=mask, acceleration=2.0, noise=noise / 2)
    for mask, noise in product(("gaussian", "equispaced", "poisson"), NOISE[1:3])
} | {
    f"256 x 256, R = 2, noise {noise:g}": replace(
        BASE, size=(256, 256), acceleration=2.0, noise=noise / 2
    )
    for noise in NOISE[:3]
}
QUICK = {"phantom": replace(BASE, size=(48, 48), coils=4, acceleration=2.0, calib=8)}


def images_of(case: Case, prior: Prior) -> dict[str, Tensor]:
    """Images after different last steps; the first is what gains are counted from."""
    batch = Batch.of([case.scan])
    op, ksp, noise_std = batch.op, batch.measured, batch.noise_std
    D = one_step(prior, op, ksp, noise_std=noise_std, rng=[rng_for(0)])

    def solved(x0: Tensor, tau: float = prior.tau) -> Tensor:
        return data_consistency(op, ksp, x0, noise_std=noise_std, tau=tau, n_iter=FINAL_CG)

    tried = [solved(D, tau) for tau in TAUS]
    return {
        "one solve": solved(D),
        "none": D,
        "best tau": max(tried, key=case.psnr),
        "denoised once": solved(without_noise(D, noise_std) * op.support),
        "rounds": Aos().settle(op, ksp, D, noise_std, prior.tau),
    }


def measure(images: str, groups: dict[str, SimulateConfig], count: int) -> dict[str, list[float]]:
    """Gains over a single solve in dB, one a scan, by last step."""
    prior, source = load_prior(default_prior()), open_images(images)
    gains: dict[str, list[float]] = {}
    for group, config in groups.items():
        names = source.names(None if images != "phantom" else 1, 1)
        chosen = sorted(names, key=lambda name: rng_for(7, group, name).initial_seed())[:count]
        rows = []
        for name in chosen:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                case = case_of(source, name, config, Path(folder))
                rows.append({key: case.psnr(x) for key, x in images_of(case, prior).items()})
        first = [row["one solve"] for row in rows]
        shown = [f"{group}: one solve {statistics.fmean(first):.2f}"]
        for key in list(rows[0])[1:]:
            over = [row[key] - start for row, start in zip(rows, first, strict=True)]
            gains.setdefault(key, []).extend(over)
            shown.append(f"{key} {statistics.fmean(over):+.2f} ({min(over):+.2f})")
        print("; ".join(shown), flush=True)
    return gains


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?", default="phantom")
    parser.add_argument("--count", type=int, default=2, help="scans of a group")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    groups = QUICK if args.quick else LINES | OTHERS
    gains = measure("phantom" if args.quick else args.images, groups, args.count)
    figures = {
        key: {"mean": round(statistics.fmean(over), 3), "worst": round(min(over), 3)}
        for key, over in gains.items()
    }
    n_scans = len(next(iter(gains.values())))
    print(json.dumps({"benchmark": "last step", "scans": n_scans, "gains": figures}))


if __name__ == "__main__":
    main()
