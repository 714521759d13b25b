"""The recipe of every slice of a volume, with its prior adapted first if the recipe says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, collected
from ..scan import Scan
from .adaptation import AdaptationData, evenly_spaced, hashed_name
from .held_out import hold_out_of_scan
from .recipe import ResolvedRecipe

if TYPE_CHECKING:
    from .volume import Volume


class AdaptedRecipes:
    """Gives the recipe of a slice; with one prior for the volume, always the same.

    Args:
        volume: what is reconstructed.
        folder: where the states of adaptations are kept; None keeps them in memory.
    """

    def __init__(self, volume: Volume, folder: Path | None) -> None:
        self.volume, self.folder = volume, folder
        adaptation = volume.recipe.adapt
        self.per_slice = adaptation is not None and adaptation.per == "slice"
        self.shared: ResolvedRecipe | None = None
        if adaptation is None:
            self.shared = volume.recipe
        elif not self.per_slice:
            self.shared = self._adapted(evenly_spaced(len(volume.file), adaptation.n_slices))

    def __call__(self, index: int) -> ResolvedRecipe:
        """The recipe of a slice, with its prior adapted."""
        return self.shared or self._adapted([index])

    def _adapted(self, indices: Sequence[int]) -> ResolvedRecipe:
        volume, recipe = self.volume, self.volume.recipe
        assert recipe.adapt is not None
        name = "-".join(["adapted", *map(str, indices if self.per_slice else ())])
        data = AdaptationData(
            read=lambda: slices_to_learn(volume, indices),
            scans=lambda: [hashed_name(volume.file)],
            identity=volume.settings | {"of_slices": list(indices)},
            folder=None if self.folder is None else self.folder / name,
        )
        prior = recipe.adapt(data, recipe, volume.runtime)
        return replace(recipe, prior=prior, adapt=None)


def adaptation_report(recipe: ResolvedRecipe) -> dict[str, Any]:
    """What the card of a recipe's prior says about its adaptation, as an entry of a report."""
    report = None if recipe.prior is None else recipe.prior.card.get("adaptation")
    return {} if report is None else {"adaptation": report}


def slices_to_learn(volume: Volume, indices: Sequence[int]) -> list[Scan]:
    """Prepared slices of a volume, without the lines that the checks of its recipe hold out."""
    with collected():
        scans = [volume.preparation.apply(volume.file[i : i + 1]) for i in indices]
    return [_without_checked_lines(scan, volume.recipe) for scan in scans]


def _without_checked_lines(scan: Scan, recipe: ResolvedRecipe) -> Scan:
    if not recipe.checks.n_held_out:
        return scan
    try:
        return hold_out_of_scan(scan, recipe.checks.n_held_out, recipe.seed).kept
    except ConfigError:  # too few lines: nothing will be held out, and the report says so
        return scan
