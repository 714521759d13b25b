"""The pixels of a final image: how many, how large, where, and how viewers show them.

Viewers' formats and pictures hold slices as radiologists look at them: transverse and coronal with
the patient's left on the right side, sagittal with anterior on the left, head or anterior on top.
A :class:`Turn` brings a slice there. It exchanges and reverses axes, so that no value is
interpolated; an oblique slice is turned as the plane that it is nearest to. Where the geometry is
not known, slices stay as they are: rows from top to bottom, columns from left to right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .geometry import Floats, Geometry

Images = TypeVar("Images", bound=NDArray[Any])

RIGHT_AND_DOWN = {
    0: ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    1: ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    2: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
}
"""Patient directions (L, P, S) that radiologists see to the right and downwards in sagittal (normal
along axis 0), coronal (1) and transverse (2) slices."""

PLANES = ("sagittal", "coronal", "transverse")
"""By the patient's axis to which they are normal."""

LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""Of the patient's axes, in negative and positive direction; DICOM writes F, H for I, S."""

ACQUIRED = "acquisition geometry of the scan"
REVERSED = "acquisition headers (Siemens: readout and phase directions reversed)"
"""Where orientations come from: usually, and in ISMRMRD files of Siemens scanners."""


@dataclass(frozen=True)
class Turn:
    """Axes of images ``(..., y, x)`` exchanged, then reversed; by default nothing is done.

    Attributes:
        transpose: exchange y and x.
        flip_y: reverse the rows after that.
        flip_x: reverse the columns after that.
    """

    transpose: bool = False
    flip_y: bool = False
    flip_x: bool = False

    def __call__(self, img: Images) -> Images:
        """Images ``(..., y, x)``, turned; a view."""
        img = img.swapaxes(-1, -2) if self.transpose else img
        rows, columns = (
            slice(None, None, -1 if flip else 1) for flip in (self.flip_y, self.flip_x)
        )
        return img[..., rows, columns]  # type: ignore[return-value]

    def pair(self, sizes: Sequence[Any]) -> tuple[Any, Any]:
        """What belongs to ``(y, x)``, such as their sizes, after the turn."""
        y, x = sizes
        return (x, y) if self.transpose else (y, x)


@dataclass(frozen=True)
class Grid:
    """The pixels of a volume.

    Attributes:
        shape: ``(slice, y, x)``.
        voxel_mm: voxel size ``(y, x, slice)``, or None.
        geometry: where slices lie in the patient, or None; used only with a voxel size.
        source: where the geometry comes from, in words.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | None = None
    geometry: Geometry | None = None
    source: str = ACQUIRED

    @property
    def is_placed(self) -> bool:
        """Whether every pixel has a place in the patient."""
        return self.geometry is not None and self.voxel_mm is not None

    @property
    def orientation_source(self) -> str:
        """Where orientations come from, in words."""
        if self.is_placed:
            return self.source
        return f"none (voxel size {'only' if self.voxel_mm else 'unknown'})"

    def affine(self) -> Floats | None:
        """From ``(x, y, slice)`` to NIfTI's world; None without a place.

        Raises:
            ScanFormatError: no grid of voxels holds the slices, see :meth:`Geometry.affine`.
        """
        if self.geometry is None or self.voxel_mm is None:
            return None
        return self.geometry.affine(self.shape[1:], self.voxel_mm)

    def display_turn(self) -> Turn:
        """The turn after which slices are shown as radiologists look at them."""
        if self.geometry is None or self.voxel_mm is None:
            return Turn()
        y_dir, x_dir, _ = self.geometry.directions
        normal = np.abs(np.cross(y_dir, x_dir)).round(6)
        right, down = np.asarray(RIGHT_AND_DOWN[int(normal.argmax())])
        straight = abs(x_dir @ right) + abs(y_dir @ down)
        transpose = bool(abs(y_dir @ right) + abs(x_dir @ down) > straight)
        if transpose:
            y_dir, x_dir = x_dir, y_dir
        return Turn(transpose, bool(y_dir @ down < 0), bool(x_dir @ right < 0))

    def turned(self, turn: Turn) -> Grid:
        """The grid of turned images."""
        shape = (self.shape[0], *turn.pair(self.shape[1:]))
        sizes = self.voxel_mm and (*turn.pair(self.voxel_mm[:2]), self.voxel_mm[2])
        if self.geometry is None or sizes is None:
            return replace(self, shape=shape, voxel_mm=sizes)
        y_dir, x_dir = turn.pair(list(self.geometry.directions[:2]))
        rows, columns = (-1 if flip else 1 for flip in (turn.flip_y, turn.flip_x))
        directions = np.stack([rows * y_dir, columns * x_dir, self.geometry.directions[2]])
        moved = replace(self.geometry, directions=directions)
        turned = replace(self, shape=shape, voxel_mm=sizes, geometry=moved)
        # Pixel n // 2 of a reversed axis is another one if n is even.
        flips = zip((turn.flip_y, turn.flip_x), shape[1:], strict=True)
        return turned.moved(*(int(flip and n % 2 == 0) for flip, n in flips))

    def reversed_slices(self) -> Grid:
        """The grid of the slices from the last to the first."""
        if self.geometry is None:
            return self
        directions = self.geometry.directions * np.array([[1.0], [1.0], [-1.0]])
        return replace(self, geometry=Geometry(directions, self.geometry.positions[::-1]))

    def moved(self, rows: int, columns: int) -> Grid:
        """Positions moved by whole pixels, towards rising y and x."""
        if self.geometry is None or self.voxel_mm is None:
            return self
        y_dir, x_dir, _ = self.geometry.directions
        step = rows * self.voxel_mm[0] * y_dir + columns * self.voxel_mm[1] * x_dir
        return replace(
            self, geometry=replace(self.geometry, positions=self.geometry.positions + step)
        )

    @property
    def plane(self) -> str:
        """Name of the plane of the slices: within 5 degrees, or that which is nearest."""
        if self.geometry is None or self.voxel_mm is None:
            return "orientation unknown"
        normal = np.abs(np.cross(*self.geometry.directions[:2]))
        nearest = PLANES[int(normal.argmax())]
        return nearest if normal.max() > np.cos(np.radians(5)) else f"oblique, nearest {nearest}"

    def letters(self) -> tuple[str, str, str, str] | None:
        """Patient directions at the left, right, top and bottom edge of a slice, or None.

        One letter or, of oblique directions, two: R, L, A, P, I, S.
        """
        if self.geometry is None or self.voxel_mm is None:
            return None
        y_dir, x_dir, _ = self.geometry.directions
        return _letters(-x_dir), _letters(x_dir), _letters(-y_dir), _letters(y_dir)


def _letters(direction: Floats) -> str:
    """The patient's axes along a direction, the nearest first; those over 20 degrees off it."""
    order = np.argsort(-np.abs(direction), kind="stable")
    named = [axis for axis in order[:2] if abs(direction[axis]) > 0.34]
    return "".join(LETTERS[axis][int(direction[axis] > 0)] for axis in named)
