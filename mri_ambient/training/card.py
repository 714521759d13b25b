"""What is measured on the training scans, and what the prior's file records of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..errors import ConfigError, ScanFormatError
from ..objectives import Objective
from ..physics.mask_spec import MaskSpec
from ..physics.masks import outer_samples
from ..physics.patterns import calibration_block, is_line_mask
from ..priors.facts import PriorFacts
from ..priors.prior import Prior, name_digest, validation_names
from ..priors.schedules import MIN_SIGMA
from .config import TrainJob
from .dataset import Dataset, Item
from .run import Identity

FIRST_TAU = 0.3
"""Expected error of one step in units of sigma_data, until it is fitted."""

N_MEASURED = 200
"""About as many slices are measured, at least."""

MIXED, SEPARATE, UNKNOWN = "trained on too", "not trained on", "not known"
"""What the card holds about the patients of the validation scans."""


def measure_sigma_data(items: Sequence[Item]) -> float:
    """Standard deviation per real channel of the images inside the support.

    From the measured samples alone: ||F S x||^2 = ||x||^2, the calibration block is complete, and
    outer samples count once for every position they stand for.
    """
    variances = []
    for item in _some(items):
        try:
            variances += _variance(item)
        except ScanFormatError:  # reported when its turn comes in training
            continue
    if not any(variances):
        raise ConfigError("the training scans hold no signal above their noise")
    return float(np.sqrt(np.mean(variances)))


def _some(items: Sequence[Item]) -> Sequence[Item]:
    return items[:: max(1, len(items) // N_MEASURED)]


def _variance(item: Item) -> list[float]:
    """Variance per real channel of one image; nothing where all coil maps are zero."""
    batch = item.read()
    mask, outer = batch.mask[0], outer_samples(batch.mask[0])
    energy = batch.ksp[0].abs().square() - 2 * item.noise_std**2
    n_positions = mask[..., 0].numel() * int(batch.acquired[0].sum())
    n_center = int(mask.sum()) - int(outer.sum())
    stands_for = (n_positions - n_center) / max(int(outer.sum()), 1)
    total = (energy * (mask & ~outer)).sum() + stands_for * (energy * outer).sum()
    n_support = int(batch.op.support[0].sum())
    return [max(float(total), 0.0) / (2 * n_support)] if n_support else []


TAUGHT_BY = 0.1
"""Share of the slices that teach the smallest level of a prior."""


def smallest_sigma(items: Sequence[Item], objective: Objective) -> float:
    """The noise level where a sampler may end.

    max(0.002, 10th percentile of c sigma_n over the slices), where the objective trains levels from
    c sigma_n on: a tenth of the slices teach that level. 0.002 if it trains levels below the noise
    of the scans.
    """
    if objective.below_noise or objective.one_level or objective.targets is not None:
        return MIN_SIGMA
    noise = float(np.quantile([item.noise_std for item in items], TAUGHT_BY))
    return max(MIN_SIGMA, objective.sigma_min_over_noise * noise)


def typical_mask(items: Sequence[Item]) -> MaskSpec:
    """Kind, median rate and median calibration width of the training masks.

    All masks of lines count as random lines; a data set is 2-D Poisson if most of its masks vary
    along both axes.
    """
    chosen = _some(items)
    in_plane = [not is_line_mask(item.file.mask) for item in chosen]
    kind = "poisson" if sum(in_plane) > len(chosen) / 2 else "random"
    rates = [item.acceleration for item in chosen]
    calibs = [calibration_block(item.file.mask)[1] for item in chosen]
    return MaskSpec(kind, float(np.median(rates)), int(np.median(calibs)))


def prior_facts(job: TrainJob, dataset: Dataset, identity: Identity) -> PriorFacts:
    """What the prior's file will say beside its weights, before the first step."""
    config, measured = job.config, identity.measured
    objective = config.objective
    return PriorFacts(
        objective=objective.name,
        kind=config.kind,
        network=config.network,
        sigma_data=measured["sigma_data"],
        sigma_min=measured["sigma_min"],
        mask_conditioned=objective.mask_conditioned,
        mask=MaskSpec(**measured["mask"]),
        noise_filled=objective.noise_filled,
        one_level=objective.one_level,
        tau=FIRST_TAU * measured["sigma_data"],
        card=_card(job, dataset, identity),
    )


def _card(job: TrainJob, dataset: Dataset, identity: Identity) -> dict[str, Any]:
    trained_on = {digest.partition(":")[0] for digest in identity.data["train"].values()}
    for parent in job.parents:
        trained_on |= set(parent.facts.card.get("trained_on", ()))
    teacher = job.teacher
    ranges = _ranges(dataset.train)
    return {
        "n_scans": len(identity.data["train"]) + len(identity.data["validation"]),
        "n_train_slices": len(dataset.train),
        "trained_on": sorted(trained_on),
        "validation_scans": sorted(map(name_digest, identity.data["validation"])),
        "validation_patients": validation_patients(dataset, job.parents),
        **ranges,
        "coverage": identity.measured["coverage"],
        "objective_options": job.config.objective.as_dict(),
        "preset": job.config.preset,
        "init": identity.init,
        "images_seen_before": 0 if job.init is None else job.init.facts.images_seen,
        "teacher": None if teacher is None else teacher.facts.card.get("sha256", "unsaved"),
        "version": __version__,
        "torch": torch.__version__,
        "intended_use": "research only, not for diagnosis",
        "limits": _limits(ranges),
    }


def _ranges(items: Sequence[Item]) -> dict[str, Any]:
    """Matrices of the scans; smallest, median and largest of the rest."""

    def spread(values: list[float]) -> list[float]:
        return [float(np.quantile(values, q)) for q in (0, 0.5, 1)]

    return {
        "matrices": sorted({f"{y}x{x}" for y, x in (item.shape for item in items)}),
        "coils": spread([item.file.shape[1] for item in items]),
        "acceleration": spread([item.acceleration for item in items]),
        "sigma_n": spread([item.noise_std for item in items]),
    }


def _limits(ranges: dict[str, Any]) -> str:
    def between(name: str) -> str:
        low, _, high = (f"{value:.3g}" for value in ranges[name])
        return low if low == high else f"{low} to {high}"

    return (
        f"trained on scans with matrices {', '.join(ranges['matrices'])}, {between('coils')} "
        f"coils, R = {between('acceleration')}, noise {between('sigma_n')} after normalisation, "
        "and on their anatomy and contrast only; other scans are out of distribution and may be "
        "reconstructed wrongly"
    )


def validation_patients(dataset: Dataset, parents: Sequence[Prior]) -> str:
    """Whether the patients of the validation scans were trained on, here or by a parent prior."""
    scans = {name_digest(item.scan_id) for item in dataset.validation}
    found = [{True: MIXED, False: SEPARATE, None: UNKNOWN}[dataset.mixes_patients]]
    for card in (parent.facts.card for parent in parents):
        validated_too = scans <= validation_names(card)
        found.append(card.get("validation_patients", UNKNOWN) if validated_too else UNKNOWN)
    if MIXED in found:
        return MIXED
    return SEPARATE if set(found) == {SEPARATE} else UNKNOWN
