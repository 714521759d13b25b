"""Images drawn from a prior alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian import WholeGaussian
from helpers import apply_method, dense
from torch import Generator, Tensor

from mri_ambient.errors import ConfigError
from mri_ambient.methods import PriorOnly
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.prior import DenoiserSource
from mri_ambient.priors.schedules import rho_schedule
from mri_ambient.rng import complex_normal, rng_for


def draw(sampler: PriorOnly, prior: DenoiserSource, maps: Tensor, rng: list[Generator]) -> Tensor:
    """One image per stream, from maps ``(coil, y, x)``."""
    maps = maps.expand(len(rng), *maps.shape)
    op = SenseOp(maps, torch.ones(len(rng), 1, *maps.shape[-2:], dtype=torch.bool))
    return apply_method(sampler, op, torch.zeros_like(maps), 0.0, prior=prior, rng=rng)


def test_it_draws_from_a_gaussian(rng):
    """Variance of 400 unmasked draws per pixel within 6 standard errors (1e-6 over 12 pixels)."""
    shape, n = (3, 4), 400
    var = 0.2 + torch.rand(shape, generator=rng, dtype=torch.float64)
    maps = torch.ones(1, *shape, dtype=torch.complex128)
    streams = [rng_for(0, i) for i in range(n)]
    images = draw(PriorOnly(n_steps=40), WholeGaussian(var, sigma_min=1e-3), maps, streams)
    measured = images.abs().square().mean(dim=0) / 2
    # The deterministic steps shrink the spread by their discretisation, below 3 % at 40 steps.
    error = (measured / var - 1).abs()
    assert float(error.max()) < 6 / n**0.5 + 0.03


def test_guidance_is_the_gradient_of_the_difference_between_masks(op, prior):
    """The guided sampler against its own linear recursion with dense matrices."""
    n, w = 5, 0.3
    prior.mask = op.mask
    got = draw(PriorOnly(n_steps=n, guidance=w), prior, op.maps, [rng_for(4)])

    stream, lift = rng_for(4), dense(op.with_mask(torch.ones_like(op.mask)), torch.complex128)
    z = complex_normal(tuple(op.oshape), stream, dtype=torch.complex128).flatten()
    sigmas = [*rho_schedule(n, 80.0 * prior.sigma_data / 0.5, prior.sigma_min).tolist(), 0.0]
    z = sigmas[0] * z

    def denoising(mask: Tensor, sigma: float) -> Tensor:
        inner = op.with_mask(mask)
        return prior.matrix(inner, sigma) @ dense(inner, torch.complex128).mH

    for sigma, sigma_next in pairwise(sigmas):
        fixed = denoising(op.mask, sigma)
        other = denoising(prior.training_mask(op, [stream])[0], sigma)
        push = 2 * w * (fixed - other).mH @ (fixed - other) @ z
        x0 = fixed @ z
        z = lift @ x0 + sigma_next / sigma * (z - lift @ x0) - push
    torch.testing.assert_close(got[0].flatten(), x0, rtol=1e-6, atol=1e-8)


def test_guidance_needs_a_mask_conditioned_prior(prior, op):
    plain = WholeGaussian(prior.var, sigma_min=0.05)
    with pytest.raises(ConfigError):
        draw(PriorOnly(n_steps=3, guidance=0.1), plain, op.maps, [rng_for(0)])
