"""``mri-ambient audit``: whether a prior is safe to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Json, Output, Quiet, Seed, print_json, progress_bar, say

app = typer.Typer(no_args_is_help=True, help="Check a prior before it is handed on.")


@app.callback()
def _audit() -> None:
    """Check a prior before it is handed on."""


@app.command()
def memorization(
    prior: Annotated[Path, typer.Argument(help="Prior file or run folder.", metavar="PRIOR")],
    data: Annotated[
        Path, typer.Argument(help="The prepared scans it was trained on.", metavar="DATA")
    ],
    output: Output,
    samples: Annotated[int, typer.Option(help="Images to draw.")] = 16,
    steps: Annotated[int, typer.Option(help="Network evaluations an image.")] = 40,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: Json = False,
    quiet: Quiet = False,
) -> None:
    """Are the images a prior draws copies of its training scans?

    OUT gets memorization.json and memorization.png: distances to the nearest training scan, of
    drawn images and of scans that were not trained on, and the nearest pairs.
    """
    from dataclasses import asdict

    from mri_ambient.atomic import make_folder, write_json
    from mri_ambient.audit import memorization as compare
    from mri_ambient.checkpoint import load_prior
    from mri_ambient.device import pick_device
    from mri_ambient.report import draw_memorization

    where = pick_device(device)
    loaded = load_prior(prior, where)
    make_folder(output)
    with progress_bar() as bars:
        task = bars.add_task("audit", total=None)
        found = compare(
            loaded,
            data,
            n_samples=samples,
            n_steps=steps,
            seed=seed,
            device=where,
            on_image=lambda done, total: bars.update(task, completed=done, total=total),
        )
    facts = {key: value for key, value in asdict(found).items() if key != "pairs"}
    facts |= {"suspects": found.n_suspects, "expected_by_chance": found.expected}
    write_json(output / "memorization.json", facts)
    draw_memorization(
        found.sample_distances, found.held_out_distances, found.pairs, output / "memorization.png"
    )
    if json_out:
        print_json(facts)
    say(found.line)
