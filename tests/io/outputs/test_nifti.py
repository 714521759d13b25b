"""NIfTI files, as nibabel reads them."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from patient import POSITIONS, save_images

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import WRITERS, Geometry, Grid, ReconstructionFile, SaveOptions
from mri_ambient.rng import complex_normal

NIFTI = WRITERS["nifti"]
ALL = SaveOptions(("mag", "phase", "std"))


def geometry(positions) -> Geometry:
    return Geometry.of_vectors(*POSITIONS["transverse"], positions)


@pytest.fixture
def result(tmp_path, rng) -> ReconstructionFile:
    """Three slices of 6 x 9 without a geometry."""
    std = torch.rand((3, 6, 9), generator=rng)
    return save_images(tmp_path / "scan.h5", complex_normal((3, 6, 9), rng), std)


def test_every_part_is_a_file_with_a_sidecar(result):
    folder = result.path.parent
    NIFTI.write(result, folder, ALL)
    there = {path.name for path in folder.iterdir()} - {"scan.h5"}
    assert there == set(NIFTI.outputs(result, ALL)) and len(there) == 6
    for part, suffix in (("mag", ""), ("phase", "_part-phase"), ("std", "_desc-std")):
        img = nibabel.load(folder / f"scan{suffix}.nii.gz")
        assert img.get_data_dtype() == np.float32 and img.header.get_xyzt_units()[0] == "mm"
        want = np.stack([result.read_part(part, i) for i in range(3)])
        np.testing.assert_array_equal(img.dataobj, np.swapaxes(want[:, ::-1], 0, 2))
        sidecar = json.loads((folder / f"scan{suffix}.nii.json").read_text())
        assert sidecar["Units"] == ("rad" if part == "phase" else "arbitrary")
        assert sidecar["ReconstructionMethod"] == "aos" and sidecar["SourceScan"] == "scan"
        assert sidecar["ParallelReductionFactorInPlane"] == 4.0
        assert "research only" in sidecar["Description"]


def test_without_a_geometry_only_the_voxel_size_is_claimed(result):
    NIFTI.write(result, result.path.parent, SaveOptions())
    img = nibabel.load(result.path.with_suffix(".nii.gz"))
    assert (img.header["sform_code"], img.header["qform_code"]) == (0, 0)
    assert img.header.get_zooms() == (1.5, 2.0, 4.0)
    sidecar = json.loads(result.path.with_suffix(".nii.json").read_text())
    assert sidecar["OrientationSource"] == "none (voxel size only)"
    assert sidecar["SliceOrder"] == "as in the scan"


def test_the_same_result_has_the_same_bytes(result):
    path = result.path.with_suffix(".nii.gz")
    NIFTI.write(result, path.parent, SaveOptions())
    before = path.read_bytes()
    NIFTI.write(result, path.parent, SaveOptions())
    assert path.read_bytes() == before


def test_a_standard_deviation_that_is_not_there_is_left_out(tmp_path, rng):
    result = save_images(tmp_path / "scan.h5", complex_normal((1, 6, 9), rng))
    assert NIFTI.outputs(result, SaveOptions(("std",))) == []
    assert len(NIFTI.outputs(result, ALL)) == 4


@pytest.mark.parametrize(
    "positions", [[(0, 0, 0), (0, 0, 4), (0, 0, 9)], [(0, 0, 0), (0, 1, 4), (0, 2, 8)]]
)
def test_slices_that_no_grid_of_voxels_holds_are_refused_before_computing(positions):
    """Unevenly spaced, and a sheared stack; DICOM holds both."""
    grid = Grid((3, 6, 9), (2.0, 1.5, 4.0), geometry(positions))
    with pytest.raises(ScanFormatError, match="--save dicom"):
        NIFTI.check("scan", grid, SaveOptions())
    WRITERS["dicom"].check("scan", grid, SaveOptions())


@pytest.mark.parametrize("position", POSITIONS)
def test_a_single_slice_has_its_thickness_and_place(position, tmp_path, rng):
    place = Geometry.of_vectors(*POSITIONS[position], [(10, -20, 30)])
    result = save_images(tmp_path / "scan.h5", complex_normal((1, 6, 9), rng), geometry=place)
    NIFTI.write(result, tmp_path, SaveOptions())
    affine = nibabel.load(tmp_path / "scan.nii.gz").affine
    assert np.linalg.det(affine[:3, :3]) == pytest.approx(-12, rel=1e-5)
    want = result.grid.turned(result.grid.display_turn())
    y, x = want.shape[1] // 2, want.shape[2] // 2
    middle = affine @ [x, want.shape[1] - 1 - y, 0, 1]
    np.testing.assert_allclose(middle[:3], want.geometry.positions[0] * [-1, -1, 1], atol=1e-4)


def test_memory_does_not_grow_with_slices(tmp_path):
    """The volume is larger than what is allocated while it is written."""
    import tracemalloc

    img = torch.ones(1, dtype=torch.complex64).expand(24, 384, 384)
    result = save_images(tmp_path / "scan.h5", img)
    tracemalloc.start()
    NIFTI.write(result, tmp_path, SaveOptions())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 384 * 384 * 4
    np.testing.assert_array_equal(nibabel.load(tmp_path / "scan.nii.gz").dataobj, 1)
