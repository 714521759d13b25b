"""Points at known places in a patient, scanned in all positions, are there in every format."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from patient import POSITIONS, PointScan, assert_points, dicom_values

from mri_ambient.io import ReconstructionFile
from mri_ambient.plots import draw_volume
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Callable[[str], ReconstructionFile]:
    """Scans in the positions, reconstructed and saved in the formats of viewers; each once."""

    @cache
    def result(position: str) -> ReconstructionFile:
        rec = reconstruct(PointScan(position), Recipe("zero-filled"))
        folder = tmp_path_factory.mktemp("saved")
        return ReconstructionFile(rec.save(folder, formats=["nifti", "dicom"]))

    return result


@pytest.fixture(params=POSITIONS)
def result(request, results) -> ReconstructionFile:
    """A scan in one of the positions."""
    return results(request.param)


def read_dicom(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values ``(slice, y, x)`` of a series, and from these indices to (L, P, S)."""
    files = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    values = np.stack([dicom_values(file) for file in files])
    first, last = files[0], files[-1]
    step = np.subtract(last.ImagePositionPatient, first.ImagePositionPatient) / (len(files) - 1)
    y_mm, x_mm = first.PixelSpacing
    x_dir, y_dir = np.reshape(first.ImageOrientationPatient, (2, 3)).astype(float)
    affine = np.eye(4)
    affine[:3] = np.stack([step, y_mm * y_dir, x_mm * x_dir, first.ImagePositionPatient], axis=1)
    return values, affine


def half_step(values: np.ndarray) -> float:
    """Half of a step of stored pixels, the largest power of ten that 16 bits hold."""
    return 0.501 * 10.0 ** -np.floor(np.log10(65535 / values.max()))


def nifti_of(result: ReconstructionFile) -> nibabel.Nifti1Image:
    return nibabel.load(result.path.with_suffix(".nii.gz"))


def test_points_are_where_they_are_in_the_patient(result):
    img = nifti_of(result)
    for affine in (img.get_sform(), img.get_qform()):
        assert_points(img.get_fdata(), RAS_TO_LPS @ affine)
    assert (img.header["sform_code"], img.header["qform_code"]) == (1, 1)
    assert_points(*read_dicom(result.path.with_name(f"{result.path.stem}_dicom")))


def test_nifti_is_stored_as_converters_store_dicom(result):
    """Axes are left-handed; where orientations are ignored, it looks like DICOM."""
    img = nifti_of(result)
    assert np.linalg.det(img.affine[:3, :3]) < 0
    values, affine = read_dicom(result.path.with_name(f"{result.path.stem}_dicom"))
    shown = np.swapaxes(img.get_fdata(), 0, 2)[:, ::-1]
    backwards = np.linalg.inv(RAS_TO_LPS @ affine) @ img.affine @ [0, 0, 1, 0]
    shown = shown[::-1] if backwards[0] < 0 else shown
    np.testing.assert_allclose(shown, values, atol=half_step(values))


def test_slices_are_shown_as_radiologists_look_at_them(result):
    """To the right of the screen lies left or posterior, to the bottom posterior or inferior."""
    _, affine = read_dicom(result.path.with_name(f"{result.path.stem}_dicom"))
    down, right = affine[:3, 1], affine[:3, 2]
    plane = int(np.abs(np.cross(down, right)).argmax())
    want_right, want_down = {
        0: ((0, 1, 0), (0, 0, -1)), 1: ((1, 0, 0), (0, 0, -1)), 2: ((1, 0, 0), (0, 1, 0)),
    }[plane]  # fmt: skip
    assert right @ want_right > 0.5 * np.linalg.norm(right)
    assert down @ want_down > 0.5 * np.linalg.norm(down)


def test_pictures_show_the_slices_of_the_series_with_their_directions(result):
    values, affine = read_dicom(result.path.with_name(f"{result.path.stem}_dicom"))
    axes = next(axes for axes in draw_volume(result.path).axes if axes.images)
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown, values[0], atol=half_step(values))
    left, right, top, bottom = (text.get_text() for text in axes.texts)
    opposite = str.maketrans("LRAPSI", "RLPAIS")
    assert (left, top) == (right.translate(opposite), bottom.translate(opposite))
    for direction, named in ((affine[:3, 2], right), (affine[:3, 1], bottom)):
        axis = int(np.abs(direction).argmax())
        assert named[0] == ("RL", "AP", "IS")[axis][int(direction[axis] > 0)]


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_makes_our_nifti_of_our_dicom(results, tmp_path):
    for position in POSITIONS:
        result = results(position)
        series = result.path.with_name(f"{result.path.stem}_dicom")
        words = ["dcm2niix", "-o", tmp_path, "-f", result.path.stem, "-z", "n", series]
        subprocess.run(words, check=True, capture_output=True)
        theirs, ours = nibabel.load(tmp_path / f"{result.path.stem}.nii"), nifti_of(result)
        np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-3)
        (mapping,) = pydicom.dcmread(series / "slice-0001.dcm").RealWorldValueMappingSequence
        found, want = theirs.get_fdata() * mapping.RealWorldValueSlope, ours.get_fdata()
        np.testing.assert_allclose(found, want, atol=half_step(want))
