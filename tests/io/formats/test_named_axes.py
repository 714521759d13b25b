"""Axes of arrays: named by the user, and guessed where only one reading is plausible."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np
import pytest
from array_files import SHAPE, phantom_ksp
from codes import warns

from mri_ambient.errors import WRONG_SAMPLES, ConfigError, ScanFormatError
from mri_ambient.io import find_scans, open_scan
from mri_ambient.io.formats.axes_guess import (
    LIKE_COILS,
    UNLIKE_COILS,
    coil_contrast,
    is_phase_encode,
    plausible_axes,
)
from mri_ambient.io.formats.named_axes import NamedArray, parse_axes
from mri_ambient.io.formats.stored_arrays import StoredArray

KSP = phantom_ksp()
SLICE, COIL = KSP[2], KSP[:, 1]


def stored(values: np.ndarray) -> StoredArray:
    return StoredArray(Path("scan"), "", values.shape, lambda: nullcontext(values))


def readings(values: np.ndarray) -> list[str]:
    return [",".join(axes) for axes in plausible_axes(stored(values))]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_named_axes_may_be_in_any_order(order):
    axes = [("slice", "coil", "y", "x")[axis] for axis in order]
    ksp = NamedArray(stored(KSP.transpose(order)), tuple(axes))
    assert ksp.shape == SHAPE
    assert ksp.volumes == ("",)
    np.testing.assert_array_equal(ksp.read(3), KSP[3])


def test_axes_of_volumes_become_volumes():
    values = np.stack(
        [np.stack([KSP, 2 * KSP]), np.stack([3 * KSP, 4 * KSP]), np.zeros((2, *SHAPE))]
    )
    ksp = NamedArray(stored(values), parse_axes("repetition,echo,slice,coil,y,x"))
    assert ksp.volumes == ("con-1_rep-1", "con-1_rep-2", "con-1_rep-3", "con-2_rep-1",
                           "con-2_rep-2", "con-2_rep-3")  # fmt: skip
    np.testing.assert_array_equal(ksp.read(1, "con-2_rep-1"), 2 * KSP[1])
    np.testing.assert_array_equal(ksp.read(1, "con-1_rep-2"), 3 * KSP[1])


def test_averages_are_averaged_where_they_were_measured():
    second = 3 * SLICE
    second[:, :, ::2] = 0
    ksp = NamedArray(stored(np.stack([SLICE, second])), ("avg", "coil", "y", "x"))
    want = 2 * SLICE
    want[:, :, ::2] = SLICE[:, :, ::2]
    np.testing.assert_allclose(ksp.read(0), want, rtol=1e-6)


@pytest.mark.parametrize("axes", ["slice,coil,y", "y,x,y", "y,x,kz", "", "coil"])
def test_axes_that_mean_nothing(axes):
    with pytest.raises(ConfigError):
        parse_axes(axes)


@pytest.mark.parametrize("axes", ["coil,y,x", "1,slice,coil,y,x", "1,coil,y,x"])
def test_axes_that_do_not_fit_the_array(axes):
    with pytest.raises(ScanFormatError):
        NamedArray(stored(KSP), parse_axes(axes))


def test_coils_and_slices_are_told_apart():
    inner = KSP[..., 16:40, 12:36]
    assert all(coil_contrast(part)[0] > 1.3 * LIKE_COILS for part in inner)
    assert all(coil_contrast(inner[:, coil])[0] < 0.9 * UNLIKE_COILS for coil in range(4))


@pytest.mark.parametrize(
    ("values", "axes"),
    [
        (KSP, "slice,coil,y,x"),
        (KSP.transpose(1, 0, 2, 3), "coil,slice,y,x"),
        (KSP.transpose(2, 3, 1, 0), "y,x,coil,slice"),
        (KSP.transpose(0, 2, 3, 1), "slice,y,x,coil"),
        (SLICE, "coil,y,x"),
        (COIL, "slice,y,x"),
        (SLICE.transpose(1, 2, 0), "y,x,coil"),
        (SLICE[0], "y,x"),
        (SLICE[None], "1,coil,y,x"),
        (SLICE * (np.arange(48) % 3 == 0), "coil,y,x"),
        (np.stack([SLICE * ((np.arange(48) + n) % 3 < 1) for n in range(4)]), "time,coil,y,x"),
        (SLICE.transpose(0, 2, 1) * (np.arange(48) % 3 == 0)[:, None], "coil,x,y"),
    ],
)
def test_one_plausible_reading(values, axes):
    assert readings(values) == [axes]


def test_frames_of_one_slice_could_be_slices_and_are_refused_with_both_readings(tmp_path):
    frames = SLICE[0] * np.array([1, 0.9, 1.1])[:, None, None]
    np.save(tmp_path / "scan.npy", frames.astype(np.complex64))
    with pytest.raises(ScanFormatError) as caught:
        open_scan(tmp_path / "scan.npy")
    assert readings(frames) == ["slice,y,x", "rep,y,x"]
    assert all(axes in str(caught.value) for axes in readings(frames))


def test_a_second_phase_encode_is_recognised():
    volume = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(phantom_ksp((24, 4, 56, 48)), axes=0),
                                        axis=0), axes=0).astype(np.complex64)  # fmt: skip
    assert readings(volume) == ["z,coil,y,x"]


def test_slices_called_partitions_are_not_scored(tmp_path):
    np.save(tmp_path / "scan.npy", phantom_ksp((24, 4, 56, 48)))
    with warns("W-EVEN-PARTITIONS", "W-NO-HEADER"):
        file = open_scan(tmp_path / "scan.npy", axes="z,coil,y,x")
    assert WRONG_SAMPLES & {warning.code for warning in file.warnings}


def test_images_and_noise_are_no_k_space():
    images = np.fft.fftshift(np.fft.ifft2(SLICE)).astype(np.complex64)
    assert readings(images) == []
    assert readings(np.random.default_rng(0).normal(size=SHAPE).astype(np.complex64)) == []


def test_a_guess_warns_and_given_axes_do_not(tmp_path):
    np.save(tmp_path / "scan.npy", SLICE)
    with warns("W-AXES-GUESSED", "W-NO-HEADER"):
        guessed = open_scan(tmp_path / "scan.npy")
    with warns("W-NO-HEADER"):
        given = open_scan(tmp_path / "scan.npy", axes="coil,y,x")
    assert np.array_equal(guessed.read_ksp(0), given.read_ksp(0))


def test_volumes_of_an_array_are_cases(tmp_path):
    np.save(tmp_path / "scan.npy", np.stack([KSP, 2 * KSP]))
    scans = find_scans([tmp_path / "scan.npy"], axes="time,slice,coil,y,x")
    assert [scan.stem for scan in scans] == ["scan_time-1", "scan_time-2"]
    with warns("W-NO-HEADER"):
        file = scans[1].open()
    assert (file.shape, file.scan_id) == (SHAPE, "scan_time-2")
    np.testing.assert_array_equal(file.read_ksp(4), 2 * KSP[4])


def fastmri_layout(path: Path, values: np.ndarray, **others: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = values
        for name, value in others.items():
            file[name] = value
    return path


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_coils_before_slices_are_refused_in_the_fastmri_layout(tmp_path):
    swapped = fastmri_layout(tmp_path / "a.h5", KSP.transpose(1, 0, 2, 3))
    with pytest.raises(ScanFormatError, match="--axes coil,slice,y,x"):
        open_scan(swapped)
    assert open_scan(swapped, axes="coil,slice,y,x").shape == SHAPE
    assert open_scan(swapped, axes="slice,coil,y,x").shape == (4, 5, 56, 48)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_coils_of_one_slice_are_not_taken_for_slices(tmp_path):
    path = fastmri_layout(tmp_path / "a.h5", KSP[:1].transpose(1, 0, 2, 3))
    with pytest.raises(ScanFormatError, match="--axes coil,slice,y,x"):
        open_scan(path)
    assert open_scan(path, axes="coil,slice,y,x").shape == (1, *SHAPE[1:])


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_few_partitions_are_not_taken_for_slices(tmp_path):
    across = partitions(KSP * np.float32([0.3, 0.8, 1, 0.8, 0.3])[:, None, None, None])
    moved = np.roll(across, 1, axis=0), np.fft.ifftshift(across, axes=(0, 2, 3))
    for k, encoded in enumerate((across, *moved)):
        path = fastmri_layout(tmp_path / f"{k}.h5", encoded)
        with pytest.raises(ScanFormatError, match="--axes z,coil,y,x"):
            open_scan(path)


def partitions(slices: np.ndarray) -> np.ndarray:
    """K-space of a 3-D scan, whose slices these are."""
    across = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(slices, axes=0), axis=0), axes=0)
    return across.astype(np.complex64)


def test_virtual_coils_are_not_taken_for_partitions():
    """Coils compressed by their SVD, the strongest of which holds most of the energy."""
    coils = np.stack([KSP[2, c] for c in range(KSP.shape[1])])
    u = np.linalg.svd(coils.reshape(len(coils), -1), full_matrices=False)[0]
    virtual = np.einsum("cv,cyx->vyx", u.conj(), coils).astype(np.complex64)
    array = StoredArray(Path("scan"), "ksp", virtual.shape, partial(nullcontext, virtual))
    assert ("coil", "y", "x") in plausible_axes(array)


@pytest.mark.parametrize("n", [3, 4])
def test_three_or_four_entries_that_may_be_partitions_are_warned_of(n, tmp_path):
    path = fastmri_layout(tmp_path / "a.h5", partitions(KSP[:n]))
    with warns("W-NO-HEADER", "W-UNEVEN-SLICES"):
        open_scan(path)


@pytest.mark.parametrize(
    ("energies", "found"),
    [
        ([0.1, 0.5, 1.0, 0.3, 0.1, 0.05], True),
        ([1.0, 0.5, 0.05, 0.02, 0.1, 0.3], True),  # k = 0 at the first index
        ([0.02, 0.05, 0.3, 1.0], None),
        ([0.1, 0.05, 1.0, 0.1, 0.4, 0.1], None),
        ([1.0, 0.2, 0.05, 0.01, 0.0, 0.0], None),  # slices that darken away from a coil
        ([0.0, 1.0, 0.0, 0.0, 0.0], None),
        ([0.0, 0.0, 1.0, 0.0, 0.0], True),
        ([0.4, 0.9, 1.0, 0.9, 0.5, 0.2], False),
        ([0.0, 0.0, 0.7, 1.0, 0.8, 0.0], False),  # slices of air around three of an object
        ([0.5, 1.0, 0.5], False),
        ([1.0, 0.1], False),
        ([0.0, 0.0, 0.0], False),
    ],
)
def test_energies_tell_partitions_from_slices(energies, found):
    assert is_phase_encode(np.array(energies)) is found


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_reference_image_tells_which_axis_is_of_slices(tmp_path):
    rss = np.ones((4, 56, 48), np.float32)
    path = fastmri_layout(tmp_path / "a.h5", KSP.transpose(1, 0, 2, 3), reconstruction_rss=rss)
    assert open_scan(path).shape == (4, 5, 56, 48)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize("n_coils", [1, 2, 4])
@pytest.mark.parametrize("n_slices", [1, 2, 5])
@pytest.mark.parametrize("kind", ["head", "undersampled", "noisy", "phantom"])
def test_slices_before_coils_are_never_refused(kind, n_slices, n_coils, tmp_path):
    """Also of an object that is the same in all slices, as phantoms are."""
    values = KSP[:n_slices, :n_coils].copy()
    if kind == "undersampled":
        values[..., np.r_[1:20:4, 2:20:4, 3:20:4, 28:48:4, 29:48:4, 30:48:4]] = 0
    if kind == "noisy":
        noise = np.random.default_rng(0).standard_normal((*values.shape, 2))
        values = (
            values
            + 0.02 * np.abs(values).max() * noise.astype(np.float32).view(np.complex64)[..., 0]
        )
    if kind == "phantom":
        gain = np.linspace(1, 2, n_slices, dtype=np.float32)[:, None, None, None]
        values = values[:1] * gain
    assert open_scan(fastmri_layout(tmp_path / "a.h5", values)).shape == values.shape
