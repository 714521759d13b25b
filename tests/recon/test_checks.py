"""Held-out lines, null-space energies and flags: right, and never from what is held out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from codes import warns
from gaussian import WholeGaussian
from helpers import apply_method, dense, random_maps, small_prior

from mri_ambient.methods import Aos, CgSense, Dds, Method
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import DenoiserSource, Prior
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.checks import (
    NULL_SPACE_RIDGE,
    check_slices,
    flags,
    held_out_flags,
    null_space_energy,
)
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.held_out import coverage_figures, hold_out_of_scan, predict_held_out
from mri_ambient.recon.recipe import Checks, ResolvedRecipe
from mri_ambient.rng import complex_normal
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan

SHAPE = (24, 32)
SIGMA_N = 0.2


@pytest.fixture
def prior() -> WholeGaussian:
    return WholeGaussian(torch.full(SHAPE, 0.8, dtype=torch.float64), sigma_min=0.01)


@pytest.fixture
def scan(rng, prior) -> Scan:
    """Three slices drawn from the prior, two coils, R = 2."""
    maps = random_maps((3, 2, *SHAPE), rng)
    mask = MaskSpec("random", 2, 6).draw(SHAPE, rng)
    x = prior.var.sqrt().float() * complex_normal((3, *SHAPE), rng)
    noise = SIGMA_N * complex_normal((3, 2, *SHAPE), rng)
    return Scan(
        ksp=(SenseOp(maps, mask)(x) + noise) * mask, mask=mask, scan_id="head", slices=(0, 1, 2),
        recon_shape=SHAPE, noise_std=SIGMA_N, maps=maps, scale=1.0,
    )  # fmt: skip


def engine(method: Method, prior: DenoiserSource | None = None, **recipe: object) -> Engine:
    return Engine(ResolvedRecipe(method, prior, **recipe), Runtime("cpu", batch_size=24))


class TestHeldOutLines:
    def test_posterior_samples_have_the_coverage_they_should(self, scan, prior):
        """An exact prior: the intervals of 8 samples hold their share of about 770 numbers.

        Binomial standard errors are 1.8 and 1.1 %; five of them, and 4 % for finite steps.
        """
        rows = predict_held_out(engine(Dds(n_steps=40, n_cg=10), prior, n_samples=8), scan, 4)
        mean = {key: sum(row[key] for row in rows) / 3 for key in rows[0]}
        assert abs(mean["coverage_50"] - 0.5) < 0.13
        assert abs(mean["coverage_90"] - 0.9) < 0.1
        assert 0.8 < mean["chi_square"] < 1.25
        assert mean["noise"] < mean["error"] < mean["cg_sense"] * 1.1

    def test_samples_that_hardly_differ_cover_nearly_nothing(self, scan, prior):
        prior.var, prior.sigma_data = prior.var * 1e-3, prior.sigma_data * 0.03
        rows = predict_held_out(engine(Dds(n_steps=10), prior, n_samples=4), scan, 4)
        assert all(row["coverage_90"] < 0.75 and row["chi_square"] > 3 for row in rows)

    def test_held_out_values_are_never_read(self, scan):
        """Other values on these lines change what is compared, not what is predicted."""
        held_out = hold_out_of_scan(scan, 3, seed=0).held_out
        flipped = replace(scan, ksp=torch.where(held_out, -scan.ksp, scan.ksp))
        one, other = (predict_held_out(engine(CgSense()), s, 3)[0] for s in (scan, flipped))
        assert other["noise"] == pytest.approx(one["noise"], rel=1e-5)
        # |K - y|^2 + |K + y|^2 = 2 |K|^2 + 2 |y|^2 only if K is the same.
        op = SenseOp(scan.maps[:1], scan.mask & ~held_out)
        y = torch.where(op.mask, scan.ksp[:1], 0)
        K = torch.where(held_out, op.expand(apply_method(CgSense(), op, y, SIGMA_N)), 0)
        energy = torch.where(held_out, scan.ksp[:1], 0).abs().square().sum()
        want = 2 * float(K.abs().square().sum() / energy) + 2
        assert one["error"] + other["error"] == pytest.approx(want, rel=1e-4)
        assert "coverage_50" not in one

    def test_a_slice_without_signal_has_no_figures(self, scan):
        """It has no energy to compare with."""
        silent = replace(scan, ksp=scan.ksp * torch.tensor([1.0, 0.0, 1.0])[:, None, None, None])
        rows = predict_held_out(engine(CgSense()), silent, 3)
        assert [bool(row) for row in rows] == [True, False, True]

    def test_other_scans_and_seeds_have_other_lines(self, scan):
        masks = [
            hold_out_of_scan(s, 3, seed).held_out
            for s, seed in ((scan, 0), (scan, 0), (scan, 1), (replace(scan, scan_id="b"), 0))
        ]
        assert torch.equal(masks[0], masks[1])
        assert not any(torch.equal(masks[0], other) for other in masks[2:])
        assert all(int(mask.any(dim=-2).sum()) == 3 for mask in masks)

    def test_too_few_lines_are_a_warning(self, scan):
        """The image is kept; only the check is missing."""
        eng = engine(CgSense(), checks=Checks(n_held_out=30))
        (result,) = eng([scan])
        with warns("W-HELD-OUT-SKIPPED"):
            checked = check_slices(eng, scan, result)
        assert all("held_out" not in check for check in checked.checks)


class TestCoverage:
    def test_intervals_are_students(self, rng):
        """Four samples and a measurement from one normal law: 50 and 90 % within five errors."""
        draws = complex_normal((5, 4000), rng)
        found = coverage_figures(draws[0], draws[1:], 1e-6)
        assert abs(found["coverage_50"] - 0.5) < 5 * (0.25 / 8000) ** 0.5
        assert abs(found["coverage_90"] - 0.9) < 5 * (0.09 / 8000) ** 0.5
        assert found["chi_square"] == pytest.approx(1, abs=0.1)

    def test_a_calibration_factor_widens_them(self, rng):
        """Samples with a third of the deviation are seen, and right again with the factor 3."""
        draws = complex_normal((5, 4000), rng)
        mean = draws[1:].mean(dim=0)
        narrow = mean + (draws[1:] - mean) / 3
        raw, mended = (coverage_figures(draws[0], narrow, 1e-6, factor) for factor in (1.0, 3.0))
        assert raw["coverage_90"] < 0.6 < 0.87 < mended["coverage_90"] < 0.93
        assert raw["chi_square"] == pytest.approx(9 * mended["chi_square"], rel=1e-6)


def test_the_null_space_energy_is_what_the_measurement_cannot_give(rng):
    """Energy left by (A^H A + e)^-1 A^H A, as a dense matrix; all and nothing at the ends."""
    maps = random_maps((2, 16, 20), rng)
    mask = MaskSpec("random", 3, 4).draw((16, 20), rng)
    op = SenseOp(maps, mask)
    A = dense(op, torch.complex64)
    n = A.shape[1]
    keep = torch.linalg.solve(A.mH @ A + NULL_SPACE_RIDGE * torch.eye(n), A.mH @ A)
    images = complex_normal((3, 16, 20), rng)
    vectors = torch.linalg.eigh(A.mH @ A).eigenvectors
    images[1], images[2] = (vectors[:, k].view(16, 20) for k in (0, -1))  # seen least and best
    flat = images.flatten(1)
    left = flat - flat @ keep.mT
    wanted = left.abs().square().sum(1) / flat.abs().square().sum(1)
    many = SenseOp(maps.expand(3, -1, -1, -1), mask)
    got = null_space_energy(Batch.of_measurement(many, many(images), torch.ones(3)), images)
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-4)
    assert float(wanted[1]) > 0.9 and float(wanted[2]) < 0.1


class TestHeldOutFlags:
    @pytest.mark.parametrize(
        ("error", "l1", "noise", "flagged"),
        [
            (0.3, 0.2, 0.1, "L1-wavelet"),
            (0.21, 0.2, 0.1, ""),  # a tenth more than L1-wavelet's part that is no noise
            (1.2, 1.1, 0.5, "zeros"),
            (1.1, 1.2, 0.5, "zeros"),  # L1-wavelet is no better
            (1.1, 1.1, 0.5, "zeros"),  # it is L1-wavelet
            (1.04, 1.2, 0.5, ""),  # zeros are better by less than a tenth of the noise
            (1.239, 1.278, 0.313, "zeros"),
            (0.66, 0.53, 0.5, "L1-wavelet"),  # five times as much beyond the noise
            (0.56, 0.53, 0.5, ""),  # they differ by less than a tenth of the noise
            (1.01, 0.98, 0.95, ""),  # these lines hold noise alone
            (0.49, 0.47, 0.5, ""),
            (1.6, 4.9, 0.5, "zeros"),  # L1-wavelet broke down
        ],
    )
    def test_they_are_for_what_noise_does_not_explain(self, error, l1, noise, flagged):
        row = {"error": error, "l1_wavelet": l1, "noise": noise}
        said = list(held_out_flags(row))
        assert len(said) == bool(flagged)
        assert all(flagged in one for one in said)
        for chi_square, n_more in ((3.9, 0), (4.1, 1)):
            more = list(held_out_flags(row | {"chi_square": chi_square}))[len(said) :]
            assert len(more) == (n_more if noise < 0.9 else 0)
            assert all(f"1/{chi_square}" in one for one in more)

    def test_without_figures_there_are_none(self):
        assert list(held_out_flags(None)) == list(held_out_flags({})) == []


def scan_like(noise_std: float, mask: torch.Tensor | None = None, n_coils: int = 1) -> Scan:
    """A prepared scan of ones."""
    mask = torch.ones(1, 4, 4, dtype=torch.bool) if mask is None else mask
    shape = (1, n_coils, *mask.shape[-2:])
    return Scan(
        ksp=torch.ones(shape, dtype=torch.complex64) * mask, mask=mask, scan_id="a", slices=(0,),
        recon_shape=(4, 4), noise_std=noise_std,
    )  # fmt: skip


class TestFlags:
    @pytest.mark.parametrize(
        ("n_coils", "residual", "flagged"), [(4, 0.3, True), (4, 0.4, False), (1, 0.01, False)]
    )
    def test_a_residual_below_the_noise_is_flagged(self, n_coils, residual, flagged):
        """At R = 2, least squares leaves 0.71 of the noise of four coils; of one coil, nothing."""
        mask = torch.zeros(1, 16, 16, dtype=torch.bool)
        mask[..., ::2] = True
        recipe = ResolvedRecipe(Dds(), small_prior(card={"sigma_n": [0.05]}))
        said = list(flags({"data_residual": residual}, 0.3, scan_like(0.05, mask, n_coils), recipe))
        assert len(said) == flagged

    def test_the_most_serious_flag_comes_first(self):
        held_out = {"error": 3.0, "noise": 0.1, "cg_sense": 0.5, "l1_wavelet": 0.4}
        check = {"data_residual": 5.0, "held_out": held_out}
        recipe = ResolvedRecipe(Dds(), small_prior("conditioned"))
        said = list(flags(check, 0.3, scan_like(0.05), recipe))
        assert "3.000" in said[0] and "5.0" in said[1]

    def test_scans_outside_the_training_range_are_flagged(self):
        """The shipped prior, whose training scans had noise up to 0.31."""
        prior = load_prior(default_prior())

        def said(rms: float, noise_std: float, known: Prior = prior) -> list[str]:
            recipe = ResolvedRecipe(Aos(), known)
            scale = rms * prior.sigma_data
            return list(flags({"data_residual": 1.0}, scale, scan_like(noise_std), recipe))

        assert said(1.0, prior.sigma_min) == []
        assert ["0.9500" in flag for flag in said(1.0, 0.95)] == [True]
        assert ["10.00" in flag for flag in said(10.0, prior.sigma_min)] == [True]
        assert ["0.10" in flag for flag in said(0.1, prior.sigma_min)] == [True]
        card = {**prior.facts.card, "sigma_n": [0.001, 0.002, 1.0]}
        assert said(1.0, 0.95, replace(prior, facts=replace(prior.facts, card=card))) == []

    def test_images_that_do_not_fit_the_data_are_flagged(self, scan, prior):
        """Half of an image; without a prior nothing is said of it but this."""

        class Half(CgSense):
            def solve(self, op, ksp, noise_std):
                return super().solve(op, ksp, noise_std) / 2

        for method, flagged in ((Half(), True), (CgSense(), False)):
            eng = engine(method, checks=Checks(flags=True))
            checks = check_slices(eng, scan, eng([scan])[0]).checks
            assert [len(check["flags"]) for check in checks] == [flagged] * 3
            assert all("prior_share" not in check for check in checks)
        eng = engine(Dds(n_steps=2), prior, checks=Checks(flags=True))
        checks = check_slices(eng, scan, eng([scan])[0]).checks
        assert all(0 < check["prior_share"] < 1 for check in checks)
