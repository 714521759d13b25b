"""The consistency penalty: its rollouts have the right noise, and it is 0 for the exact prior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import streams
from toys import Exact, Toy, make_batch, net_for

from mri_ambient.objectives import Ambient, Consistency, Kspace
from mri_ambient.rng import complex_normals


def test_without_weight_it_is_its_base():
    batch, objective = make_batch(), Consistency(weight=0.0)
    net = net_for(objective)
    losses = [o(net, batch, streams(2, 2)).backward for o in (objective, objective.base)]
    assert torch.equal(*losses)
    assert not objective.below_noise and Consistency().below_noise


@pytest.mark.parametrize("base", [Kspace(), Ambient()], ids=lambda o: o.name)
def test_rollouts_start_with_the_noise_of_their_level(base):
    """On scans of nothing but noise, 0.4 per channel: kspace counts it in, ambient ignores it.

    12 entries of four coils, Re and Im, of 500 scans: within 5 standard errors (false alarm 6e-7).
    """
    toy = Toy(500, 0.4)
    in_image = isinstance(base, Ambient)
    noise = 0.0 if in_image else 0.4
    ksp = noise * complex_normals((4, *toy.shape), streams(3, toy.n))
    toy.batch = replace(toy.batch, ksp=torch.where(toy.batch.mask, ksp, 0))
    states = []

    class Recording(Exact):
        def forward(self, op, z, sigma):
            states.append((op, z, sigma))
            return super().forward(op, z, sigma)

    with torch.no_grad():
        Consistency(base=base).penalty(Recording(toy), toy.batch, streams(5, toy.n))
    op, z, sigma = states[0]
    wanted = sigma[:, None, None, None].expand_as(z)
    if in_image:  # white in the image, where the coils weigh it: E |A n|^2 = 2 sigma^2 |S|^2
        wanted = wanted * op.maps.abs()
    seen = op.mask.expand_as(z)
    got, want = z[seen].abs().square().sum() / 2, wanted[seen].square().sum()
    n = 2 * int(seen.sum()) / (4 if in_image else 1)
    assert abs(float(got / want) - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize(("factor", "consistent"), [(1.0, True), (0.7, False)])
@pytest.mark.parametrize("base", [Kspace(), Ambient()], ids=lambda o: o.name)
def test_the_penalty_is_zero_for_the_posterior_mean_only(
    base, factor, consistent, fix_further_mask
):
    """4000 measurements in 40 groups: the mean penalty of the exact denoiser is within 4
    standard errors of 0 (false alarm 6e-5), that of one too small by 30 % more than 8 above.

    Those of ambient, which ignores the measured noise, have none.
    """
    in_image = isinstance(base, Ambient)
    toy = Toy(4000, 0.0 if in_image else 0.4)
    toy.batch = replace(toy.batch, noise_std=torch.full((toy.n,), 0.4))
    fix_further_mask(toy)
    objective, net = Consistency(base=base), Exact(toy, factor, in_image=in_image)
    with torch.no_grad():
        penalties = torch.stack(
            [
                objective.penalty(net, toy.batch[slice(i, i + 100)], streams(i, 100))
                for i in range(0, toy.n, 100)
            ]
        )
    score = float(penalties.mean() / (penalties.std() / len(penalties) ** 0.5))
    assert abs(score) < 4 if consistent else score > 8
