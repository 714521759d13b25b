"""``mri-ambient sample``: images drawn from a prior, without a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import mri_ambient as ma

from . import options as opt
from .console import Bar, print_line, progress_bar
from .exit_codes import claim_folder
from .recipe import make_runtime

Samples = Annotated[int, typer.Option(help="Number of images.", min=1)]
Size = Annotated[tuple[int, int], typer.Option(help="Image size in pixels.", metavar="Y X")]
MapsFrom = Annotated[
    Path | None,
    typer.Option(
        help="Scan whose coil maps (first slice) are used.",
        show_default="none: one coil of uniform sensitivity",
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        help="Noise levels per image: one network evaluation each, with --guidance three."
    ),
]
Guidance = Annotated[
    float,
    typer.Option(help="Weight of reconstruction guidance: towards equal images under all masks."),
]


def run(
    output: opt.Output,
    prior: opt.PriorPath = None,
    samples: Samples = 4,
    size: Size = (128, 128),
    maps_from: MapsFrom = None,
    steps: Steps = 40,
    guidance: Guidance = 0.0,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Draw images from a prior, without a measurement.

    OUT gets samples.h5 and samples.png. They show what a prior has learned. A prior that was
    trained on undersampled scans is evaluated under one mask per image and gives rough images, not
    anatomy; one from `refit` draws whole images.
    """
    from mri_ambient.data_prep import plan_preparation
    from mri_ambient.io import open_scan
    from mri_ambient.io.outputs.reconstruction import write_samples
    from mri_ambient.methods import PriorOnly
    from mri_ambient.physics.map_sets import first_set
    from mri_ambient.plots import draw_montage, save_figure
    from mri_ambient.priors.weights import default_prior
    from mri_ambient.recon.sample import draw_images, uniform_maps
    from mri_ambient.recon.warnings import issue_weakness
    from mri_ambient.scan import Batch

    claim_folder(output, "samples.h5", overwrite=overwrite)
    maps = uniform_maps(size)
    if maps_from is not None:
        scan = open_scan(maps_from)
        batch = Batch.of([plan_preparation(scan).apply(scan[0])])
        maps = first_set(batch.maps, batch.n_sets)
    runtime = make_runtime(device)
    loaded = ma.load_prior(prior or default_prior(), runtime.torch_device)
    issue_weakness(loaded)
    with progress_bar() as bars:
        bar = Bar(bars, "sample", steps * samples)
        images = draw_images(
            loaded, PriorOnly(n_steps=steps, guidance=guidance), maps, n_images=samples, seed=seed,
            runtime=runtime, on_step=lambda info: bar.add(info.n_images),
        )  # fmt: skip
    facts = {"prior_sha256": loaded.card["sha256"], "seed": seed, "steps": steps}
    write_samples(output / "samples.h5", images, {**facts, "guidance": guidance})
    save_figure(draw_montage(images.abs()), output / "samples.png")
    print_line(f"{samples} images in {output}")
