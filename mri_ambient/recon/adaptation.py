"""Adaptation: before a scan is reconstructed, the prior learns from the scan's own measured lines.

What the pipeline knows of it; :mod:`mri_ambient.training.adapt` does it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..priors.prior import DenoiserSource, name_digest, scan_digest
from ..runtime.device import Runtime
from ..scan import Scan

if TYPE_CHECKING:
    from ..io.scan_file import ScanFile
    from .recipe import ResolvedRecipe


@dataclass(frozen=True)
class AdaptationData:
    """What a prior is adapted to.

    Attributes:
        read: gives the prepared slices, without lines that must not be learned from.
        scans: gives :func:`hashed_name` of every scan that these are of.
        identity: all that decides the result beside the options of the adaptation.
        folder: where its state is kept until it is finished, and its result; None keeps nothing.
    """

    read: Callable[[], Sequence[Scan]]
    scans: Callable[[], Sequence[tuple[str, str]]]
    identity: dict[str, Any]
    folder: Path | None = None


class Adaptation(ABC):
    """How a prior is adapted; a frozen dataclass with its options.

    Attributes:
        per: "slice" or "volume": for what a prior is adapted anew.
        n_slices: slices of a volume that it learns from, at most.
    """

    per: str
    n_slices: int

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The options as plain values."""

    @abstractmethod
    def check(self, prior: DenoiserSource) -> None:
        """Raise ConfigError for a prior that cannot be adapted."""

    @abstractmethod
    def __call__(
        self, data: AdaptationData, recipe: ResolvedRecipe, runtime: Runtime
    ) -> DenoiserSource:
        """The adapted prior of the recipe; its card has a report under "adaptation".

        The prior of the recipe itself is left as it is.
        """


def spared_lines(recipe: ResolvedRecipe) -> dict[str, Any]:
    """Which lines of every scan the checks of a recipe hold out, so that nothing learns from them.

    An adapted prior keeps it in its card.
    """
    mask = None if recipe.mask is None else asdict(recipe.mask)
    return {"n_held_out": recipe.checks.n_held_out, "seed": recipe.seed, "mask": mask}


def hashed_name(file: ScanFile) -> tuple[str, str]:
    """Hashes of a scan's name, which decides which of its lines are held out, and its raw file."""
    return name_digest(file.scan_id), scan_digest(file.source_sha256)


def learned_scans(prior: DenoiserSource) -> set[tuple[str, str]]:
    """:func:`hashed_name` of the scans that a prior was adapted to; older cards hold a mapping."""
    scans = prior.card.get("adaptation", {}).get("scans", ())
    return {
        (name, digest) for name, digest in (scans.items() if isinstance(scans, dict) else scans)
    }


def adapted_to(prior: DenoiserSource, file: ScanFile) -> bool:
    """Whether a prior was adapted to a scan, whatever the name it had then."""
    digest = scan_digest(file.source_sha256)
    return any(known == digest for _, known in learned_scans(prior))


def knows_held_out_lines(recipe: ResolvedRecipe, file: ScanFile) -> bool:
    """Whether the prior was trained on the lines of a scan that the checks hold out.

    An adapted prior was not where they were set aside: of a scan of the same name, by which lines
    are drawn.
    """
    prior = recipe.prior
    if prior is None or not prior.was_trained_on(file.source_sha256):
        return False
    report = prior.card.get("adaptation", {})
    spared = report.get("spared") == spared_lines(recipe)
    known = spared and hashed_name(file) in learned_scans(prior)
    return not (known and scan_digest(file.source_sha256) in report["new_scans"])


def evenly_spaced(n: int, most: int) -> list[int]:
    """At most ``most`` of the indices 0 to n - 1, evenly spaced around the middle."""
    count = min(n, most)
    return [(2 * k + 1) * n // (2 * count) for k in range(count)]


def adaptation_line(report: dict[str, Any]) -> str:
    """What an adaptation did, in one line."""
    before, after = report["held_out_before"], report["held_out_after"]
    if before is None:
        return f"the prior was not adapted: {report['stopped_by']}"
    text = f"{report['steps']} steps in {report['seconds']:.0f} s"
    if report["kept"] == "start":
        why = "its error on held-out lines did not fall by more than its standard error"
        return f"the prior stays as it was: in {text} {why}"
    kept = f"step {report['kept_step']}"
    return f"adapted in {text}; error on held-out lines {before:.4f} -> {after:.4f} ({kept})"
