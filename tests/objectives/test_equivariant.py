"""The equivariance penalty: how images are moved, and what it is for denoisers of a known form."""

from __future__ import annotations

import pytest
import torch
from helpers import dense, streams
from toys import gradients, make_batch, net_for

from mri_ambient.errors import ConfigError
from mri_ambient.objectives import Ambient, Equivariant, Kspace, Ssdu, make_objective
from mri_ambient.objectives.equivariant import moved
from mri_ambient.rng import complex_normal, rng_for

ZERO = torch.zeros(1)


def image(*shape: int) -> torch.Tensor:
    return complex_normal((1, *shape), rng_for(1, "image"))


@pytest.mark.parametrize("shape", [(16, 20), (9, 7)])
@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, -2)])
def test_a_shift_by_pixels_moves_pixels(shape, shift):
    img, (ny, nx), (dy, dx) = image(*shape), shape, shift
    got = moved(img, ZERO, ZERO + dy / ny, ZERO + dx / nx)
    want = torch.roll(img, shift, dims=(-2, -1))
    want[:, : max(dy, 0)] = 0
    want[:, :, nx + min(dx, 0) :] = 0
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("n", [12, 13])
def test_a_quarter_turn_is_from_x_towards_y(n):
    img = image(n, n)
    want = torch.rot90(img, -1, dims=(-2, -1))  # numpy turns from y towards x
    torch.testing.assert_close(moved(img, ZERO + 90, ZERO, ZERO), want, atol=2e-5, rtol=0)


def test_a_disc_is_turned_and_then_shifted_in_pixels():
    """On a grid that is not square: the centre of mass lies where the formula says."""
    ny, nx = 48, 64
    y, x = torch.meshgrid(torch.arange(ny) - 23.5, torch.arange(nx) - 31.5, indexing="ij")
    disc = torch.exp(-((y + 4) ** 2 + (x - 9) ** 2) / 8).to(torch.complex64)[None]
    out = moved(disc, ZERO + 30, ZERO + 3 / ny, ZERO - 5 / nx)[0].real
    cos, sin = 3**0.5 / 2, 0.5
    want = sin * 9 + cos * -4 + 3, cos * 9 - sin * -4 - 5
    for axis, place in zip((y, x), want, strict=True):
        assert float((axis * out).sum() / out.sum()) == pytest.approx(place, abs=0.01)


class Adjoint(torch.nn.Module):
    """D = A^H z times a parameter."""

    sigma_data = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, op, z, sigma):
        return self.factor * op.adjoint(z)


@torch.no_grad()
def test_there_is_none_for_the_right_inverse():
    """Everything sampled: of the adjoint remains the noise that is added, 0.002 per channel."""
    batch = make_batch(full=True, noise_std=0.002)
    penalty = Equivariant(Ssdu()).penalty(Adjoint(), batch, streams(3, 2))
    assert float(penalty) == pytest.approx(2 * 0.002**2 / 0.5**2, rel=0.2)  # 640 pixels: 5 sigma


@torch.no_grad()
def test_it_is_the_misfit_of_the_second_reconstruction():
    """Against dense matrices, without noise: |A^H A T A^H y - T A^H y|^2 / sigma_data^2."""
    batch = make_batch(n=1, noise_std=0.0)
    objective = Equivariant(Ssdu(), rotation=0.0, shift=0.2)
    penalty = objective.penalty(Adjoint(), batch, streams(5, 1))
    _, dy, dx = objective._draw(batch, streams(5, 1))
    A = dense(batch.op)
    x = moved(batch.op.adjoint(batch.ksp), ZERO, dy, dx).flatten()
    misfit = A.mH @ (A @ x) - x
    # Noise of 0.002 per channel is added: its energy is below 1e-3 of the misfit's.
    want = misfit.abs().square().mean() / 0.5**2
    assert float(penalty / want) == pytest.approx(1, abs=0.01)


def test_both_reconstructions_have_gradients():
    """Of a network whose weights are shared, unlike those of one that is frozen half the time."""
    objective, batch = Equivariant(Kspace()), make_batch()
    net = net_for(objective)
    loss = objective(net, batch, streams(2, 2))
    base = objective.base(net, batch, streams(2, 2))
    assert not torch.equal(loss.backward, base.backward)
    assert all(bool(g.isfinite().all()) for g in gradients(net, loss))
    assert set(loss.log) == {"seen", "unseen", "equivariance"}


def test_options_reach_the_base():
    objective = make_objective("equivariant", {"base": "kspace", "rotation": "10"})
    assert objective == Equivariant(Kspace(), rotation=10.0)
    assert not objective.one_level and Equivariant().one_level
    assert objective.as_dict()["base"]["name"] == "kspace"
    for wrong in ({"base": Ambient()}, {"weight": 0.0}):
        with pytest.raises(ConfigError):
            Equivariant(**wrong)
