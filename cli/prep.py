"""``mri-ambient prep``: raw scans to prepared files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .cluster import Where
from .console import Bar, print_line, print_outputs, print_warning, progress_bar
from .exit_codes import Failures
from .inputs import Reading, chosen_scans
from .recipe import Preparing, make_runtime
from .records import takes_records

if TYPE_CHECKING:
    from mri_ambient.data_prep import ScanResult


Pictures = Annotated[
    bool, typer.Option(help="Draw one picture per scan into OUT/qc, to look at the maps.")
]


@takes_records
def run(
    inputs: opt.Inputs,
    output: opt.Output,
    *,
    reading: Reading,
    preparing: Preparing,
    workers: opt.Workers = 0,
    pictures: Pictures = True,
    device: opt.Device = "auto",
    where: Where,
    shard: opt.Shard = None,
    overwrite: opt.Overwrite = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Prepare scans: noise, coils, coil maps, scale.

    Noise is whitened, coils are compressed, coil maps estimated (ESPIRiT) and images normalised.
    A folder stands for all scans in it and in the folders below it. OUT gets a file per scan,
    without folders, and a manifest.
    """
    from mri_ambient.data_prep import prepare

    config = preparing.config
    scans = chosen_scans(inputs, reading, shard, output, flat=True)
    if dry_run:
        print_outputs(scans, output)
        return
    failures = Failures()
    with where.executor(workers) as executor, progress_bar() as bars:
        runtime = make_runtime(device, elsewhere=where.elsewhere)
        bar = Bar(bars, "prep", len(scans))

        def scan_done(result: ScanResult) -> None:
            bar.add()
            if result.error is not None and result.status == "failed":
                failures.case(result.source, result.error)
            if verbose:
                print_line(result.line())
            for warning in result.warnings:
                print_warning(warning)

        summary = prepare(
            scans, output, config, workers=executor, overwrite=overwrite, pictures=pictures,
            runtime=runtime, on_scan=scan_done,
        )  # fmt: skip
    for warning in summary.warnings:
        print_warning(warning)
    for group in summary.coverage:
        print_line(group.line)
    print_line(summary.line())
    failures.end(nothing_done=len(summary.failed) == len(scans))
