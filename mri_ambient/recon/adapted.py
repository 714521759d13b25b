"""The engine of every slice of a volume, with its prior adapted first if the recipe says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..methods.base import OnStep
from ..priors.prior import scan_digest
from ..scan import Scan
from .adaptation import AdaptationData, evenly_spaced
from .checks import split_scan
from .engine import Engine
from .recipe import ResolvedRecipe
from .reference import without_warnings

if TYPE_CHECKING:
    from .volume import Volume


class Engines:
    """Gives the engine of a slice; with one prior for the volume, always the same.

    Args:
        volume: what is reconstructed.
        folder: where the states of adaptations are kept; None keeps them in memory.
        on_step: called after every step of a sampler.
    """

    def __init__(self, volume: Volume, folder: Path | None, on_step: OnStep | None) -> None:
        self.volume, self.folder, self.on_step = volume, folder, on_step
        adaptation = volume.recipe.adapt
        self.per_slice = adaptation is not None and adaptation.per == "slice"
        self.shared: Engine | None = None
        if adaptation is None:
            self.shared = Engine(volume.recipe, volume.runtime, on_step)
        elif not self.per_slice:
            self.shared = self._adapted(evenly_spaced(len(volume.file), adaptation.n_slices))

    def __call__(self, index: int) -> Engine:
        """The engine of a slice, after its prior was adapted."""
        return self.shared or self._adapted([index])

    @property
    def n_at_once(self) -> int:
        """Slices that share a call of an engine."""
        return 1 if self.shared is None else self.shared.slices_at_once(self.volume.shape)

    @property
    def report(self) -> dict[str, Any]:
        """The report of an adaptation to the volume; empty if there is none."""
        return {} if self.shared is None else adaptation_report(self.shared)

    def _adapted(self, indices: Sequence[int]) -> Engine:
        volume, recipe = self.volume, self.volume.recipe
        assert recipe.adapt is not None and recipe.prior is not None
        name = "-".join(["adapted", *map(str, indices if self.per_slice else ())])
        data = AdaptationData(
            scans={volume.file.scan_id: scan_digest(volume.file.source_sha256)},
            read=lambda: slices_to_learn(volume, indices),
            identity=volume.settings | {"of_slices": list(indices)},
            folder=None if self.folder is None else self.folder / name,
        )
        prior = recipe.adapt(data, recipe, volume.runtime)
        return Engine(replace(recipe, prior=prior, adapt=None), volume.runtime, self.on_step)


def adaptation_report(engine: Engine) -> dict[str, Any]:
    """What the card of an engine's prior says about an adaptation, as an entry of a report."""
    report = None if engine.prior is None else engine.prior.card.get("adaptation")
    return {} if report is None else {"adaptation": report}


def slices_to_learn(volume: Volume, indices: Sequence[int]) -> list[Scan]:
    """Prepared slices of a volume, without the lines that the checks of its recipe hold out."""
    with without_warnings():
        scans = [volume.preparation.apply(volume.file[i : i + 1]) for i in indices]
    return [_without_checked_lines(scan, volume.recipe) for scan in scans]


def _without_checked_lines(scan: Scan, recipe: ResolvedRecipe) -> Scan:
    if not recipe.checks.n_held_out:
        return scan
    try:
        return split_scan(scan, recipe.checks.n_held_out, recipe.seed).kept
    except ConfigError:  # too few lines: nothing will be held out, and the report says so
        return scan
