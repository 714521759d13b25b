"""The search for the worst change, where the worst change is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian import GaussianPrior, WholeGaussian
from helpers import PeakBytes, dense, random_maps, small_prior
from torch import Tensor

from mri_ambient.errors import ConfigError
from mri_ambient.evaluation.stability import stability, verdict
from mri_ambient.methods import Adps, Aos, Dds, Msm, Pula
from mri_ambient.methods.baselines import CgSense
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Scan

SHAPE = (8, 10)


@pytest.fixture
def scan(rng) -> Scan:
    maps = random_maps((1, 2, *SHAPE), rng)
    mask = MaskSpec("random", 2, 4).draw(SHAPE, rng)
    y = SenseOp(maps, mask)(complex_normal((1, *SHAPE), rng))
    y = y + 0.1 * mask * complex_normal((1, 2, *SHAPE), rng)
    return Scan(
        ksp=y, mask=mask, scan_id="head", slices=(0,), recon_shape=SHAPE, noise_std=0.1,
        maps=maps, scale=1.0,
    )  # fmt: skip


def test_the_worst_change_of_a_linear_method_is_its_largest_singular_value(scan):
    """CG-SENSE: (A^H A + lam)^-1 A^H by dense matrices; never more, and within 3 %."""
    method = CgSense(lam=0.05, n_iter=80)
    (found, _) = stability(scan, method, None, k=2.0, n_iter=60)
    op = SenseOp(scan.maps[0], scan.mask)
    A = dense(op, torch.complex64)
    inverse = torch.linalg.solve(A.mH @ A + 0.05 * torch.eye(80), A.mH)
    largest = float(torch.linalg.matrix_norm(inverse, 2))
    e = found.size * float(scan.ksp.norm())
    change = found.change * float(found.img.norm())
    assert e == pytest.approx(2.0 * 0.1 * (2 * 2 * int(scan.mask.sum())) ** 0.5, rel=1e-4)
    assert 0.97 * largest < change / e < 1.0005 * largest
    assert found.by_noise < found.change
    assert found.attacked.shape == SHAPE


def test_every_method_is_attacked_alike(scan):
    """The method, CG-SENSE and L1-wavelet get the same budget and the same comparison noise."""
    prior = GaussianPrior(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)
    ticks = []
    attacks = stability(scan, Aos(), prior, n_iter=4, on_step=lambda *a: ticks.append(a))
    assert [attack.method for attack in attacks] == ["aos", "cg-sense", "l1-wavelet"]
    assert len({round(attack.size, 5) for attack in attacks}) == 1
    assert all(attack.change >= 0.9 * attack.by_noise > 0 for attack in attacks)
    assert ticks[-1] == (12, 12)
    assert verdict(attacks).startswith("aos: a change of the measurement by")


@pytest.mark.parametrize("options", [{"k": 0.0}, {"k": math.nan}, {"n_iter": 0}])
def test_a_search_of_nothing_is_refused(scan, options):
    with pytest.raises(ConfigError, match="must"):
        stability(scan, CgSense(), None, **options)


def test_a_slice_without_signal_is_refused(scan):
    with pytest.raises(ConfigError, match="no signal"):
        stability(replace(scan, ksp=torch.zeros_like(scan.ksp)), CgSense(), None)


@pytest.mark.parametrize(
    "method", [Dds(n_steps=4), Msm(n_steps=4, n_masks=2), Pula(n_steps=4)], ids=lambda m: m.name
)
def test_gradients_of_samplers_are_those_of_one_graph(method, scan, monkeypatch):
    """Steps that are computed again draw the same noise and the same masks."""
    prior = small_prior("conditioned")
    op, noise_std = SenseOp(scan.maps, scan.mask), torch.tensor([0.1])

    def gradient() -> tuple[Tensor, Tensor]:
        y, rng = scan.ksp.clone().requires_grad_(), [rng_for(3)]
        img = method(prior, op, y, noise_std=noise_std, rng=rng)
        (grad,) = torch.autograd.grad(img.abs().square().sum(), y)
        return grad, torch.randn(3, generator=rng[0])

    again, stream = gradient()
    module = "pula" if isinstance(method, Pula) else "descent"
    name = f"mri_ambient.methods.{module}.step_by_step"
    monkeypatch.setattr(name, lambda step, state, rng: step(state))
    at_once, untouched = gradient()
    assert float(at_once.abs().max()) > 0
    torch.testing.assert_close(again, at_once, rtol=1e-5, atol=1e-6)
    assert torch.equal(stream, untouched)  # what is drawn afterwards is not moved


def test_an_attack_takes_the_memory_of_a_step(scan):
    prior = small_prior("conditioned")

    def peak(n_steps: int) -> int:
        with PeakBytes() as seen:
            stability(scan, Dds(n_steps=n_steps), prior, n_iter=1)
        return seen.peak

    assert peak(12) < 1.3 * peak(3)


def test_a_method_that_takes_gradients_itself_is_refused(scan):
    prior = GaussianPrior(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)
    with pytest.raises(ConfigError, match="cannot be attacked"):
        stability(scan, Adps(n_steps=2), prior)


def test_a_plain_prior_is_attacked_through_the_measurement_alone(scan):
    """It reads the whole state, but what was not sampled cannot be changed."""
    prior = WholeGaussian(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)
    first = stability(scan, Aos(), prior, n_iter=3)[0]
    masked = stability(replace(scan, ksp=scan.ksp * scan.mask), Aos(), prior, n_iter=3)[0]
    assert first.change == masked.change
    assert first.size == pytest.approx(stability(scan, CgSense(), None, n_iter=3)[0].size, rel=1e-4)
