"""A Scan cannot be inconsistent, and cannot be changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mri_ambient.errors import ArrayError, MriAmbientError, ScanFormatError
from mri_ambient.scan import Scan


def make_scan(**changes) -> Scan:
    lines = torch.tensor([True, False, True, True, False, True])
    mask = lines.expand(1, 4, 6).clone()
    ksp = torch.ones(2, 3, 4, 6, dtype=torch.complex64) * mask
    fields = {"ksp": ksp, "mask": mask, "scan_id": "s", "slices": (0, 1), "recon_shape": (4, 6)}
    return Scan(**fields | changes)


def test_facts_are_read_off_the_data():
    scan = make_scan()
    assert (scan.n_coils, scan.shape) == (3, (4, 6))
    assert scan.acceleration == pytest.approx(6 / 4)


def test_never_acquired_columns_do_not_count():
    acquired = torch.tensor([True, True, True, True, False, True])
    assert make_scan(acquired=acquired).acceleration == pytest.approx(5 / 4)


def test_a_step_gives_a_new_scan_and_is_written_down():
    scan = make_scan()
    scaled = scan.with_step("scale", ksp=scan.ksp / 2, scale=2.0).with_step("look")
    assert scaled.steps == ("scale", "look")
    assert (scan.steps, scan.scale) == ((), 1.0)
    assert torch.equal(scaled.ksp * 2, scan.ksp)


def test_a_scan_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_scan().scale = 2.0


@pytest.mark.parametrize("value", [1.0, 1e-30, float("nan"), float("inf")])
def test_nothing_may_hide_where_nothing_was_sampled(value):
    ksp = make_scan().ksp.clone()
    ksp[1, 2, 3, 4] = value
    with pytest.raises(ValueError):
        make_scan(ksp=ksp)


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"ksp": torch.zeros(2, 3, 4, 6)}, ["torch.float32"]),
        ({"ksp": torch.zeros(3, 4, 6) + 0j}, ["(3, 4, 6)"]),
        ({"mask": torch.ones(1, 4, 5) > 0}, ["(1, 4, 6)", "(1, 4, 5)"]),
        ({"mask": torch.ones(1, 4, 6)}, ["torch.float32"]),
        ({"slices": (0,)}, ["1", "2"]),
        ({"maps": torch.zeros(2, 2, 4, 6) + 0j}, ["(2, 2, 4, 6)", "(2, 3, 4, 6)"]),
    ],
)
def test_what_does_not_fit_is_refused(changes, values):
    with pytest.raises(ValueError) as caught:
        make_scan(**changes)
    (name,) = changes
    assert all(value in str(caught.value) for value in (name.rstrip("s"), *values))


def array(*shape: int) -> np.ndarray:
    """K-space without zeros."""
    return (np.arange(1, 1 + np.prod(shape)) * (1 + 2j)).reshape(shape)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, ">c8", np.clongdouble])
def test_a_scan_from_an_array(dtype):
    ksp = array(2, 3, 4, 6).astype(dtype)
    scan = Scan.from_numpy(ksp)
    assert scan.ksp.dtype == torch.complex64
    np.testing.assert_array_equal(scan.ksp.numpy(), ksp.astype(np.complex64))
    assert scan.mask.shape == (1, 4, 6)
    assert scan.mask.all()
    assert (scan.scan_id, scan.slices, scan.recon_shape) == ("array", (0, 1), (4, 6))
    assert (scan.noise, scan.noise_std, scan.maps, scan.voxel_mm) == (None, None, None, None)
    assert (scan.scale, scan.steps) == (1.0, ("read",))


def test_an_array_of_one_slice_is_coil_y_x():
    ksp = array(3, 4, 6).astype(np.complex64)
    scan = Scan.from_numpy(ksp, scan_id="head", voxel_mm=(1.0, 1.0, 3.0))
    np.testing.assert_array_equal(scan.ksp.numpy(), ksp[None])
    assert (scan.scan_id, scan.slices, scan.voxel_mm) == ("head", (0,), (1.0, 1.0, 3.0))


def test_the_array_is_copied():
    ksp = array(1, 2, 4, 6).astype(np.complex64)
    scan = Scan.from_numpy(ksp, np.array([1, 0, 1, 1, 1, 0]))
    assert ksp.all()
    ksp[:] = 7
    assert scan.ksp[0, 0, 0].tolist() == [1 + 2j, 0, 3 + 6j, 4 + 8j, 5 + 10j, 0]


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_masks_are_lines_or_planes(dtype):
    ksp, lines = array(2, 3, 4, 6), np.array([1, 0, 1, 1, 0, 1])
    plane = np.tile(lines, (4, 1))
    plane[0] = 0
    for mask, want in ((lines, np.tile(lines, (4, 1))), (plane, plane)):
        scan = Scan.from_numpy(ksp, mask.astype(dtype))
        assert scan.mask[0].int().tolist() == want.tolist()
        np.testing.assert_array_equal(scan.ksp.numpy(), (ksp * want).astype(np.complex64))


def test_without_a_mask_positions_are_sampled_where_any_slice_and_coil_is_not_zero():
    ksp, plane = array(2, 3, 4, 6), np.zeros((4, 6), bool)
    plane[[0, 1, 3], [2, 5, 0]] = True
    ksp *= plane
    ksp[0, 0, 0, 2] = ksp[1, 2, 1, 5] = 0
    assert Scan.from_numpy(ksp).mask[0].tolist() == plane.tolist()


def test_a_stray_zero_does_not_break_a_line():
    lines = np.array([1, 0, 1, 1, 0, 1])
    ksp = array(2, 3, 12, 6) * lines
    ksp[..., 7, 2] = 0
    assert Scan.from_numpy(ksp).mask[0].int().tolist() == [lines.tolist()] * 12
    plane = np.tile(lines, (12, 1))
    plane[7, 2] = 0
    assert Scan.from_numpy(ksp, plane).mask[0].int().tolist() == plane.tolist()


def test_noise_samples_come_along():
    noise = array(3, 5).astype(np.complex64)
    assert torch.equal(Scan.from_numpy(array(3, 4, 6), noise=noise).noise, torch.tensor(noise))


NAN = array(2, 3, 4, 6)
NAN[1, 2, 3, 4] = np.nan


@pytest.mark.parametrize(
    ("arguments", "error", "fact"),
    [
        ({"ksp": array(4, 6)}, ArrayError, "(4, 6)"),
        ({"ksp": array(1, 2, 3, 4, 6)}, ArrayError, "(1, 2, 3, 4, 6)"),
        ({"ksp": array(2, 3, 0, 6)}, ArrayError, "(2, 3, 0, 6)"),
        ({"ksp": np.ones((3, 4, 6))}, ArrayError, "float64"),
        ({"ksp": "kspace"}, ArrayError, "<U6"),
        ({"ksp": NAN}, ScanFormatError, "1 of 144"),
        ({"ksp": array(3, 4, 6) * 1e200}, ScanFormatError, "72 of 72"),
        ({"ksp": 0 * array(3, 4, 6)}, ScanFormatError, "zeros"),
        ({"mask": np.zeros(6)}, ScanFormatError, "zeros"),
        ({"mask": np.ones(4)}, ArrayError, "(4,), wanted (6,) or (4, 6)"),
        ({"mask": np.ones((6, 4))}, ArrayError, "(6, 4)"),
        ({"mask": np.ones((2, 4, 6))}, ArrayError, "(2, 4, 6)"),
        ({"mask": np.full(6, 0.5)}, ArrayError, "0 and 1"),
        ({"mask": np.full(6, np.nan)}, ArrayError, "0 and 1"),
        ({"mask": list("110011")}, ArrayError, "0 and 1"),
        ({"noise": array(2, 9)}, ArrayError, "(2, 9), wanted (3, samples)"),
        ({"noise": array(3, 3)}, ArrayError, "(3, 3)"),
        ({"noise": array(9)}, ArrayError, "(9,)"),
        ({"noise": np.ones((3, 9))}, ArrayError, "float64"),
        ({"noise": array(3, 9) * np.inf}, ScanFormatError, "27 of 27"),
        ({"scan_id": "a/b"}, ArrayError, "'a/b'"),
        ({"scan_id": ""}, ArrayError, "''"),
        ({"voxel_mm": (1.0, 1.0)}, ArrayError, "(1.0, 1.0)"),
        ({"voxel_mm": (1.0, 0.0, 1.0)}, ArrayError, "(1.0, 0.0, 1.0)"),
        ({"voxel_mm": (1.0, 1.0, float("nan"))}, ArrayError, "nan"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments, error, fact):
    with pytest.raises(error) as caught, np.errstate(all="ignore"):
        Scan.from_numpy(**{"ksp": array(3, 4, 6)} | arguments)
    assert fact in str(caught.value)
    assert isinstance(caught.value, MriAmbientError)


def test_an_error_about_an_array_is_a_value_error_too():
    with pytest.raises(ValueError):
        Scan.from_numpy(array(4, 6))
