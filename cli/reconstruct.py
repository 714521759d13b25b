"""``mri-ambient reconstruct``: scans in, images out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mri_ambient.errors import MriAmbientError

from . import options as opt
from .adaptation_view import AdaptationView, adapted_together, make_adaptation, print_adaptation
from .console import VolumeBar, print_line, print_outputs, print_written, progress_bar
from .exit_codes import run_cases
from .inputs import chosen_scans
from .parse import parse_list, parse_map_sets
from .recipe import make_recipe, make_runtime, retrospective_mask

if TYPE_CHECKING:
    from mri_ambient.io import ScanPath
    from mri_ambient.recon.volume import Volume

OUTCOMES = REBUILT, FINISHED, FAILED = "reconstructed", "finished before", "failed"
"""What can become of a scan."""


def run(
    inputs: opt.Inputs,
    output: opt.Output,
    volume: opt.VolumeName = None,
    axes: opt.AxisNames = None,
    dataset: opt.DatasetName = None,
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
        ),
    ] = None,
    adapt_per: Annotated[
        str | None,
        typer.Option(
            help="What the prior is adapted to anew: slice, volume or folder (all scans together).",
            show_default="volume",
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
            help="Further formats, e.g. nifti,png,report; h5 is always written.", metavar="LIST"
        ),
    ] = "h5",
    dicom_template: opt.DicomTemplate = None,
    bids: opt.BidsName = None,
    parts: Annotated[
        str,
        typer.Option(help="What goes into these: mag, phase, std.", metavar="LIST"),
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
    shard: opt.Shard = None,
    overwrite: opt.Overwrite = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Reconstruct scans, with or without a prior.

    OUT gets <stem>.h5 (images in scanner units) and <stem>.json (provenance, checks, warnings);
    with --save report also a page for every scan, index.html and summary.csv. A scan that fails
    gives one error line and exit code 1; the others are written.
    """
    from mri_ambient.data_prep import PrepConfig
    from mri_ambient.io import SaveOptions
    from mri_ambient.recon.pipeline import is_finished, open_volume
    from mri_ambient.recon.recipe import Checks
    from mri_ambient.recon.saving import check_formats, check_options, check_saving, save_as

    view = AdaptationView()
    formats = check_formats(parse_list(save))
    saving = SaveOptions(tuple(parse_list(parts)), dicom_template, bids)
    check_options(formats, saving)
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
        adapt=make_adaptation(adapt, adapt_per, view),
    )
    given = {"volume": volume, "axes": axes, "dataset": dataset, "maps": maps}
    scans = chosen_scans(inputs, shard, **given)
    if dry_run:
        print_outputs(scans, output)
        print_adaptation(recipe, adapt_per)
        return
    runtime = make_runtime(
        device, precision=precision, batch_size=batch_size, cpu_fallback=cpu_fallback,
        compile=compiled,
    )  # fmt: skip

    def one(scan: ScanPath) -> str:
        opened = open_volume(scan, recipe, runtime)
        check_saving(formats, saving, scan.stem, opened.file.final_grid)
        finished = is_finished(opened, output, overwrite=overwrite)
        if finished:
            print_line(f"{scan.name}: is finished already (--overwrite replaces it)")
        else:
            with VolumeBar(bars, scan.name, len(opened.file), opened.n_steps) as view.bar:
                report = compute(opened, output, view.bar)
            print_report(report, output / f"{scan.stem}.h5", verbose=verbose)
        with VolumeBar(bars, f"{scan.name}, {save}", len(opened.file), 1) as bar:
            path, on_slice = output / f"{scan.stem}.h5", bar.on_slice
            files = save_as(path, formats, saving, opened, overwrite=overwrite, on_slice=on_slice)
        print_written(f"{scan.name}: ", files)
        return FINISHED if finished else REBUILT

    with progress_bar() as bars:
        if adapt_per == "folder":
            recipe = adapted_together(bars, scans, recipe, runtime, output, view, overwrite)
        run_scans(scans, one, output, overview="report" in formats)


def compute(volume: Volume, output: Path, bar: VolumeBar) -> dict[str, Any]:
    """Reconstruct a volume into the folder, while its bar moves; the report."""
    from mri_ambient.recon.pipeline import reconstruct_to_folder

    return reconstruct_to_folder(volume, output, on_slice=bar.on_slice, on_step=bar.on_step)


def print_report(report: dict[str, Any], path: Path, *, verbose: bool) -> None:
    """A line about a reconstruction, and with ``verbose`` one about each slice."""
    from mri_ambient.recon.volume import slice_lines, summary_line

    print_line(f"{summary_line(report)}; wrote {path}")
    for line in slice_lines(report) if verbose else ():
        print_line(line)


def run_scans(
    scans: Sequence[ScanPath], one: Callable[[ScanPath], str], output: Path, *, overview: bool
) -> None:
    """Reconstruct every scan into a folder that can be written; then write the overview, if wanted.

    ``one`` says what was done; of several scans, a last line says how often.
    """
    from mri_ambient.recon.report import noted_failure, write_overview
    from mri_ambient.runtime.files import output_folder

    counts = Counter[str]()

    def noted(scan: ScanPath) -> None:
        try:
            with noted_failure(output, scan.stem) if overview else nullcontext():
                counts[one(scan)] += 1
        except MriAmbientError:
            counts[FAILED] += 1
            raise

    try:
        with output_folder(output):
            run_cases(scans, noted)
    finally:
        if overview and output.exists():
            print_written("", write_overview(output))
        if len(scans) > 1:
            print_line(", ".join(f"{counts[done]} {done}" for done in OUTCOMES if counts[done]))
