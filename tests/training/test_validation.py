"""Hidden lines: exact predictions are found exact, honest spreads honest, and false ones false."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian import WholeGaussian
from helpers import dense, random_maps

from mri_ambient.methods import Dds
from mri_ambient.methods.baselines import CgSense
from mri_ambient.physics.masks import MaskSpec, hold_out_lines
from mri_ambient.physics.operators import SenseOp
from mri_ambient.recon.checks import PRIOR_RIDGE, _spread_checks, predict_hidden, prior_share
from mri_ambient.recon.engine import Options
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Batch, Scan
from mri_ambient.training.validation import hold_out

SHAPE = (24, 32)
SIGMA_N = 0.2


@pytest.fixture
def prior() -> WholeGaussian:
    return WholeGaussian(torch.full(SHAPE, 0.8, dtype=torch.float64), sigma_min=0.01)


@pytest.fixture
def scan(rng, prior) -> Scan:
    """Three slices of what the prior believes in, two coils, R = 2."""
    maps = random_maps((3, 2, *SHAPE), rng)
    mask = MaskSpec("random", 2, 6).draw(SHAPE, rng)
    x = prior.var.sqrt().float() * complex_normal((3, *SHAPE), rng)
    noise = SIGMA_N * complex_normal((3, 2, *SHAPE), rng)
    return Scan(
        ksp=(SenseOp(maps, mask)(x) + noise) * mask, mask=mask, scan_id="head", slices=(0, 1, 2),
        recon_shape=SHAPE, noise_std=SIGMA_N, maps=maps, scale=1.0,
    )  # fmt: skip


def test_posterior_samples_cover_what_they_say(scan, prior):
    """An exact prior: the intervals of 8 samples hold their share of about 770 hidden numbers.

    Binomial standard errors are 1.8 and 1.1 %; five of them, and 4 % for the steps being finite.
    """
    options = Options(n_samples=8, batch_size=24)
    rows = predict_hidden(scan, Dds(n_steps=40, n_cg=10), prior, options, 4)
    mean = {key: sum(row[key] for row in rows) / 3 for key in rows[0]}
    assert abs(mean["coverage_50"] - 0.5) < 0.13
    assert abs(mean["coverage_90"] - 0.9) < 0.1
    assert 0.8 < mean["chi_square"] < 1.25
    assert mean["noise"] < mean["error"] < mean["cg_sense"] * 1.1


def test_overconfident_samples_are_found_out(scan, prior):
    """Samples that hardly differ cover nearly nothing, and their chi-square says so."""
    prior.var, prior.sigma_data = prior.var * 1e-3, prior.sigma_data * 0.03
    options = Options(n_samples=4, batch_size=12)
    rows = predict_hidden(scan, Dds(n_steps=10), prior, options, 4)
    assert all(row["coverage_90"] < 0.75 and row["chi_square"] > 3 for row in rows)


def test_hidden_lines_are_never_read(scan):
    """Other values on the hidden lines change what is compared, not what is predicted."""
    rng = rng_for(0, "hold out", scan.scan_id)
    hidden = scan.mask & ~hold_out_lines(scan.mask, 3, rng)
    flipped = replace(scan, ksp=torch.where(hidden, -scan.ksp, scan.ksp))
    one, other = (predict_hidden(s, CgSense(), None, Options(), 3)[0] for s in (scan, flipped))
    assert other["noise"] == pytest.approx(one["noise"], rel=1e-5)
    # |K - y|^2 + |K + y|^2 = 2 |K|^2 + 2 |y|^2 only if K is the same.
    op = SenseOp(scan.maps[:1], scan.mask & ~hidden)
    y = torch.where(op.mask, scan.ksp[:1], 0)
    K = torch.where(hidden, op.expand(CgSense()(op, y, noise_std=torch.tensor([SIGMA_N]))), 0)
    energy = torch.where(hidden, scan.ksp[:1], 0).abs().square().sum()
    want = 2 * float(K.abs().square().sum() / energy) + 2
    assert one["error"] + other["error"] == pytest.approx(want, rel=1e-4)
    assert "coverage_50" not in one


def test_coverage_is_students(rng):
    """Four samples and a measurement from one normal law: 50 and 90 % within five errors."""
    n = 4000
    draws = complex_normal((5, n), rng)
    found = _spread_checks(draws[0], draws[1:], 1e-6)
    assert abs(found["coverage_50"] - 0.5) < 5 * (0.25 / 8000) ** 0.5
    assert abs(found["coverage_90"] - 0.9) < 5 * (0.09 / 8000) ** 0.5
    assert found["chi_square"] == pytest.approx(1, abs=0.1)


def test_a_slice_without_signal_tells_nothing(scan):
    """It has no energy to compare with, neither in training nor in use."""
    silent = replace(scan, ksp=scan.ksp * torch.tensor([1.0, 0.0, 1.0])[:, None, None, None])
    rows = predict_hidden(silent, CgSense(), None, Options(), 3)
    assert [bool(row) for row in rows] == [True, False, True]
    cases = [hold_out(Batch.of([silent])[i : i + 1], "head", seed=0) for i in range(3)]
    assert [case.tells for case in cases] == [True, False, True]


def test_the_prior_s_share_is_what_the_measurement_cannot_have_given(rng):
    """Energy left by (A^H A + e)^-1 A^H A, as a dense matrix; all and nothing at the ends."""
    maps = random_maps((2, *SHAPE), rng)
    mask = MaskSpec("random", 3, 4).draw(SHAPE, rng)
    op = SenseOp(maps, mask)
    A = dense(op, torch.complex64)
    n = A.shape[1]
    keep = torch.linalg.solve(A.mH @ A + PRIOR_RIDGE * torch.eye(n), A.mH @ A)
    images = complex_normal((3, *SHAPE), rng)
    images[1] = torch.linalg.eigh(A.mH @ A).eigenvectors[:, 0].view(SHAPE)  # seen least
    images[2] = torch.linalg.eigh(A.mH @ A).eigenvectors[:, -1].view(SHAPE)  # seen best
    flat = images.flatten(1)
    left = flat - flat @ keep.mT
    wanted = left.abs().square().sum(1) / flat.abs().square().sum(1)
    got = torch.cat([
        prior_share(Batch(ksp=op(x)[None], maps=maps[None], mask=mask[None],
                          acquired=torch.ones(1, SHAPE[1], dtype=torch.bool),
                          noise_std=torch.tensor([0.1]), density=mask[None].float()), x[None])
        for x in images
    ])  # fmt: skip
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-4)
    assert float(wanted[1]) > 0.9 and float(wanted[2]) < 0.1


def test_a_stored_factor_counts_in_the_checks(rng):
    """Samples with a third of the spread are found out, and right again with the factor 3."""
    draws = complex_normal((5, 4000), rng)
    mean = draws[1:].mean(dim=0)
    narrow = mean + (draws[1:] - mean) / 3
    raw, mended = (_spread_checks(draws[0], narrow, 1e-6, factor) for factor in (1.0, 3.0))
    assert raw["coverage_90"] < 0.6 < 0.87 < mended["coverage_90"] < 0.93
    assert raw["chi_square"] == pytest.approx(9 * mended["chi_square"], rel=1e-6)
