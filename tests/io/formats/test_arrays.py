"""Scans in memory are read as files with the same content are."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from array_files import phantom_ksp
from codes import warns
from helpers import random_maps

from mri_ambient.errors import ArrayError, ConfigError, ScanFormatError
from mri_ambient.io import ArrayFile, Undersampled, open_scan
from mri_ambient.physics.axis_fourier import fftc
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Scan


def assert_same(got: Scan, want: Scan, *, but: tuple[str, ...] = ()) -> None:
    for field in fields(Scan):
        a, b = getattr(got, field.name), getattr(want, field.name)
        same = torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
        assert same or field.name in but, f"{field.name}: {a} != {b}"


@pytest.fixture
def prepared(rng) -> Scan:
    """Two slices of a prepared volume, the third and the fourth."""
    shape = (2, 3, 12, 10)
    mask = torch.arange(10).ge(2).expand(1, 12, 10).clone()
    return Scan(
        ksp=complex_normal(shape, rng) * mask, mask=mask, scan_id="head", slices=(2, 3),
        recon_shape=(8, 10), acquired=mask[0, 0], noise_std=0.02, noise_source="noise scan",
        maps=random_maps(shape, rng), scale=3.5e-5, coil_transform=complex_normal((4, 4), rng),
        voxel_mm=(0.7, 0.8, 4.5), steps=("read", "whiten", "normalise"),
    )  # fmt: skip


@pytest.mark.parametrize("stray", [False, True])
@pytest.mark.parametrize("kind", ["full", "lines", "2-D"])
def test_an_array_is_read_as_a_file_without_header_is(kind, stray, write_scan, knee_ksp, rng):
    if kind != "full":  # where the columns at the edges, which are never acquired, are zero too
        drawn = torch.rand((64, 46) if kind == "2-D" else 46, generator=rng) < 0.4
        knee_ksp *= drawn
    if stray:
        knee_ksp[..., 20, 23] = 0
    with warns("W-NO-HEADER"):
        file = open_scan(write_scan("array.h5", kspace=knee_ksp))
    array = ArrayFile(Scan.from_numpy(knee_ksp.numpy()))
    assert (array.shape, array.recon_shape) == (file.shape, file.recon_shape)
    assert (array.acceleration, array.fully_sampled) == (file.acceleration, file.fully_sampled)
    assert np.array_equal(array.acquired, file.acquired)
    assert len(array) == len(file) == 2
    for got, want in zip(array, file, strict=True):
        assert_same(got, want)
    assert_same(array[:], file[:])


def test_a_mask_says_what_was_sampled(knee_ksp, knee_lines):
    array = ArrayFile(Scan.from_numpy(knee_ksp.numpy(), knee_lines.numpy()))
    with warns("W-MASK-ZEROS"):
        mask = array.mask
    # Of the mask's columns 2 hold only zeros, at the edges, and without a header they count.
    assert np.array_equal(mask[0], (knee_lines & knee_ksp[0, 0, 0].ne(0)).expand(64, 46))
    assert array.acceleration == pytest.approx(46 / int(mask[0, 0].sum()))


def test_a_mask_of_other_data_is_refused(knee_ksp, knee_lines):
    ksp = (knee_ksp * ~knee_lines).numpy()
    ksp[..., 21] = 1  # or from_numpy would have nothing left
    with pytest.raises(ScanFormatError):
        ArrayFile(Scan.from_numpy(ksp, knee_lines.numpy()))[0]


def test_facts_come_from_the_scan(small_ksp):
    noise = small_ksp[0].flatten(1)
    scan = Scan.from_numpy(
        small_ksp.numpy(), scan_id="head.v1", voxel_mm=(1, 1, 3), noise=noise.numpy()
    )
    file = ArrayFile(scan)
    assert (file.format, file.path.name, file.scan_id) == ("array", "head.v1.h5", "head.v1")
    assert (file.voxel_mm, file.header_xml, file.attributes) == ((1, 1, 3), None, {})
    assert np.array_equal(file.noise, noise)
    assert np.array_equal(file[1].noise, noise)
    assert not file.prepared
    assert file.read_target("reconstruction_rss") is None


def test_sha256_is_of_the_bytes(small_ksp):
    scan = Scan.from_numpy(small_ksp.numpy())
    content = small_ksp.numpy().tobytes() + bytes([1] * 120)
    want = hashlib.sha256(content).hexdigest()
    assert ArrayFile(scan).sha256 == ArrayFile(scan).source_sha256 == want
    noise = np.ones((3, 9), np.complex64)
    with_noise = Scan.from_numpy(small_ksp.numpy(), noise=noise)
    want = hashlib.sha256(content + noise.tobytes()).hexdigest()
    assert ArrayFile(with_noise).sha256 == want


def test_a_slice_can_be_changed_without_changing_the_scan(small_ksp):
    file = ArrayFile(Scan.from_numpy(small_ksp.numpy()))
    file.read_ksp(0)[:] = 0
    file[0].ksp.zero_()
    assert np.array_equal(file[:].ksp, small_ksp)


def test_a_prepared_scan_is_handed_through_slice_by_slice(prepared):
    file = ArrayFile(prepared)
    assert file.prepared
    assert_same(file[:], prepared, but=("slices",))
    assert file[:].slices == (0, 1)
    for index, scan in enumerate(file):
        one = {"ksp": prepared.ksp[index : index + 1], "maps": prepared.maps[index : index + 1]}
        assert_same(scan, replace(prepared, slices=(index,), **one))
    assert (file.noise_std, file.noise_source, file.scale) == (0.02, "noise scan", 3.5e-5)
    assert file.calib_shape == (12, 7)  # columns 2 to 8, 3 on each side of the centre
    assert file.acceleration == 1
    whole = replace(prepared, acquired=None)
    assert ArrayFile(whole).acceleration == pytest.approx(10 / 8)


def test_a_retrospective_mask_needs_a_raw_scan(prepared, small_ksp):
    spec = MaskSpec("random", 2, 4)
    with pytest.raises(ConfigError):
        Undersampled(ArrayFile(prepared), spec, seed=0)
    full = ArrayFile(Scan.from_numpy(small_ksp.numpy()))
    file = Undersampled(full, spec, seed=0)
    assert np.array_equal(file[:].ksp, small_ksp.numpy() * file.mask)
    assert (file.sha256, file.format) == (full.sha256, "array")


@pytest.mark.parametrize(
    "changes", [{"maps": None}, {"noise_std": None}, {"maps": None, "noise_std": None}]
)
def test_a_scan_between_raw_and_prepared_is_refused(prepared, changes):
    with pytest.raises(ArrayError, match="whiten"):
        ArrayFile(replace(prepared, **changes))


def test_nan_is_refused(prepared):
    ksp = prepared.ksp.clone()
    ksp[1, 0, 3, 4] = float("nan")
    with pytest.raises(ScanFormatError) as caught:
        ArrayFile(replace(prepared, ksp=ksp))
    assert "1 of 720" in str(caught.value)


def in_other_order(order: str) -> np.ndarray:
    ksp = phantom_ksp((9, 4, 40, 36))
    if order == "z":
        return fftc(torch.from_numpy(ksp), -4).numpy()
    if order == "coil":
        return ksp.swapaxes(0, 1)
    return np.moveaxis(ksp, 1, -1)


@pytest.mark.parametrize("order", ["coil", "last", "z"])
def test_other_axes_than_slice_coil_y_x_are_refused(order):
    scan = Scan.from_numpy(in_other_order(order))
    with pytest.raises(ArrayError) as caught:
        ArrayFile(scan).check_axes()
    assert "--axes" not in str(caught.value)


def test_the_right_axes_and_prepared_scans_are_not_refused(prepared):
    ArrayFile(Scan.from_numpy(phantom_ksp())).check_axes()
    ArrayFile(Scan.from_numpy(phantom_ksp()[0])).check_axes()
    few = prepared.ksp.shape[1]
    assert few <= 10
    many = {"ksp": prepared.ksp.repeat(1, 9, 1, 1), "maps": prepared.maps.repeat(1, 9, 1, 1)}
    ArrayFile(replace(prepared, **many)).check_axes()
