"""Warnings about a reconstruction: one table of code, condition and sentence.

What to do about each stands in ``errors.WARNINGS`` and, at length, in docs/reference/warnings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import warn
from ..io.scan_file import ScanFile
from ..physics.coverage import is_equispaced
from ..physics.masks import mask_kind
from .checks import HIGH_RESIDUAL, residual_in_noise
from .recipe import ESTIMATES, ResolvedRecipe

CALIBRATED_RANGE = 1.5
"""A calibration is for scans whose acceleration and noise are within this factor of its own."""

FAR = 2.0
"""A scan undersampled this many times more than a prior's training scans is out of distribution."""

FEW_EQUISPACED = 0.05
"""With a smaller share of equispaced training masks, equispaced scans are out of distribution."""


@dataclass(frozen=True)
class Case:
    """A reconstruction that may deserve warnings.

    Attributes:
        file: the scan.
        recipe: how it is reconstructed.
        sigma_n: its noise, normalised units.
        checks: figures of every slice, once it is reconstructed.
        given: codes of the warnings given before, which may explain others.
    """

    file: ScanFile
    recipe: ResolvedRecipe
    sigma_n: float = 0.0
    checks: Sequence[dict[str, Any]] = ()
    given: Collection[str] = ()

    @property
    def card(self) -> dict[str, Any]:
        """The prior's card; empty without a prior."""
        return {} if self.recipe.prior is None else dict(self.recipe.prior.card)

    @property
    def conditioned(self) -> bool:
        """Whether there is a prior, and it is mask-conditioned."""
        return self.recipe.prior is not None and self.recipe.prior.mask_conditioned

    @property
    def trained_acceleration(self) -> float:
        """Of the prior's training masks; 0 if it is not known."""
        return 0.0 if self.recipe.prior is None else self.recipe.prior.trained_acceleration

    @property
    def starts_from_aliasing(self) -> bool:
        """Whether a plain prior is given the zero-filled image of an undersampled scan."""
        plain = self.recipe.prior is not None and not self.conditioned
        return plain and self.recipe.method.starts_in_one_step and self.file.acceleration > 1

    @property
    def other_mask_kind(self) -> bool:
        """Whether the prior was trained on masks of another kind (lines, single samples) only."""
        kinds = {group["kind"] for group in self.card.get("coverage", ())}
        return self.conditioned and bool(kinds) and mask_kind(self.file.mask) not in kinds

    @property
    def few_equispaced(self) -> bool:
        """Whether the scan is equispaced, and few of the prior's training scans of lines were."""
        groups = [g for g in self.card.get("coverage", ()) if g.get("kind") == "lines"]
        n_scans = sum(group.get("n_scans", 0) for group in groups)
        n_regular = sum(group.get("n_regular", 0) for group in groups)
        few = n_regular < FEW_EQUISPACED * n_scans
        return self.conditioned and is_equispaced(self.file.mask) and few

    @property
    def has_std(self) -> bool:
        """Whether there is a standard deviation of samples."""
        return self.recipe.n_samples > 1

    @property
    def high_residuals(self) -> list[dict[str, Any]]:
        """Checks of the slices whose data residual is high."""
        residual = [
            residual_in_noise(check["data_residual"], self.sigma_n) for check in self.checks
        ]
        return [c for c, r in zip(self.checks, residual, strict=True) if r > HIGH_RESIDUAL]

    @property
    def residual_explained(self) -> bool:
        """Whether a warning about the field of view is the reason for a high residual."""
        return "W-FOLDED-FOV" in self.given

    @property
    def flagged(self) -> list[dict[str, Any]]:
        """Checks of the slices with flags."""
        return [check for check in self.checks if check.get("flags")]

    @property
    def other_flags(self) -> bool:
        """Whether any slice is flagged for more than a residual that has its own warning."""
        own = self.high_residuals if self.recipe.prior or self.residual_explained else []
        return any(len(check["flags"]) > (check in own) for check in self.flagged)

    @property
    def out_of_range(self) -> str:
        """How the scan differs from those the calibration was fitted on; empty if it does not."""
        entry = self.recipe.calibration or {}
        for name, value in (("acceleration", self.file.acceleration), ("sigma_n", self.sigma_n)):
            low, high = entry.get(name, (value, value))
            if not low / CALIBRATED_RANGE <= value <= high * CALIBRATED_RANGE:
                return f"with {name} {low:.3g} to {high:.3g}, and this one has {value:.3g}"
        kinds = entry.get("mask_kinds", [mask_kind(self.file.mask)])
        if mask_kind(self.file.mask) not in kinds:
            return f"under masks of {' and '.join(kinds)}, and this scan has another"
        return ""


@dataclass(frozen=True)
class Rule:
    """A warning: its code, when it is given, and its sentence."""

    code: str
    applies: Callable[[Case], bool]
    sentence: Callable[[Case], str]


def _residual_sentence(case: Case) -> str:
    worst = max(case.high_residuals, key=lambda check: check["data_residual"])
    return (
        f"{case.recipe.method.name} leaves a data residual of {worst['data_residual']:.1f} sigma_n "
        f"in slice {worst['slice']} (more than {HIGH_RESIDUAL:g} in {len(case.high_residuals)} of "
        f"{len(case.checks)} slices): the image does not fit the data"
    )


def _flag_sentence(case: Case) -> str:
    places = ", ".join(str(check["slice"]) for check in case.flagged)
    first = case.flagged[0]
    return (
        f"{len(case.flagged)} of {len(case.checks)} slices are flagged ({places}); slice "
        f"{first['slice']} {first['flags'][0]}"
    )


BEFORE = (
    Rule(
        "W-PRIOR-ONE-STEP",
        lambda case: case.starts_from_aliasing,
        lambda case: (
            "the prior is not mask-conditioned, and in one step it treats the aliasing of the "
            "zero-filled image as noise"
        ),
    ),
    Rule(
        "W-PRIOR-ACCELERATION",
        lambda case: (
            case.conditioned and 0 < FAR * case.trained_acceleration < case.file.acceleration
        ),
        lambda case: (
            f"out of distribution: the prior was trained at R = {case.trained_acceleration:.1f}, "
            f"this scan has R = {case.file.acceleration:.1f}"
        ),
    ),
    Rule(
        "W-PRIOR-MASK-KIND",
        lambda case: case.other_mask_kind,
        lambda case: (
            "out of distribution: the prior was trained on masks of "
            f"{'single samples' if mask_kind(case.file.mask) == 'lines' else 'whole lines'} only"
        ),
    ),
    Rule(
        "W-PRIOR-EQUISPACED",
        lambda case: case.few_equispaced and not case.other_mask_kind,
        lambda case: (
            "out of distribution: almost none of the prior's training masks was equispaced, and "
            "the coherent aliasing of such masks is unlike that of others"
        ),
    ),
    Rule(
        "W-TRAINED-ON-SCAN",
        lambda case: (
            case.recipe.checks.n_held_out > 0
            and case.recipe.prior is not None
            and case.recipe.prior.was_trained_on(case.file.source_sha256)
        ),
        lambda case: (
            "the prior was trained on this scan: train/test leakage makes its error on held-out "
            "lines optimistic"
        ),
    ),
)
"""Warnings that need no image, in the order in which they are given."""

AFTER = (
    Rule(
        "W-CALIBRATION-RANGE",
        lambda case: case.has_std and bool(case.out_of_range),
        lambda case: (
            f"the standard deviation is multiplied by {case.recipe.std_factor:.2f}, which was "
            f"fitted on scans {case.out_of_range}: it may be wrong"
        ),
    ),
    Rule(
        "W-CALIBRATION-OPTIONS",
        lambda case: (
            case.has_std and case.recipe.calibration is None and bool(case.card.get("calibration"))
        ),
        lambda case: (
            "uncalibrated uncertainty: the prior was calibrated for "
            f"{', '.join(sorted({entry['method'] for entry in case.card['calibration']}))} with "
            "other options or another number of samples than these of "
            f"{case.recipe.method.name}"
        ),
    ),
    Rule(
        "W-UNCALIBRATED",
        lambda case: (
            case.has_std
            and case.recipe.samples_are == ESTIMATES
            and not case.card.get("calibration")
        ),
        lambda case: (
            f"uncalibrated uncertainty: samples of {case.recipe.method.name} with this prior and "
            "these options do not follow the posterior, and their standard deviation is usually "
            "too small"
        ),
    ),
    Rule(
        "W-RESIDUAL",
        lambda case: (
            case.recipe.prior is not None
            and bool(case.high_residuals)
            and not case.residual_explained
        ),
        _residual_sentence,
    ),
    Rule(
        "W-FLAGGED",
        lambda case: case.other_flags,
        _flag_sentence,
    ),
)
"""Warnings about the images."""


def give(rules: Iterable[Rule], case: Case) -> None:
    """Give the warnings of a table that apply."""
    for rule in rules:
        if rule.applies(case):
            warn(rule.code, f"{case.file.path.name}: {rule.sentence(case)}", stacklevel=3)
