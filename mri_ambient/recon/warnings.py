"""Warnings about a reconstruction: one table of code, condition and sentence.

What to do about each stands in ``errors.WARNINGS`` and, at length, in docs/reference/warnings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import warn
from ..io.scan_file import ScanFile
from ..methods.aos import Aos
from ..physics.coverage import is_equispaced
from ..physics.masks import mask_kind
from .checks import HIGH_RESIDUAL, residual_in_noise
from .recipe import ESTIMATES, ResolvedRecipe

ALIKE = 1.5
"""A calibration is for scans whose acceleration and noise are within this factor of its own."""

FAR = 2.0
"""A scan undersampled this many times more than a prior's training scans is out of distribution."""

FEW_REGULAR = 0.05
"""With a smaller share of equispaced masks in training, their aliasing was next to never seen."""


@dataclass(frozen=True)
class Case:
    """What the conditions look at.

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
        """The prior's; 0 where it is not known."""
        facts = getattr(self.recipe.prior, "facts", None)
        return 0.0 if facts is None else float(facts.mask.acceleration)

    @property
    def several(self) -> bool:
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
    def flagged(self) -> list[dict[str, Any]]:
        """Checks of the slices with flags."""
        return [check for check in self.checks if check.get("flags")]

    @property
    def out_of_range(self) -> str:
        """How the scan differs from those the calibration was fitted on; empty if it does not."""
        entry = self.recipe.calibration or {}
        for name, value in (("acceleration", self.file.acceleration), ("sigma_n", self.sigma_n)):
            low, high = entry.get(name, (value, value))
            if not low / ALIKE <= value <= high * ALIKE:
                return f"with {name} {low:.3g} to {high:.3g}, and this one has {value:.3g}"
        kinds = entry.get("mask_kinds", [mask_kind(self.file.mask)])
        if mask_kind(self.file.mask) not in kinds:
            return f"under masks of {' and '.join(kinds)}, and this scan has another"
        return ""


@dataclass(frozen=True)
class Rule:
    """A warning: when it is given, and what it says of the scan."""

    code: str
    applies: Callable[[Case], bool]
    sentence: Callable[[Case], str]


def _starts_in_one_step(case: Case) -> bool:
    method = case.recipe.method
    return isinstance(method, Aos) or getattr(method, "start", "") == Aos.name


def _other_mask_kind(case: Case) -> bool:
    kinds = {group["kind"] for group in case.card.get("coverage", ())}
    return case.conditioned and bool(kinds) and mask_kind(case.file.mask) not in kinds


def _few_regular(case: Case) -> bool:
    """Whether next to none of the prior's training scans of whole lines was equispaced."""
    groups = [g for g in case.card.get("coverage", ()) if g.get("kind") == "lines"]
    n_scans, n_regular = (sum(g.get(name, 0) for g in groups) for name in ("n_scans", "n_regular"))
    return bool(n_regular < FEW_REGULAR * n_scans)


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
        lambda case: (
            case.recipe.prior is not None
            and not case.conditioned
            and _starts_in_one_step(case)
            and case.file.acceleration > 1
        ),
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
        _other_mask_kind,
        lambda case: (
            "out of distribution: the prior was trained on masks of "
            f"{'single samples' if mask_kind(case.file.mask) == 'lines' else 'whole lines'} only"
        ),
    ),
    Rule(
        "W-PRIOR-EQUISPACED",
        lambda case: (
            case.conditioned
            and not _other_mask_kind(case)
            and is_equispaced(case.file.mask)
            and _few_regular(case)
        ),
        lambda case: (
            "out of distribution: next to none of the prior's training masks was equispaced, and "
            "their coherent aliasing is unlike that of others"
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
"""Warnings that need no image, in the order they are given."""

AFTER = (
    Rule(
        "W-CALIBRATION-RANGE",
        lambda case: case.several and bool(case.out_of_range),
        lambda case: (
            f"the standard deviation is multiplied by {case.recipe.std_factor:.2f}, which was "
            f"fitted on scans {case.out_of_range}: it may be far off"
        ),
    ),
    Rule(
        "W-CALIBRATION-OPTIONS",
        lambda case: (
            case.several and case.recipe.calibration is None and bool(case.card.get("calibration"))
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
            case.several
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
            and "W-FOLDED-FOV" not in case.given  # which is why
        ),
        _residual_sentence,
    ),
    Rule(
        "W-FLAGGED",
        lambda case: any(
            # A high residual has a warning of its own.
            len(check["flags"]) > (case.recipe.prior is not None and check in case.high_residuals)
            for check in case.flagged
        ),
        _flag_sentence,
    ),
)
"""Warnings about the images."""


def give(rules: Iterable[Rule], case: Case) -> None:
    """Give the warnings of a table that apply."""
    for rule in rules:
        if rule.applies(case):
            warn(rule.code, f"{case.file.path.name}: {rule.sentence(case)}", stacklevel=3)
