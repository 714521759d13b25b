"""A-DPS is the published recursion, and its bias is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian import draw, even_problem, measure, posterior
from helpers import apply_method, dense

from mri_ambient.methods import Adps
from mri_ambient.priors.schedules import rho_schedule
from mri_ambient.rng import complex_normal, rng_for


def test_it_is_its_own_affine_recursion(op, prior):
    """With a linear denoiser every step is affine but for ||r||; here with dense matrices."""
    n, sigma_n, step_size = 8, 0.1, 0.7
    mask = op.mask.clone()
    mask[..., ::2] = False
    prior.mask = mask
    _, y = measure(op, prior, sigma_n)
    method = Adps(n_steps=n, step_size=step_size)
    got = apply_method(method, op, y, sigma_n, prior=prior, rng=[rng_for(3)])

    inner = op.with_mask(mask)
    A, B = dense(op, torch.complex128), dense(inner, torch.complex128)
    G = B.mH @ B
    sigma_max = 10.0 * prior.sigma_data / 0.5
    sigmas = [*rho_schedule(n, sigma_max, prior.sigma_min).tolist(), 0.0]
    step = step_size * sigma_n * (2 * 3 * int(op.mask.sum())) ** 0.5
    x = sigmas[0] * complex_normal(op.ishape, rng_for(3), dtype=torch.complex128).flatten()
    for sigma, sigma_next in pairwise(sigmas):
        D = prior.matrix(inner, sigma) @ G
        r = y.flatten() - A @ D @ x
        gradient = -2 * (A @ D).mH @ r
        x = x + (sigma_next - sigma) / sigma * (x - D @ x) - step / r.norm() * gradient
    torch.testing.assert_close(got[0].flatten(), x, rtol=1e-4, atol=1e-6)


def test_it_moves_towards_the_data_and_reports_every_step(op, prior):
    """The same noise with and without the data term: the residual is a fraction with it."""
    _, y = measure(op, prior, 0.05)
    seen = {}
    for step_size in (0.0, 0.9):
        steps = seen[step_size] = []
        method = Adps(n_steps=100, step_size=step_size)
        apply_method(method, op, y, 0.05, prior=prior, on_step=steps.append)
        assert [info.index for info in steps] == list(range(100))
        assert {info.n_steps for info in steps} == {100}
        assert steps[-1].sigma == pytest.approx(prior.sigma_min)
    assert float(seen[0.9][-1].residual) < 0.4 * float(seen[0.0][-1].residual)


def test_it_ends_at_least_squares_where_the_coils_decide():
    """The bias of A-DPS: it fits the noise, whatever the prior, and its samples do not differ.

    The posterior's mean is far away, and its variance is 1 in these units.
    """
    sigma_n = 1.0
    prior, one, y = even_problem(sigma_n)
    mean, cov = posterior(prior, one, y, sigma_n)
    spread = 2**0.5 * cov.diagonal().real.sqrt()
    squares = torch.linalg.lstsq(dense(one, torch.complex128), y.flatten()[:, None]).solution[:, 0]
    assert float(((squares - mean).abs() / spread).square().mean().sqrt()) > 1

    out = draw(Adps(n_steps=200), prior, one, y, sigma_n, 300)
    off = (out.mean(dim=0) - squares).abs() / spread
    assert float(off.max()) < 0.02
    assert float(((out - out.mean(dim=0)).abs() / spread).square().mean()) < 1e-3


def test_it_does_not_draw_from_the_posterior():
    assert not Adps().draws_posterior
