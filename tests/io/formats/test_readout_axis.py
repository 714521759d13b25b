"""Readouts of 3-D arrays that are no k-space, or end beside k = 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from array_files import phantom_ksp
from codes import warns

from mri_ambient.errors import ScanFormatError, collected
from mri_ambient.io import open_scan
from mri_ambient.physics.axis_fourier import fftc, ifftc
from mri_ambient.rng import complex_normal, rng_for

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

NY = 48


@pytest.fixture(scope="module")
def volume():
    """3-D k-space ``(z, coil, y, x)``."""
    return fftc(torch.from_numpy(phantom_ksp((8, 3, NY, 40))), dim=0).numpy()


def falling():
    """Random 3-D k-space ``(z, coil, y, x)`` whose energy falls with the distance from k = 0."""
    z, y, x = np.ogrid[-12:12, -NY // 2 : NY // 2, -20:20]
    size = 1 / (1 + z**2 + y**2 + x**2)
    values = complex_normal((24, 3, NY, 40), rng_for(0, "falling")).numpy()
    return (values * size[:, None]).astype(np.complex64)


def open_3d(tmp_path, ksp, axes="z,coil,y,x"):
    np.save(tmp_path / f"{axes}.npy", ksp)
    return open_scan(tmp_path / f"{axes}.npy", axes=axes)


def test_images_along_the_readout_are_warned_of_with_the_names_to_give(volume, tmp_path):
    """So is k-space of an object that is thin along it; wherever the strongest partition is."""
    done = ifftc(torch.from_numpy(volume), dim=-2).numpy()
    for ksp in (done, np.roll(done, 4, axis=0), np.fft.ifftshift(done, axes=0)):
        with collected() as given:
            open_3d(tmp_path, ksp).read_ksp(0)
        (warning,) = [one for one in given if one.code == "W-EVEN-PARTITIONS"]
        assert "y,coil,slice,x" in warning.text
    named, right = open_3d(tmp_path, done, "y,coil,slice,x"), open_3d(tmp_path, volume)
    for index in (0, NY // 2):
        expected = right.read_ksp(index)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(named.read_ksp(index), expected, rtol=0, atol=atol)


def test_empty_partitions_do_not_matter(volume, tmp_path):
    ksp = volume.copy()
    ksp[4] = 0
    assert open_3d(tmp_path, ksp).read_ksp(0).shape == (3, 8, 40)


@pytest.mark.parametrize(("first", "last"), [(NY // 4, NY), (0, 3 * NY // 4)])
def test_an_echo_stored_without_its_zeros_is_refused_with_their_number(first, last, tmp_path):
    ksp = falling()
    short = ksp[:, :, first:last]
    with pytest.raises(ScanFormatError, match=r"zeros (before|behind)") as error:
        open_3d(tmp_path, short).read_ksp(0)
    n_zeros = int(str(error.value).split("add ")[1].split()[0])
    place = (n_zeros, 0) if first else (0, n_zeros)
    padded = np.pad(short, ((0, 0), (0, 0), place, (0, 0)))
    assert np.abs(padded).sum(axis=(0, 1, 3)).argmax() == padded.shape[2] // 2
    with warns("W-NO-HEADER", "W-PARTIAL-READOUT"):
        assert len(open_3d(tmp_path, padded)[:].ksp) == padded.shape[2]


def test_where_samples_do_not_show_it_a_short_echo_is_warned_of(volume, tmp_path):
    """Of noise alone where the other side would show it."""
    with warns("W-NO-HEADER", "W-PARTIAL-READOUT"):
        open_3d(tmp_path, volume[:, :, NY // 4 :]).read_ksp(0)


@pytest.mark.parametrize("shift", [0, 2, -2])
def test_whole_readouts_are_taken_as_they_are(shift, volume, tmp_path):
    with warns("W-NO-HEADER"):
        open_3d(tmp_path, np.roll(volume, shift, axis=2)).read_ksp(0)
