"""``mri-ambient reconstruct``: scans in, images out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import mri_ambient as ma
from mri_ambient.runtime.config import parse_until

from . import options as opt
from .adaptation_view import (
    AdaptationView,
    adapted_together,
    check_shard,
    make_adaptation,
    print_adaptation,
    with_shared_prior,
)
from .choices import ADAPT_PER, FORMATS, PARTS, known, known_list, readable
from .cluster import Where
from .config_file import store_config
from .console import print_line, progress_bar
from .folder_view import FolderView, print_plan
from .inputs import chosen_scans
from .parse import parse_list, parse_map_sets
from .recipe import make_recipe, make_runtime, note_unused, retrospective_mask
from .records import takes_records


@takes_records
def run(
    context: typer.Context,
    inputs: opt.Inputs,
    output: opt.Output,
    *,
    volume: opt.VolumeName = None,
    axes: opt.AxisNames = None,
    dataset: opt.DatasetName = None,
    centre: opt.Centre = "auto",
    mask: opt.MaskPath = None,
    acs: opt.Acs = None,
    average: opt.Average = None,
    maps: opt.Maps = None,
    method: opt.Method = None,
    preset: opt.SamplingPreset = None,
    prior: opt.PriorPath = None,
    adapt: Annotated[
        str | None,
        typer.Option(
            help="Adapt the prior to the scan first: auto (until the error on held-out lines stops "
            "falling), at most a time such as 90s, or a number of steps.",
            show_default="the prior as it is",
            metavar="auto|TIME|STEPS",
            callback=readable(parse_until),
        ),
    ] = None,
    adapt_per: Annotated[
        str | None,
        typer.Option(
            help="What the prior is adapted to anew: slice, volume or folder (all scans together).",
            show_default="volume",
            callback=known("value of --adapt-per", *ADAPT_PER),
        ),
    ] = None,
    retrospective: opt.Retrospective = None,
    mask_type: opt.MaskType = None,
    calib_lines: opt.CalibLines = None,
    samples: opt.Samples = None,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Write the samples too (reconstruction_samples).")
    ] = False,
    steps: opt.Steps = None,
    final_dc: Annotated[
        bool,
        typer.Option(help="End with data consistency: aos; mask-conditioned dds, msm and pula."),
    ] = True,
    option: opt.MethodOption = None,
    lam: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Regularisation of cg-sense and l1-wavelet, for normalised images.",
            show_default="1.0 and 0.3 times the noise",
        ),
    ] = None,
    noise_std: opt.NoiseStd = None,
    map_sets: opt.MapSets = "auto",
    coils: opt.Coils = None,
    holdout: Annotated[
        int | None,
        typer.Option(
            help="Measured outer lines to hold out: a second reconstruction predicts them.",
            show_default="0, with --warn 2",
        ),
    ] = None,
    warn: Annotated[
        bool, typer.Option("--warn", help="Flag slices that do not fit the prior.")
    ] = False,
    save: Annotated[
        str,
        typer.Option(
            help="Further formats, e.g. nifti,png,report; h5 is always written.",
            metavar="LIST",
            callback=known_list("format", *FORMATS),
        ),
    ] = "h5",
    dicom_template: opt.DicomTemplate = None,
    bids: opt.BidsName = None,
    parts: Annotated[
        str,
        typer.Option(
            help="What goes into these: mag, phase, std.",
            metavar="LIST",
            callback=known_list("part", *PARTS),
        ),
    ] = "mag",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Slices x samples computed at once.",
            show_default="2^16 pixels on a CPU, 2^22 on a GPU; halved if memory runs out",
        ),
    ] = None,
    precision: opt.Precision = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the networks first: minutes once, for volumes."),
    ] = False,
    cpu_fallback: Annotated[
        bool, typer.Option("--cpu-fallback", help="Go on with the CPU where a GPU is too small.")
    ] = False,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    jobs: Annotated[
        int, typer.Option(help="Processes that share the scans, on a CPU.", min=1, max=1024)
    ] = 1,
    where: Where,
    shard: opt.Shard = None,
    overwrite: opt.Overwrite = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only scans that failed last time.")
    ] = False,
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
    from mri_ambient.data_prep import PrepConfig
    from mri_ambient.io import SaveOptions
    from mri_ambient.recon.folder import Destination, failed_before
    from mri_ambient.recon.recipe import Checks

    view, others = AdaptationView(), jobs > 1 or where.elsewhere
    saving = SaveOptions(tuple(parse_list(parts)), dicom_template, bids)
    to = Destination(output, parse_list(save), saving, overwrite, listed=True if shard else None)
    to.check()
    check_shard(adapt_per, shard)
    holdout = (2 if warn else 0) if holdout is None else holdout
    recipe = make_recipe(
        method=method,
        preset=preset,
        flags={"n_steps": steps, "lam": lam, "final_dc": None if final_dc else False},
        option=option,
        prior=prior,
        seed=seed,
        samples=samples,
        keep_samples=keep_samples,
        checks=Checks(holdout, flags=warn),
        preparation=PrepConfig(coils, noise_std=noise_std, map_sets=parse_map_sets(map_sets)),
        retrospective=retrospective_mask(retrospective, mask_type, calib_lines),
        adapt=make_adaptation(adapt, adapt_per, None if others else view),
    )
    to.check(recipe)
    note_unused(to, recipe, adapt)
    given: dict[str, Any] = {"volume": volume, "axes": axes, "dataset": dataset, "maps": maps}
    given |= {"centre": centre, "mask": mask, "acs": acs, "average": average}
    every = scans = chosen_scans(inputs, shard, output, **given)
    if retry_failed:
        shares = adapt_per == "folder"
        scans = failed_before(every, to, with_shared_prior(recipe, to) if shares else recipe)
    if not scans:
        print_line("no scan is left to do: none of these failed before, or this part holds none")
        return
    computing: dict[str, Any] = {"precision": precision, "batch_size": batch_size}
    computing |= {"cpu_fallback": cpu_fallback, "compile": compiled}
    if dry_run:
        print_adaptation(recipe, adapt_per)
        print_plan(scans, to, recipe, make_runtime(device, **computing))
        return
    with where.executor(jobs) as executor, progress_bar() as bars:
        runtime = make_runtime(device, elsewhere=where.elsewhere, **computing)
        if adapt_per == "folder":
            recipe = adapted_together(
                bars, executor, every, recipe, runtime, output, view, overwrite
            )
        show = FolderView(bars, len(scans), view, verbose=verbose)
        try:
            ma.reconstruct_folder(
                scans, to, recipe, runtime, jobs=executor, on_volume=show.begin, on_outcome=show.end
            )
        finally:
            show.print_counts(output)
    if show.counts["done"] or show.counts["skipped"]:
        store_config(context, output, replace=show.counts["done"] > 0)
    show.exit()
