"""Warnings about a reconstruction: when each is given, and its sentence.

What to do about each stands in ``errors.WARNINGS`` and, at length, in docs/reference/warnings.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..errors import warn
from ..io.names import name_of
from ..io.scan_file import ScanFile
from ..physics.coverage import is_equispaced
from ..physics.patterns import mask_kind
from ..priors.prior import DenoiserSource
from .adaptation import knows_held_out_lines
from .checks import HIGH_RESIDUAL, residual_in_noise
from .recipe import ESTIMATES, ResolvedRecipe

CALIBRATED_RANGE = 1.5
"""A calibration is for scans whose acceleration and noise are within this factor of its own."""

FAR, BEYOND = 2.0, 1.05
"""A scan undersampled this many times more than a prior's median training scan, and than the most
undersampled one, is out of distribution."""

FEW_EQUISPACED = 0.05
"""With a smaller share of equispaced training masks, equispaced scans are out of distribution."""

Found = Iterator[tuple[str, str]]
"""Codes and sentences, in the order in which the warnings are given."""


def issue_before(file: ScanFile, recipe: ResolvedRecipe) -> None:
    """Issue the warnings about a scan and its recipe that need no image."""
    _issue(file, _about_prior(file, recipe))


def issue_after(
    file: ScanFile,
    recipe: ResolvedRecipe,
    sigma_n: float,
    checks: Sequence[dict[str, Any]] = (),
    given: Collection[str] = (),
) -> None:
    """Issue the warnings about the images.

    Args:
        file: the scan.
        recipe: how it was reconstructed.
        sigma_n: its noise, normalised units.
        checks: figures of every slice.
        given: codes of the warnings given before, which may explain others.
    """
    if recipe.n_samples > 1:
        _issue(file, _about_std(file, recipe, sigma_n))
    _issue(file, _about_slices(recipe, sigma_n, checks, explained="W-FOLDED-FOV" in given))


def _issue(file: ScanFile, found: Found) -> None:
    for code, sentence in found:
        warn(code, f"{name_of(file.path)}: {sentence}")


def _about_prior(file: ScanFile, recipe: ResolvedRecipe) -> Found:
    prior = recipe.prior
    if prior is None:
        return
    if sentence := weakness(prior):
        yield "W-PRIOR-WEAK", sentence
    if prior.mask_conditioned:
        yield from _out_of_distribution(file, prior.trained_acceleration, prior.card)
    elif recipe.method.starts_in_one_step and file.acceleration > 1:
        yield (
            "W-PRIOR-ONE-STEP",
            "the prior is not mask-conditioned, and in one step it treats the aliasing of the "
            "zero-filled image as noise",
        )
    if recipe.checks.n_held_out > 0 and knows_held_out_lines(recipe, file):
        yield (
            "W-TRAINED-ON-SCAN",
            "the prior was trained on this scan: train/test leakage makes its error on held-out "
            "lines optimistic",
        )


NOTHING_HELD_OUT = (
    "no scan was held out when it was trained: nothing shows whether its images are better than "
    "those of CG-SENSE, which needs no prior"
)
"""About a prior without an error on held-out lines."""


def issue_weakness(prior: DenoiserSource, name: object = "the prior") -> None:
    """Warn of a prior of this name that is worse than classical methods; see :func:`weakness`."""
    if sentence := weakness(prior):
        warn("W-PRIOR-WEAK", f"{name}: {sentence}")


def weakness(prior: DenoiserSource) -> str:
    """Says that a prior is worse than a classical method on held-out lines, or that none were.

    Empty if it is better than CG-SENSE and L1-wavelet, was adapted, or is not one of our trainings.
    The error of a plain prior is that of a sample: even of the exact posterior, it is twice that of
    the mean, so that it may be twice that of a classical method.
    """
    found = prior.card.get("held_out", {})
    error = found.get("held_out")
    if error is None:
        untested = prior.card.get("images_seen") and "adaptation" not in prior.card
        return NOTHING_HELD_OUT if untested else ""
    named = {"held_out_cg_sense": "CG-SENSE", "held_out_l1_wavelet": "L1-wavelet"}
    classical = {found[key]: name for key, name in named.items() if key in found}
    allowed, what = (1.0, "images") if prior.mask_conditioned else (2.0, "samples")
    if not classical or error < allowed * min(classical):
        return ""
    than = "no less than" if allowed == 1 else "more than twice"
    return (
        f"on held-out lines of validation scans {what} of this prior have an error of {error:.3g}, "
        f"{than} the {min(classical):.3g} of {classical[min(classical)]}, which needs no prior"
    )


def _out_of_distribution(file: ScanFile, trained: float, card: Mapping[str, Any]) -> Found:
    """How the scan's mask differs from those of the training of a mask-conditioned prior."""
    rates = card.get("acceleration", ())  # least, median and largest; older cards lack them
    largest = max(rates, default=trained)
    if 0 < max(FAR * trained, BEYOND * largest) < file.acceleration:
        yield (
            "W-PRIOR-ACCELERATION",
            f"out of distribution: the prior was trained at R {'up to' if rates else '='} "
            f"{largest:.1f}, this scan has R = {file.acceleration:.1f}",
        )
    groups = card.get("coverage", ())
    kinds = {group["kind"] for group in groups}
    if kinds and mask_kind(file.mask) not in kinds:
        trained_on = "single samples" if mask_kind(file.mask) == "lines" else "whole lines"
        yield (
            "W-PRIOR-MASK-KIND",
            f"out of distribution: the prior was trained on masks of {trained_on} only",
        )
        return
    lines = [group for group in groups if group["kind"] == "lines"]
    n_scans = sum(group.get("n_scans", 0) for group in lines)
    n_regular = sum(group.get("n_regular", 0) for group in lines)
    if is_equispaced(torch.from_numpy(file.mask)) and n_regular < FEW_EQUISPACED * n_scans:
        yield (
            "W-PRIOR-EQUISPACED",
            "out of distribution: almost none of the prior's training masks was equispaced, and "
            "the coherent aliasing of such masks is unlike that of others",
        )


def _about_std(file: ScanFile, recipe: ResolvedRecipe, sigma_n: float) -> Found:
    """Whether the standard deviation is calibrated, for this scan and this method."""
    entries = () if recipe.prior is None else recipe.prior.card.get("calibration", ())
    if recipe.calibration is not None:
        differs = _beyond_calibration(file, recipe.calibration, sigma_n)
        if differs:
            yield (
                "W-CALIBRATION-RANGE",
                f"the standard deviation is multiplied by {recipe.std_factor:.2f}, which was "
                f"fitted on scans {differs}: it may be wrong",
            )
    elif entries:
        yield (
            "W-CALIBRATION-OPTIONS",
            "uncalibrated uncertainty: the prior was calibrated for "
            f"{', '.join(sorted({entry['method'] for entry in entries}))} with other options or "
            f"another number of samples than these of {recipe.method.name}",
        )
    elif recipe.samples_are == ESTIMATES:
        yield (
            "W-UNCALIBRATED",
            f"uncalibrated uncertainty: samples of {recipe.method.name} with this prior and "
            "these options do not follow the posterior, and their standard deviation is usually "
            "too small",
        )


def _beyond_calibration(file: ScanFile, entry: dict[str, Any], sigma_n: float) -> str:
    """How the scan differs from those the calibration was fitted on; empty if it does not."""
    for name, value in (("acceleration", file.acceleration), ("sigma_n", sigma_n)):
        low, high = entry.get(name, (value, value))
        if not low / CALIBRATED_RANGE <= value <= high * CALIBRATED_RANGE:
            return f"with {name} {low:.3g} to {high:.3g}, and this one has {value:.3g}"
    kinds = entry.get("mask_kinds", [mask_kind(file.mask)])
    if mask_kind(file.mask) not in kinds:
        return f"under masks of {' and '.join(kinds)}, and this scan has another"
    return ""


def _about_slices(
    recipe: ResolvedRecipe, sigma_n: float, checks: Sequence[dict[str, Any]], *, explained: bool
) -> Found:
    """High residuals, and flags for more; ``explained`` if the former follow from the scan."""
    high = [
        check
        for check in checks
        if residual_in_noise(check["data_residual"], sigma_n) > HIGH_RESIDUAL
    ]
    if recipe.prior is not None and high and not explained:
        worst = max(high, key=lambda check: check["data_residual"])
        yield (
            "W-RESIDUAL",
            f"{recipe.method.name} leaves a data residual of {worst['data_residual']:.1f} sigma_n "
            f"in slice {worst['slice']} (more than {HIGH_RESIDUAL:g} in {len(high)} of "
            f"{len(checks)} slices): the image does not fit the data",
        )
    flagged = [check for check in checks if check.get("flags")]
    own = high if recipe.prior is not None or explained else []  # flagged for their residual
    if any(len(check["flags"]) > (check in own) for check in flagged):
        places = ", ".join(str(check["slice"]) for check in flagged)
        yield (
            "W-FLAGGED",
            f"{len(flagged)} of {len(checks)} slices are flagged ({places}); slice "
            f"{flagged[0]['slice']} {flagged[0]['flags'][0]}",
        )
