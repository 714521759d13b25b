"""Retrospective undersampling: what was not selected leaves no trace."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from mri_ambient.errors import ConfigError
from mri_ambient.io import Undersampled, open_scan
from mri_ambient.physics.mask_spec import MaskSpec

SPEC = MaskSpec("random", acceleration=3.0, calib=8)


def test_a_mask_over_a_knee(knee, knee_ksp):
    full = open_scan(knee)
    file = Undersampled(full, SPEC, seed=0)
    assert (file.scan_id, file.shape, file.recon_shape) == (full.scan_id, full.shape, (32, 32))
    assert file.acceleration == pytest.approx(40 / 13)  # of 40 acquired columns
    assert not (file.mask[0] & ~full.acquired).any()
    assert np.array_equal(file[:].ksp, knee_ksp.numpy() * file.mask)
    assert file.readout_oversampling == 2
    assert (file.voxel_mm, file.sha256) == (full.voxel_mm, full.sha256)
    assert file.read_target("reconstruction_rss") is None


def test_the_mask_depends_on_the_seed_and_the_scan_alone(knee):
    masks = [Undersampled(open_scan(knee), SPEC, seed).mask for seed in (0, 0, 1)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_samples_that_were_not_selected_leave_no_trace(knee, knee_ksp):
    def opened():  # what is hidden must not be taken for images either
        return Undersampled(open_scan(knee, centre="header"), SPEC, seed=0)

    file = opened()
    before = [file[0], file[1]]
    with h5py.File(knee, "a") as raw:
        hidden = ~file.mask[0] & file.acquired
        ksp = raw["kspace"][()]
        ksp[..., hidden] = 30 - 3j * ksp[..., hidden]
        raw["kspace"][...] = ksp
    again = opened()
    assert np.array_equal(again.mask, file.mask)
    for index in (0, 1):
        assert np.array_equal(again[index].ksp, before[index].ksp)
        assert np.array_equal(again.read_ksp(index), before[index].ksp[0])
    assert not np.array_equal(again.full[0].ksp, knee_ksp[:1])  # the file did change


def test_oversampling_cannot_be_removed_under_a_2d_mask(knee):
    file = Undersampled(open_scan(knee), MaskSpec("poisson", 3.0, 8), seed=0)
    assert file.readout_oversampling == 1


def test_an_undersampled_file_is_refused(knee_test):
    file = open_scan(knee_test)
    with pytest.raises(ConfigError) as caught:
        Undersampled(file, SPEC, seed=0)
    assert f"R = {file.acceleration:.2f}" in str(caught.value)
