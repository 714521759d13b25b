"""3-D scans in ISMRMRD files: slices across the readout."""

from __future__ import annotations

from pathlib import Path

import ismrmrd
import numpy as np
import pytest
import torch
from memory_scan import head
from mrd_files import Line, document, encoding, write

from mri_ambient.errors import NumericalWarning, ScanFormatError
from mri_ambient.io import open_scan
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe

COILS, READOUT, STEP_1, STEP_2 = 3, 12, 10, 8

FULL = np.ones((STEP_1, STEP_2), bool)


def header(extra: str = "", centers: tuple[int, int] = (5, 4), oversampling: int = 1) -> str:
    sizes, mm = (READOUT, STEP_1, STEP_2), (120.0 * oversampling, 100.0, 160.0)
    final = (READOUT // oversampling, STEP_1, STEP_2)
    limits = {
        "kspace_encoding_step_1": (STEP_1 - 1, centers[0]),
        "kspace_encoding_step_2": (STEP_2 - 1, centers[1]),
    }
    return document(encoding(sizes, final, mm, (120.0, 100.0, 160.0), limits, extra))


@pytest.fixture
def ksp() -> np.ndarray:
    """``(coil, readout, step 1, step 2)``."""
    rng = np.random.default_rng(0)
    shape = (COILS, READOUT, STEP_1, STEP_2)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def lines_of(ksp: np.ndarray, sampled: np.ndarray = FULL, **changes: object) -> list[Line]:
    """In a random order."""
    places = np.random.default_rng(1).permutation(np.argwhere(sampled))
    counters = changes.pop("counters", {})
    return [
        Line(ksp[:, :, i, j], int(i), counters={"kspace_encode_step_2": int(j), **counters},
             **changes)
        for i, j in places
    ]  # fmt: skip


def hybrid(ksp: np.ndarray, n_slices: int = READOUT) -> np.ndarray:
    """By numpy: ``(slice, coil, step 2, step 1)``."""
    shifted = np.fft.ifft(np.fft.ifftshift(ksp, axes=1), axis=1, norm="ortho")
    first = READOUT // 2 - n_slices // 2
    middle = np.fft.fftshift(shifted, axes=1)[:, first : first + n_slices]
    return middle.transpose(1, 0, 3, 2)


def assert_slices(path: Path, wanted: np.ndarray, **given: str) -> None:
    file = open_scan(path, **given)
    assert file.shape == wanted.shape
    found = np.stack([file.read_ksp(i) for i in range(len(file))])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_slices_lie_across_the_readout(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", lines_of(ksp), header())
    assert_slices(path, hybrid(ksp))
    file = open_scan(path)
    assert file.fully_sampled and file.voxel_mm == (20, 10, 10) and file.geometry is not None


def test_readout_oversampling_is_cut_off(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", lines_of(ksp), header(oversampling=2))
    assert_slices(path, hybrid(ksp, READOUT // 2))
    assert open_scan(path).readout_oversampling == 1


def test_masks_may_be_2d(ksp, tmp_path):
    sampled = np.random.default_rng(2).random((STEP_1, STEP_2)) < 0.6
    sampled[3:8, 2:7] = True
    path = write(tmp_path / "scan.h5", lines_of(ksp, sampled), header())
    assert_slices(path, hybrid(ksp) * sampled.T)
    file = open_scan(path)
    np.testing.assert_array_equal(file.mask[0], sampled.T)
    assert file.acceleration == sampled.size / sampled.sum()


@pytest.mark.parametrize("step", [(2, 1), (1, 2), (2, 2)])
def test_the_axis_that_was_undersampled_is_x(step, ksp, tmp_path):
    sampled = np.zeros_like(FULL)
    sampled[1 :: step[0], :: step[1]] = True
    file = open_scan(write(tmp_path / "scan.h5", lines_of(ksp, sampled), header()))
    assert file.acceleration == step[0] * step[1]
    assert not file.fully_sampled
    plane = sampled if step == (1, 2) else sampled.T
    np.testing.assert_array_equal(file.mask[0], plane)
    assert file.voxel_mm == ((10, 20, 10) if step == (1, 2) else (20, 10, 10))


def test_partial_fourier_by_both_limits(ksp, tmp_path):
    """The first 4 of step 1 and 2 of step 2 are not measured; steps count from there."""
    sampled = FULL.copy()
    sampled[:4], sampled[:, :2] = False, False
    lines = lines_of(ksp, sampled)
    for line in lines:
        line.step1 -= 4
        line.counters["kspace_encode_step_2"] -= 2
    file = open_scan(write(tmp_path / "scan.h5", lines, header(centers=(1, 2))))
    np.testing.assert_array_equal(file.mask[0], sampled.T)
    assert file.acceleration == 1 and file.acquired.tolist() == [False] * 4 + [True] * 6


def test_reversed_readouts_and_averages(ksp, tmp_path):
    def turned(line: Line) -> Line:
        line.samples, line.flags = line.samples[:, ::-1], (ismrmrd.ACQ_IS_REVERSE,)
        line.center = READOUT - 1 - READOUT // 2
        return line

    lines = lines_of(ksp) + [turned(line) for line in lines_of(3 * ksp, counters={"average": 1})]
    assert_slices(write(tmp_path / "scan.h5", lines, header()), 2 * hybrid(ksp))


def test_slabs_are_volumes(ksp, tmp_path):
    lines = lines_of(ksp) + lines_of(2 * ksp, slice=1, position=(0, 0, 160))
    path = write(tmp_path / "scan.h5", lines, header())
    with pytest.raises(ScanFormatError, match="slab-1, slab-2"):
        open_scan(path)
    assert_slices(path, 2 * hybrid(ksp), volume="slab-2")
    assert open_scan(path, volume="slab-2").geometry.positions[0, 2] == 160


def test_a_partial_echo_is_filled_with_zeros_and_a_warning(ksp, tmp_path):
    lines = lines_of(ksp)
    for line in lines:
        line.samples, line.center = line.samples[:, 3:], READOUT // 2 - 3
    path = write(tmp_path / "scan.h5", lines, header())
    with pytest.warns(NumericalWarning) as caught:
        file = open_scan(path)
    assert [w.message.code for w in caught] == ["W-PARTIAL-READOUT"]
    ksp[:, :3] = 0
    np.testing.assert_allclose(file.read_ksp(2), hybrid(ksp)[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda xml: xml.replace("<z>8</z>", "<z>4</z>", 1), "partitions"),
        (lambda xml: xml.replace("<z>8</z>", "<z>999999999</z>", 1), "partitions"),
    ],
)
def test_a_matrix_that_belongs_to_other_data_is_refused(change, said, ksp, tmp_path):
    path = write(tmp_path / "scan.h5", lines_of(ksp), change(header()))
    with pytest.raises(ScanFormatError, match=said):
        open_scan(path)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_images_are_those_of_the_2d_scan_with_separate_calibration_lines(tmp_path):
    """A head whose slices are positions along the readout; every second line of both steps."""
    n = 40
    slices = head(full=True, slices=2, noise=0.005, size=(n, n), coils=6).ksp.numpy()
    img = np.zeros((4, *slices.shape[1:]), np.complex64)
    img[1:3] = slices
    ksp = np.fft.fft(np.fft.ifftshift(img, axes=0), axis=0, norm="ortho")
    ksp = np.fft.fftshift(ksp, axes=0).transpose(1, 0, 3, 2)
    sizes, mm = (4, n, n), (20.0, 200.0, 200.0)
    limits = {f"kspace_encoding_step_{i}": (n - 1, n // 2) for i in (1, 2)}
    extra = "<parallelImaging><calibrationMode>external</calibrationMode></parallelImaging>"
    xml = document(encoding(sizes, sizes, mm, mm, limits, extra))
    sampled, central = np.zeros((2, n, n), bool)
    sampled[::2, ::2] = central[8:32, 8:32] = True
    calibration = (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,)
    lines = lines_of(ksp, sampled) + lines_of(5 * ksp, central, flags=calibration)
    file = open_scan(write(tmp_path / "scan.h5", lines, xml))
    assert file.acceleration == 4 and np.array_equal(file.calib_mask[0], torch.from_numpy(central))
    found = reconstruct(file, Recipe("cg-sense")).magnitude
    whole = write(tmp_path / "full.h5", lines_of(ksp, np.ones((n, n), bool)), xml)
    full = reconstruct(whole, Recipe("cg-sense")).magnitude
    assert np.linalg.norm(found - full) < 0.1 * np.linalg.norm(full)
    assert full[1].max() > 20 * full[0].max()
