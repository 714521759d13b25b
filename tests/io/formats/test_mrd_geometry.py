"""Images of an object with known patient coordinates lie where the object is."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from mrd_files import Blobs, Line, document, encoding, k_grid, write

from mri_ambient.io import convert_scan, open_scan
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.recon.reconstruction import Reconstruction

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

PLAIN = Recipe("zero-filled")

OBJECT = Blobs(
    centers=np.array([[30.0, -12.0, 25.0], [-22.0, 31.0, 8.0], [8.0, 14.0, -26.0]]),
    heights=np.array([1.0, 0.8, 0.6]),
    width_mm=9.0,
)
"""Left and anterior above; right and posterior; below. No mirror image or turn of it is itself."""


def turned(degrees: float, tilt: float) -> np.ndarray:
    """Oblique directions of readout, phase and slice."""
    a, b = np.deg2rad([degrees, tilt])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return (about_z @ about_x).T


ORIENTATIONS = {
    "transverse": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "transverse, readout right to left": np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "sagittal": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "coronal": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "oblique": turned(25, 40),
}


def assert_object_is_there(rec: Reconstruction) -> None:
    """Every voxel holds the object at the place its affine gives."""
    _, ny, nx = rec.magnitude.shape
    affine = rec.geometry.affine((ny, nx), rec.voxel_mm)
    z, y, x = np.indices(rec.magnitude.shape)
    places = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ affine.T
    wanted = OBJECT.at(places[..., :3] * [-1, -1, 1])
    assert wanted.max() > 0.5
    found = rec.magnitude * (wanted * rec.magnitude).sum() / (rec.magnitude**2).sum()
    assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted)


def of_siemens(xml: str) -> str:
    """The header with this vendor, whose directions are meant for the other Fourier transform."""
    system = "<acquisitionSystemInformation>"
    return xml.replace(system, f"{system}<systemVendor>SIEMENS</systemVendor>")


def scan_2d(
    path: Path,
    directions: np.ndarray,
    final: tuple[int, int],
    order: list[int],
    siemens: bool = False,
) -> Path:
    """48 (2 x oversampled) x 40, 4 x 5 mm, 9 slices 7 mm apart that are 6 mm thick."""
    ny, nx, mm = 48, 40, (192.0, 200.0)
    xml = document(
        encoding(
            (ny, nx, 1), (*final, 1), (*mm, 6.0), (96.0, 5.0 * final[1], 6.0),
            {"kspace_encoding_step_1": (nx - 1, nx // 2), "slice": (8, 0)},
        )
    )  # fmt: skip
    grid = [k_grid(ny, mm[0]), k_grid(nx, mm[1])]
    lines = []
    for counter, index in enumerate(order):
        position = np.array([3.0, 4.0, -2.0]) + 7.0 * (index - 4) * directions[2]
        ksp = OBJECT.signal(position, directions, grid).astype(np.complex64)
        ksp = ksp.conj() if siemens else ksp
        lines += [
            Line(ksp[None, :, x], x, counter, position=tuple(position), directions=directions)
            for x in range(nx)
        ]
    return write(path, lines, of_siemens(xml) if siemens else xml)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_2d_scan_lies_where_the_object_is(name, tmp_path):
    """Interleaved slices; readout oversampling is cut off, and columns are."""
    path = scan_2d(tmp_path / "a.h5", ORIENTATIONS[name], (24, 37), [0, 2, 4, 6, 8, 1, 3, 5, 7])
    rec = reconstruct(open_scan(path), PLAIN)
    assert rec.magnitude.shape == (9, 24, 37)
    np.testing.assert_allclose(rec.voxel_mm, (4, 5, 7), rtol=1e-5)
    assert_object_is_there(rec)


def test_slices_have_a_thickness_and_a_distance(tmp_path):
    """Also after a conversion, and in DICOM."""
    path = scan_2d(tmp_path / "a.h5", ORIENTATIONS["oblique"], (24, 37), list(range(9)))
    given = [open_scan(path)]
    given += [open_scan(convert_scan(given[0], tmp_path / to, to)) for to in ("fastmri", "ismrmrd")]
    for i, scan in enumerate(given):
        assert (scan.thickness_mm, scan.voxel_mm[2]) == (6.0, pytest.approx(7.0, rel=1e-5))
        rec = reconstruct(scan, PLAIN)
        folder = rec.save(tmp_path / str(i), formats=["dicom", "nifti"]).with_name("a_dicom")
        file = pydicom.dcmread(folder / "slice-0001.dcm")
        assert file.SliceThickness == 6 and file.SpacingBetweenSlices == pytest.approx(7, rel=1e-4)
        zooms = nibabel.load(tmp_path / str(i) / "a.nii.gz").header.get_zooms()
        assert zooms[2] == pytest.approx(7, rel=1e-5)


@pytest.mark.parametrize("siemens", [False, True])
def test_files_say_whose_directions_were_reversed(siemens, tmp_path):
    """In every format of results, also of a scan that was converted."""
    path = scan_2d(tmp_path / "a.h5", ORIENTATIONS["oblique"], (24, 37), list(range(9)), siemens)
    scan = open_scan(path)
    for i, given in enumerate((scan, open_scan(convert_scan(scan, tmp_path / "b", "fastmri")))):
        folder = reconstruct(given, PLAIN).save(tmp_path / str(i), formats="nifti").parent
        source = json.loads((folder / "a.nii.json").read_text())["OrientationSource"]
        assert ("Siemens" in source) == siemens and "none" not in source


def test_siemens_means_the_other_sign_of_the_fourier_transform(tmp_path):
    order = list(range(9))
    path = scan_2d(tmp_path / "a.h5", ORIENTATIONS["oblique"], (24, 37), order, siemens=True)
    scan = open_scan(path)
    assert_object_is_there(reconstruct(scan, PLAIN))
    again = open_scan(convert_scan(scan, tmp_path / "again", "ismrmrd"))
    assert "SIEMENS" in again.header_xml
    np.testing.assert_allclose(again.geometry.directions, scan.geometry.directions, atol=1e-6)
    np.testing.assert_allclose(again.geometry.positions, scan.geometry.positions, atol=1e-4)


@pytest.mark.parametrize("siemens", [False, True])
@pytest.mark.parametrize(("name", "final"), [("sagittal", (24, 40, 12)), ("oblique", (23, 35, 11))])
def test_a_3d_scan_lies_where_the_object_is(name, siemens, final, tmp_path):
    directions, n, mm = ORIENTATIONS[name], (48, 40, 16), (192.0, 200.0, 112.0)
    limits = {f"kspace_encoding_step_{i}": (n[i] - 1, n[i] // 2) for i in (1, 2)}
    recon_mm = tuple(m * f / e for m, f, e in zip(mm, final, n, strict=True))
    xml = document(encoding(n, final, mm, (96.0, *recon_mm[1:]), limits))
    position = (3.0, 4.0, -2.0)
    grid = [k_grid(*axis) for axis in zip(n, mm, strict=True)]
    ksp = OBJECT.signal(position, directions, grid).astype(np.complex64)
    ksp, xml = (ksp.conj(), of_siemens(xml)) if siemens else (ksp, xml)
    lines = [
        Line(ksp[None, :, y, z], y, 0, {"kspace_encode_step_2": z}, position=position,
             directions=directions)
        for z in range(n[2]) for y in range(n[1])
    ]  # fmt: skip
    rec = reconstruct(open_scan(write(tmp_path / "a.h5", lines, xml)), PLAIN)
    assert rec.magnitude.shape == (final[0], final[2], final[1])
    np.testing.assert_allclose(rec.voxel_mm, (7, 5, 4), rtol=1e-5)
    assert_object_is_there(rec)
