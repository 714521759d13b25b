"""A template series of a scanner: what is taken over from it, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from codes import warns
from patient import POSITIONS, dicom_values, save_images
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.errors import ConfigError
from mri_ambient.io import WRITERS, Geometry, Grid, ReconstructionFile, SaveOptions
from mri_ambient.io.grid import Turn
from mri_ambient.rng import rng_for

DICOM = WRITERS["dicom"]
SHAPE, VOXEL_MM = (4, 32, 26), (2.0, 1.5, 4.0)
NORMAL = np.array(POSITIONS["oblique"][2])
PLACE = Geometry.of_vectors(
    *POSITIONS["oblique"], [np.array([10.0, -20.0, 30.0]) + 5 * i * NORMAL for i in range(4)]
)
GRID = Grid(SHAPE, VOXEL_MM, PLACE)
IMAGES = head_phantom(SHAPE[1:], rng_for(0), SHAPE[0]).numpy()
SCANNERS = Turn(transpose=True, flip_x=True)
"""How the scanner turned its images against ours."""


def corner_of(grid: Grid, index: int) -> list[float]:
    return list(grid.geometry.corner(index, grid.shape[1:], grid.voxel_mm).round(6))


def write_template(
    folder: Path,
    grid: Grid,
    images: np.ndarray,
    change: Callable[[int, pydicom.Dataset], object] = lambda i, data: None,
) -> Path:
    """A series as a scanner exports it; neither names nor numbers of files are in order."""
    folder.mkdir()
    y_dir, x_dir, _ = grid.geometry.directions
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for i, img in enumerate(images):
        data = pydicom.Dataset()
        data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Änne"
        data.PatientID, data.PatientBirthDate, data.PatientSex = "4711", "19700102", "F"
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.StudyDate = frame, "20200304"
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
        data.Modality, data.SeriesNumber, data.InstanceNumber = "MR", 7, len(images) - i
        data.Manufacturer, data.ProtocolName, data.RepetitionTime = "VENDOR", "t2_tse", "4000"
        data.ScanningSequence, data.SequenceVariant, data.EchoTime = "SE", "SK", "90"
        data.PatientPosition, data.SliceThickness = "HFS", grid.voxel_mm[2]
        data.ImageOrientationPatient = [*x_dir, *y_dir]
        data.ImagePositionPatient = corner_of(grid, i)
        data.PixelSpacing, (data.Rows, data.Columns) = list(grid.voxel_mm[:2]), img.shape
        data.add_new((0x0029, 0x1010), "OB", b"private")
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelData = (1000 * img / images.max()).astype("<u2").tobytes()
        change(i, data)
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(folder / f"IM{(7 * i + 3) % 5}", enforce_file_format=True)
    (folder / "readme.txt").write_text("no DICOM")
    return folder


def moved(offset_mm: tuple[float, float, float]) -> Grid:
    """GRID elsewhere, along y, x and the normal."""
    step = np.array(offset_mm) @ PLACE.directions
    return replace(GRID, geometry=replace(PLACE, positions=PLACE.positions + step))


@pytest.fixture
def template(tmp_path) -> Path:
    """Of the slices of GRID, as the scanner turned them."""
    return write_template(tmp_path / "template", GRID.turned(SCANNERS), SCANNERS(IMAGES))


def saved(folder: Path, images: np.ndarray, geometry: Geometry | None) -> ReconstructionFile:
    img = torch.from_numpy(images.copy()).to(torch.complex64)
    return save_images(folder / "scan.h5", img, voxel_mm=VOXEL_MM, geometry=geometry)


def written(result: ReconstructionFile, template: Path) -> list[pydicom.Dataset]:
    options = SaveOptions(dicom_template=template)
    DICOM.check("scan", result.grid, options)
    DICOM.write(result, result.path.parent, options)
    folder = result.path.with_name("scan_dicom")
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def headers_by_position(template: Path) -> dict[tuple[float, ...], pydicom.Dataset]:
    files = [pydicom.dcmread(path) for path in template.glob("IM*")]
    return {tuple(file.ImagePositionPatient): file for file in files}


def assert_like_the_template(files: list[pydicom.Dataset], template: Path) -> None:
    """The same values at the same positions."""
    theirs = headers_by_position(template)
    assert len(theirs) == len(files) == SHAPE[0]
    for file in files:
        other = theirs[tuple(file.ImagePositionPatient)]
        assert file.ImageOrientationPatient == other.ImageOrientationPatient
        found, want = dicom_values(file), other.pixel_array / 1000
        np.testing.assert_allclose(found, want * IMAGES.max(), atol=2e-3 * IMAGES.max())


def test_patient_study_and_geometry_are_taken_over(template, tmp_path):
    files = written(saved(tmp_path, IMAGES, PLACE), template)
    assert_like_the_template(files, template)
    theirs = next(iter(headers_by_position(template).values()))
    for file in files:
        for name in (
            "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
            "FrameOfReferenceUID", "PatientPosition", "ProtocolName", "RepetitionTime", "EchoTime",
            "ScanningSequence",
        ):  # fmt: skip
            assert file[name].value == theirs[name].value, name
        assert (str(file.PatientName), file.SpecificCharacterSet) == ("Müller^Änne", "ISO_IR 192")
        assert file.SeriesInstanceUID != theirs.SeriesInstanceUID
        assert file.SeriesNumber == 1007 and file.Manufacturer == "mri-ambient"
        assert (0x0029, 0x1010) not in file and "template" in file.DerivationDescription
    assert [file.InstanceNumber for file in files] == [1, 2, 3, 4]


@pytest.mark.parametrize("reverse", [False, True])
def test_without_a_geometry_the_images_tell_how_they_lie(reverse, template, tmp_path):
    images = IMAGES[::-1] if reverse else IMAGES
    files = written(saved(tmp_path, images, None), template)
    assert_like_the_template(files, template)
    assert "comparing the images" in files[0].DerivationDescription


def test_images_that_do_not_tell_are_refused(template, tmp_path):
    flat = np.ones(SHAPE, np.float32)
    flat[:, 8:24, 6:20] = 2.0  # symmetrical
    with pytest.raises(ConfigError, match="do not tell"):
        written(saved(tmp_path, flat, None), template)


@pytest.mark.parametrize(
    "grid",
    [
        replace(GRID, shape=(4, 30, 26)),
        replace(GRID, shape=(3, 32, 26), geometry=replace(PLACE, positions=PLACE.positions[:3])),
        replace(GRID, voxel_mm=(2.1, 1.5, 4.0)),
        replace(GRID, geometry=replace(PLACE, positions=PLACE.positions + 9 * np.eye(3)[0])),
        replace(GRID, geometry=replace(PLACE, positions=PLACE.positions + 2.6 * NORMAL)),
        moved((2.1, 0, 0)),
        moved((0, 1.6, 0)),
        moved((0, 0, 1.3)),
        replace(GRID, geometry=Geometry.of_vectors(*POSITIONS["coronal"], PLACE.positions)),
        Grid((4, 32, 30)),
    ],
    ids=[
        "rows", "slices", "voxels", "in the plane", "along the normal", "a pixel along y",
        "a pixel along x", "a quarter of a slice distance", "directions", "unplaced",
    ],
)  # fmt: skip
def test_a_template_of_other_slices_is_refused_before_computing(grid, template):
    DICOM.check("scan", GRID, SaveOptions(dicom_template=template))
    with pytest.raises(ConfigError, match="template"):
        DICOM.check("scan", grid, SaveOptions(dicom_template=template))


def test_a_template_that_lies_beside_the_scan_is_stated(template, tmp_path):
    """A pixel, as scanners differ about the middle of an even matrix."""
    result = saved(tmp_path, IMAGES, moved((2.0, -1.5, 0)).geometry)
    with warns("W-TEMPLATE-OFFSET") as given:
        files = written(result, template)
    assert "2.50 mm" in given[0].text and "2.50 mm" in files[0].DerivationDescription
    assert_like_the_template(files, template)
    with pytest.raises(ConfigError, match=r"5\.20 mm"):
        DICOM.check("scan", moved((3, 3, 3)), SaveOptions(dicom_template=template))


def test_rounded_positions_are_the_same(template, tmp_path):
    with warns():
        files = written(saved(tmp_path, IMAGES, moved((0.004, 0, 0.004)).geometry), template)
    assert "but for" not in files[0].DerivationDescription


def set_of(index: int, **values: object) -> Callable[[int, pydicom.Dataset], None]:
    """A change of one file."""

    def change(i: int, data: pydicom.Dataset) -> None:
        for name, value in values.items() if i == index else ():
            setattr(data, name, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_of(1, SeriesInstanceUID="1.2.3"),
        set_of(1, PatientID="other"),
        set_of(1, ImagePositionPatient=corner_of(GRID, 0)),
        set_of(1, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        set_of(1, PixelSpacing=None),
        lambda i, data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
    ],
    ids=["series", "patients", "position twice", "not parallel", "no spacing", "CT"],
)
def test_a_folder_that_is_no_series_of_slices_is_refused(change, tmp_path):
    folder = write_template(tmp_path / "template", GRID, IMAGES, change)
    with pytest.raises(ConfigError, match="template"):
        DICOM.check("scan", GRID, SaveOptions(dicom_template=folder))


def test_a_folder_without_dicom_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=folder.name):
            DICOM.check("scan", GRID, SaveOptions(dicom_template=folder))
