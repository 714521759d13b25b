"""Regularisation weights of the baselines, chosen once on simulated validation scans.

Scans are simulated from validation images at several rates and noise levels, prepared from their
undersampled data alone and reconstructed; each exported image is compared with the noise-free RSS
image inside the support. Prints PSNR (dB, mean over scans) for every weight, and how far from its
limit each default is after its iterations.

    python tests/benchmarks/tune_baselines.py ../shared/data/brain256_val.zip
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri_ambient.baselines import Baseline, CgSense, L1Wavelet, ZeroFilled
from mri_ambient.batch import Batch
from mri_ambient.data_prep.images import open_images
from mri_ambient.data_prep.prepare import plan
from mri_ambient.data_prep.simulate import ScanModel, SimulateConfig, write_scan
from mri_ambient.fourier import center_crop, ifft2c
from mri_ambient.io import open_scan
from mri_ambient.reconstruct import to_file_units
from mri_ambient.rng import rng_for
from mri_ambient.scan import Scan

NOISE = (0.005, 0.05)
"""Per real channel, in units of the object's maximum; drawn log-uniformly for every scan."""

CONDITIONS = {
    "random R=4": {"mask": "random", "acceleration": 4.0},
    "random R=8": {"mask": "random", "acceleration": 8.0, "calib": 12},
    "poisson R=8": {"mask": "poisson", "acceleration": 8.0, "calib": 24},
}
SIZES = ((224, 176), (128, 128))
CG_WEIGHTS = tuple(np.geomspace(1e-4, 1, 9))
L1_WEIGHTS = tuple(np.geomspace(1e-4, 3e-2, 8))


@dataclass(frozen=True)
class Case:
    """A prepared scan and the truth it was simulated from.

    Attributes:
        scan: prepared from the undersampled data.
        truth: noise-free RSS image in file units ``(y, x)``.
    """

    scan: Scan
    truth: Tensor

    def psnr(self, img: Tensor) -> float:
        """Of an image in normalised units, inside the support, in dB."""
        ours = to_file_units(img.abs(), self.scan)[0]
        inside = ours > 0
        error = (ours - self.truth)[inside].square().mean()
        return float(10 * torch.log10(self.truth.max() ** 2 / error))

    def reconstruct(self, method: Baseline) -> Tensor:
        batch = Batch.of([self.scan])
        return method(batch.op, batch.ksp, noise_std=batch.noise_std)


def simulate(images: str, count: int, folder: Path) -> dict[str, list[Case]]:
    """Cases for every condition; no image is used twice."""
    source = open_images(images)
    wanted = source.names(count * len(CONDITIONS), 1)
    names = iter(sorted(wanted, key=lambda name: rng_for(0, name).initial_seed()))
    cases: dict[str, list[Case]] = {}
    for condition, options in CONDITIONS.items():
        for index in range(count):
            config = SimulateConfig(size=SIZES[index % 2], noise=NOISE, jitter=True, **options)
            cases.setdefault(condition, []).append(_case(source, next(names), config, folder))
    return cases


def _case(source, name: str, config: SimulateConfig, folder: Path) -> Case:
    anatomy = source.read(name, config.size, 1, rng_for(config.seed, name, "object"))
    model = ScanModel(anatomy, config, name)
    path = folder / f"{name}.h5"
    write_scan(model, path)
    file = open_scan(path)
    coil_img = ifft2c(config.units * model.clean(0))
    rss = coil_img.abs().square().sum(dim=0).sqrt()
    return Case(plan(file).apply(file[0]), center_crop(rss, file.recon_shape))


def table(method: Baseline, weights: tuple[float, ...], cases: dict[str, list[Case]]) -> float:
    """Print PSNR for every weight; the best one on average over all scans."""
    print(f"\n{method.name:>14}" + "".join(f"{name:>14}" for name in cases) + f"{'all':>14}")
    means = []
    for weight in weights:
        weighted = replace(method, lam=float(weight))
        rows = [
            np.mean([case.psnr(case.reconstruct(weighted)) for case in group])
            for group in cases.values()
        ]
        means.append(float(np.mean(rows)))
        print(f"{weight:14.3g}" + "".join(f"{row:14.2f}" for row in [*rows, means[-1]]))
    best = int(np.argmax(means))
    edge = " (at the edge: widen the range)" if best in (0, len(weights) - 1) else ""
    print(f"best: {weights[best]:.3g}{edge}")
    return float(weights[best])


def convergence(method: Baseline, cases: dict[str, list[Case]]) -> list[dict[str, float]]:
    """Worst distance to ten times as many iterations, over all scans."""
    rows = []
    for n_iter in sorted({method.n_iter // 2, method.n_iter, 2 * method.n_iter}):
        distances, gains = [], []
        for case in (case for group in cases.values() for case in group):
            img = case.reconstruct(replace(method, n_iter=n_iter))
            limit = case.reconstruct(replace(method, n_iter=10 * method.n_iter))
            distances.append(float((img - limit).norm() / limit.norm()))
            gains.append(abs(case.psnr(limit) - case.psnr(img)))
        rows.append({"n_iter": n_iter, "nrmse": max(distances), "psnr_change_db": max(gains)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="validation images: a folder or zip archive, or 'phantom'")
    parser.add_argument("--count", type=int, default=12, help="scans per condition")
    parser.add_argument("--quick", action="store_true", help="two scans, few weights")
    args = parser.parse_args()
    step = 4 if args.quick else 1
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        cases = simulate(args.images, 2 if args.quick else args.count, Path(folder))
        zero_filled = {
            name: round(float(np.mean([c.psnr(c.reconstruct(ZeroFilled())) for c in group])), 2)
            for name, group in cases.items()
        }
        print(json.dumps({"zero-filled": zero_filled}))
        table(CgSense(), CG_WEIGHTS[::step], cases)
        table(L1Wavelet(), L1_WEIGHTS[::step], cases)
        few = {name: group[:2] for name, group in cases.items()}
        for method in (CgSense(), L1Wavelet()):
            for row in convergence(method, few):
                print(json.dumps({"method": method.name, "lam": method.lam, **row}))


if __name__ == "__main__":
    main()
