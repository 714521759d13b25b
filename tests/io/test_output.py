"""Reconstructions as files, and files that appear completely or not at all."""

from __future__ import annotations

import resource

import h5py
import numpy as np
import pytest
import torch

from mri_ambient import __version__
from mri_ambient.errors import MriAmbientError
from mri_ambient.io import WRITERS, ReconstructionWriter
from mri_ambient.rng import complex_normal


def test_a_reconstruction_is_magnitude_std_and_complex_image(tmp_path, rng):
    img, std = complex_normal((2, 6, 5), rng), torch.rand((2, 6, 5), generator=rng)
    path = tmp_path / "recon" / "scan.h5"
    facts = {"method": "aos", "acceleration": 4.0, "voxel_mm": (1.0, 1.0, 3.0), "prior": None}
    with WRITERS["h5"](path, 2, (6, 5), attributes=facts, with_std=True) as out:
        for index in (1, 0):
            out.write(index, img[index], std[index])
    with h5py.File(path) as file:
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(file["reconstruction"], img.abs().numpy())
        np.testing.assert_array_equal(file["reconstruction_std"], std.numpy())
        np.testing.assert_array_equal(file["reconstruction_complex"], img.numpy())
        assert file["reconstruction_complex"].dtype == np.complex64
        attrs = dict(file.attrs)
    assert attrs.pop("voxel_mm").tolist() == [1, 1, 3]
    assert attrs == {
        "method": "aos",
        "acceleration": 4.0,
        "mri_ambient_format": "reconstruction/1",
        "mri_ambient_version": __version__,
    }


@pytest.mark.parametrize(
    ("index", "img", "std", "message"),
    [
        (2, torch.ones(2, 2) + 0j, torch.ones(2, 2), "out of range"),
        (0, torch.ones(2, 2) + 0j, torch.ones(2, 2), "written before"),
        (1, torch.ones(2, 3) + 0j, torch.ones(2, 3), r"is \(2, 3\), wanted \(2, 2\)"),
        (1, torch.ones(2, 2) + 0j, None, "reconstruction_std is None"),
        (1, torch.ones(2, 2), torch.ones(2, 2), "reconstruction_complex is None"),
    ],
)
def test_slices_that_do_not_fit(tmp_path, index, img, std, message):
    path = tmp_path / "scan.h5"
    with (
        pytest.raises(ValueError, match=message),
        ReconstructionWriter(path, 2, (2, 2), attributes={}, with_std=True) as out,
    ):
        out.write(0, torch.ones(2, 2) + 0j, torch.ones(2, 2))
        out.write(index, img, std)
    assert not path.exists()


def test_slices_that_are_missing(tmp_path):
    with (
        pytest.raises(ValueError, match=r"slices \[1\] were never written"),
        ReconstructionWriter(tmp_path / "a.h5", 2, (2, 2), attributes={}) as out,
    ):
        out.write(0, torch.ones(2, 2) + 0j)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "scan.h5"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            pytest.raises(MriAmbientError, match=r"scan\.h5: cannot be written \(File too large\)"),
            ReconstructionWriter(path, 4, (64, 64), attributes={}) as out,
        ):
            for index in range(4):
                out.write(index, torch.ones(64, 64) + 0j)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused_at_once(tmp_path):
    with (
        pytest.raises(MriAmbientError, match=r"needs .* GB, but only .* GB are free"),
        ReconstructionWriter(tmp_path / "a.h5", 10**6, (4096, 4096), attributes={}),
    ):
        pass
