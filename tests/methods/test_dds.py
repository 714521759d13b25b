"""dds and msm: their recursion, and the options for which they draw from the posterior."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian import draw, even_problem, measure
from helpers import apply_method, dense
from torch import Tensor

from mri_ambient.methods import Dds, Msm
from mri_ambient.methods.base import CG_PLAIN
from mri_ambient.priors.schedules import rho_schedule
from mri_ambient.rng import complex_normal, rng_for


@pytest.mark.parametrize(
    ("method", "right"),
    [
        (Dds(), True),
        (Dds(n_steps=40, eta=0.0), True),
        (Dds(eta=1.0), False),
        (Dds(n_cg=5), False),
        (Dds(n_cg=CG_PLAIN), True),
        (Dds(n_steps=39), False),
        (Dds(start="aos"), False),
        (Dds(sigma_max=0.2), False),
        (Dds(renoise="diffpir", eta=0.3), False),
        (Msm(), True),  # which is dds, with a plain prior
    ],
)
def test_posterior_samples_are_those_of_options_that_were_measured(method, right):
    assert method.draws_posterior == right


def test_msm_is_dds_for_a_plain_prior():
    prior, op, y = even_problem(0.3)
    dds, msm = (draw(m, prior, op, y, 0.3, 20) for m in (Dds(n_steps=9), Msm(n_steps=9)))
    assert torch.equal(dds, msm)


def test_msm_is_its_own_linear_recursion(op, prior):
    """A result counts where its mask samples, all where none does; here with dense matrices."""
    sigma_n, n_steps, n_masks, eta = 0.2, 4, 2, 0.4
    _, y = measure(op, prior, sigma_n)
    method = Msm(n_steps=n_steps, n_masks=n_masks, eta=eta, n_cg=60, final_dc=False)
    got = apply_method(method, op, y, sigma_n, prior=prior, rng=[rng_for(6)])

    stream = rng_for(6)
    lift = dense(op.with_mask(torch.ones_like(op.mask)), torch.complex128)
    A, unseen = dense(op, torch.complex128), 0

    def white() -> Tensor:
        return complex_normal(tuple(op.oshape), stream, dtype=torch.complex128).flatten()

    sigmas = [*rho_schedule(n_steps, 20.0 * prior.sigma_data, prior.sigma_min).tolist(), 0.0]
    z = sigmas[0] * white()
    for sigma, sigma_next in pairwise(sigmas):
        masks = [prior.training_mask(op, [stream])[0] for _ in range(n_masks)]
        results = []
        for mask in masks:
            inner = op.with_mask(mask)
            D = prior.matrix(inner, sigma) @ dense(inner, torch.complex128).mH @ z
            results.append((lift @ D).reshape(op.oshape))
        seen = sum(mask.double() for mask in masks)
        unseen += int((seen == 0).sum())
        counted = sum(mask * K for mask, K in zip(masks, results, strict=True)) / seen
        D = lift.mH @ torch.where(seen > 0, counted, sum(results) / n_masks).flatten()
        ridge = sigma_n**2 * (1 / sigma**2 + 1 / prior.sigma_data**2)
        normal = A.mH @ A + ridge * torch.eye(D.numel())
        x = torch.linalg.solve(normal, A.mH @ y.flatten() + ridge * D)
        fresh = eta * (1 - (sigma_next / sigma) ** 2) ** 0.5
        noise = (1 - fresh**2) ** 0.5 * (z - lift @ x) / sigma + fresh * white()
        z = lift @ x + sigma_next * noise
    assert unseen, "some lines must be sampled by no mask"
    torch.testing.assert_close(got[0].flatten(), x, rtol=1e-6, atol=1e-8)
