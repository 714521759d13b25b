"""``mri-ambient reconstruct``: scans in, images out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .adaptation_view import AdaptationView, Adapting, adapted_together
from .choices import FORMATS, PARTS, known_list
from .cluster import Where
from .config_file import store_config
from .console import print_line, progress_bar
from .folder_view import FolderView, print_plan
from .inputs import Reading, chosen_scans
from .parse import parse_list
from .recipe import (
    Computing,
    MethodAndPrior,
    MethodOptions,
    Preparing,
    Undersampling,
    make_recipe,
    note_unused,
    used_options,
)
from .records import takes_records

if TYPE_CHECKING:
    from mri_ambient.recon.folder import Destination
    from mri_ambient.recon.recipe import Checks


@dataclass(frozen=True)
class Checking:
    """How images are checked."""

    holdout: Annotated[
        int | None,
        typer.Option(
            help="Measured outer lines to hold out: a second reconstruction predicts them.",
            show_default="0, with --warn 2",
        ),
    ] = None
    warn: Annotated[bool, typer.Option("--warn", help="Flag slices that do not fit the prior.")] = (
        False
    )

    @property
    def checks(self) -> Checks:
        """The options as the library takes them."""
        from mri_ambient.recon.recipe import Checks

        usual = 2 if self.warn else 0
        return Checks(usual if self.holdout is None else self.holdout, flags=self.warn)


@dataclass(frozen=True)
class Saving:
    """In which formats images are written."""

    save: Annotated[
        str,
        typer.Option(
            help="Further formats, e.g. nifti,png,report; h5 is always written.",
            metavar="LIST",
            callback=known_list("format", *FORMATS),
        ),
    ] = "h5"
    dicom_template: opt.DicomTemplate = None
    bids: opt.BidsName = None
    parts: Annotated[
        str,
        typer.Option(
            help="What goes into these: mag, phase, std.",
            metavar="LIST",
            callback=known_list("part", *PARTS),
        ),
    ] = "mag"

    def to(self, folder: Path, *, overwrite: bool, listed: bool | None) -> Destination:
        """The destination, which is checked."""
        from mri_ambient.io import SaveOptions
        from mri_ambient.recon.folder import Destination

        options = SaveOptions(tuple(parse_list(self.parts)), self.dicom_template, self.bids)
        to = Destination(folder, parse_list(self.save), options, overwrite, listed)
        to.check()
        return to


Jobs = Annotated[
    int, typer.Option("--jobs", help="Processes that share the scans, on a CPU.", min=1, max=1024)
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Only scans that failed last time.")
]


@takes_records
def run(
    context: typer.Context,
    inputs: opt.Inputs,
    output: opt.Output,
    *,
    reading: Reading,
    method: MethodAndPrior,
    adapting: Adapting,
    undersampling: Undersampling,
    sampling: MethodOptions,
    preparing: Preparing,
    checking: Checking,
    saving: Saving,
    computing: Computing,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    jobs: Jobs = 1,
    where: Where,
    shard: opt.Shard = None,
    overwrite: opt.Overwrite = False,
    retry_failed: RetryFailed = False,
    dry_run: opt.DryRun = False,
    config: opt.Config = None,
    log: opt.Log = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Reconstruct scans, with or without a prior.

    A folder stands for all scans in it and in the folders below it. OUT gets the same folders, in
    them <stem>.h5 (images in scanner units) and <stem>.json (provenance, checks, warnings), and of
    several scans summary.csv and status.jsonl; with --save report also a page for every scan and
    index.html. A scan that fails gives one error line and exit code 1; the others are written.
    """
    from mri_ambient.recon.folder import failed_before, reconstruct_scans

    to = saving.to(output, overwrite=overwrite, listed=True if shard else None)
    adapting.check(shard)
    view = AdaptationView()
    recipe = make_recipe(
        **vars(method), **sampling.arguments, seed=seed, checks=checking.checks,
        preparation=preparing.config, retrospective=undersampling.mask,
        adapt=adapting.config(None if jobs > 1 or where.elsewhere else view),
    )  # fmt: skip
    to.check(recipe)
    note_unused(to, recipe, adapting.adapt)
    used = used_options(recipe, method.prior)
    every = todo = chosen_scans(inputs, reading, shard, output)
    if retry_failed:
        todo = failed_before(every, to, adapting.recipe_before(recipe, to))
    if not todo:
        print_line("no scan is left to do: none of these failed before, or this part holds none")
        return
    if dry_run:
        adapting.print_plan(recipe)
        print_plan(todo, to, recipe, computing.runtime(device))
        return
    with where.executor(jobs) as executor, progress_bar() as bars:
        runtime = computing.runtime(device, elsewhere=where.elsewhere)
        if adapting.together:
            recipe = adapted_together(bars, view, every, to, recipe, runtime, executor)
        with FolderView(bars, len(todo), output, view, verbose=verbose) as show:
            reconstruct_scans(
                todo, to, recipe, runtime, jobs=executor, on_volume=show.begin, on_outcome=show.end
            )
    if show.counts["done"] or show.counts["skipped"]:
        store_config(context, used, output, replace=show.counts["done"] > 0 and not retry_failed)
    show.exit()
