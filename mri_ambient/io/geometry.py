"""Where the slices of a volume lie in the patient.

Positions are in the patient coordinates of DICOM and ISMRMRD: millimetres towards the patient's
left, posterior and superior (L, P, S). NIfTI's world is right, anterior, superior (R, A, S), which
differs by the signs of the first two. A voxel is at the place of its centre; the field of view's
centre is pixel ``n // 2`` of an axis, as the centred Fourier transform has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ScanFormatError
from ..runtime.files import json_object, json_text

Floats = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""From the patient coordinates of DICOM to those of NIfTI."""


@dataclass(frozen=True)
class Geometry:
    """Directions and positions of parallel slices, in patient coordinates (L, P, S).

    Attributes:
        directions: unit vectors of rising y, rising x and the slice normal, rows of ``(3, 3)``.
        positions: of pixel ``(y // 2, x // 2)`` of every slice in mm, ``(slice, 3)``.
    """

    directions: Floats
    positions: Floats

    @classmethod
    def of_vectors(
        cls, y_dir: ArrayLike, x_dir: ArrayLike, normal: ArrayLike, positions: ArrayLike
    ) -> Geometry:
        """From directions as scanners write them, which need not be of unit length.

        Raises:
            ScanFormatError: a direction is zero or not finite, or they are not orthogonal to one
                part in a thousand.
        """
        rows = np.stack([np.asarray(v, np.float64) for v in (y_dir, x_dir, normal)])
        places = np.asarray(positions, np.float64).reshape(-1, 3)
        lengths = np.linalg.norm(rows, axis=1)
        if not (np.isfinite(rows).all() and np.isfinite(places).all() and (lengths > 1e-6).all()):
            raise ScanFormatError(
                f"the directions of the image are {rows.tolist()}, wanted three finite vectors "
                "other than zero, and finite positions"
            )
        rows = rows / lengths[:, None]
        if np.abs(rows @ rows.T - np.eye(3)).max() > 1e-3:
            raise ScanFormatError(
                f"the directions of the image are {rows.round(4).tolist()}, wanted three that are "
                "orthogonal to each other"
            )
        return cls(rows, places)

    @classmethod
    def from_text(cls, text: str) -> Geometry:
        """From what :meth:`to_text` gave; any of KeyError, TypeError, ValueError for other text."""
        stored = json_object(text)
        y_dir, x_dir, normal = stored["directions"]
        return cls.of_vectors(y_dir, x_dir, normal, stored["positions"])

    def to_text(self) -> str:
        """As JSON, for attributes of files."""
        return json_text({name: value.tolist() for name, value in vars(self).items()})

    def seen_from(self, pixels: Sequence[int], voxel_mm: Sequence[float]) -> Geometry:
        """The same slices, for images of which the middle pixel lies ``(y, x)`` pixels further."""
        y_dir, x_dir, _ = self.directions
        step = y_dir * voxel_mm[0] * pixels[0] + x_dir * voxel_mm[1] * pixels[1]
        return Geometry(self.directions, self.positions + step)

    def spacing_mm(self) -> float | None:
        """Distance of neighbouring slices along the normal; None of one slice.

        Raises:
            ScanFormatError: distances differ by more than 1 %, or slices lie at the same place or
                beside each other, so that no grid of voxels holds them.
        """
        if len(self.positions) < 2:
            return None
        steps = np.diff(self.positions, axis=0)
        mean = steps.mean(axis=0)
        length = float(np.linalg.norm(mean))
        if length == 0 or np.abs(steps - mean).max() > 0.01 * length:
            raise ScanFormatError(
                f"slices lie {np.linalg.norm(steps, axis=1).round(3).tolist()} mm apart, wanted "
                "equal distances"
            )
        return length

    def affine(self, shape: Sequence[int], voxel_mm: Sequence[float]) -> Floats:
        """From indices ``(x, y, slice)`` to NIfTI's world coordinates (R, A, S) in mm, ``(4, 4)``.

        Args:
            shape: of an image, ``(y, x)``.
            voxel_mm: ``(y, x, slice)``; the last is used of a single slice, otherwise the distance
                of the slices.

        Raises:
            ScanFormatError: see :meth:`spacing_mm`.
        """
        y_dir, x_dir, normal = self.directions
        between = (
            normal * voxel_mm[2]
            if self.spacing_mm() is None
            else (self.positions[-1] - self.positions[0]) / (len(self.positions) - 1)
        )
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([x_dir * voxel_mm[1], y_dir * voxel_mm[0], between], axis=1)
        matrix[:3, 3] = self.corner(0, shape, voxel_mm)
        matrix[:3] = LPS_TO_RAS @ matrix[:3]
        return matrix

    def corner(self, index: int, shape: Sequence[int], voxel_mm: Sequence[float]) -> Floats:
        """Position of pixel (0, 0) of a slice, ``(3,)``; arguments as in :meth:`affine`."""
        y_dir, x_dir, _ = self.directions
        to_center = y_dir * voxel_mm[0] * (shape[0] // 2) + x_dir * voxel_mm[1] * (shape[1] // 2)
        corner: Floats = self.positions[index] - to_center
        return corner


def crop_shift(encoded: Sequence[int], final: Sequence[int]) -> tuple[int, int]:
    """Middle pixel ``n // 2`` of a final image, seen from that of the encoded one, ``(y, x)``.

    :func:`~mri_ambient.physics.crop.image_crop` keeps the middle pixel unless it cuts an odd
    number of pixels from an even one.
    """
    y, x = ((n - m) // 2 + m // 2 - n // 2 for n, m in zip(encoded, final, strict=True))
    return y, x
