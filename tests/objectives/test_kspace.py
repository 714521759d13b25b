"""The kspace loss is the documented sum, and its minimiser the posterior mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import N_TOY, N_WRONG, RIGHT, SHAPE, WRONG, At, Toy, make_batch, net_for

from mri_ambient.objectives import Kspace
from mri_ambient.objectives.base import edm_weight
from mri_ambient.physics.masks import subsample_further
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.rng import complex_normal, rng_for


def test_the_loss_is_the_documented_sum():
    """One item, written out with plain loops over what is seen and unseen."""
    batch = make_batch(n=1, noise_std=0.05, kind="gaussian")
    spread = 0.1 + 0.5 * torch.rand(batch.density.shape, generator=rng_for(0, "spread"))
    batch = replace(batch, density=spread)
    objective = Kspace(law=LogNormal(-1.0, 0.5))
    net = net_for(objective)
    got = objective(net, batch, [rng_for(9)]).backward.detach()

    rng = rng_for(9)
    fraction = 0.05 + 0.35 * float(torch.rand((), generator=rng))
    seen = subsample_further(batch.mask[0], fraction, rng)[None]
    sigma = objective.law.draw(1.2 * batch.noise_std, 0.3, [rng])
    r = float((batch.noise_std / sigma) ** 2)
    eta = complex_normal(tuple(batch.ksp.shape[1:]), rng)[None]
    extra = float((sigma**2 - batch.noise_std**2).sqrt())
    y = batch.ksp
    y_t = torch.where(seen, y + extra * eta, 0)
    K = batch.op.expand(net(batch.op.with_mask(seen), y_t, sigma)).detach()
    total = 0.0
    for coil in range(3):
        for row, column in (batch.mask[0, 0]).nonzero().tolist():
            k, v, t = K[0, coil, row, column], y[0, coil, row, column], y_t[0, coil, row, column]
            if seen[0, 0, row, column]:
                total += float(((1 - r) * k + r * t - v).abs() ** 2) / (1 - r)
            else:
                p = float(batch.density[0, 0, row, column])
                chance = 0.225 * p / (1 - 0.775 * p)
                total += min(1 / chance, 20.0) * float((k - v).abs() ** 2)
    level = min(float(edm_weight(sigma, 0.3)), 400.0)
    want = level * total / (SHAPE[0] * SHAPE[1])
    assert float(got) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("noise_std", [0.0, 0.4])
@pytest.mark.parametrize("weights", [True, False])
def test_it_learns_the_posterior_mean(noise_std, weights, fix_further_mask):
    """W = (G + sigma^2 / C)^-1, also from noisy measurements and whatever the weights."""
    toy = Toy(N_TOY, noise_std)
    fix_further_mask(toy)
    best = torch.linalg.inv(toy.G + toy.sigma**2 * torch.linalg.inv(toy.C))
    cov_u = toy.G @ toy.C @ toy.G + toy.sigma**2 * toy.G
    right = RIGHT["kspace" if weights else "kspace, no weights"]
    assert toy.excess(toy.minimiser(Kspace(law=At(), weights=weights)), best, cov_u) < right


def test_with_noise_in_the_image_it_learns_from_noiseless_scans(fix_further_mask):
    toy = Toy(N_TOY, 0.0)
    fix_further_mask(toy)
    learned = toy.minimiser(Kspace(law=At(), noise_domain="image"))
    assert toy.excess(learned, *toy.answer(toy.sigma**2, 0.0)) < RIGHT["kspace"]


def test_without_the_noise_correction_the_minimiser_is_wrong(fix_further_mask):
    toy = Toy(N_WRONG, 0.4)
    fix_further_mask(toy)
    learned = toy.minimiser(Kspace(law=At(), weights=False, noise_correction=False))
    assert toy.excess(learned, *toy.answer(0.0, toy.sigma**2)) > WRONG
