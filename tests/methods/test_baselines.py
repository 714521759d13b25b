"""Baselines solve the problems they state: against matrices, against sigpy."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from helpers import apply_method, dense, random_sense

from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.errors import ConfigError
from mri_ambient.methods import BASELINES, CgSense, L1Wavelet, ZeroFilled
from mri_ambient.methods.base import BASELINE_NOISE
from mri_ambient.methods.baselines import Baseline
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import complex_normal, rng_for

SHAPE = (48, 44)
NOISE = 0.02


def smooth_maps(n_coils, shape, rng):
    """Coil maps of a few low spatial frequencies, zero in the outermost pixels."""
    y, x = (torch.linspace(-1, 1, n) for n in shape)
    angle = 2 * torch.pi * torch.arange(n_coils) / n_coils
    distance = (y[:, None] - angle.sin().view(-1, 1, 1)) ** 2 + (
        x[None, :] - angle.cos().view(-1, 1, 1)
    ) ** 2
    turn = 2 * torch.pi * torch.rand(n_coils, 1, 1, generator=rng) + x[None, :] * y[:, None]
    maps = torch.polar(torch.exp(-distance), turn)
    support = (y[:, None] ** 2 + x[None, :] ** 2) < 0.9
    return maps / maps.abs().square().sum(dim=0).sqrt() * support


@pytest.fixture(scope="module")
def case():
    """A head seen by six coils at R = 3: the operator, its noisy k-space and the truth."""
    rng = rng_for(0, "baselines")
    maps = smooth_maps(6, SHAPE, rng)[None]
    op = SenseOp(maps, MaskSpec("random", 3.0, 10).draw(SHAPE, rng)[None])
    truth = head_phantom(SHAPE, rng).to(torch.complex64) * op.support
    noise = NOISE * complex_normal((1, 6, *SHAPE), rng)
    return op, op(truth) + op.mask * noise, truth


def nrmse(img, reference):
    return float((img - reference).norm() / reference.norm())


def as_numpy(op, ksp):
    return ksp[0].numpy(), op.maps[0].numpy(), op.mask[0].to(torch.float32).numpy()


def objective(op, ksp, img, lam):
    """1/2 ||A x - y||^2 + lam ||W x||_1 with sigpy's wavelets."""
    import sigpy

    wavelet = sigpy.linop.Wavelet(op.ishape, wave_name="db4")
    misfit = 0.5 * (op(img) - ksp).abs().square().sum()
    return float(misfit) + lam * float(np.abs(wavelet(img[0].numpy())).sum())


def few_steps(name: str) -> Baseline:
    """A baseline with its defaults, but 20 iterations at most."""
    return BASELINES[name]() if name == "zero-filled" else BASELINES[name](n_iter=20)


class TestAll:
    @pytest.mark.parametrize("name", BASELINES)
    def test_full_noiseless_sampling_gives_the_image(self, name, case):
        op, _, truth = case
        full = op.with_mask(torch.ones_like(op.mask))
        method = BASELINES[name]() if name == "zero-filled" else BASELINES[name](lam=1e-6)
        assert nrmse(apply_method(method, full, full(truth), NOISE), truth) < 1e-3

    @pytest.mark.parametrize("name", BASELINES)
    def test_nothing_appears_outside_the_support(self, name, case):
        op, ksp, _ = case
        img = apply_method(few_steps(name), op, ksp, NOISE)
        assert img.shape == (1, *SHAPE)
        assert img.dtype == torch.complex64
        assert img[~op.support].abs().max() == 0

    @pytest.mark.parametrize("name", BASELINES)
    def test_what_was_not_sampled_is_never_read(self, name, case):
        op, ksp, _ = case
        method = few_steps(name)
        poisoned = torch.where(op.mask, ksp, torch.nan)
        clean, dirty = (apply_method(method, op, y, NOISE) for y in (ksp, poisoned))
        assert torch.equal(clean, dirty)

    @pytest.mark.parametrize("name", BASELINES)
    def test_a_slice_does_not_see_its_batch(self, name, case):
        op, ksp, _ = case
        both = SenseOp(torch.cat([op.maps, op.maps.flip(1)]), torch.cat([op.mask, op.mask]))
        pair = torch.cat([ksp, 3 * ksp])
        method = few_steps(name)
        together = apply_method(method, both, pair, NOISE)
        for i in range(2):
            one = SenseOp(both.maps[i : i + 1], both.mask[i : i + 1])
            alone = apply_method(method, one, pair[i : i + 1], NOISE)
            assert nrmse(together[i], alone[0]) < 1e-5

    @pytest.mark.parametrize(("method", "multiple"), [(CgSense, 1.0), (L1Wavelet, 0.3)])
    def test_the_default_weight_follows_the_noise_of_each_scan(self, method, multiple, case):
        op, ksp, _ = case
        both = SenseOp(torch.cat([op.maps, op.maps]), torch.cat([op.mask, op.mask]))
        noise_std = torch.tensor([0.05, 0.0])
        pair = apply_method(method(n_iter=20), both, torch.cat([ksp, ksp]), noise_std)
        for img, noise in zip(pair, (0.05, BASELINE_NOISE), strict=True):
            given = apply_method(method(lam=multiple * noise, n_iter=20), op, ksp, NOISE)
            assert nrmse(img, given[0]) < 1e-5

    @pytest.mark.parametrize("name", ["cg-sense", "l1-wavelet"])
    def test_parallel_imaging_beats_zero_filling(self, name, case):
        op, ksp, truth = case
        zero_filled = nrmse(op.adjoint(ksp), truth)
        assert nrmse(apply_method(BASELINES[name](), op, ksp, NOISE), truth) < 0.95 * zero_filled

    def test_options_are_frozen(self):
        with pytest.raises(FrozenInstanceError):
            CgSense().lam = 1.0

    @pytest.mark.parametrize(
        ("method", "options"),
        [
            (CgSense, {"lam": -1.0}),
            (CgSense, {"n_iter": 0}),
            (L1Wavelet, {"lam": float("nan")}),
            (L1Wavelet, {"lam": float("inf")}),
            (L1Wavelet, {"n_iter": -3}),
            (L1Wavelet, {"wavelet": "bior2.2"}),
        ],
    )
    def test_options_check_themselves(self, method, options):
        (value,) = options.values()
        with pytest.raises(ConfigError) as caught:
            method(**options)
        assert method.name in str(caught.value) and str(value) in str(caught.value)


def test_zero_filled_is_the_adjoint(case):
    op, ksp, _ = case
    assert torch.equal(apply_method(ZeroFilled(), op, ksp, NOISE), op.adjoint(ksp))


class TestCgSense:
    @pytest.mark.parametrize("lam", [0.01, 0.3])
    def test_is_the_dense_solution(self, lam, rng):
        op = random_sense((7, 6), 3, rng, torch.complex128)
        ksp = op(complex_normal((1, 7, 6), rng, dtype=torch.complex128))
        img = apply_method(CgSense(lam=lam, n_iter=80), op, ksp, NOISE)
        matrix = dense(op, torch.complex128)
        normal = matrix.mH @ matrix + lam * torch.eye(42, dtype=torch.complex128)
        want = torch.linalg.solve(normal, matrix.mH @ ksp.flatten())
        torch.testing.assert_close(img.flatten(), want, rtol=0, atol=1e-10)

    def test_is_sigpys(self, case):
        import sigpy.mri

        op, ksp, _ = case
        y, maps, weights = as_numpy(op, ksp)
        app = sigpy.mri.app.SenseRecon(
            y, maps, lamda=0.01, weights=weights, max_iter=30, show_pbar=False
        )
        theirs = torch.from_numpy(app.run())[None]
        ours = apply_method(CgSense(lam=0.01, n_iter=30), op, ksp, NOISE)
        assert nrmse(ours, theirs) < 1e-4

    def test_default_iterations_are_enough(self, case):
        op, ksp, _ = case
        limit = apply_method(CgSense(n_iter=300), op, ksp, NOISE)
        assert nrmse(apply_method(CgSense(), op, ksp, NOISE), limit) < 0.01

    def test_without_regularisation_it_stays_finite(self, case):
        op, ksp, _ = case
        img = apply_method(CgSense(lam=0, n_iter=400), op, ksp, NOISE)
        assert torch.isfinite(img.abs()).all()
        assert img.abs().max() < 100


class TestL1Wavelet:
    @pytest.mark.parametrize("n_iter", [1, 40])
    def test_is_sigpys_step_by_step(self, n_iter, case):
        import sigpy.mri

        op, ksp, _ = case
        y, maps, weights = as_numpy(op, ksp)
        app = sigpy.mri.app.L1WaveletRecon(
            y, maps, 0.005, weights=weights, max_iter=n_iter, alpha=1, show_pbar=False
        )
        theirs = torch.from_numpy(app.run())[None] * op.support
        ours = apply_method(L1Wavelet(lam=0.005, n_iter=n_iter), op, ksp, NOISE)
        assert nrmse(ours, theirs) < 1e-4

    def test_measured_zeros_count_as_measured(self, case):
        # sigpy guesses the mask from the data when it is not given; a zero sample is still data.
        op, ksp, _ = case
        silent = ksp.clone()
        silent[..., 22] = 0
        known = apply_method(L1Wavelet(), op, silent, NOISE)
        mask = op.mask.clone()
        mask[..., 22] = False
        guessed = apply_method(L1Wavelet(), op.with_mask(mask), silent, NOISE)
        assert nrmse(known, guessed) > 0.05

    def test_the_objective_falls_to_sigpys(self, case):
        import sigpy.mri

        op, ksp, _ = case
        lam = 0.01
        y, maps, weights = as_numpy(op, ksp)
        app = sigpy.mri.app.L1WaveletRecon(
            y, maps, lam, weights=weights, max_iter=400, show_pbar=False
        )  # with the step length of its own power iteration
        theirs = torch.from_numpy(app.run())[None] * op.support
        limit = objective(op, ksp, theirs, lam)
        images = [apply_method(L1Wavelet(lam=lam, n_iter=n), op, ksp, NOISE) for n in (1, 3, 100)]
        excess = [objective(op, ksp, img, lam) / limit - 1 for img in images]
        assert excess[0] > excess[1] > 0.01
        assert abs(excess[2]) < 1e-3

    def test_default_iterations_are_enough(self, case):
        op, ksp, _ = case
        limit = apply_method(L1Wavelet(n_iter=600), op, ksp, NOISE)
        assert nrmse(apply_method(L1Wavelet(), op, ksp, NOISE), limit) < 0.02
