"""``mri-ambient reconstruct``: scans in, images out."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt
from .adaptation_view import AdaptationView, adapted_together, make_adaptation, print_adaptation
from .console import VolumeBar, print_line, print_outputs, progress_bar
from .exit_codes import run_cases
from .parse import parse_list, pick_shard
from .recipe import make_recipe, make_runtime, retrospective_mask


def run(
    inputs: opt.Inputs,
    output: opt.Output,
    volume: opt.VolumeName = None,
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
        typer.Option(help="Further formats, e.g. nifti,png; h5 is always written.", metavar="LIST"),
    ] = "h5",
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

    OUT gets <stem>.h5 (images in scanner units) and <stem>.json (provenance, checks, warnings). A
    scan that fails gives one error line and exit code 1; the others are written.
    """
    from mri_ambient.data_prep import PrepConfig
    from mri_ambient.io import SaveOptions, ScanPath, find_scans
    from mri_ambient.recon.pipeline import is_finished, open_volume, reconstruct_to_folder
    from mri_ambient.recon.recipe import Checks
    from mri_ambient.recon.saving import check_formats, save_as
    from mri_ambient.recon.volume import slice_lines, summary_line

    view = AdaptationView()
    formats, saving = check_formats(parse_list(save)), SaveOptions(tuple(parse_list(parts)))
    if holdout is None:
        holdout = 2 if warn else 0
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
        preparation=PrepConfig(n_coils=coils, noise_std=noise_std),
        retrospective=retrospective_mask(retrospective, mask_type, calib_lines),
        adapt=make_adaptation(adapt, adapt_per, view),
    )
    scans = pick_shard(find_scans(inputs, volume=volume), shard)
    if dry_run:
        print_outputs(scans, output)
        print_adaptation(recipe, adapt_per)
        return
    runtime = make_runtime(
        device, precision=precision, batch_size=batch_size, cpu_fallback=cpu_fallback,
        compile=compiled,
    )  # fmt: skip

    def one(scan: ScanPath) -> None:
        opened = open_volume(scan, recipe, runtime)
        finished = is_finished(opened, output, overwrite=overwrite)
        if finished:
            print_line(f"{scan.name}: is finished already (--overwrite replaces it)")
        else:
            with VolumeBar(bars, scan.name, len(opened.file), opened.n_steps) as bar:
                view.bar = bar
                report = reconstruct_to_folder(
                    opened, output, on_slice=bar.on_slice, on_step=bar.on_step
                )
            print_line(f"{summary_line(report)}; wrote {output / scan.stem}.h5")
            for line in slice_lines(report) if verbose else ():
                print_line(line)
        path = output / f"{scan.stem}.h5"
        for written in save_as(path, formats, saving, overwrite=overwrite, is_new=not finished):
            print_line(f"{scan.name}: wrote {written}")

    with progress_bar() as bars:
        if adapt_per == "folder":
            recipe = adapted_together(
                bars, scans, recipe, runtime, output, view, overwrite=overwrite
            )
        run_cases(scans, one)
