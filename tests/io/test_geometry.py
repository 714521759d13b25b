"""Where voxels lie in the patient: closed forms, and nibabel as a second opinion."""

from __future__ import annotations

import numpy as np
import pytest

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import Geometry

SHAPE, VOXEL_MM = (6, 9), (2.0, 1.5, 4.0)
"""An even and an odd size."""

PLANES = {
    "transverse": ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
    "sagittal": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 0, -1), (1, 0, 0), (0, 1, 0)),
    "oblique": ((0, 0.6, 0.8), (1, 0, 0), (0, -0.8, 0.6)),
}
"""Directions of y, x and the slice normal, in patient coordinates (L, P, S)."""


def geometry(plane: str, n_slices: int = 3, step_mm: float = 5.0) -> Geometry:
    y_dir, x_dir, normal = PLANES[plane]
    first = np.array([10.0, -20.0, 30.0])
    places = [first + i * step_mm * np.array(normal) for i in range(n_slices)]
    return Geometry.of_vectors(y_dir, 3 * np.array(x_dir), normal, places)


@pytest.mark.parametrize("plane", PLANES)
def test_the_middle_pixel_lies_at_the_position_and_others_along_the_directions(plane):
    found = geometry(plane)
    y_dir, x_dir, normal = (np.array(v) for v in PLANES[plane])
    affine = found.affine(SHAPE, VOXEL_MM)
    for y, x, z in [(3, 4, 0), (0, 0, 0), (5, 8, 2), (1, 7, 1)]:
        lps = np.array([10.0, -20.0, 30.0]) + 5 * z * normal
        lps = lps + 2.0 * (y - 3) * y_dir + 1.5 * (x - 4) * x_dir
        np.testing.assert_allclose(affine @ [x, y, z, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-9)
        if z == 0:
            corner = found.corner(0, SHAPE, VOXEL_MM) + 2.0 * y * y_dir + 1.5 * x * x_dir
            np.testing.assert_allclose(corner, lps, atol=1e-9)


@pytest.mark.parametrize(
    ("plane", "codes"), [("transverse", "LPS"), ("sagittal", "PIL"), ("coronal", "LIP")]
)
def test_nibabel_names_the_axes(plane, codes):
    nibabel = pytest.importorskip("nibabel")
    found = nibabel.aff2axcodes(geometry(plane).affine(SHAPE, VOXEL_MM))
    assert "".join(found) == codes


def test_a_single_slice_has_its_thickness():
    affine = geometry("oblique", n_slices=1).affine(SHAPE, VOXEL_MM)
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(4.0)
    assert geometry("oblique", n_slices=1).spacing_mm() is None
    assert geometry("oblique").spacing_mm() == pytest.approx(5.0)


def test_it_survives_as_text():
    found = geometry("oblique")
    again = Geometry.from_text(found.to_text())
    np.testing.assert_array_equal(again.directions, found.directions)
    np.testing.assert_array_equal(again.positions, found.positions)


@pytest.mark.parametrize(
    "vectors",
    [
        ((0, 0, 0), (1, 0, 0), (0, 0, 1)),
        ((0, 1, 0), (1, 0.1, 0), (0, 0, 1)),
        ((0, 1, 0), (np.nan, 0, 0), (0, 0, 1)),
        ((0, 1, 0), (0, 1, 0), (0, 0, 1)),
    ],
)
def test_directions_that_span_no_grid_are_refused(vectors):
    with pytest.raises(ScanFormatError):
        Geometry.of_vectors(*vectors, positions=[(0, 0, 0)])


@pytest.mark.parametrize("places", [(0, 5, 11), (0, 0, 0), (0, 5, 0)])
def test_uneven_slices_have_no_affine(places):
    uneven = Geometry.of_vectors((0, 1, 0), (1, 0, 0), (0, 0, 1), [(0, 0, z) for z in places])
    with pytest.raises(ScanFormatError):
        uneven.affine(SHAPE, VOXEL_MM)
