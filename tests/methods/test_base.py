"""What all methods have in common: batches, noise levels, starts and the last solve."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from codes import warns
from gaussian import GaussianPrior, WholeGaussian, measure
from helpers import apply_method, dense, random_sense, small_prior, streams
from torch import Tensor

from mri_ambient.errors import ConfigError
from mri_ambient.methods import BASELINES, METHODS, Adps, Aos, Dds, Msm, PriorOnly, Pula
from mri_ambient.methods.base import data_consistency, first_level, recomputed
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Batch


@pytest.fixture
def ksp(op, prior):
    """A measurement with noise 0.1 of an image from the prior."""
    return measure(op, prior, 0.1)[1]


def few_steps(name: str):
    """A method with its defaults, but three steps at most."""
    method = METHODS[name]()
    return replace(method, n_steps=3) if method.n_steps > 1 else method


def test_data_consistency_is_the_regularised_least_squares(op, rng):
    y = op.mask * complex_normal((1, *op.oshape), rng, dtype=torch.complex128)
    x0 = complex_normal((1, *op.ishape), rng, dtype=torch.complex128)
    sigma, tau = 0.2, 0.3
    A = dense(op, torch.complex128)
    left = A.mH @ A / sigma**2 + torch.eye(30, dtype=torch.complex128) / tau**2
    right = A.mH @ y.flatten() / sigma**2 + x0.flatten() / tau**2
    want = torch.linalg.solve(left, right).reshape(op.ishape)
    got = data_consistency(
        op, y, x0, noise_std=torch.tensor([sigma], dtype=torch.float64), tau=tau, n_iter=60
    )
    torch.testing.assert_close(got[0], want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", METHODS)
def test_unmeasured_entries_are_never_read(name, rng):
    """NaN in every unmeasured entry: the image is equal to the bit."""
    prior = small_prior("conditioned", tau=0.1)
    op = random_sense((16, 18), 4, rng)
    ksp = op.mask * complex_normal((2, *op.oshape), rng)
    batch = Batch.of_measurement(op, ksp, torch.full((2,), 0.05))
    poisoned = replace(batch, ksp=torch.where(batch.mask, ksp, complex("nan+nanj")))
    method = few_steps(name)
    clean, dirty = (method(prior, b, streams(0, 2)).detach() for b in (batch, poisoned))
    assert bool(clean.isfinite().all())
    assert torch.equal(clean, dirty)


@pytest.mark.parametrize(
    ("method", "bf16", "most"),
    [
        (Aos(), False, 1e-5),
        (Adps(n_steps=4), False, 1e-3),
        (Dds(n_steps=4), False, 1e-3),
        (Msm(n_steps=4), False, 1e-3),
        (Pula(n_steps=4), False, 1e-3),
        (Aos(), True, 1e-2),
    ],
)
def test_an_image_does_not_depend_on_its_batch(method, bf16, most, rng):
    """NRMSE 1e-5 for one step and 1e-3 for some steps in single precision, 1e-2 in bf16."""
    prior = small_prior("conditioned", tau=0.1)
    prior.net.autocast = bf16
    op = random_sense((16, 18), 4, rng)
    y = op.mask * complex_normal((3, *op.oshape), rng)
    noise = torch.tensor([0.02, 0.05, 0.1])

    def run(rows: list[int]) -> Tensor:
        rng = [rng_for(0, row) for row in rows]
        return apply_method(method, op, y[rows], noise[rows], prior=prior, rng=rng)

    together = run([0, 1, 2])
    alone = torch.cat([run([row]) for row in range(3)])
    error = float((together - alone).norm() / alone.norm())
    assert error < most


def test_the_first_level_scales_with_the_prior(prior):
    """One draw in 4300 lies above exp(mean + 3.5 std): 22 for this law, 80 where there is none."""
    law = LogNormal(mean=-3.2, std=1.8)
    z = (math.log(law.highest) - law.mean) / law.std
    assert 0.5 * math.erfc(z / 2**0.5) == pytest.approx(1 / 4300, rel=0.01)
    card = {"objective_options": {"base": {"law": {"mean": -3.2, "std": 1.8}}}}
    known = small_prior(sigma_data=0.25, sigma_min=0.02, card=card)
    with warns():
        assert first_level(21.0, known) == 10.5
        assert first_level(79.0, prior) == pytest.approx(79 * prior.sigma_data / 0.5)
        assert first_level(70.0, known, most=80.0) == 35.0
    with warns("W-FIRST-LEVEL"):
        assert first_level(23.0, known) == 11.5
    with warns("W-FIRST-LEVEL") as given:
        assert first_level(0.02, known) == 0.04
    assert "0.04" in str(given[0])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BASELINES])
def test_a_method_that_is_no_baseline_needs_a_prior(name, op, ksp):
    with pytest.raises(ConfigError, match=name):
        apply_method(few_steps(name), op, ksp, 0.1)


def test_a_prior_of_one_noise_level_serves_for_one_step(op, ksp, prior):
    class OneLevel(GaussianPrior):
        one_level = True

    prior = OneLevel(prior.var, sigma_min=0.05)
    for method in (Dds(n_steps=3), Msm(n_steps=3), Pula(n_steps=3), Adps(n_steps=3), PriorOnly()):
        with pytest.raises(ConfigError, match=method.name):
            apply_method(method, op, ksp, 0.1, prior=prior)
    assert bool(apply_method(Aos(), op, ksp, 0.1, prior=prior).isfinite().all())


@pytest.mark.parametrize("method", [Dds(n_steps=3), Msm(n_steps=3), Pula(n_steps=3)])
def test_the_last_solve_is_for_mask_conditioned_priors(method, op, ksp, prior):
    """A sample of them has an error of sqrt(2) tau; samples of plain priors are left alone."""
    for one, solved in ((prior, True), (WholeGaussian(prior.var, sigma_min=0.05), False)):
        x, got = (
            apply_method(replace(method, final_dc=final), op, ksp, 0.1, prior=one)
            for final in (False, True)
        )
        noise_std = torch.tensor([0.1], dtype=torch.float64)
        want = data_consistency(op, ksp, x, noise_std=noise_std, tau=0.1 * 2**0.5, n_iter=10)
        torch.testing.assert_close(got, want if solved else x)
        assert float((want - x).norm()) > 1e-3 * float(x.norm())


def test_a_start_is_where_the_sampler_begins(op, ksp, prior):
    """At a noise level near 0 the sampler cannot leave its start, but for the data."""
    mean = apply_method(Aos(final_dc=False), op, ksp, 0.1, prior=prior)
    prior.sigma_min = 1e-4
    warm = Dds(n_steps=2, start="aos", sigma_max=1e-3, final_dc=False)
    got = apply_method(warm, op, ksp, 0.1, prior=prior)
    assert float((got - mean).norm() / mean.norm()) < 1e-2
    cold = apply_method(replace(warm, start="noise"), op, ksp, 0.1, prior=prior)
    assert float((cold - mean).norm() / mean.norm()) > 0.5


@pytest.mark.parametrize(
    "method",
    [
        Aos(), Dds(n_steps=4), Dds(n_steps=4, start="aos"), Msm(n_steps=3, n_masks=2),
        Pula(n_steps=9, start="aos"), Adps(n_steps=3), PriorOnly(n_steps=3),
        PriorOnly(n_steps=3, guidance=0.1),
    ],
)  # fmt: skip
def test_network_evaluations_are_counted(method, op, ksp, prior):
    calls = 0

    class Counted(GaussianPrior):
        def denoiser(self, op, rng, further="scan"):
            inner = super().denoiser(op, rng, further)

            def denoise(z: Tensor, sigma: Tensor) -> Tensor:
                nonlocal calls
                calls += 1
                return inner(z, sigma)

            return denoise

    apply_method(method, op, ksp, 0.1, prior=Counted(prior.var, sigma_min=0.05))
    assert calls == method.n_evaluations
    starts = getattr(method, "start", "") == "aos" or isinstance(method, Aos)
    assert method.starts_in_one_step == starts


def test_a_recomputed_step_has_the_same_gradient_and_leaves_the_streams(rng):
    """What the step draws is drawn again in the backward pass, and the stream goes on after it."""
    x = complex_normal((2, 4), rng).requires_grad_()

    def step(x: Tensor, streams: list[torch.Generator]) -> Tensor:
        noise = torch.stack([torch.rand(4, generator=stream) for stream in streams])
        return (x * noise).abs().square().sum()

    once, again = streams(3, 2), streams(3, 2)
    (want,) = torch.autograd.grad(step(x, once), x)
    loss = recomputed(lambda x: step(x, again), x, again)
    torch.rand(1, generator=again[0])  # later steps draw on before the gradient is taken
    (got,) = torch.autograd.grad(loss, x)
    assert torch.equal(got, want)
    torch.rand(1, generator=once[0])
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a.get_state(), b.get_state())


@pytest.mark.parametrize(
    "make", [lambda: Adps(n_steps=1), lambda: Adps(step_size=-1), lambda: PriorOnly(n_steps=0),
             lambda: PriorOnly(guidance=-1), lambda: PriorOnly(sigma_max=0.0),
             lambda: Adps(sigma_max=float("inf")), lambda: Pula(sigma_max=-1.0),
             lambda: Aos(n_cg=0), lambda: Dds(start="there"), lambda: Dds(renoise="again"),
             lambda: Dds(sigma_max=0.0), lambda: Msm(n_masks=0), lambda: Pula(n_steps=1),
             lambda: Pula(gamma=2.1), lambda: Pula(start="there"), lambda: Dds(n_cg=2.5),
             lambda: Pula(n_cg=0), lambda: Dds(eta=1.1)],
)  # fmt: skip
def test_impossible_options_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_images_are_zero_outside_the_support(rng):
    """Pixels that no coil sees."""
    prior = small_prior("conditioned", tau=0.1)
    op = random_sense((16, 18), 4, rng)
    maps = op.maps.clone()
    maps[..., :4] = 0
    op = SenseOp(maps, op.mask)
    ksp = op.mask * complex_normal((1, *op.oshape), rng)
    for name in METHODS:
        img = apply_method(few_steps(name), op, ksp, 0.05, prior=prior)
        assert float(img[..., :4].abs().max()) == 0, name
        assert float(img[..., 4:].abs().max()) > 0, name
