"""The ambient loss: supervised on full noiseless data, and right for noisy data if corrected."""

from __future__ import annotations

import pytest
import torch
from helpers import streams
from toys import N_TOY, N_WRONG, RIGHT, WRONG, At, Toy, make_batch, net_for

from mri_ambient.objectives import Ambient, Supervised
from mri_ambient.physics.patterns import achieved_acceleration


def test_on_full_noiseless_data_it_is_supervised():
    batch = make_batch(full=True, noise_std=0.0)
    net = net_for(Ambient())
    ambient = Ambient(thin=False)(net, batch, streams(5, 2)).backward
    supervised = Supervised()(net, batch, streams(5, 2)).backward
    torch.testing.assert_close(ambient, supervised, rtol=1e-5, atol=0)


def test_it_trains_from_r_to_r_plus_one():
    """METHODS section 2: of every scan so many lines are left that R grows by one."""
    batch, masks = make_batch(shape=(8, 60), n=3), []
    net = net_for(Ambient())
    net.register_forward_pre_hook(lambda _, args: masks.append(args[0].mask))
    Ambient()(net, batch, streams(1, 3))
    for before, after in zip(batch.mask, masks[0], strict=True):
        assert abs(60 / (achieved_acceleration(before) + 1) - int(after[0, 0].sum())) <= 1


@pytest.mark.parametrize(
    ("noise_std", "corrected", "right"),
    [
        (0.0, False, True),
        pytest.param(0.4, True, True, marks=pytest.mark.slow),
        (0.4, False, False),
    ],
)
def test_it_learns_the_posterior_mean_if_noise_is_corrected(
    noise_std, corrected, right, fix_further_mask
):
    """u = G (x + sigma n) + A~^H (measured noise); W = E[x u^H] E[u u^H]^-1."""
    toy = Toy(N_TOY if right else N_WRONG, noise_std)
    fix_further_mask(toy)
    learned = toy.minimiser(Ambient(law=At(), noise_correction=corrected))
    found = toy.excess(learned, *toy.answer(toy.sigma**2, noise_std**2))
    assert found < RIGHT["ambient"] if right else found > WRONG
