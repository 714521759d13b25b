"""How well sigma_n is estimated: simulated scans of real images, and real scans undersampled.

    python tests/benchmarks/bench_noise.py ../shared/data [--quick]

One JSON line a case. ``level`` is estimated over true noise after whitening (1 is exact, 1.1 is ten
percent too much): mean, worst cases, and the share within ten percent. ``combination`` gives the
standard deviations that true noise has after whitening in its quietest and loudest combination of
coils. For real scans the truth is the estimate from the corners of the full image.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from mri_ambient.data_prep import ScanModel, SimulateConfig
from mri_ambient.data_prep.noise import NoiseEstimate
from mri_ambient.data_prep.noise_estimator import NoiseEstimator
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.data_prep.whiten import whitening_matrix
from mri_ambient.io import ScanFile, Undersampled, open_scan
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import rng_for

MASKS = ("full", "random", "poisson")
SUBSETS = ([0], [4], [0, 4], [2, 6], [0, 2, 4, 6], [1, 3, 5, 7], [*range(8)])
"""Subsets of the coils of a real scan with eight."""


def compare(found: NoiseEstimate, truth: Tensor) -> tuple[float, float, float]:
    """Level, and the whitened standard deviation of the quietest and loudest coil combination."""
    white = whitening_matrix(found.cov)
    power = torch.linalg.eigvalsh(white @ truth.to(white.dtype) @ white.mH)
    return float(power.mean().rsqrt()), float(power[0].sqrt()), float(power[-1].sqrt())


def report(case: dict[str, object], found: list[NoiseEstimate], truths: list[Tensor]) -> None:
    level, quiet, loud = zip(*map(compare, found, truths), strict=True)
    line = case | {
        "scans": len(found),
        "level": [round(x, 3) for x in (min(level), sum(level) / len(level), max(level))],
        "within_10_percent": sum(abs(x - 1) <= 0.1 for x in level) / len(level),
        "combination": [round(min(quiet), 2), round(max(loud), 2)],
        "sources": Counter(estimate.source for estimate in found),
    }
    print(json.dumps(line), flush=True)


def simulated(
    images: Path | str,
    size: tuple[int, int],
    mask: str,
    noise: float,
    n_coils: int,
    count: int,
    acceleration: float,
) -> None:
    source = open_images(images)
    config = SimulateConfig(
        size=size, coils=n_coils, noise=noise, jitter=True, seed=11,
        full=mask == "full", mask="random" if mask == "full" else mask, acceleration=acceleration,
    )  # fmt: skip
    names = source.names(count if images == "phantom" else None, 1)
    names = names[:: len(names) // count][:count]
    found, truths = [], []
    for name in names:
        anatomy = source.read(name, config.size, 1, rng_for(config.seed, name, "object"))
        model = ScanModel(anatomy, config, name)
        estimator = NoiseEstimator(model.mask, n_coils, fully_sampled=config.full)
        estimator.add(model.measure(0))
        found.append(estimator.estimate())
        truths.append(config.units**2 * model.cov)
    case = {"data": Path(images).stem, "size": size, "mask": mask, "R": acceleration}
    report(case | {"coils": n_coils, "noise": noise}, found, truths)


def estimate(file: ScanFile) -> NoiseEstimate:
    estimator = NoiseEstimator.of(file)
    for index in range(len(file)):
        estimator.add(file[index].ksp[0])
    return estimator.estimate()


def real(path: Path, n_seeds: int) -> None:
    full = open_scan(path)
    truth = estimate(full)
    case = {"data": path.stem, "std_full": round(truth.std, 6), "source_full": truth.source}
    for kind, acceleration in (("random", 4.0), ("poisson", 4.0), ("poisson", 8.0)):
        spec = MaskSpec(kind, acceleration, 20)
        scans = [Undersampled(full, spec, seed) for seed in range(n_seeds)]
        for coils in SUBSETS:
            found = []
            for scan in scans:
                estimator = NoiseEstimator(scan[0].mask, len(coils), fully_sampled=False)
                for part in scan:
                    estimator.add(part.ksp[0, coils])
                found.append(estimator.estimate())
            cov = truth.cov[coils][:, coils]
            line = case | {"mask": kind, "R": acceleration, "coils": coils}
            report(line, found, [cov] * n_seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, nargs="?", help="folder with brain256_val.zip and kspace/"
    )
    parser.add_argument("--quick", action="store_true", help="phantoms, few cases")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("the folder is needed without --quick")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the reader and of sigpy
    count = 1 if options.quick else 12
    images = "phantom" if options.data is None else options.data / "brain256_val.zip"
    sizes = ((96, 96),) if options.quick else ((128, 128), (192, 160), (256, 256))
    levels = (0.02,) if options.quick else (0.003, 0.01, 0.02, 0.05)
    rates = (4.0,) if options.quick else (4.0, 6.0)
    for size in sizes:
        for n_coils in (1, 4) if options.quick else (1, 2, 3, 4, 6, 8, 16):
            for mask in MASKS:
                for rate in (1.0,) if mask == "full" else rates:
                    for noise in levels:
                        simulated(images, size, mask, noise, n_coils, count, rate)
    for name in ("espirit_brain8", "alias_brain8"):
        if options.data is not None:
            real(options.data / "kspace" / f"{name}.h5", 2 if options.quick else 10)


if __name__ == "__main__":
    main()
