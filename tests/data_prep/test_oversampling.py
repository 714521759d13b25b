"""Readout oversampling is removed exactly, or not at all."""

from __future__ import annotations

import pytest
import torch
from memory_scan import MemoryScan

from mri_ambient.data_prep.oversampling import remove_oversampling
from mri_ambient.physics.axis_fourier import fftc, ifftc
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.patterns import readout_is_full
from mri_ambient.rng import complex_normal, rng_for


@pytest.mark.parametrize(("n_rows", "keep"), [(16, 8), (15, 8), (18, 9), (21, 7)])
def test_oversampling_is_removed_exactly(n_rows, keep):
    img = complex_normal((1, 2, n_rows, 6), rng_for(n_rows))
    mask = torch.ones(1, n_rows, 6, dtype=torch.bool)
    mask[..., 1] = False
    scan = MemoryScan(fft2c(img), mask)[0]
    after = remove_oversampling(scan, keep)
    top = (n_rows - keep) // 2  # as fastMRI crops images
    want = ifftc(scan.ksp, dim=-2)[..., top : top + keep, :]  # image rows stay what they are
    torch.testing.assert_close(ifftc(after.ksp, dim=-2), want)
    assert not after.ksp[..., 1].any()
    assert after.shape == (keep, 6)


def test_an_incomplete_readout_cannot_be_cut():
    mask = torch.ones(1, 16, 6, dtype=torch.bool)
    assert readout_is_full(mask)
    mask[:, 3, 2] = False
    assert not readout_is_full(mask)
    with pytest.raises(ValueError, match="8 rows"):
        remove_oversampling(MemoryScan(complex_normal((1, 1, 16, 6), rng_for(0)), mask)[0], 8)


def test_cutting_the_readout_commutes_with_measuring():
    # An object inside the final field of view, scanned with and without oversampling.
    img = complex_normal((1, 2, 8, 6), rng_for(0))
    wide = torch.nn.functional.pad(img, (0, 0, 4, 4))
    scan = MemoryScan(fft2c(wide))[0]
    torch.testing.assert_close(remove_oversampling(scan, 8).ksp, fft2c(img), rtol=1e-4, atol=1e-5)
    assert torch.equal(fftc(scan.ksp, dim=-1)[0, 0, 0], fftc(scan.ksp[0, 0, 0], dim=-1))
