"""``mri-ambient simulate``: multi-coil scans from images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mri_ambient.physics.mask_spec import KINDS

from . import options as opt
from .choices import readable
from .console import Bar, print_line, progress_bar
from .parse import parse_range, parse_shares
from .records import takes_records

if TYPE_CHECKING:
    from mri_ambient.data_prep import SimulateConfig


@dataclass(frozen=True)
class Simulated:
    """What the scans are like."""

    size: Annotated[
        tuple[int, int],
        typer.Option(help="Matrix in samples: readout, phase encode.", metavar="Y X"),
    ] = (128, 128)
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8
    acceleration: Annotated[
        str,
        typer.Option(
            help="Achieved acceleration, or LOW:HIGH, drawn for every scan.",
            callback=readable(partial(parse_range, "--acceleration")),
        ),
    ] = "4"
    mask_type: Annotated[
        str,
        typer.Option(
            help="random, equispaced, gaussian or poisson (2-D), or shares: "
            "random:0.8,poisson:0.2.",
            callback=readable(partial(parse_shares, "--mask-type", known=KINDS)),
        ),
    ] = "random"
    calib_lines: Annotated[int, typer.Option(help="Fully sampled central lines.")] = 20
    noise: Annotated[
        str,
        typer.Option(
            help="Standard deviation of the noise per real channel, for images of maximum 1, or "
            "LOW:HIGH.",
            callback=readable(partial(parse_range, "--noise")),
        ),
    ] = "0.01"
    slices: Annotated[int, typer.Option(help="Slices per scan.")] = 1
    readout_oversampling: Annotated[
        int, typer.Option(help="Oversampling factor of the readout, 1 or 2.")
    ] = 1
    jitter: Annotated[
        bool, typer.Option("--jitter", help="Vary field of view, position and orientation.")
    ] = False
    rotation: Annotated[float, typer.Option(help="Turn every object by up to so many degrees.")] = (
        0.0
    )
    bias: Annotated[
        float, typer.Option(help="Strength of a smooth shading of the object, e.g. 0.2.")
    ] = 0.0
    partial_fourier: Annotated[
        str,
        typer.Option(
            help="Share of the columns that is acquired, or LOW:HIGH, e.g. 0.6:1.",
            callback=readable(partial(parse_range, "--partial-fourier")),
        ),
    ] = "1"
    full: Annotated[
        bool, typer.Option("--full", help="Sample everything and write the reference.")
    ] = False

    def config(self, seed: int) -> SimulateConfig:
        """The options as the library takes them."""
        from mri_ambient.data_prep import SimulateConfig

        return SimulateConfig(
            size=self.size,
            coils=self.coils,
            mask=parse_shares("--mask-type", self.mask_type),
            acceleration=parse_range("--acceleration", self.acceleration),
            calib=self.calib_lines,
            noise=parse_range("--noise", self.noise),
            full=self.full,
            readout_oversampling=self.readout_oversampling,
            slices=self.slices,
            jitter=self.jitter,
            rotation=self.rotation,
            bias=self.bias,
            partial_fourier=parse_range("--partial-fourier", self.partial_fourier),
            seed=seed,
        )


@takes_records
def run(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder or zip of images, NIfTI file, or the word phantom.", metavar="IMAGES"
        ),
    ],
    output: opt.Output,
    *,
    scans: Annotated[
        int | None,
        typer.Option(
            help="Number of scans; the word phantom needs it.", show_default="one per image"
        ),
    ] = None,
    like: Simulated,
    workers: opt.Workers = 0,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Simulate multi-coil scans from images or a head phantom.

    The files do not hold unmeasured k-space, and no image is scanned twice.
    """
    from mri_ambient.data_prep import simulate

    with progress_bar() as bars:
        bar = Bar(bars, "simulate", scans)
        paths = simulate(
            images, output, like.config(seed), count=scans, workers=workers, overwrite=overwrite,
            on_scan=lambda _: bar.add(),
        )  # fmt: skip
    print_line(f"{len(paths)} scan{'s' * (len(paths) != 1)} in {output}")
