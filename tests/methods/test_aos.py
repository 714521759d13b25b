"""One step: the posterior mean, where the prior gives it."""

from __future__ import annotations

import pytest
import torch
from gaussian import WholeGaussian, measure
from helpers import apply_method, dense

from mri_ambient.methods import Aos
from mri_ambient.methods.aos import SHIFTS
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal


def test_one_step_is_the_posterior_mean(op, prior):
    """E[x | y] from the joint Gaussian, by dense matrices."""
    sigma = 0.3
    _, y = measure(op, prior, sigma)
    A = dense(op, torch.complex128)
    cov = torch.diag(2 * prior.var.flatten()).to(torch.complex128)
    noise = 2 * sigma**2 * torch.diag(op.mask.expand(op.oshape).flatten().double())
    gain = cov @ A.mH @ torch.linalg.pinv(A @ cov @ A.mH + noise)
    want = (gain @ y.flatten()).reshape(op.ishape)
    got = apply_method(Aos(final_dc=False), op, y, sigma, prior=prior)
    torch.testing.assert_close(got[0], want, rtol=1e-6, atol=1e-6)


def test_the_noise_level_is_at_least_the_smallest_trained_one(op, prior):
    """A scan with less noise than any in training is given the smallest trained sigma."""
    _, y = measure(op, prior, 0.0)
    clean, floor = (
        apply_method(Aos(final_dc=False), op, y, sigma, prior=prior)
        for sigma in (0.0, prior.sigma_min)
    )
    assert torch.equal(clean, floor)


def test_a_full_noiseless_scan_gives_its_image(op, prior):
    full = op.with_mask(torch.ones_like(op.mask))
    x, y = measure(full, prior, 0.0)
    got = apply_method(Aos(n_cg=60), full, y, 0.0, prior=prior)
    # sigma_n has a floor of 0.01 against tau = 0.1, and the denoiser shrinks a little.
    assert float((got[0] - x).norm() / x.norm()) < 1e-3


def test_without_noise_its_rounds_are_regularised_least_squares(op, prior):
    """Dense matrices; each round is balanced against the image of the one before."""
    _, y = measure(op, prior, 0.0)
    x = apply_method(Aos(final_dc=False), op, y, 0.0, prior=prior)[0].flatten()
    A = dense(op, torch.complex128)
    ridge = 1e-4 / prior.tau**2 * torch.eye(30, dtype=torch.complex128)
    for _ in SHIFTS:
        x = torch.linalg.solve(A.mH @ A + ridge, A.mH @ y.flatten() + ridge @ x)
    got = apply_method(Aos(n_cg=30), op, y, 0.0, prior=prior)
    torch.testing.assert_close(got[0].flatten(), x, rtol=1e-6, atol=1e-6)


def test_noise_that_the_network_kept_is_taken_out(rng):
    """A denoiser that changes nothing; one coil in half of the field of view, all of k-space."""
    sigma, side = 0.1, 64
    support = torch.arange(side) < side // 2
    maps = support.expand(1, 1, side, side).to(torch.complex128)
    op = SenseOp(maps, torch.ones(1, side, side, dtype=torch.bool))
    x = maps[0] * torch.linspace(1, 2, side, dtype=torch.float64)[:, None]
    img = x + sigma * complex_normal(x.shape, rng, dtype=torch.complex128)
    prior = WholeGaussian(torch.full((side, side), 1e9, dtype=torch.float64), sigma_min=sigma)
    prior.tau = 0.05
    got = apply_method(Aos(), op, fft2c(img)[None], sigma, prior=prior)
    assert float((got - x).norm()) < 0.4 * float((support * img - x).norm())
    assert bool((got[..., ~support] == 0).all())


def test_its_step_is_reported(op, prior):
    _, y = measure(op, prior, 0.3)
    steps = []
    apply_method(Aos(), op, y, 0.3, prior=prior, on_step=steps.append)
    (info,) = steps
    assert (info.index, info.n_steps, info.sigma) == (0, 1, pytest.approx(0.3))
    assert info.residual.shape == (1,)
