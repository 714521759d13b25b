"""``mri-ambient prep``: raw scans to prepared files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    Device,
    DryRun,
    Inputs,
    Output,
    Overwrite,
    Quiet,
    Shard,
    Verbose,
    complain,
    exit_code,
    pick_shard,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from mri_ambient.data_prep import ScanResult


def run(
    inputs: Inputs,
    output: Output,
    coils: Annotated[int | None, typer.Option(help="Compress to at most this many coils.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Compress to as few coils as keep this share, e.g. 0.999.")
    ] = None,
    calib_width: Annotated[int, typer.Option(help="Largest side of the calibration block.")] = 24,
    noise_std: Annotated[
        float | None, typer.Option(help="k-space noise per real channel, in the file's units.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 works in this one.")] = 0,
    pictures: Annotated[
        bool, typer.Option(help="Draw one picture a scan into OUT/qc, to look at the maps.")
    ] = True,
    device: Device = "auto",
    shard: Shard = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prepare scans: whiten, compress coils, estimate maps, normalise; OUT gets a manifest too."""
    from mri_ambient.data_prep import PrepConfig, prepare_many
    from mri_ambient.io import find_scans, why_no_file
    from mri_ambient.runtime.device import pick_device, return_freed_memory

    config = PrepConfig(n_coils=coils, energy=energy, calib_width=calib_width, noise_std=noise_std)
    paths = pick_shard(find_scans(inputs), shard)
    if dry_run:
        for path in paths:
            say(why_no_file(path) or f"{path} -> {output / path.stem}.h5")
        return
    where = pick_device(device)
    return_freed_memory()
    with progress_bar() as bars:
        task = bars.add_task("prep", total=len(paths))

        def done(result: ScanResult) -> None:
            bars.advance(task)
            if verbose:
                say(result.line())
            for doubt in result.doubts:
                say(f"warning: {doubt}")

        summary = prepare_many(
            paths,
            output,
            config,
            workers=workers,
            overwrite=overwrite,
            pictures=pictures,
            device=where,
            on_scan=done,
        )
    for line in summary.failed_lines:
        complain(f"error: {line}")
    for doubt in summary.doubts:
        say(f"warning: {doubt}")
    for group in summary.coverage:
        say(group.line)
    say(summary.line())
    if summary.failed:
        error = summary.failed[0].error if len(summary.failed) == len(paths) else None
        raise typer.Exit(1 if error is None else exit_code(error))
