"""The gsure loss is the error to the clean image, but for a constant."""

from __future__ import annotations

import pytest
import torch
from helpers import shaken, streams
from toys import N_TOY, N_WRONG, RIGHT, SPEC, WRONG, At, Toy

from mri_ambient.objectives import Gsure, Kspace
from mri_ambient.objectives.base import edm_weight
from mri_ambient.priors.denoisers import DENOISERS
from mri_ambient.rng import complex_normals


@pytest.mark.parametrize("divergence", [True, False])
def test_it_learns_the_posterior_mean_of_full_scans(divergence):
    """Everything sampled, with noise: W = C (C + sigma^2)^-1."""
    toy = Toy(N_TOY, 0.4, full=True)
    learned = toy.minimiser(Gsure(law=At(), divergence=divergence))
    right = RIGHT["gsure" if divergence else "gsure, no divergence"]
    assert toy.excess(learned, *wiener(toy)) < right


def test_plain_squares_learn_something_else():
    toy = Toy(N_WRONG, 0.4, full=True)
    learned = toy.minimiser(Kspace(law=At(), noise_correction=False))
    assert toy.excess(learned, *wiener(toy)) > WRONG


def wiener(toy: Toy) -> tuple[torch.Tensor, torch.Tensor]:
    """W of the posterior mean of a fully sampled scan, and the covariance of its input."""
    C = toy.var.flatten()
    W, cov_u = C / (C + toy.sigma**2), C + toy.sigma**2
    return torch.diag(W).to(torch.complex64), torch.diag(cov_u).to(torch.complex64)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("divergence", [True, False])
def test_with_its_constant_it_is_the_error_to_the_clean_image(divergence, full):
    """For a network that is no linear map, over 3000 noisy measurements, within 4 standard errors
    (false alarm 6e-5): the loss plus its constant is lambda sum W M |K - F S x|^2; with everything
    sampled, lambda ||D - x||^2."""
    toy = Toy(3000, 0.4, full=full)
    net = shaken(DENOISERS["plain"](SPEC, 0.8), seed=3)
    objective = Gsure(law=At(), divergence=divergence, epsilon=0.02)
    batch, sigma = toy.batch, toy.sigma
    weight = torch.where(batch.mask, 1 / batch.density, 0)
    differences = []
    with torch.no_grad():
        for first in range(0, toy.n, 50):
            rows = slice(first, first + 50)
            part, x, w = batch[rows], toy.x[rows], weight[rows]
            loss = objective(net, part, streams(first, 50)).backward
            extra = torch.where(part.mask, (sigma**2 - 0.4**2) ** 0.5, sigma)
            noise = complex_normals(tuple(part.ksp.shape[1:]), streams(first, 50))
            whole = part.op.with_mask(torch.ones_like(part.mask))
            D = net(whole, part.measured + extra * noise, torch.full((50,), sigma))
            error = (w * (part.op.expand(D) - part.op.expand(x)).abs().square()).sum(1)
            if full:
                torch.testing.assert_close(
                    error.sum(dim=(-2, -1)), (D - x).abs().square().sum(dim=(-2, -1))
                )
            # What the target carries beside k: 2 sigma_n^2 an entry and coil, more if the state's
            # own noise was subtracted from it.
            noise = 2 * 0.4**2 / (1 if divergence else 1 - (0.4 / sigma) ** 2)
            constant = 4 * noise * w.mean()
            level = min(float(edm_weight(torch.tensor(sigma), 0.8)), 400.0)
            differences.append(loss - level * (constant + error.mean()))
    difference = torch.stack(differences)
    standard_error = difference.std() / len(difference) ** 0.5
    assert abs(float(difference.mean())) < 4 * float(standard_error)
    # The test can tell: the constant alone is many standard errors.
    assert 20 * float(standard_error) / level < 2 * 0.4**2
