"""``mri-ambient simulate``: multi-coil scans from images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Output, Overwrite, Quiet, Seed, parse_range, parse_shares, progress_bar, say


def run(
    images: Annotated[
        str, typer.Argument(help="Folder or zip of images, NIfTI file, or the word phantom.")
    ],
    output: Output,
    scans: Annotated[
        int | None, typer.Option(help="Number of scans; by default one for every image.")
    ] = None,
    size: Annotated[tuple[int, int], typer.Option(help="Matrix: readout, phase encode.")] = (
        128,
        128,
    ),
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8,
    acceleration: Annotated[
        str, typer.Option(help="Achieved acceleration, or LOW:HIGH, drawn for every scan.")
    ] = "4",
    mask_type: Annotated[
        str,
        typer.Option(
            help="random, equispaced, gaussian or poisson (2-D), or shares: random:0.8,poisson:0.2."
        ),
    ] = "random",
    calib_lines: Annotated[int, typer.Option(help="Fully sampled central lines.")] = 20,
    noise: Annotated[
        str, typer.Option(help="Noise per real channel, image maximum 1, or LOW:HIGH.")
    ] = "0.01",
    slices: Annotated[int, typer.Option(help="Slices a scan.")] = 1,
    readout_oversampling: Annotated[int, typer.Option(help="1 or 2.")] = 1,
    jitter: Annotated[
        bool, typer.Option("--jitter", help="Vary field of view, position and orientation.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Sample everything and write the reference.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 works in this one.")] = 0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Simulate multi-coil scans from images or a head phantom.

    Unmeasured k-space is gone from the files, and no image is scanned twice.
    """
    from mri_ambient.data_prep import SimulateConfig, simulate_scans

    config = SimulateConfig(
        size=size,
        coils=coils,
        mask=parse_shares("--mask-type", mask_type),
        acceleration=parse_range("--acceleration", acceleration),
        calib=calib_lines,
        noise=parse_range("--noise", noise),
        full=full,
        readout_oversampling=readout_oversampling,
        slices=slices,
        jitter=jitter,
        seed=seed,
    )
    with progress_bar() as bars:
        task = bars.add_task("simulate", total=scans)

        def done(path: Path) -> None:
            bars.advance(task)

        paths = simulate_scans(
            images,
            output,
            config,
            count=scans,
            workers=workers,
            overwrite=overwrite,
            on_scan=done,
        )
    say(f"{len(paths)} scans in {output}")
