"""``mri-ambient sample``: images a prior believes in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    Device,
    Output,
    Overwrite,
    PriorPath,
    Quiet,
    Seed,
    claim_folder,
    progress_bar,
    say,
)


def run(
    output: Output,
    prior: PriorPath = None,
    samples: Annotated[int, typer.Option(help="Number of images.", min=1)] = 4,
    size: Annotated[tuple[int, int], typer.Option(help="Image size: y, x.")] = (128, 128),
    maps_from: Annotated[
        Path | None, typer.Option(help="Scan whose coil maps (first slice) are used.")
    ] = None,
    steps: Annotated[
        int,
        typer.Option(help="Noise levels an image: one evaluation each, with --guidance three."),
    ] = 40,
    guidance: Annotated[
        float,
        typer.Option(help="Weight of moving towards what all masks agree about."),
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw images from a prior: samples.h5 and samples.png in the output folder.

    A look into what a prior knows. Priors that were trained on undersampled scans are asked through
    one mask an image and give sketches, not anatomy; a prior from `refit` draws whole images.
    """
    from mri_ambient.data_prep import plan
    from mri_ambient.io import open_scan
    from mri_ambient.io.reconstruction import write_samples
    from mri_ambient.methods import PriorOnly
    from mri_ambient.plots import save_images
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.priors.weights import default_prior
    from mri_ambient.recon.engine import draw_images
    from mri_ambient.runtime.device import pick_device

    claim_folder(output, "samples.h5", overwrite=overwrite)
    maps = None
    if maps_from is not None:
        scan = open_scan(maps_from)
        maps = plan(scan).apply(scan[0]).maps
    where = pick_device(device)
    loaded = load_prior(prior or default_prior(), where)
    with progress_bar() as bars:
        task = bars.add_task("sample", total=steps * samples)
        images = draw_images(
            loaded,
            PriorOnly(n_steps=steps, guidance=guidance),
            n_images=samples,
            shape=size,
            maps=maps,
            seed=seed,
            device=where,
            on_step=lambda info: bars.advance(task, len(info.residual)),
        )
    facts = {"prior_sha256": loaded.facts.card["sha256"], "seed": seed, "steps": steps}
    facts["guidance"] = guidance
    write_samples(output / "samples.h5", images, facts)
    save_images(images.abs(), output / "samples.png")
    say(f"{samples} images in {output}")
