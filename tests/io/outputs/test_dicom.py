"""DICOM series, as pydicom, dciodvfy and dcmdump read them."""

from __future__ import annotations

import builtins
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from patient import POSITIONS, dicom_values, save_images

from mri_ambient.errors import ConfigError, OutputExistsError
from mri_ambient.io import WRITERS, Geometry, ReconstructionFile, SaveOptions
from mri_ambient.rng import complex_normal

DICOM = WRITERS["dicom"]
MR_IMAGE, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
PARTS = {"mag": "scan_dicom", "phase": "scan_part-phase_dicom", "std": "scan_desc-std_dicom"}


def place(position: str = "oblique", positions: object = None) -> Geometry:
    normal = np.array(POSITIONS[position][2], float)
    centers = [np.array([10.0, -20.0, 30.0]) + 5 * i * normal for i in range(3)]
    return Geometry.of_vectors(*POSITIONS[position], centers if positions is None else positions)


def saved(folder: Path, rng, scale: float = 1.0, **attributes: object) -> ReconstructionFile:
    """Three slices of 6 x 9."""
    std = scale * torch.rand((3, 6, 9), generator=rng)
    img = scale * complex_normal((3, 6, 9), rng)
    return save_images(folder / "scan.h5", img, std, **attributes)


def written(result: ReconstructionFile, **options: object) -> dict[str, list[pydicom.Dataset]]:
    given = SaveOptions(tuple(PARTS), **options)
    DICOM.write(result, result.path.parent, given)
    assert DICOM.outputs(result, given) == list(PARTS.values())
    return {
        part: [pydicom.dcmread(p) for p in sorted((result.path.parent / name).iterdir())]
        for part, name in PARTS.items()
    }


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e4, 0.0])
def test_values_come_back_within_half_a_step(scale, tmp_path, rng):
    """One power of ten for the volume, whatever its unit; viewers need whole windows."""
    result = saved(tmp_path, rng, scale)
    for part, files in written(result).items():
        want = np.stack([result.read_part(part, i) for i in range(3)])
        (step,) = {float(f.RealWorldValueMappingSequence[0].RealWorldValueSlope) for f in files}
        found = np.stack([dicom_values(file) for file in files])
        np.testing.assert_allclose(found, want, atol=0.501 * step)
        assert np.log10(step) == pytest.approx(round(np.log10(step)), abs=1e-9)
        stored = max(int(np.abs(file.pixel_array).max()) for file in files)
        assert stored == 0 if not want.any() else 6553 <= stored <= 65535
        assert {file.PixelRepresentation for file in files} == {int(part == "phase")}
        for file in files:
            width, center = float(file.WindowWidth), float(file.WindowCenter)
            assert (width, center) == (int(width), int(center)) and width >= 1


@pytest.mark.parametrize("bright", [1e-14, 1e-6, 1.0, 1e20])
def test_a_single_bright_pixel_is_within_the_window(bright, tmp_path):
    img = torch.zeros(3, 20, 16, dtype=torch.complex64)
    img[1, 4, 5] = bright
    result = save_images(tmp_path / "scan.h5", img, img.abs())
    for file in written(result)["mag"]:
        assert 1 <= float(file.WindowWidth) <= 65536


def test_a_series_says_what_it_is(tmp_path, rng):
    series = written(saved(tmp_path, rng, geometry=place(), protocol="t2_tse"))
    kinds = {part: list(files[0].ImageType[:3]) for part, files in series.items()}
    assert kinds == {
        "mag": ["DERIVED", "SECONDARY", "M"],
        "phase": ["DERIVED", "SECONDARY", "P"],
        "std": ["DERIVED", "SECONDARY", "OTHER"],
    }
    for part, files in series.items():
        assert [file.InstanceNumber for file in files] == [1, 2, 3]
        for file in files:
            assert file.SOPClassUID == file.file_meta.MediaStorageSOPClassUID == MR_IMAGE
            assert "aos, R = 4.00" in file.SeriesDescription and len(file.SeriesDescription) <= 64
            assert "research only, not for diagnosis" in file.SeriesDescription
            assert "aos, R = 4.00" in file.DerivationDescription
            assert "acquisition geometry" in file.DerivationDescription
            assert (file.PatientName, file.StudyDate, file.ProtocolName) == ("", "", "t2_tse")
        assert len({file.SOPInstanceUID for file in files}) == 3, part
    every = [file for files in series.values() for file in files]
    assert len({file.SOPInstanceUID for file in every}) == 9
    assert len({(file.SeriesInstanceUID, file.SeriesNumber) for file in every}) == 3
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({file[name].value for file in every}) == 1
    assert all(
        uid.startswith("2.25.") and len(uid) <= 64
        for uid in (every[0].SOPInstanceUID, every[0].SeriesInstanceUID, every[0].StudyInstanceUID)
    )


def test_without_a_geometry_it_is_a_secondary_capture(tmp_path, rng):
    for file in written(saved(tmp_path, rng))["mag"]:
        assert file.SOPClassUID == SECONDARY_CAPTURE and file.PixelSpacing == [2.0, 1.5]
        assert "ImagePositionPatient" not in file and "FrameOfReferenceUID" not in file
        assert "none (voxel size only)" in file.DerivationDescription


def test_uneven_slices_keep_their_positions(tmp_path, rng):
    """Images are not turned here: the directions are those of radiologists already."""
    heights = [(0, 0, 0), (0, 0, 4), (0, 0, 9)]
    files = written(saved(tmp_path, rng, geometry=place("transverse", heights)))["mag"]
    corners = [np.array(file.ImagePositionPatient, float) for file in files]
    np.testing.assert_allclose(corners, np.array(heights) - [1.5 * 4, 2.0 * 3, 0], atol=1e-9)


def test_the_same_result_has_the_same_bytes_and_another_one_other_uids(tmp_path, rng):
    result = saved(tmp_path, rng, geometry=place())
    paths = sorted((tmp_path / "scan_dicom").iterdir()) if written(result) else []
    before = [path.read_bytes() for path in paths]
    first = pydicom.dcmread(paths[0])
    written(result)
    assert [path.read_bytes() for path in paths] == before
    other = written(saved(tmp_path, rng, geometry=place()))["mag"][0]
    assert other.StudyInstanceUID == first.StudyInstanceUID
    assert other.SeriesInstanceUID != first.SeriesInstanceUID
    assert other.SOPInstanceUID != first.SOPInstanceUID


def test_a_folder_with_files_of_others_is_not_replaced(tmp_path, rng):
    result = saved(tmp_path, rng)
    written(result)
    (tmp_path / "scan_dicom" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"notes\.txt"):
        written(result)
    assert len(list((tmp_path / "scan_dicom").iterdir())) == 4


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, rng, monkeypatch):
    real = builtins.__import__

    def without_pydicom(name, *args, **kwargs):
        if name == "pydicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pydicom)
    with pytest.raises(ConfigError, match=r"mri-ambient\[dicom\]"):
        DICOM.check("scan", saved(tmp_path, rng).grid, SaveOptions())


@pytest.mark.skipif(
    not (shutil.which("dciodvfy") and shutil.which("dcmdump")), reason="needs dicom3tools and dcmtk"
)
def test_other_programs_find_no_error(tmp_path, rng):
    """In MR images, in secondary captures, and in what has a template."""
    template = tmp_path / "template"
    written(saved(tmp_path, rng, geometry=place()))
    shutil.copytree(tmp_path / "scan_dicom", template)
    for geometry, folder in ((place(), template), (place(), None), (None, None)):
        written(saved(tmp_path, rng, geometry=geometry), dicom_template=folder)
        for path in tmp_path.glob("scan*_dicom/*.dcm"):
            done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
            errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
            assert (errors, done.returncode) == ([], 0)
            words = ["dcmdump", "--quiet", path]
            shown = subprocess.run(words, check=True, capture_output=True, text=True)
            assert "[DERIVED\\SECONDARY\\" in shown.stdout and shown.stderr == ""
