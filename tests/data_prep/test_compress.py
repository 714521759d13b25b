"""Coil compression against the SVD of the whole volume."""

from __future__ import annotations

import pytest
import torch
from memory_scan import MemoryScan
from torch import Tensor

from mri_ambient.data_prep.compress import (
    Compression,
    compress_coils,
    plan_compression,
)
from mri_ambient.data_prep.noise import outer_products
from mri_ambient.rng import complex_normal, rng_for


def volume(n_coils: int = 6, rank: int = 6, noise: float = 0.0) -> Tensor:
    """Two slices of coils that see ``rank`` sources of falling strength ``(slice, coil, y, x)``."""
    rng = rng_for(0, n_coils, rank)
    sources = complex_normal((2, rank, 16 * 12), rng) * 0.5 ** torch.arange(rank)[:, None]
    coils = complex_normal((n_coils, rank), rng)
    ksp = (coils @ sources).view(2, n_coils, 16, 12)
    return ksp + noise * complex_normal(tuple(ksp.shape), rng)


def planned(ksp: Tensor, **options: float | None) -> Compression:
    cov = sum((outer_products(slice_.flatten(1)) for slice_ in ksp), torch.zeros(()))
    return plan_compression(cov, 0, **options)


def test_the_virtual_coils_are_those_of_the_svd():
    ksp = volume()
    compression = planned(ksp, n_coils=3)
    samples = ksp.transpose(0, 1).flatten(1)
    U, sizes, _ = torch.linalg.svd(samples.to(torch.complex128), full_matrices=False)
    overlap = (compression.rotation @ U).abs()
    torch.testing.assert_close(overlap, torch.eye(6).double(), rtol=0, atol=1e-4)
    share = sizes[:3].square().sum() / sizes.square().sum()
    assert compression.kept_energy == pytest.approx(float(share), rel=1e-5)


def test_all_virtual_coils_keep_all_energy():
    scan = MemoryScan(volume())[0:2]
    compression = planned(scan.ksp)
    after = compress_coils(scan, compression)
    assert compression.kept_energy == pytest.approx(1)
    assert after.n_coils == 6
    torch.testing.assert_close(after.ksp.norm(), scan.ksp.norm())


def test_as_few_coils_are_kept_as_hold_the_energy():
    ksp = volume()
    enough = planned(ksp, energy=0.99)
    fewer = planned(ksp, n_coils=enough.n_coils - 1)
    assert fewer.kept_energy < 0.99 <= enough.kept_energy
    assert planned(ksp, energy=0.99, n_coils=2).n_coils == 2
    assert planned(ksp, energy=1.0).n_coils == 6


def test_more_coils_than_there_are_keep_what_there_is():
    assert planned(volume(), n_coils=32).n_coils == 6


def test_noise_does_not_count_as_energy():
    # Two sources in unit noise: six coils are needed for the energy, two for the signal.
    ksp = 100 * volume(rank=2) + complex_normal((2, 6, 16, 12), rng_for(1))
    cov = outer_products(ksp[0].flatten(1)) + outer_products(ksp[1].flatten(1))
    assert plan_compression(cov, 2 * 16 * 12, energy=0.9999).n_coils == 2


def test_noise_alone_keeps_its_coils():
    ksp = complex_normal((1, 4, 16, 12), rng_for(1))
    compression = plan_compression(outer_products(ksp[0].flatten(1)), 10**6, n_coils=3)
    assert compression.n_coils == 3
    assert 0.7 < compression.kept_energy < 0.85


def test_the_phase_of_virtual_coils_is_fixed():
    # A global phase of the data must not turn the virtual coils.
    ksp = volume().to(torch.complex128)
    a, b = planned(ksp), planned((0.6 + 0.8j) * ksp)
    torch.testing.assert_close(a.rotation, b.rotation, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        a.rotation @ a.rotation.mH, torch.eye(6).to(a.rotation), rtol=0, atol=1e-10
    )


def test_the_whole_transform_is_kept():
    scan = MemoryScan(volume())[0]
    after = compress_coils(scan, planned(scan.ksp, n_coils=2))
    assert after.ksp.shape[1] == 2
    assert tuple(after.coil_transform.shape) == (6, 6)
    made = after.coil_transform[:2].to(torch.complex64) @ scan.ksp.flatten(-2)
    torch.testing.assert_close(made.view_as(after.ksp), after.ksp)
