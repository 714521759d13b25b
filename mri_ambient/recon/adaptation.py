"""Adaptation: before a scan is reconstructed, the prior learns from the scan's own measured lines.

What the pipeline knows of it; :mod:`mri_ambient.training.adapt` does it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..priors.prior import DenoiserSource
from ..runtime.device import Runtime
from ..scan import Scan

if TYPE_CHECKING:
    from .recipe import ResolvedRecipe


@dataclass(frozen=True)
class AdaptationData:
    """What a prior is adapted to.

    Attributes:
        scans: digest of the raw file of every scan, by the scan's name.
        read: gives the prepared slices, without lines that must not be learned from.
        identity: all that decides the result beside the options of the adaptation.
        folder: where its state is kept until it is finished, and its result; None keeps nothing.
    """

    scans: Mapping[str, str]
    read: Callable[[], Sequence[Scan]]
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


def evenly_spaced(n: int, most: int) -> list[int]:
    """At most ``most`` of the indices 0 to n - 1, evenly spaced around the middle."""
    count = min(n, most)
    return [(2 * k + 1) * n // (2 * count) for k in range(count)]
