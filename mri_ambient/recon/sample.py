"""Images drawn from a prior alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ConfigError, MriAmbientError
from ..methods.base import OnStep
from ..methods.prior_only import PriorOnly
from ..physics.operators import SenseOp
from ..priors.prior import DenoiserSource
from ..runtime.device import Runtime
from ..scan import Batch
from .engine import Engine
from .recipe import ResolvedRecipe

MAX_BRIGHTNESS = 10.0
"""Images this many times as bright as the training images of the prior diverged."""

MIN_SIDE = 16
"""Smaller images have no room for a calibration block."""


def draw_images(
    prior: DenoiserSource,
    sampler: PriorOnly,
    maps: Tensor,
    *,
    n_images: int,
    seed: int = 0,
    runtime: Runtime | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draw images from a prior, without a measurement.

    Args:
        prior: from which they are drawn.
        sampler: and how.
        maps: coil maps ``(1, coil, y, x)`` of a prepared scan; ones of a single coil for images
            without coils (:func:`uniform_maps`).
        n_images: how many.
        seed: of all random numbers; image k does not depend on ``n_images``, beyond rounding.
        runtime: device, precision ("auto" is fp32 here), batch size.
        on_step: called after every step of every batch.

    Returns:
        Complex ``(n_images, y, x)``, on the CPU, normalised units.

    Raises:
        ConfigError: no images, too small ones, or guidance by a prior that is not mask-conditioned.
        MriAmbientError: the images diverged.
    """
    if n_images < 1:
        raise ConfigError(f"at least one image must be drawn, got {n_images}")
    shape = maps.shape[-2:]
    if min(shape) < MIN_SIDE:
        raise ConfigError(
            f"images have at least {MIN_SIDE} pixels a side, got {shape[0]} x {shape[1]}"
        )
    runtime = runtime or Runtime()
    if runtime.precision == "auto":
        runtime = replace(runtime, precision="fp32")
    op = SenseOp(maps, torch.ones(1, 1, *shape, dtype=torch.bool))
    batch = Batch.of_measurement(op, torch.zeros_like(maps), torch.zeros(1))
    recipe = ResolvedRecipe(sampler, prior, seed=seed, n_samples=n_images)
    drawn = Engine(recipe, runtime, on_step).draw(batch, [("sample",)])[:, 0]
    rms = drawn.abs().square().mean(dim=(-2, -1)).div(2).sqrt()
    if not bool((rms < MAX_BRIGHTNESS * prior.sigma_data).all()):  # NaN is not below either
        remedy = "less guidance" if sampler.guidance else "more steps, or another prior"
        raise MriAmbientError(
            f"sampling diverged: images {float(rms.max()) / prior.sigma_data:.3g} times as bright "
            f"as the prior's training images; use {remedy}"
        )
    return drawn


def uniform_maps(shape: tuple[int, int]) -> Tensor:
    """The map of a single coil of uniform sensitivity, complex ``(1, 1, y, x)``."""
    return torch.ones(1, 1, *shape, dtype=torch.complex64)
