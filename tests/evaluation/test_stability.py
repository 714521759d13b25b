"""The search for the worst change, where the worst change is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian import GaussianPrior, WholeGaussian
from helpers import PeakBytes, dense, random_maps, small_prior
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import ConfigError, NumericalWarning
from mri_ambient.evaluation.stability import (
    Attack,
    attack,
    attack_slice,
    images_side_by_side,
    verdict,
)
from mri_ambient.methods import Adps, Aos, CgSense, Dds, L1Wavelet, Method, Msm, Pula
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan

SHAPE = (8, 10)


@pytest.fixture(autouse=True)
def few_wavelet_iterations(monkeypatch):
    """L1-wavelet stands beside every method; here it shall take no time."""
    others = (CgSense(), L1Wavelet(n_iter=3))
    monkeypatch.setattr("mri_ambient.evaluation.stability.OTHERS", others)


def attacked(scan: Scan, method: Method, prior: object = None, **search: float) -> list[Attack]:
    return attack(scan, ResolvedRecipe(method, prior), **search)


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
    method = CgSense(lam=0.05, n_iter=40)
    (found,) = attacked(scan, method, k=2.0, n_iter=40, others=())
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
    steps = []
    attacks = attacked(scan, Aos(), prior, n_iter=4, on_iteration=lambda *a: steps.append(a))
    assert [attack.method for attack in attacks] == ["aos", "cg-sense", "l1-wavelet"]
    assert len({round(attack.size, 5) for attack in attacks}) == 1
    assert all(attack.change >= 0.9 * attack.by_noise > 0 for attack in attacks)
    assert steps == [(done, 12) for done in range(1, 13)]
    assert f"{100 * attacks[0].change:.1f} %" in verdict(attacks)
    images, titles = images_side_by_side(attacks)
    assert images.shape == (9, *SHAPE)
    assert titles[0::3] == ["aos", "cg-sense", "l1-wavelet"]


def test_a_search_that_was_too_short_is_named(scan):
    (found, other) = attacked(scan, CgSense(), n_iter=1)
    for rising in (0.01, 0.05):
        line = verdict([replace(found, rising=rising), replace(other, rising=0.0)])
        assert ("--iterations" in line) == (rising > 0.02)


@pytest.mark.parametrize("options", [{"k": 0.0}, {"k": math.nan}, {"n_iter": 0}])
def test_a_search_of_nothing_is_refused(scan, options):
    with pytest.raises(ConfigError):
        attacked(scan, CgSense(), **options)


@pytest.mark.parametrize("change", ["no signal", "no noise"])
def test_a_slice_without_signal_or_noise_is_refused(change, scan):
    facts = {"no signal": {"ksp": torch.zeros_like(scan.ksp)}, "no noise": {"noise_std": 0.0}}
    with pytest.raises(ConfigError, match=scan.scan_id):
        attacked(replace(scan, **facts[change]), CgSense())


@pytest.mark.parametrize(
    "method", [Dds(n_steps=4), Msm(n_steps=4, n_masks=2), Pula(n_steps=4)], ids=lambda m: m.name
)
def test_gradients_of_samplers_are_those_of_one_graph(method, scan, monkeypatch):
    """Steps that are computed again draw the same noise and the same masks."""
    prior = small_prior("conditioned")
    batch = Batch.of([scan])

    def gradient() -> tuple[Tensor, Tensor]:
        y, rng = scan.ksp.clone().requires_grad_(), [rng_for(3)]
        img = method(prior, replace(batch, ksp=y), rng)
        (grad,) = torch.autograd.grad(img.abs().square().sum(), y)
        return grad, torch.randn(3, generator=rng[0])

    again, stream = gradient()
    monkeypatch.setattr("mri_ambient.methods.base.recomputed", lambda step, state, _: step(state))
    at_once, untouched = gradient()
    assert float(at_once.abs().max()) > 0
    torch.testing.assert_close(again, at_once, rtol=1e-5, atol=1e-6)
    assert torch.equal(stream, untouched)  # what is drawn afterwards is not moved


def test_an_attack_takes_the_memory_of_a_step(scan):
    prior = small_prior("conditioned")

    def peak(n_steps: int) -> int:
        with PeakBytes() as seen:
            attacked(scan, Dds(n_steps=n_steps, n_cg=4), prior, n_iter=1, others=())
        return seen.peak

    assert peak(4) < 1.1 * peak(2)


def test_a_method_that_takes_gradients_itself_is_refused(scan):
    prior = GaussianPrior(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)
    with pytest.raises(ConfigError, match="'adps'"):
        attacked(scan, Adps(n_steps=2), prior)


def test_a_plain_prior_is_attacked_through_the_measurement_alone(scan):
    """It reads the whole state, but what was not sampled cannot be changed."""
    prior = WholeGaussian(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)
    first = attacked(scan, Aos(), prior, n_iter=3)[0]
    masked = attacked(replace(scan, ksp=scan.ksp * scan.mask), Aos(), prior, n_iter=3)[0]
    assert first.change == masked.change
    assert first.size == pytest.approx(attacked(scan, CgSense(), n_iter=3)[0].size, rel=1e-4)


@pytest.fixture
def path(tmp_path):
    config = SimulateConfig(size=(32, 32), coils=2, acceleration=3.2, calib=8, slices=3)
    return simulate("phantom", tmp_path, config, count=1)[0]


def test_a_slice_of_a_file_is_attacked_and_reported(path):
    """The middle one by default; the scan is warned about as when it is reconstructed."""
    recipe = ResolvedRecipe(Aos(), small_prior("conditioned", mask=MaskSpec("random", 1.5, 8)))
    volume = open_volume(path, recipe, Runtime("cpu"))
    with pytest.warns(NumericalWarning) as caught:
        report, attacks = attack_slice(volume, n_iter=1, k=0.5)
    assert [warning.message.code for warning in caught] == ["W-PRIOR-ACCELERATION"]
    assert (report["slice"], report["k"], report["seed"]) == (1, 0.5, 0)
    assert report["acceleration"] == volume.file.acceleration
    for one in attacks:
        assert report["attacks"][one.method]["change"] == one.change
    baseline = open_volume(path, ResolvedRecipe(CgSense()), Runtime("cpu"))
    assert attack_slice(baseline, 0, n_iter=1)[0]["slice"] == 0
    for index in (3, -1):
        with pytest.raises(ConfigError, match=f"not {index}"):
            attack_slice(baseline, index)
