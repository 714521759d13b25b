from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import random_maps

from mri_ambient.batch import Batch
from mri_ambient.errors import ConfigError
from mri_ambient.masks import MaskSpec, outer_samples, unseen_probability
from mri_ambient.nn.precond import Conditioned, Plain
from mri_ambient.nn.unet import UNetSpec
from mri_ambient.noise import LogNormal
from mri_ambient.objectives import OBJECTIVES, Ambient, Kspace, Supervised
from mri_ambient.objectives.base import edm_weight
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.sense import SenseOp

SPEC = UNetSpec(channels=(8, 12), blocks=1, embedding=16)
SHAPE = (16, 20)


def make_batch(*, n: int = 2, full: bool = False, noise_std: float = 0.02, seed: int = 0) -> Batch:
    rng = rng_for(seed, "batch")
    maps = random_maps((n, 3, *SHAPE), rng)
    spec = MaskSpec("random", 1.0 if full else 2.0, 4)
    mask = torch.stack([spec.draw(SHAPE, rng) for _ in range(n)])
    op = SenseOp(maps, mask)
    img = 0.3 * complex_normal((n, *SHAPE), rng)
    ksp = op(img) + noise_std * mask * complex_normal((n, 3, *SHAPE), rng)
    acquired = torch.ones(n, SHAPE[1], dtype=torch.bool)
    return Batch(ksp, maps, mask, acquired, torch.full((n,), noise_std))


def shaken(net, seed=0):
    rng = rng_for(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    return net


def net_for(objective):
    kind = {"plain": Plain, "conditioned": Conditioned}[objective.wrapper]
    torch.manual_seed(0)
    return shaken(kind(SPEC, 0.3))


def gradients(net, loss):
    net.zero_grad()
    loss.backward.backward()
    return [p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_unmeasured_is_ever_looked_at(name):
    """NaN in every unmeasured entry: loss and gradients are equal to the bit."""
    objective = OBJECTIVES[name]()
    net = net_for(objective)
    batch = make_batch(full=objective.needs_full)
    poisoned = replace(batch, ksp=torch.where(batch.mask, batch.ksp, complex("nan+nanj")))
    if not objective.needs_full:
        assert bool(poisoned.ksp.isnan().any())
    clean_loss = objective(net, batch, rng_for(1))
    clean = gradients(net, clean_loss)
    dirty_loss = objective(net, poisoned, rng_for(1))
    dirty = gradients(net, dirty_loss)
    assert torch.equal(clean_loss.backward, dirty_loss.backward)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_has_no_gradient_at_unmeasured_entries(name):
    objective = OBJECTIVES[name]()
    net = net_for(objective)
    batch = make_batch(full=objective.needs_full)
    ksp = batch.ksp.clone().requires_grad_()
    objective(net, replace(batch, ksp=ksp), rng_for(1)).backward.backward()
    unmeasured = ~batch.mask.expand_as(ksp)
    assert float(ksp.grad.abs().max()) > 0
    assert float(torch.where(unmeasured, ksp.grad, 0).abs().max()) == 0


def test_ambient_on_full_noiseless_data_is_supervised():
    batch = make_batch(full=True, noise_std=0.0)
    net = net_for(Ambient)
    ambient = Ambient(thin=False)(net, batch, rng_for(5)).backward
    supervised = Supervised()(net, batch, rng_for(5)).backward
    torch.testing.assert_close(ambient, supervised, rtol=1e-5, atol=0)


def test_ambient_thins_its_masks_and_kspace_draws_them_fresh():
    """With a denoiser that returns what it was given, another mask gives another loss."""
    batch = make_batch()
    for objective in (Ambient(), Kspace()):
        net = net_for(objective)
        losses = {float(objective(net, batch, rng_for(k)).backward.detach()) for k in range(3)}
        assert len(losses) == 3


def test_kspace_is_the_documented_sum():
    """One item, written out with plain loops over what is seen and unseen."""
    batch = make_batch(n=1, noise_std=0.05)
    objective = Kspace(law=LogNormal(-1.0, 0.5))
    net = net_for(objective)
    got = objective(net, batch, rng_for(9)).backward.detach()

    rng = rng_for(9)
    fraction = 0.05 + 0.35 * float(torch.rand((), generator=rng))
    from mri_ambient.masks import subsample_further

    seen = subsample_further(batch.mask[0], fraction, rng)[None]
    sigma = objective.law.draw(1.2 * batch.noise_std, 0.3, rng)
    r = float((batch.noise_std / sigma) ** 2)
    eta = complex_normal(tuple(batch.ksp.shape), rng)
    extra = float((sigma**2 - batch.noise_std**2).sqrt())
    y = batch.ksp
    y_t = torch.where(seen, y + extra * eta, 0)
    K = batch.op.expand(net(batch.op.with_mask(seen), y_t, sigma)).detach()
    weight = min(1 / unseen_probability(batch.mask[0], 0.225), 20.0)
    total = 0.0
    for coil in range(3):
        for row, column in (batch.mask[0, 0]).nonzero().tolist():
            k, v, t = K[0, coil, row, column], y[0, coil, row, column], y_t[0, coil, row, column]
            if seen[0, 0, row, column]:
                total += float(((1 - r) * k + r * t - v).abs() ** 2) / (1 - r)
            else:
                total += weight * float((k - v).abs() ** 2)
    level = min(float(edm_weight(sigma, 0.3)), 400.0)
    want = level * total / (SHAPE[0] * SHAPE[1])
    assert float(got) == pytest.approx(want, rel=1e-4)


def test_kspace_keeps_calibration_and_hides_a_share_of_the_outer_lines():
    batch = make_batch(n=1)
    objective = Kspace()
    outer = outer_samples(batch.mask[0])
    n_outer = int(outer.any(dim=-2).sum())
    for k in range(50):
        seen, weight = objective._thin(batch, rng_for(k))
        hidden = batch.mask[0] & ~seen[0]
        assert not bool((hidden & ~outer).any())
        n_hidden = int(hidden.any(dim=-2).sum())
        assert 1 <= n_hidden <= round(0.4 * n_outer)
        assert 0 < float(weight) <= objective.max_unseen


@pytest.mark.parametrize(
    "options", [{"remove": (0.0, 0.4)}, {"remove": (0.5, 0.4)}, {"margin": 1.0}]
)
def test_kspace_refuses_options_that_cannot_work(options):
    with pytest.raises(ConfigError):
        Kspace(**options)


def _linear_denoiser(matrix):
    """A stand-in for a network: D = matrix @ A~^H z, with a trainable matrix."""

    class Linear(torch.nn.Module):
        sigma_data = 1.0

        def __init__(self):
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.view_as_real(matrix).clone())

        def forward(self, op, z, sigma):
            u = op.adjoint(z).flatten(-2)
            full = torch.view_as_complex(self.matrix)
            return (u @ full.T).reshape(-1, *op.ishape)

    return Linear()


@pytest.mark.parametrize("noise_std", [0.0, 0.8])
def test_at_the_posterior_mean_the_kspace_loss_is_stationary(noise_std):
    """E[gradient] = 0 at D = E[x | A~^H y_t] for one fixed M~, also with noisy measurements.

    x is Gaussian, so the posterior mean is a matrix. 40 000 draws: the norm of the mean gradient,
    over some 1000 entries, is its standard error to a few per cent, and several times that if the
    loss is told that the measurement is clean.
    """
    n, shape, sigma = 40_000, (4, 6), 1.0
    rng = rng_for(0, "stationary", noise_std)
    maps = random_maps((2, *shape), rng)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[..., [1, 2, 3, 4]] = True
    seen = mask.clone()
    seen[..., 1] = False
    var = 0.5 + torch.rand(shape, generator=rng)
    op = SenseOp(maps, mask)
    x = var.sqrt() * complex_normal((n, *shape), rng)
    y = op(x) + noise_std * mask * complex_normal((n, 2, *shape), rng)
    eye = torch.eye(24, dtype=torch.complex64).reshape(24, *shape)
    normal = op.with_mask(seen).normal(eye).reshape(24, 24).T
    best = torch.linalg.inv(normal + torch.diag((sigma**2 / var).flatten()))
    net = _linear_denoiser(best)
    batch = Batch(
        y, maps.expand(n, -1, -1, -1), mask.expand(n, 1, *shape),
        torch.ones(n, shape[1], dtype=torch.bool), torch.full((n,), noise_std),
    )  # fmt: skip

    class Fixed(Kspace):
        def _thin(self, batch, rng):
            return seen.expand(len(batch), 1, *shape), torch.full((len(batch),), 3.0)

    class At(LogNormal):
        def draw(self, at_least, sigma_data, rng):
            return torch.full(at_least.shape, sigma)

    def mean_gradient(told: float) -> tuple[float, float]:
        gradients = []
        for part in range(40):
            rows = slice(part * n // 40, (part + 1) * n // 40)
            piece = Batch(*(getattr(batch, f)[rows] for f in Batch.__dataclass_fields__))
            piece = replace(piece, noise_std=torch.full((n // 40,), told))
            net.zero_grad()
            Fixed(law=At())(net, piece, rng_for(part)).backward.backward()
            gradients.append(net.matrix.grad.flatten().clone())
        stacked = torch.stack(gradients)
        return float(stacked.mean(0).norm()), float((stacked.var(0) / 40).sum().sqrt())

    norm, error = mean_gradient(noise_std)
    assert norm < 1.5 * error
    if noise_std:
        norm, error = mean_gradient(1e-6)
        assert norm > 3 * error
