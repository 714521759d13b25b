"""``mri-ambient adapt``: a prior learns from the scans that it will reconstruct."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mri_ambient.runtime.config import parse_until

from . import options as opt
from .adaptation_view import AdaptationView, make_adaptation
from .choices import readable
from .cluster import Where
from .console import Bar, print_json, print_line, progress_bar
from .exit_codes import Failures
from .recipe import make_recipe, make_runtime, retrospective_mask
from .records import takes_records


@takes_records
def run(
    inputs: opt.Inputs,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the adapted prior.", metavar="PRIOR2")
    ],
    *,
    volume: opt.VolumeName = None,
    axes: opt.AxisNames = None,
    dataset: opt.DatasetName = None,
    centre: opt.Centre = "auto",
    mask: opt.MaskPath = None,
    acs: opt.Acs = None,
    average: opt.Average = None,
    maps: opt.Maps = None,
    prior: opt.PriorPath = None,
    until: Annotated[
        str,
        typer.Option(
            help="auto (until the error on held-out lines stops falling), a time such as 90s, or a "
            "number of steps.",
            callback=readable(parse_until),
        ),
    ] = "auto",
    retrospective: opt.Retrospective = None,
    mask_type: opt.MaskType = None,
    calib_lines: opt.CalibLines = None,
    noise_std: opt.NoiseStd = None,
    coils: opt.Coils = None,
    holdout: Annotated[
        int,
        typer.Option(help="Measured outer lines of every scan to set aside, for a calibration."),
    ] = 0,
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
    from mri_ambient.data_prep import PrepConfig
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
        preparation=PrepConfig(n_coils=coils, noise_std=noise_std),
        retrospective=retrospective_mask(retrospective, mask_type, calib_lines),
        adapt=make_adaptation(until, None, None if where.elsewhere else view),
    )
    given: dict[str, Any] = {"volume": volume, "axes": axes, "dataset": dataset, "maps": maps}
    scans = find_scans(inputs, **given, centre=centre, mask=mask, acs=acs, average=average)
    check_writable(output)
    if dry_run:
        print_line(f"{len(scans)} scans, until {until} -> {output}")
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
