"""``mri-ambient adapt``: a prior learns from the scans that it will reconstruct."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mri_ambient.runtime.config import parse_until

from . import options as opt
from .adaptation_view import AdaptationView, adaptation
from .choices import readable
from .cluster import Where
from .console import Bar, print_json, print_line, print_result, progress_bar
from .exit_codes import Failures
from .inputs import Reading
from .recipe import Preparing, Undersampling, make_recipe, make_runtime
from .records import Without, takes_records

Output = Annotated[
    Path, typer.Option("-o", "--output", help="File for the adapted prior.", metavar="PRIOR2")
]
Until = Annotated[
    str,
    typer.Option(
        help="auto (until the error on held-out lines stops falling), a time such as 90s, or a "
        "number of steps.",
        callback=readable(parse_until),
    ),
]
LinesSetAside = Annotated[
    int,
    typer.Option(
        "--holdout", help="Measured outer lines of every scan to set aside, for a calibration."
    ),
]


@takes_records
def run(
    inputs: opt.Inputs,
    output: Output,
    *,
    reading: Reading,
    prior: opt.PriorPath = None,
    until: Until = "auto",
    undersampling: Undersampling,
    preparing: Annotated[Preparing, Without("map_sets")],
    holdout: LinesSetAside = 0,
    precision: opt.Precision = "auto",
    where: Where,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    overwrite: opt.Overwrite = False,
    json_out: opt.Json = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
) -> None:
    """Adapt a prior to scans, on their measured lines alone.

    It learns from all scans together, by the objective that it was trained by. PRIOR2 is the prior
    with the smallest error on lines that were held out of this; that may be the one it started
    from, whose file is never changed. `reconstruct --adapt` adapts to every volume alone.
    """
    from mri_ambient.io import find_scans
    from mri_ambient.recon.adaptation import adaptation_line
    from mri_ambient.recon.recipe import Checks
    from mri_ambient.runtime.files import check_writable
    from mri_ambient.training.adapt_scans import adapt_as_task

    view = AdaptationView()
    recipe = make_recipe(
        method="aos",
        flags={},
        prior=prior,
        seed=seed,
        checks=Checks(holdout),
        preparation=preparing.config,
        retrospective=undersampling.mask,
        adapt=adaptation(until, "volume", None if where.elsewhere else view),
    )
    scans = find_scans(inputs, **vars(reading))
    check_writable(output)
    if dry_run:
        print_result(f"{len(scans)} scans, until {until} -> {output}")
        return
    failures = Failures()
    with where.executor() as executor, progress_bar() as bars:
        runtime = make_runtime(device, elsewhere=where.elsewhere, precision=precision)
        view.bar = Bar(bars, f"{len(scans)} scans")
        adapted = adapt_as_task(
            executor, scans, recipe, runtime, output, overwrite=overwrite,
            on_error=failures.case,
        )  # fmt: skip
    report = adapted.card["adaptation"]
    print_line(f"{output}: {adaptation_line(report)}")
    if json_out:
        print_json(report)
    failures.end()
