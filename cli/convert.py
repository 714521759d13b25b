"""``mri-ambient convert``: raw scans in other formats."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt
from .choices import SCAN_FORMATS, known
from .console import Bar, print_line, progress_bar
from .exit_codes import run_cases
from .inputs import Reading, chosen_scans
from .records import Without, takes_records


@takes_records
def run(
    inputs: opt.Inputs,
    output: opt.Output,
    to: Annotated[
        str,
        typer.Option(
            help="fastmri, ismrmrd or cfl.",
            metavar="FORMAT",
            callback=known("format", *SCAN_FORMATS),
        ),
    ],
    *,
    reading: Annotated[Reading, Without("maps")],
    shard: opt.Shard = None,
    keep_identifiers: opt.KeepIdentifiers = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write raw scans in another format.

    K-space keeps its values; it is read and written slice by slice. A folder stands for all scans
    in it and in the folders below it. OUT gets, without folders, <stem>.h5 or, for cfl, <stem>.cfl
    and <stem>.hdr; each volume of a file with several becomes a file.
    """
    from mri_ambient.io import ScanPath, convert_scan
    from mri_ambient.runtime.files import check_writable

    scans = chosen_scans(inputs, reading, shard, output, flat=True)
    check_writable(output, inside=True)
    with progress_bar() as bars:
        bar = Bar(bars, "convert", len(scans))

        def one(scan: ScanPath) -> None:
            path = convert_scan(
                scan.open(), output, to, overwrite=overwrite, keep_identifiers=keep_identifiers
            )
            bar.add()
            print_line(f"{scan.name}: wrote {path}")

        run_cases(scans, one)
