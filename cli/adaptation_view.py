"""What commands show of an adaptation, and its options as the library takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

import mri_ambient as ma
from mri_ambient.errors import ConfigError
from mri_ambient.runtime.config import parse_until

from .choices import ADAPT_PER, known, readable
from .console import Bar, print_line, print_result

if TYPE_CHECKING:
    from rich.progress import Progress

    from mri_ambient.io import ScanPath
    from mri_ambient.recon.folder import Destination
    from mri_ambient.recon.recipe import ResolvedRecipe
    from mri_ambient.runtime.executor import Executor
    from mri_ambient.training.adapter import AdaptProgress


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


@dataclass(frozen=True)
class Adapting:
    """Whether the prior learns from the scans before they are reconstructed."""

    adapt: Annotated[
        str | None,
        typer.Option(
            help="Adapt the prior to the scan first: auto (until the error on held-out lines stops "
            "falling), at most a time such as 90s, or a number of steps.",
            show_default="the prior as it is",
            metavar="auto|TIME|STEPS",
            callback=readable(parse_until),
        ),
    ] = None
    adapt_per: Annotated[
        str | None,
        typer.Option(
            help="What the prior is adapted to anew: slice, volume or folder (all scans together).",
            show_default="volume",
            callback=known("value of --adapt-per", *ADAPT_PER),
        ),
    ] = None

    @property
    def together(self) -> bool:
        """Whether one prior learns from all scans."""
        return self.adapt_per == "folder"

    def check(self, shard: str | None) -> None:
        """Raise ConfigError for a call that sees part of the scans, or does not adapt at all."""
        if self.together and shard is not None:
            raise ConfigError(
                "--adapt-per folder adapts a prior to all scans, and with --shard a call sees part "
                "of them; call `mri-ambient adapt` with all scans first, then give its prior to "
                "every part (-m)"
            )
        if self.adapt is None and self.adapt_per is not None:
            raise ConfigError("--adapt-per says for what --adapt adapts the prior; give it too")

    def config(self, view: AdaptationView | None) -> ma.AdaptConfig | None:
        """The adaptation as the library takes it; None for none.

        ``view`` shows its progress; None where other processes adapt.
        """
        if self.adapt is None:
            return None
        return adaptation(self.adapt, "slice" if self.adapt_per == "slice" else "volume", view)

    def recipe_before(self, recipe: ResolvedRecipe, to: Destination) -> ResolvedRecipe:
        """The recipe that an earlier call with these options reconstructed scans by."""
        from mri_ambient.training.adapt_folder import with_shared_prior

        return with_shared_prior(recipe, to) if self.together else recipe

    def print_plan(self, recipe: ResolvedRecipe) -> None:
        """What the prior would be adapted to, if anything (``--dry-run``)."""
        if isinstance(recipe.adapt, ma.AdaptConfig):
            to = "all scans together" if self.together else f"every {recipe.adapt.per}"
            print_result(f"the prior would be adapted first, to {to}, until {recipe.adapt.until}")


def adaptation(until: str, per: str, view: AdaptationView | None) -> ma.AdaptConfig:
    """An adaptation that the view shows; None where other processes adapt."""
    if view is None:
        return ma.AdaptConfig(until, per)
    return ma.AdaptConfig(until, per, on_progress=view.show)


def adapted_together(
    bars: Progress,
    view: AdaptationView,
    scans: list[ScanPath],
    to: Destination,
    recipe: ResolvedRecipe,
    runtime: ma.Runtime,
    executor: Executor,
) -> ResolvedRecipe:
    """See :func:`~mri_ambient.training.adapt_folder.adapt_for_folder`; lines tell what it did."""
    from mri_ambient.recon.adaptation import adaptation_line
    from mri_ambient.training.adapt_folder import SHARED, adapt_for_folder

    view.bar, path = Bar(bars, "all scans"), to.folder / SHARED
    reads = path.exists() and not to.overwrite
    found = adapt_for_folder(scans, to, recipe, runtime, jobs=executor)
    if recipe.adapt is not None and found.prior is not None:
        print_line(f"{path}: {adaptation_line(found.prior.card['adaptation'])}")
        if reads:
            print_line(f"note: {path} was there already; --overwrite adapts it to these scans anew")
    return found
