"""One step: the posterior mean, where the prior gives it."""

from __future__ import annotations

import pytest
import torch
from gaussian import measure
from helpers import apply_method, dense

from mri_ambient.methods import Aos


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


def test_its_step_is_reported(op, prior):
    _, y = measure(op, prior, 0.3)
    steps = []
    apply_method(Aos(), op, y, 0.3, prior=prior, on_step=steps.append)
    (info,) = steps
    assert (info.index, info.n_steps, info.sigma) == (0, 1, pytest.approx(0.3))
    assert info.residual.shape == (1,)
