"""Regularisation weights of the baselines, chosen once on simulated validation scans.

Scans are simulated from validation images at several rates and noise levels, prepared from their
undersampled data alone and reconstructed; each exported image is compared with the noise-free RSS
image inside the support. Prints PSNR (dB, mean over scans) for every weight, as a multiple of the
scan's noise and (labelled) as one weight for all scans, and how far from its limit each default is
after its iterations.

    python tests/benchmarks/tune_baselines.py ../shared/data/brain256_val.zip
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scoring import Case, case_of
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.methods.baselines import Baseline, CgSense, L1Wavelet, ZeroFilled
from mri_ambient.rng import rng_for
from mri_ambient.scan import Batch

MASKS = {
    "random R=4": {"mask": "random", "acceleration": 4.0},
    "random R=8": {"mask": "random", "acceleration": 8.0, "calib": 12},
    "poisson R=8": {"mask": "poisson", "acceleration": 8.0, "calib": 24},
}
NOISE = (0.004, 0.012, 0.036)
"""Per real channel, in units of the object's maximum; about twice that in normalised units."""

SIZES = ((192, 160), (128, 128))
MULTIPLES = {CgSense: np.geomspace(0.1, 10, 9), L1Wavelet: np.geomspace(0.03, 3, 9)}
WEIGHTS = {CgSense: np.geomspace(1e-3, 1, 7), L1Wavelet: np.geomspace(1e-4, 3e-2, 8)}


def simulate(images: str, count: int, folder: Path) -> dict[str, list[Case]]:
    """Cases for every mask and noise level; no image is used twice."""
    source = open_images(images)
    groups = [(mask, noise) for mask in MASKS for noise in NOISE]
    wanted = source.names(count * len(groups), 1)
    names = iter(sorted(wanted, key=lambda name: rng_for(0, name).initial_seed()))
    cases: dict[str, list[Case]] = {}
    for mask, noise in groups:
        for index in range(count):
            size = SIZES[index % len(SIZES)]
            config = SimulateConfig(size=size, noise=noise, jitter=True, **MASKS[mask])
            case = case_of(source, next(names), config, folder)
            cases.setdefault(f"{mask}, {noise:g}", []).append(case)
    return cases


def reconstructed(case: Case, method: Baseline) -> Tensor:
    """The image in normalised units."""
    return method(None, Batch.of([case.scan]), [])


def mean_psnr(method_of: Callable[[Case], Baseline], cases: dict[str, list[Case]]) -> list[float]:
    """Per group of cases, and over all."""
    rows = [
        float(np.mean([case.psnr(reconstructed(case, method_of(case))) for case in group]))
        for group in cases.values()
    ]
    return [*rows, float(np.mean(rows))]


def show(label: str, row: list[float]) -> None:
    print(f"{label:>22}" + "".join(f"{value:19.2f}" for value in row), flush=True)


def table(method: type[CgSense] | type[L1Wavelet], cases: dict[str, list[Case]], step: int) -> None:
    """PSNR for every weight, and the best on average over all scans."""
    for kind, values in (("times sigma_n", MULTIPLES), ("for all", WEIGHTS)):
        rows = []
        for value in values[method][::step]:

            def weighted(case: Case, value: float = float(value), kind: str = kind) -> Baseline:
                unit = case.scan.noise_std if kind == "times sigma_n" else 1.0
                return method(lam=value * unit)

            rows.append(mean_psnr(weighted, cases))
            show(f"{method.name} {value:.3g} {kind[:5]}", rows[-1])
        best = int(np.argmax([row[-1] for row in rows]))
        edge = " (at the edge: widen the range)" if best in (0, len(rows) - 1) else ""
        print(f"best: {values[method][::step][best]:.3g} {kind}{edge}\n", flush=True)


def convergence(method: Baseline, cases: dict[str, list[Case]]) -> None:
    """Worst distance to ten times as many iterations, over all scans."""
    checked = [case for group in cases.values() for case in group]
    limits = [reconstructed(case, replace(method, n_iter=10 * method.n_iter)) for case in checked]
    for n_iter in (method.n_iter // 2, method.n_iter, 2 * method.n_iter):
        images = [reconstructed(case, replace(method, n_iter=n_iter)) for case in checked]
        pairs = list(zip(checked, images, limits, strict=True))
        row = {
            "method": method.name,
            "n_iter": n_iter,
            "worst_nrmse": max(float((img - end).norm() / end.norm()) for _, img, end in pairs),
            "worst_db": max(abs(case.psnr(end) - case.psnr(img)) for case, img, end in pairs),
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="validation images: a folder or zip archive, or 'phantom'")
    parser.add_argument("--count", type=int, default=4, help="scans per mask and noise level")
    parser.add_argument("--quick", action="store_true", help="one scan each, few weights")
    args = parser.parse_args()
    step = 4 if args.quick else 1
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        cases = simulate(args.images, 1 if args.quick else args.count, Path(folder))
        print(" " * 22 + "".join(f"{name:>19}" for name in [*cases, "all"]))
        sigma = [np.mean([case.scan.noise_std for case in group]) for group in cases.values()]
        show("mean sigma_n", [float(value) for value in sigma])
        show("zero-filled", mean_psnr(lambda _: ZeroFilled(), cases))
        for method in (CgSense, L1Wavelet):
            table(method, cases, step)
        few = {name: group[:1] for name, group in cases.items()}
        for method in (CgSense(), L1Wavelet()):
            convergence(method, few)


if __name__ == "__main__":
    main()
