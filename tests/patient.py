"""A patient of bright points at known places, scanned in any position, and where points are found.

The signal of a point at r is a exp(-2 pi i k . r), with k in patient coordinates: nothing here
knows how images are turned or stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from torch import Tensor

from mri_ambient.io import Geometry, ReconstructionFile, ReconstructionWriter, ScanFile
from mri_ambient.runtime.files import json_text

POINTS_MM = np.array([(42.0, -31.0, 12.0), (-38.0, 25.0, -8.0), (14.0, 33.0, 22.0)])
"""Left anterior superior, right posterior inferior, left posterior superior; (L, P, S)."""

STRENGTHS = (4.0, 2.0, 1.0)
"""Of the points, by which they are told apart."""

OFFSET_MM = np.array([4.0, -3.0, 6.0])
"""Of the middle of the volume from the origin of the patient coordinates."""

POSITIONS = {
    "transverse": ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
    "transverse, phase encode A-P": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "transverse, all reversed": ((0, -1, 0), (-1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 0, 1), (-1, 0, 0), (0, 1, 0)),
    "oblique": ((0.6, 0, 0.8), (0, 1, 0), (-0.8, 0, 0.6)),
    "double oblique": ((0.48, 0.64, -0.6), (-0.8, 0.6, 0), (0.36, 0.48, 0.8)),
}
"""Directions of y (readout), x (phase encode) and slices, (L, P, S)."""


def save_images(
    path: Path, img: Tensor, std: Tensor | None = None, **attributes: object
) -> ReconstructionFile:
    """A reconstruction of images ``(slice, y, x)``, as ``reconstruct`` writes it."""
    geometry = attributes.pop("geometry", None)
    facts = {
        "method": "aos", "acceleration": 4.0, "scan_id": path.stem, "voxel_mm": (2.0, 1.5, 4.0),
        "geometry": geometry and geometry.to_text(), "settings": json_text({"input_sha256": "ab"}),
    }  # fmt: skip
    kept = {"attributes": facts | attributes, "with_std": std is not None}
    with ReconstructionWriter(path, len(img), tuple(img.shape[1:]), **kept) as out:
        for index, one in enumerate(img):
            out.write(index, one, None if std is None else std[index])
    return ReconstructionFile(path)


class PointScan(ScanFile):
    """A fully sampled scan of one coil: 2-D slices of 4 x 3 x 6 mm voxels that cover the points."""

    format = "points"
    sha256 = "0" * 64

    def __init__(self, position: str, shape: tuple[int, int] = (40, 49)) -> None:
        super().__init__(Path(f"{position.replace(', ', '-').replace(' ', '-')}.dat"))
        self.shape = (25, 1, *shape)
        self.recon_shape, self.voxel_mm = shape, (4.0, 3.0, 6.0)
        directions = np.array(POSITIONS[position], float)
        steps = 6.0 * (np.arange(25) - 12)
        self.geometry = Geometry.of_vectors(*directions, OFFSET_MM + steps[:, None] * directions[2])

    def read_ksp(self, index: int) -> NDArray[np.complex64]:
        y_dir, x_dir, normal = self.geometry.directions
        (ny, nx), (y_mm, x_mm, slice_mm) = self.shape[2:], self.voxel_mm
        ky = (np.arange(ny) - ny // 2) / (ny * y_mm)
        kx = (np.arange(nx) - nx // 2) / (nx * x_mm)
        rng = np.random.default_rng(index)
        ksp = 1e-4 * (rng.standard_normal((ny, nx)) + 1j * rng.standard_normal((ny, nx)))
        for point, strength in zip(POINTS_MM, STRENGTHS, strict=True):
            apart = point - self.geometry.positions[index]
            # A Gaussian slice profile, and a smooth point within the slice.
            strength = strength * np.exp(-((apart @ normal / slice_mm) ** 2))
            k_square = (ky * y_mm)[:, None] ** 2 + (kx * x_mm) ** 2
            phase = ky[:, None] * (apart @ y_dir) + kx * (apart @ x_dir)
            ksp = ksp + strength * np.exp(-2j * np.pi * phase - 8 * k_square)
        return ksp.astype(np.complex64)[None]


def found_points(volume: np.ndarray, affine: np.ndarray) -> Iterator[np.ndarray]:
    """Where the points are, brightest first: centres of brightness.

    Args:
        volume: magnitudes, of any axes.
        affine: from indices to patient coordinates (L, P, S), ``(4, 4)``.
    """
    volume, indices = volume.astype(float).copy(), np.indices(volume.shape).reshape(3, -1)
    places = (affine[:3, :3] @ indices + affine[:3, 3:]).T
    for _ in POINTS_MM:
        peak = places[volume.argmax()]
        near = np.linalg.norm(places - peak, axis=1) < 16
        weights = volume.ravel()[near]
        yield weights @ places[near] / weights.sum()
        volume.ravel()[near] = 0


def assert_points(volume: np.ndarray, affine: np.ndarray, tolerance_mm: float = 1.0) -> None:
    """Each point is where it is in the patient."""
    for found, point in zip(found_points(volume, affine), POINTS_MM, strict=True):
        np.testing.assert_allclose(found, point, atol=tolerance_mm)


def dicom_values(file: Dataset) -> np.ndarray:
    """The pixels of a DICOM file in the units of the images, by its real world value mapping."""
    (mapping,) = file.RealWorldValueMappingSequence
    assert (float(file.RescaleSlope), float(file.RescaleIntercept)) == (1, 0)
    return file.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
