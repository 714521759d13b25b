"""Reconstructions and samples as files."""

from __future__ import annotations

import errno
import os
import resource

import h5py
import numpy as np
import pytest
import torch

from mri_ambient import __version__
from mri_ambient.errors import MriAmbientError, ScanFormatError
from mri_ambient.io import ReconstructionWriter
from mri_ambient.io.outputs.reconstruction import describe_output, read_samples, write_samples
from mri_ambient.rng import complex_normal


def test_a_reconstruction_is_magnitude_std_and_complex_image(tmp_path, rng):
    img, std = complex_normal((2, 6, 5), rng), torch.rand((2, 6, 5), generator=rng)
    path = tmp_path / "recon" / "scan.h5"
    facts = {"method": "aos", "acceleration": 4.0, "voxel_mm": (1.0, 1.0, 3.0), "prior": None}
    with ReconstructionWriter(path, 2, (6, 5), attributes=facts, with_std=True) as out:
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
    ("index", "img", "std", "n_samples", "facts"),
    [
        (2, torch.ones(2, 2) + 0j, torch.ones(2, 2), 3, ["(2,)"]),
        (0, torch.ones(2, 2) + 0j, torch.ones(2, 2), 3, ["(0,)"]),
        (1, torch.ones(2, 3) + 0j, torch.ones(2, 3), 3, ["(2, 3)", "(2, 2)"]),
        (1, torch.ones(2, 2) + 0j, None, 3, ["reconstruction_std", "None"]),
        (1, torch.ones(2, 2), torch.ones(2, 2), 3, ["reconstruction_complex", "None"]),
        (1, torch.ones(2, 2) + 0j, torch.ones(2, 2), 2, ["(2, 2, 2)", "(3, 2, 2)"]),
    ],
)
def test_slices_that_do_not_fit(tmp_path, index, img, std, n_samples, facts):
    path = tmp_path / "scan.h5"
    samples = torch.ones(3, 2, 2) + 0j
    with (
        pytest.raises(ValueError) as caught,
        ReconstructionWriter(path, 2, (2, 2), attributes={}, with_std=True, n_samples=3) as out,
    ):
        out.write(0, torch.ones(2, 2) + 0j, torch.ones(2, 2), samples)
        out.write(index, img, std, samples[:n_samples])
    assert all(fact in str(caught.value) for fact in facts)
    assert not path.exists()


def test_slices_that_are_missing(tmp_path):
    with (
        pytest.raises(ValueError, match=r"\[1\]"),
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
            pytest.raises(MriAmbientError) as caught,
            ReconstructionWriter(path, 4, (64, 64), attributes={}) as out,
        ):
            for index in range(4):
                out.write(index, torch.ones(64, 64) + 0j)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused_at_once(tmp_path):
    with (
        pytest.raises(MriAmbientError) as caught,
        ReconstructionWriter(tmp_path / "a.h5", 10**6, (4096, 4096), attributes={}),
    ):
        pass
    assert "67108.86 GB" in str(caught.value)  # of float32


def test_samples_read_back(tmp_path, rng):
    images, path = complex_normal((3, 6, 5), rng), tmp_path / "samples.h5"
    write_samples(path, images, {"seed": 7, "prior_sha256": None})
    for index in range(3):
        assert np.array_equal(read_samples(path, index), images[index])
    with pytest.raises(ScanFormatError) as caught:
        read_samples(path, 3)
    assert "(3, 6, 5)" in str(caught.value)
    assert describe_output(path) == {
        "mri_ambient_format": "samples/1",
        "mri_ambient_version": __version__,
        "seed": 7,
        "images": {"samples": [3, 6, 5]},
    }


def test_an_output_is_described_by_its_attributes(tmp_path, write_scan):
    path = tmp_path / "recon" / "scan.h5"
    settings = {"method": {"name": "dds"}}
    with ReconstructionWriter(path, 1, (2, 2), attributes={"settings": settings}) as out:
        out.write(0, torch.ones(2, 2) + 0j)
    assert describe_output(path) == {
        "mri_ambient_format": "reconstruction/1",
        "mri_ambient_version": __version__,
        "settings": settings,
        "images": {"reconstruction": [1, 2, 2], "reconstruction_complex": [1, 2, 2]},
    }
    with h5py.File(path, "a") as file:
        file.attrs["settings"] = "{damaged"
    with pytest.raises(ScanFormatError):
        describe_output(path)
    assert describe_output(write_scan(kspace=np.ones(3))) is None
