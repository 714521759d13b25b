"""Wrappers around networks: scalings, data consistency, patches, masks and support."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import random_sense, shaken

from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.solve import conjugate_gradient
from mri_ambient.priors.denoisers import DENOISERS, Conditioned, Patched, Plain
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import forward_flops
from mri_ambient.rng import complex_normal, rng_for

SPEC = UNetSpec(channels=(8, 12, 16), blocks=1, embedding=16)


def test_fresh_plain_denoiser_is_edms_skip(rng):
    """The last layer starts at zero: D = c_skip A~^H z."""
    op = random_sense((12, 10), 3, rng)
    net = Plain(SPEC, sigma_data=0.2)
    z = complex_normal((2, 3, 12, 10), rng)
    sigma = torch.tensor([0.1, 0.7])
    skip = (0.2**2 / (0.2**2 + sigma.square()))[:, None, None]
    torch.testing.assert_close(net(op, z, sigma), skip * op.adjoint(z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("passes", "momenta"), [(3, [0, 0, 0]), (5, [0] * 5), (4, [0, 0.281754, 0.434043, 0.531064])]
)
def test_fresh_conditioned_denoiser_is_its_cg_solves(passes, momenta, rng):
    """The networks start at zero: what is left is CG-SENSE and a data-consistency solve a pass.

    With momentum, a solve starts beyond the last image, by the factors of FISTA.
    """
    op = random_sense((12, 10), 3, rng)
    net = Conditioned(replace(SPEC, passes=passes, momentum=any(momenta)), sigma_data=0.2)
    z = complex_normal((1, 3, 12, 10), rng)
    sigma, s = 0.1, 0.2
    u = op.adjoint(z)
    ridge = (sigma / s) ** 2 + 0.003
    want = conjugate_gradient(lambda v: op.normal(v) + ridge * v, u, n_iter=6)
    c_out = sigma * s / (sigma**2 + s**2) ** 0.5
    mu = (sigma / max(0.35 * c_out, 0.25 * s)) ** 2 + 0.001
    before = want
    for beyond in momenta:
        start = want + beyond * (want - before)
        b = u + mu * start
        before = want
        want = conjugate_gradient(lambda v: op.normal(v) + mu * v, b, n_iter=4, x0=start)
    got = net(op, z, torch.tensor([sigma]))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_further_networks_start_as_the_last_one_but_add_nothing():
    few, many = shaken(Conditioned(SPEC, 0.2)), Conditioned(replace(SPEC, passes=5), 0.2)
    for k, net in enumerate(few.nets):
        torch.nn.init.constant_(net.first.weight, k)
        torch.nn.init.constant_(net.last.weight, k + 1)
    many.start_as(few)
    assert [float(net.first.weight.detach().mean()) for net in many.nets] == [0, 1, 2, 2, 2]
    assert [float(net.last.weight.detach().mean()) for net in many.nets] == [1, 2, 3, 0, 0]
    assert not any(bool(many.nets[k].last.bias.detach().any()) for k in (3, 4))


@pytest.mark.parametrize("kind", DENOISERS)
def test_denoisers_read_nothing_outside_the_mask(kind, rng):
    op = random_sense((12, 10), 3, rng)
    net = shaken(DENOISERS[kind](SPEC, 0.2))
    z = complex_normal((2, 3, 12, 10), rng)
    sigma = torch.tensor([0.1, 0.7])
    poisoned = torch.where(op.mask, z, float("nan"))
    assert torch.equal(net(op, z, sigma), net(op, poisoned, sigma))


@pytest.mark.parametrize("kind", DENOISERS)
def test_denoisers_are_zero_outside_the_support(kind, rng):
    op = random_sense((12, 10), 3, rng)
    maps = op.maps.clone()
    maps[..., :3] = 0
    net = shaken(DENOISERS[kind](SPEC, 0.2))
    with torch.no_grad():
        out = net(SenseOp(maps, op.mask), complex_normal((1, 3, 12, 10), rng), torch.tensor([0.3]))
    assert float(out[..., :3].abs().max()) == 0
    assert float(out[..., 3:].abs().min()) > 0


@pytest.mark.parametrize("kind", DENOISERS)
def test_gradients_reach_every_weight_and_the_state(kind, rng):
    op = random_sense((16, 16), 3, rng)
    net = shaken(DENOISERS[kind](SPEC, 0.2)).train()
    z = complex_normal((1, 3, 16, 16), rng).requires_grad_()
    net(op, z, torch.tensor([0.3])).abs().square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.parameters())
    assert float(z.grad.abs().max()) > 0


class Pointwise(torch.nn.Module):
    """In place of a network, a function of one pixel at a time."""

    def forward(self, planes, label):
        angle = 3 * planes[:, 2:3] + planes[:, 3:4]
        return planes[:, :2] * angle.cos() + label[:, None, None, None]


@pytest.mark.parametrize("shape", [(64, 64), (50, 37), (20, 70)])
@pytest.mark.parametrize("training", [True, False])
def test_patches_are_put_back_where_they_were_cut(shape, training, rng):
    """A pointwise network has no borders: any cut gives the result of the whole image."""
    op = random_sense(shape, 2, rng)
    op = SenseOp(op.maps[None], torch.ones(1, 1, *shape, dtype=torch.bool))
    z = complex_normal((1, 2, *shape), rng)
    sigma = torch.tensor([0.4])
    denoiser = Patched(SPEC, 0.5).train(training)
    denoiser.nets[0] = Pointwise()
    u = op.adjoint(z)
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    c_in, c_skip = (0.4**2 + 0.5**2) ** -0.5, 0.5**2 / (0.4**2 + 0.5**2)
    planes = torch.cat([c_in * u.real[:, None], c_in * u.imag[:, None], place], dim=1)
    real, imag = Pointwise()(planes, sigma.log() / 4).unbind(dim=1)
    out = torch.complex(real, imag)
    want = op.support * (c_skip * u + 0.4 * 0.5 * c_in * out)
    for k in range(4):
        denoiser.vary(rng_for(k))
        torch.testing.assert_close(denoiser(op, z, sigma), want, rtol=1e-4, atol=1e-5)


def test_cuts_vary_from_step_to_step_in_training_only(rng):
    op = SenseOp(torch.ones(1, 1, 48, 48) + 0j, torch.ones(1, 1, 48, 48, dtype=torch.bool))
    z, sigma = complex_normal((1, 1, 48, 48), rng), torch.tensor([0.4])
    denoiser = shaken(Patched(SPEC, 0.5))
    outs = {}
    for training in (True, False):
        denoiser.train(training)
        outs[training] = []
        for k in range(3):
            denoiser.vary(rng_for(k))
            outs[training].append(denoiser(op, z, sigma).detach())
    assert not torch.equal(outs[True][0], outs[True][1])
    assert torch.equal(outs[False][0], outs[False][1])
    assert denoiser.flops((48, 48)) == (4 + 2 * 4 + 4) * forward_flops(denoiser.nets[0], (32, 32))
