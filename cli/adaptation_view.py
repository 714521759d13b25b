"""What commands show of an adaptation, and its options as the library takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mri_ambient as ma
from mri_ambient.errors import ConfigError

from .console import Bar, print_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from mri_ambient.errors import MriAmbientError
    from mri_ambient.io import ScanPath
    from mri_ambient.recon.folder import Destination
    from mri_ambient.recon.recipe import ResolvedRecipe
    from mri_ambient.runtime.executor import Executor
    from mri_ambient.training.adapter import AdaptProgress

SHARED = "adapted.safetensors"
"""Name of the prior that is adapted to all scans of a folder together."""


class AdaptationView:
    """Describes adaptations on a bar that the command sets."""

    def __init__(self) -> None:
        self.bar: Bar | None = None

    def show(self, progress: AdaptProgress) -> None:
        """A step is done."""
        if self.bar is not None:
            before, error = progress.before, progress.error
            text = f"{progress.step} steps, error on held-out lines {before:.4f} -> {error:.4f}"
            self.bar.describe(f"adapt to {self.bar.name}: {text}")


def make_adaptation(
    until: str | None, per: str | None, view: AdaptationView | None
) -> ma.AdaptConfig | None:
    """The adaptation that ``--adapt`` and ``--adapt-per`` ask for; None without ``--adapt``.

    ``view`` shows its progress; None where other processes adapt.

    Raises:
        ConfigError: what is adapted is not said.
    """
    if until is None:
        if per is not None:
            raise ConfigError("--adapt-per says for what --adapt adapts the prior; give it too")
        return None
    anew = "slice" if per == "slice" else "volume"
    if view is None:
        return ma.AdaptConfig(until, anew)
    return ma.AdaptConfig(until, anew, on_progress=view.show)


def check_shard(per: str | None, shard: str | None) -> None:
    """Raise ConfigError for ``--adapt-per folder`` in calls that each see part of the scans."""
    if per == "folder" and shard is not None:
        raise ConfigError(
            "--adapt-per folder adapts a prior to all scans, and with --shard a call sees part of "
            "them; call `mri-ambient adapt` with all scans first, then give its prior to every "
            "part (-m)"
        )


def print_adaptation(recipe: ResolvedRecipe, per: str | None) -> None:
    """What the prior would be adapted to, if anything (``--dry-run``)."""
    if isinstance(recipe.adapt, ma.AdaptConfig):
        to = {"folder": "all scans together"}.get(per or "", f"every {recipe.adapt.per}")
        print_line(f"the prior would be adapted first, to {to}, until {recipe.adapt.until}")


def with_shared_prior(recipe: ResolvedRecipe, to: Destination) -> ResolvedRecipe:
    """The recipe with the prior that an earlier call adapted to all scans, unless that is replaced.

    Methods without a prior keep their recipe; without such a file, nothing was made by this recipe.
    """
    path = to.folder / SHARED
    if recipe.adapt is None:
        return recipe
    kept = path.is_file() and not to.overwrite
    return replace(recipe, prior=ma.load_prior(path) if kept else None, adapt=None)


def adapted_together(
    bars: Progress,
    executor: Executor,
    scans: list[ScanPath],
    recipe: ResolvedRecipe,
    runtime: ma.Runtime,
    output: Path,
    view: AdaptationView,
    overwrite: bool,
) -> ResolvedRecipe:
    """The recipe with one prior adapted to all scans, which is written to OUT (:data:`SHARED`).

    One that is there is read if it was made with these settings, whatever the scans: some may have
    been repaired or added. Scans that cannot be read are left out; their errors come when they are
    reconstructed. Methods without a prior keep their recipe.
    """
    from mri_ambient.recon.adaptation import adaptation_line
    from mri_ambient.training.adapt_scans import adapt_as_task

    if recipe.adapt is None:
        return recipe

    def ignore(scan: object, error: MriAmbientError) -> None:
        """Reported later."""

    view.bar, path = Bar(bars, "all scans"), output / SHARED
    reads = path.exists() and not overwrite
    prior = adapt_as_task(
        executor, scans, recipe, runtime, path, overwrite=overwrite, on_error=ignore,
        any_scans=True,
    )  # fmt: skip
    print_line(f"{path}: {adaptation_line(prior.card['adaptation'])}")
    if reads:
        print_line(f"note: {path} was there already; --overwrite adapts it to these scans anew")
    return replace(recipe, prior=prior, adapt=None)
