"""``mri-ambient evaluate``: scores against fully sampled scans, or by held-out lines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mri_ambient as ma
from mri_ambient.errors import ConfigError, MriAmbientError

from . import options as opt
from .cluster import Where
from .console import VolumeBar, print_csv, print_json, print_line, print_table, progress_bar
from .exit_codes import Failures
from .inputs import Reading
from .recipe import MethodAndPrior, MethodOptions, make_recipe, make_runtime
from .records import Without, takes_records

if TYPE_CHECKING:
    from mri_ambient.methods import OnStep
    from mri_ambient.recon.recipe import ResolvedRecipe
    from mri_ambient.recon.volume import OnSlice, Volume
    from mri_ambient.runtime.executor import Executor

HeldOut = dict[int, tuple[str, list[dict[str, float]]]]
"""Key and figures of every slice of scans, by their number."""

HEADINGS = {
    "cg_sense": "CG-SENSE", "l1_wavelet": "L1", "chi_square": "chi2", "coverage_50": "50 %",
    "coverage_90": "90 %",
}  # fmt: skip
"""Headings of a narrow table."""


Inputs = Annotated[
    list[str],
    typer.Argument(
        help="What `reconstruct` wrote; without --target, scans: files, folders or globs.",
        metavar="INPUT",
    ),
]
Targets = Annotated[
    Path | None,
    typer.Option(
        "--target",
        help="Fully sampled scans of any format (file or folder) with the stems of the "
        "reconstructions; with or without a reference image.",
        show_default="none: lines are held out",
    ),
]


@takes_records
def run(
    context: typer.Context,
    inputs: Inputs,
    *,
    targets: Targets = None,
    reading: Annotated[Reading, Without("volume", "maps")],
    holdout: opt.HeldOutLines = 2,
    method: MethodAndPrior,
    sampling: Annotated[MethodOptions, Without("keep_samples", "final_dc", "lam")],
    where: Where,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    csv_out: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_out: opt.Json = False,
) -> None:
    """Score reconstructions, or a method on held-out lines.

    With --target, reconstructions are scored against fully sampled scans: NMSE, PSNR (dB) and SSIM
    per volume; the numbers equal those of the fastmri package (volume maximum as data range,
    central square). Without: a few measured lines of every scan are held out, predicted from the
    rest by the method, CG-SENSE and L1-wavelet, and compared; with samples, also whether their
    standard deviation is as large as their error.
    """
    if targets is not None:
        _refuse_method_options(context, {*vars(reading), *vars(where)})
        failures, options = Failures(), vars(reading)
        with where.executor() as executor:
            scores = ma.evaluate(inputs, targets, on_error=failures.case, jobs=executor, **options)
        _print_scores(scores, csv_out=csv_out, json_out=json_out)
        failures.end(nothing_done=not scores["volumes"])
        return
    from mri_ambient.evaluation.folders import refuse_reconstructions
    from mri_ambient.recon.recipe import Checks

    refuse_reconstructions(inputs)
    checks = Checks(holdout)
    recipe = make_recipe(**vars(method), **sampling.arguments, seed=seed, checks=checks)
    found: HeldOut = {}
    try:
        with where.executor() as executor:
            runtime = make_runtime(device, elsewhere=where.elsewhere)
            _on_held_out_lines(inputs, reading, recipe, runtime, executor, found)
    finally:  # also where it was interrupted
        _print_held_out(recipe, found, csv_out=csv_out, json_out=json_out)


def _refuse_method_options(context: typer.Context, others: set[str]) -> None:
    """With --target, images are scored as they are: refuse options of the reconstruction."""
    for_both = {"inputs", "targets", "csv_out", "json_out", *others}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and parameter.name not in for_both:
            raise ConfigError(
                f"{parameter.opts[-1]} is an option of the reconstruction; with --target, images "
                "are scored as they are: `mri-ambient reconstruct` makes them"
            )


def _on_held_out_lines(
    inputs: list[str],
    reading: Reading,
    recipe: ResolvedRecipe,
    runtime: ma.Runtime,
    executor: Executor,
    found: HeldOut,
) -> None:
    """Fill ``found`` with key and figures of the scans that could be used, by their number."""
    from mri_ambient.evaluation.held_out import evaluate_scan
    from mri_ambient.io import find_scans

    scans, failures = find_scans(inputs, **vars(reading)), Failures()
    current: list[VolumeBar] = []

    def begin(name: str, volume: Volume, n_steps: int) -> tuple[OnSlice, OnStep]:
        current.append(VolumeBar(bars, name, len(volume.file), n_steps))
        return current[-1].on_slice, current[-1].on_step

    task = partial(evaluate_scan, recipe=recipe, runtime=runtime)
    if executor.in_process:
        task = partial(task, on_volume=begin)
    with progress_bar() as bars:
        for index, result in executor.map(task, scans):
            while current:
                current.pop().end()
            if isinstance(result, MriAmbientError):
                failures.case(scans[index], result)
                continue
            found[index] = scans[index].key, result
            if recipe.n_samples > 1:
                print_line(
                    f"{scans[index].name}: {recipe.n_samples} {recipe.samples_are} per slice, "
                    f"standard deviation x {recipe.std_factor:.2f}"
                )
    failures.end(nothing_done=not found)


def _print_held_out(
    recipe: ResolvedRecipe,
    found: HeldOut,
    *,
    csv_out: bool,
    json_out: bool,
) -> None:
    """JSON, CSV or a table of what was found, if anything was."""
    from mri_ambient.evaluation.held_out import held_out_report
    from mri_ambient.recon.held_out import held_out_means

    figures = dict(found[index] for index in sorted(found))
    means = {name: held_out_means(rows) for name, rows in figures.items()}
    if found and json_out:
        print_json(held_out_report(recipe, figures))
    elif found:
        names = list(next(iter(means.values())))
        if csv_out:
            print_csv(["scan", *names], means)
            return
        rows = [[scan, *(f"{v:.3f}" for v in row.values())] for scan, row in means.items()]
        headings = {"error": recipe.method.name} | HEADINGS
        n_lines = recipe.checks.n_held_out
        title = f"error on {n_lines} held-out lines of every slice, ratio to their energy"
        print_table(["scan", *(headings.get(n, n) for n in names)], rows, title=title)


def _print_scores(scores: dict[str, Any], *, csv_out: bool, json_out: bool) -> None:
    volumes, mean = scores["volumes"], scores["mean"]
    if volumes and json_out:
        print_json(scores)
    elif volumes and csv_out:
        print_csv(["volume", "nmse", "psnr", "ssim", "cropped", "reference"], volumes)
    elif volumes:
        last = (
            [[f"mean of {len(volumes)}", *_numbers(mean), ""]] if mean and len(volumes) > 1 else []
        )
        last += [
            [f"mean of {name}", *_numbers(of), ""] for name, of in scores.get("means", {}).items()
        ]
        rows = [[name, *_numbers(row), _reference(row)] for name, row in volumes.items()]
        print_table(["volume", "NMSE", "PSNR", "SSIM", "against"], rows, last=last)


def _numbers(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['nmse']:.4f}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}"


def _reference(row: dict[str, Any]) -> str:
    return str(row["reference"]).upper() + ("" if row["cropped"] else ", uncropped")
