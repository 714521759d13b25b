"""Calibration lines that do not belong to the image give the coil maps."""

from __future__ import annotations

from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from codes import warns
from memory_scan import head
from mrd_files import Line, document, encoding, write

from mri_ambient.data_prep import prepare_file
from mri_ambient.errors import NumericalWarning, PrepError, ScanFormatError
from mri_ambient.io import ArrayFile, convert_scan, open_scan
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe

CG_SENSE = Recipe("cg-sense")

ONLY_CALIBRATION = (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,)

N = 48


def header(mode: str = "separate", *more: str, fov_mm: float = 200.0) -> str:
    """A 48 x 48 scan; ``more`` are further encodings."""
    mode = f"<parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging>"
    sizes, mm = (N, N, 1), (fov_mm, fov_mm, 5.0)
    limits = {"kspace_encoding_step_1": (N - 1, N // 2), "slice": (1, 0)}
    return document(encoding(sizes, sizes, mm, mm, limits, mode), *more)


@pytest.fixture(scope="module")
def ksp() -> np.ndarray:
    """A fully sampled head, ``(slice, coil, y, x)``."""
    scan = head(size=(N, N), full=True, slices=2, noise=0.003)
    return scan.ksp.numpy()


def image(ksp: np.ndarray, columns: range | list[int]) -> list[Line]:
    return [Line(ksp[s][:, :, x], x, s) for x in columns for s in range(len(ksp))]


def calibration(ksp: np.ndarray, gain: complex = 1.0, **changes: object) -> list[Line]:
    return [
        Line((gain * ksp[s][:, :, x]).astype(np.complex64), x, s, flags=ONLY_CALIBRATION, **changes)
        for x in range(N // 2 - 12, N // 2 + 12)
        for s in range(len(ksp))
    ]


def reconstructed(path: Path) -> np.ndarray:
    return reconstruct(open_scan(path), CG_SENSE).complex


@pytest.fixture(scope="module")
def separate(ksp, tmp_path_factory) -> Path:
    """Every third column, and 24 columns of a scan of its own with another gain and phase."""
    path = tmp_path_factory.mktemp("separate") / "scan.h5"
    return write(path, image(ksp, range(2, N, 3)) + calibration(ksp, 0.2j), header())


@pytest.fixture(scope="module")
def image_of_separate(separate) -> np.ndarray:
    """The complex image of that scan."""
    return reconstructed(separate)


def test_images_are_those_with_embedded_lines(ksp, tmp_path):
    """The same image lines, with the coil maps from calibration lines of another gain."""
    columns = sorted({*range(2, N, 3), *range(N // 2 - 12, N // 2 + 12)})
    embedded = write(tmp_path / "embedded.h5", image(ksp, columns), header("embedded"))
    lines = image(ksp, columns) + calibration(ksp, 0.2j)
    wanted, found = map(reconstructed, (embedded, write(tmp_path / "scan.h5", lines, header())))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3 * abs(wanted).max())


def test_an_image_without_a_sampled_centre_is_free_of_aliasing(ksp, separate, tmp_path):
    full = abs(reconstructed(write(tmp_path / "full.h5", image(ksp, range(N)), header())))
    for recipe, low, high in ((CG_SENSE, 0, 0.06), (Recipe("zero-filled"), 0.4, 1)):
        found = reconstruct(open_scan(separate), recipe).magnitude
        assert low < np.linalg.norm(found - full) / np.linalg.norm(full) < high


def test_gain_and_contrast_of_calibration_lines_do_not_matter(ksp, image_of_separate, tmp_path):
    lines = image(ksp, range(2, N, 3)) + calibration(ksp, 7.0)
    other = reconstructed(write(tmp_path / "scan.h5", lines, header()))
    np.testing.assert_allclose(other, image_of_separate, rtol=0, atol=2e-3 * abs(other).max())


def test_they_are_not_part_of_the_image(separate):
    file = open_scan(separate)
    assert np.flatnonzero(file.mask[0].any(axis=0)).tolist() == list(range(2, N, 3))
    assert np.flatnonzero(file.calib_mask[0].any(axis=0)).tolist() == list(range(12, 36))


def test_a_prepared_file_gives_the_same_image(separate, image_of_separate, tmp_path):
    prepared = prepare_file(separate, tmp_path)
    wanted = image_of_separate
    np.testing.assert_allclose(reconstructed(prepared), wanted, atol=1e-5 * abs(wanted).max())


def test_slices_in_memory_give_the_same_image(separate, image_of_separate):
    file = ArrayFile(open_scan(separate)[:])
    found = reconstruct(file, CG_SENSE).complex
    np.testing.assert_allclose(found, image_of_separate, rtol=0, atol=1e-12)


def test_a_retrospective_mask_leaves_them_whole(ksp, tmp_path):
    path = write(tmp_path / "scan.h5", image(ksp, range(N)) + calibration(ksp, 3.0), header())
    recipe = Recipe("cg-sense", retrospective=MaskSpec("equispaced", 3, 0))
    full, found = (reconstruct(path, r).magnitude for r in (CG_SENSE, recipe))
    assert np.linalg.norm(found - full) < 0.1 * np.linalg.norm(full)


@pytest.mark.parametrize(
    "changes",
    [{"encoding": 1}, {"counters": {"contrast": 1}}, {"counters": {"average": 3}}],
    ids=["another encoding space", "another contrast", "the same places"],
)
def test_they_are_told_by_what_they_differ_in(changes, ksp, image_of_separate, tmp_path):
    """Without a calibration mode that says so."""
    sizes, mm = (N, 24, 1), (200.0, 200.0, 5.0)
    other = encoding(sizes, sizes, mm, mm, {"kspace_encoding_step_1": (23, 12)})
    lines = calibration(ksp, 0.2j, **changes)
    for line in lines if "encoding" in changes else ():
        line.step1 -= N // 2 - 12
    path = write(
        tmp_path / "scan.h5", image(ksp, range(2, N, 3)) + lines, header("embedded", other)
    )
    np.testing.assert_array_equal(reconstructed(path), image_of_separate)


def test_shorter_readouts_and_lines_counted_from_zero_serve(ksp, image_of_separate, tmp_path):
    """The middle 24 of 48 samples; the scanner counts the lines of a calibration scan from 0."""
    lines = calibration(ksp, 0.2j)
    for line in lines:
        line.samples, line.step1 = line.samples[:, 12:36], line.step1 - (N // 2 - 12)
    path = write(tmp_path / "scan.h5", image(ksp, range(2, N, 3)) + lines, header())
    np.testing.assert_array_equal(reconstructed(path), image_of_separate)


def test_another_field_of_view_is_left_out_with_a_warning(ksp, tmp_path):
    sizes, mm = (N, 24, 1), (300.0, 300.0, 5.0)
    lines = image(ksp, range(N)) + calibration(ksp, 1.0, encoding=1)
    xml = header("separate", encoding(sizes, sizes, mm, mm))
    with pytest.warns(NumericalWarning) as caught:
        file = open_scan(write(tmp_path / "scan.h5", lines, xml))
    assert [w.message.code for w in caught] == ["W-CALIBRATION-LINES"]
    assert file.calib_mask is None


def test_lines_longer_than_the_matrix_are_left_out_with_a_warning(ksp, tmp_path):
    lines = calibration(ksp, 2.0)
    for line in lines:
        line.samples = np.repeat(line.samples, 2, axis=1)
    with warns("W-CALIBRATION-LINES"):
        file = open_scan(write(tmp_path / "scan.h5", image(ksp, range(N)) + lines, header()))
    assert file.calib_mask is None and file.fully_sampled


def test_a_slice_without_them_is_refused(ksp, tmp_path):
    lines = [line for line in calibration(ksp) if line.slice == 0]
    path = write(tmp_path / "scan.h5", image(ksp, range(2, N, 3)) + lines, header())
    with pytest.raises(ScanFormatError, match=r"\[1\]"):
        open_scan(path)


def test_units_that_cannot_be_compared_are_refused(ksp, tmp_path):
    columns = [x for x in range(N) if abs(x - N // 2) > 13]
    path = write(tmp_path / "scan.h5", image(ksp, columns) + calibration(ksp), header())
    with pytest.raises(PrepError, match="share no place"):
        reconstructed(path)


def test_every_volume_has_its_own_or_shares_them(ksp, tmp_path):
    lines = [
        Line((r + 1) * line.samples, line.step1, line.slice, {"repetition": r}, line.flags)
        for r in range(2)
        for line in image(ksp, range(2, N, 3)) + (calibration(ksp) if r == 0 else [])
    ]
    path = write(tmp_path / "scan.h5", lines, header())
    first, second = (open_scan(path, volume=f"rep-{r}") for r in (1, 2))
    assert np.array_equal(first.read_calib(1), second.read_calib(1))
    found = [reconstruct(file, CG_SENSE).magnitude for file in (first, second)]
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-3, atol=1e-3 * found[1].max())


def test_they_are_converted_where_the_format_has_a_place_for_them(
    separate, image_of_separate, tmp_path
):
    for to in ("ismrmrd", "fastmri"):
        converted = convert_scan(open_scan(separate), tmp_path / to, to)
        np.testing.assert_array_equal(reconstructed(converted), image_of_separate)
    with pytest.warns(NumericalWarning) as caught:
        convert_scan(open_scan(separate), tmp_path / "cfl", "cfl")
    assert [w.message.code for w in caught] == ["W-CALIBRATION-LINES"]
