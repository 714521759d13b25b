"""3-D k-space as slices across the readout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mri_ambient.errors import MriAmbientError, ScanFormatError
from mri_ambient.io.formats import hybrid
from mri_ambient.io.formats.hybrid import HybridSlices

PATH = Path("scan.h5")


def random(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def lines_of(ksp: NDArray[np.complex64]) -> tuple[NDArray, NDArray, NDArray]:
    """All lines of k-space ``(coil, sample, y, x)`` in a random order, with their places."""
    _, _, ny, nx = ksp.shape
    order = np.random.default_rng(1).permutation(ny * nx)
    lines = ksp.reshape(*ksp.shape[:2], -1).transpose(2, 0, 1)[order]
    return np.ascontiguousarray(lines), order // nx, order % nx


@pytest.mark.parametrize("n_samples", [12, 13])
def test_slices_are_those_of_a_3d_transform(n_samples, monkeypatch):
    """In several chunks; the middle 7 positions are kept."""
    monkeypatch.setattr(hybrid, "CHUNK_BYTES", 8 * 7 * 3 * 10)
    ksp = random((3, n_samples, 5, 6))
    slices = HybridSlices(PATH, (7, 3, 5, 6), n_lines=30)
    slices.add(*lines_of(ksp))
    wanted = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(ksp, axes=1), axis=1, norm="ortho"), axes=1
    )
    first = n_samples // 2 - 3
    for index in (6, 0, 3):
        np.testing.assert_allclose(slices.read(index), wanted[:, first + index], atol=1e-5)
    assert bool(slices.mask.all())


def test_lines_of_one_place_are_averaged(monkeypatch):
    monkeypatch.setattr(hybrid, "CHUNK_BYTES", 8 * 4 * 2 * 3)
    lines = random((4, 2, 4))
    slices = HybridSlices(PATH, (4, 2, 2, 3), n_lines=4)
    slices.add(lines, np.array([1, 1, 1, 0]), np.array([2, 2, 2, 0]))
    found = np.stack([slices.read(index) for index in range(4)])
    once = HybridSlices(PATH, (4, 2, 2, 3), n_lines=2)
    once.add(np.stack([lines[:3].mean(axis=0), lines[3]]), np.array([1, 0]), np.array([2, 0]))
    wanted = np.stack([once.read(index) for index in range(4)])
    np.testing.assert_allclose(found, wanted, rtol=1.3e-6, atol=1e-5)
    assert slices.mask.tolist() == [[True, False, False], [False, False, True]]


def test_damaged_lines_are_refused():
    slices = HybridSlices(PATH, (4, 2, 2, 3), n_lines=1)
    with pytest.raises(ScanFormatError):
        slices.add(np.full((1, 2, 4), np.nan, np.complex64), np.array([0]), np.array([0]))


def test_too_little_temporary_space_is_told_before_reading():
    with pytest.raises(MriAmbientError, match="TMPDIR"):
        HybridSlices(PATH, (10**6, 10**6, 4, 4), n_lines=10**6)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    slices = HybridSlices(PATH, (4, 2, 2, 3), n_lines=1)
    slices.add(random((1, 2, 4)), np.array([0]), np.array([0]))
    assert slices.read(0).any()
    assert list(tmp_path.iterdir()) == []
