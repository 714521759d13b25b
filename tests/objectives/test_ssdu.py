"""The ssdu loss is the misfit on the held-out entries alone."""

from __future__ import annotations

import torch
from toys import SHAPE, make_batch, net_for

from mri_ambient.objectives import Ssdu
from mri_ambient.objectives.base import thinned, unseen_weight
from mri_ambient.rng import rng_for


def test_the_loss_is_the_misfit_on_held_out_entries():
    batch = make_batch(n=1, noise_std=0.05)
    objective = Ssdu()
    net = net_for(objective)
    got = objective(net, batch, [rng_for(9)]).backward.detach()
    seen = thinned(batch, objective.remove, [rng_for(9)], fresh=True)
    D = net(batch.op.with_mask(seen), torch.where(seen, batch.ksp, 0), batch.noise_std).detach()
    misfit = (batch.op.expand(D) - batch.ksp).abs().square()
    weight = unseen_weight(batch, objective.remove, 20.0)
    want = (weight * misfit * (batch.mask & ~seen)).sum() / (SHAPE[0] * SHAPE[1]) / 0.3**2
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def test_a_scan_without_noise_has_the_smallest_level():
    batch, levels = make_batch(noise_std=0.0), []
    net = net_for(Ssdu())
    net.register_forward_pre_hook(lambda _, args: levels.append(args[2]))
    Ssdu()(net, batch, [rng_for(i) for i in range(2)])
    assert levels[0].tolist() == torch.full((2,), 0.002).tolist()
