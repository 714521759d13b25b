"""pula: its recursion, and the options for which it draws from the posterior."""

from __future__ import annotations

import pytest
import torch
from gaussian import WholeGaussian, measure
from helpers import apply_method, dense
from torch import Tensor

from mri_ambient.methods import Pula
from mri_ambient.priors.schedules import rho_schedule
from mri_ambient.rng import complex_normal, rng_for


@pytest.mark.parametrize(
    ("method", "right"),
    [
        (Pula(), True),
        (Pula(n_steps=50), False),
        (Pula(gamma=1.0), False),
        (Pula(gamma=0.01), False),
        (Pula(n_cg=2), False),
        (Pula(sigma_max=0.3), False),
    ],
)
def test_posterior_samples_are_those_of_options_that_were_measured(method, right):
    assert method.draws_posterior == right


def test_pula_is_its_own_linear_recursion(op, prior):
    """x + P (gamma/2 g + sqrt(gamma) noise) as in the module docstring, with dense matrices."""
    sigma_n, n_steps, gamma = 0.2, 4, 0.6
    plain = WholeGaussian(prior.var, sigma_min=prior.sigma_min)
    _, y = measure(op, plain, sigma_n)
    method = Pula(n_steps=n_steps, gamma=gamma, n_cg=60, start="noise")
    got = apply_method(method, op, y, sigma_n, prior=plain, rng=[rng_for(6)])

    stream = rng_for(6)
    A = dense(op, torch.complex128)
    lift = dense(op.with_mask(torch.ones_like(op.mask)), torch.complex128)
    eye, var = torch.eye(len(lift.mH)), plain.var.flatten()

    def white(shape: tuple[int, ...]) -> Tensor:
        return complex_normal(shape, stream, dtype=torch.complex128).flatten()

    x = torch.zeros(len(eye), dtype=torch.complex128)
    first = plain.sigma_data / 0.5
    for sigma in rho_schedule(n_steps, first, plain.sigma_min).tolist():
        noise = sigma * white(tuple(op.oshape))
        z = lift @ x + noise - lift @ lift.mH @ noise
        D = var / (var + sigma**2) * (lift.mH @ z)
        g = A.mH @ (y.flatten() - A @ x) / sigma_n**2 + (D - x) / sigma**2
        w1, w2 = white(tuple(op.oshape)), white(tuple(op.ishape))
        precision = A.mH @ A / sigma_n**2 + eye / sigma**2
        right = gamma / 2 * g + gamma**0.5 * (A.mH @ w1 / sigma_n + w2 / sigma)
        x = x + torch.linalg.solve(precision, right)
    torch.testing.assert_close(got[0].flatten(), x, rtol=1e-6, atol=1e-8)
