"""Noise covariances that are measured or given."""

from __future__ import annotations

import pytest
import torch
from memory_scan import noise_only, random_cov

from mri_ambient.data_prep.noise import from_noise_scan, from_user, noise_covariance
from mri_ambient.data_prep.whiten import whitening_matrix
from mri_ambient.rng import complex_normal, rng_for


def test_noise_whitened_by_a_noise_scan_is_1_per_real_channel():
    # 4e5 real numbers: the standard deviation is known to 0.11 %, so 1 % is nine of these.
    cov = random_cov(4)
    scan, other = (noise_only(4, (500, 200), cov, seed).flatten(1) for seed in (1, 2))
    white = whitening_matrix(from_noise_scan(scan).cov).to(torch.complex64) @ other
    assert white.real.std() == pytest.approx(1, rel=0.01)
    assert white.imag.std() == pytest.approx(1, rel=0.01)
    correlation = (white @ white.mH).abs() / white.shape[1]
    assert (correlation - 2 * torch.eye(4)).abs().max() < 0.03


def test_a_noise_scan_gives_half_of_the_complex_covariance():
    noise = complex_normal((2, 100_000), rng_for(0)) * torch.tensor([[1.0], [3.0]])
    found = from_noise_scan(noise)
    assert found.source == "noise-scan"
    assert found.n_samples == 100_000
    assert found.cov.diagonal().real.tolist() == pytest.approx([1, 9], rel=0.02)


def test_a_given_level_makes_equal_uncorrelated_coils():
    found = from_user(0.5, 3)
    assert found.source == "given"
    assert torch.equal(found.cov, 0.25 * torch.eye(3, dtype=torch.complex128))


@pytest.mark.parametrize("n_samples", [1, 3, 8, 20])
def test_few_samples_are_shrunk_to_something_invertible(n_samples):
    samples = complex_normal((8, n_samples), rng_for(n_samples), dtype=torch.complex128)
    cov = noise_covariance(samples @ samples.mH, n_samples)
    values = torch.linalg.eigvalsh(cov)
    assert values[0] > 0
    assert values[-1] / values[0] < 1000
    # Shrinking moves correlations, never the energy of a coil.
    power = samples.abs().square().sum(dim=1) / (2 * n_samples)
    torch.testing.assert_close(cov.diagonal().real, power)


def test_a_coil_that_received_nothing_can_still_be_whitened():
    samples = complex_normal((3, 100), rng_for(0), dtype=torch.complex128)
    samples[1] = 0
    assert whitening_matrix(noise_covariance(samples @ samples.mH, 100)).isfinite().all()
