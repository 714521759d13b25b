"""``mri-ambient info``: what is installed, or what a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .console import print_facts, print_json


def run(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A scan, a prepared file, a reconstruction, a prior, or a folder.",
            metavar="FILE",
            show_default="what is installed",
        ),
    ] = None,
    axes: opt.AxisNames = None,
    dataset: opt.DatasetName = None,
    centre: opt.Centre = "auto",
    mask: opt.MaskPath = None,
    acs: opt.Acs = None,
    json_out: opt.Json = False,
) -> None:
    """Print what is installed, or what a file holds."""
    from mri_ambient.evaluation.info import contents, in_text, installed

    given = {"axes": axes, "dataset": dataset, "centre": centre, "mask": mask, "acs": acs}
    facts = installed() if file is None else contents(file, **given)
    if json_out:
        print_json(facts)
    else:
        print_facts(facts if file is None else in_text(facts))
    if any(entry["kind"] == "unreadable" for entry in facts.get("files", ())):
        raise typer.Exit(1)
