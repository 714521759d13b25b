"""Whitening against its definition."""

from __future__ import annotations

import pytest
import torch
from memory_scan import MemoryScan, noise_only, random_cov

from mri_ambient.data_prep.noise import NoiseEstimate
from mri_ambient.data_prep.whiten import mix_coils, whiten, whitening_matrix
from mri_ambient.rng import complex_normal, rng_for


@pytest.mark.parametrize("n_coils", [1, 2, 7, 16])
def test_the_whitened_covariance_is_the_identity(n_coils):
    cov = random_cov(n_coils)
    white = whitening_matrix(cov)
    eye = torch.eye(n_coils, dtype=torch.complex128)
    torch.testing.assert_close(white @ cov @ white.mH, eye, rtol=0, atol=1e-10)


def test_mixing_coils_is_a_matrix_product_at_every_sample():
    ksp = complex_normal((2, 3, 5, 4), rng_for(0))
    matrix = complex_normal((6, 3), rng_for(1), dtype=torch.complex128)
    want = torch.einsum("vc,scyx->svyx", matrix.to(torch.complex64), ksp)
    torch.testing.assert_close(mix_coils(ksp, matrix), want)


def test_a_whitened_scan_has_noise_of_1():
    # 2 x 3 x 64 x 64 real numbers: the standard deviation is known to 0.5 %.
    cov = random_cov(3, std=7.0)
    scan = MemoryScan(noise_only(3, (64, 64), cov)[None], noise=complex_normal((3, 9), rng_for(0)))
    before = scan[0]
    after = whiten(before, NoiseEstimate(cov, "given", 0))
    assert after.ksp.real.std() == pytest.approx(1, rel=0.025)
    assert (after.noise_std, after.noise_source) == (1.0, "given")
    assert after.noise is None  # those samples were in other units
    assert after.steps == ("read", "whiten")
    torch.testing.assert_close(mix_coils(before.ksp, after.coil_transform), after.ksp)


def test_whitening_does_not_change_its_argument():
    scan = MemoryScan(noise_only(2, (8, 8), random_cov(2))[None])[0]
    copy = scan.ksp.clone()
    whiten(scan, NoiseEstimate(random_cov(2), "given", 0))
    assert torch.equal(scan.ksp, copy)
    assert scan.coil_transform is None
