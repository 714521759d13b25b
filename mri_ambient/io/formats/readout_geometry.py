"""Where slices lie in the patient, from the positions and directions that come with readouts.

A pose ``(4, 3)`` holds the position of the centre of the field of view in mm and the directions of
readout, first phase encode and slice, in patient coordinates (L, P, S); those that are not known
are zero. What contradicts itself gives a warning and no geometry: the images are right, but nobody
may be told where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ..geometry import Geometry, crop_shift

Floats = NDArray[np.float64]
Voxel = tuple[float, float, float]


def order_of_slices(positions: Floats, normal: Floats) -> list[int]:
    """Indices of slices in the order of their positions ``(slice, 3)`` along the normal.

    Where no normal is known, along the line they lie on; in the order given if positions are not
    known, or the same for several.
    """
    if not normal.any():
        apart = positions - positions[0]
        normal = apart[np.argmax(np.linalg.norm(apart, axis=1))]
        normal = normal * (1 if normal.sum() >= 0 else -1)
    places = positions @ normal
    if not np.isfinite(places).all() or len(set(places.round(3).tolist())) < len(places):
        return list(range(len(places)))
    return [int(i) for i in np.argsort(places)]


def geometry_of_slices(
    path: Path,
    poses: Sequence[Floats],
    encoded: tuple[int, int],
    final: tuple[int, int],
    voxel_mm: Voxel | None,
) -> tuple[Voxel | None, Geometry | None]:
    """Voxel size, with the distance of the slices in it, and geometry of a 2-D scan.

    Args:
        path: the file, for messages.
        poses: of every slice, in order.
        encoded: size of the encoded matrix ``(y, x)``.
        final: size of the final matrix ``(y, x)``, cut from its middle.
        voxel_mm: voxel size ``(y, x, slice)`` with the slice thickness, or None.

    Warns:
        NumericalWarning: W-GEOMETRY or W-SLICE-POSITIONS.
    """
    table = np.stack(poses)
    positions, directions = table[:, 0], table[:, 1:]
    if not np.isfinite(table).all():
        _warn_unknown(path, "its directions or positions are not finite")
        return voxel_mm, None
    if not _are_known(directions):
        return voxel_mm, None
    if len(table) > 1 and not positions.any():
        return voxel_mm, None
    if np.abs(_units(directions) - _units(directions[:1])).max() > 1e-3:
        _warn_unknown(path, "its slices have different directions")
        return voxel_mm, None
    if len(np.unique(positions.round(3), axis=0)) < len(positions):
        _warn_unknown(path, "several of its slices have the same position")
        return voxel_mm, None
    geometry = _geometry(path, directions[0], positions, encoded, final, voxel_mm)
    return with_distance(path, geometry, voxel_mm), geometry


def with_distance(path: Path, geometry: Geometry | None, voxel_mm: Voxel | None) -> Voxel | None:
    """Voxel size with the distance of the slices, where that is known, in place of the thickness.

    Warns:
        NumericalWarning: W-SLICE-POSITIONS: they are not equally far apart.
    """
    if geometry is None or voxel_mm is None:
        return voxel_mm
    try:
        return (*voxel_mm[:2], geometry.spacing_mm() or voxel_mm[2])
    except ScanFormatError as error:
        warn("W-SLICE-POSITIONS", f"{path.name}: {error}")
        return voxel_mm


def geometry_of_slab(
    path: Path,
    pose: Floats,
    shape: tuple[int, int, int, int],
    final: tuple[int, int],
    voxel_mm: Voxel | None,
    *,
    swapped: bool,
) -> Geometry | None:
    """Geometry of slices across the readout of a 3-D scan.

    Args:
        path: the file, for messages.
        pose: of the slab.
        shape: of the volume ``(slice, coil, y, x)``.
        final: size of the final matrix ``(y, x)``, cut from its middle.
        voxel_mm: voxel size ``(y, x, slice)``, or None.
        swapped: whether y is the first phase encode and x the second.

    Warns:
        NumericalWarning: W-GEOMETRY.
    """
    center, read, step_1, step_2 = pose
    if voxel_mm is None or not _are_known(pose[None, 1:]):
        return None
    offset = (np.arange(shape[0]) - shape[0] // 2) * voxel_mm[2]
    positions = center + offset[:, None] * _units(read)
    y_dir, x_dir = (step_1, step_2) if swapped else (step_2, step_1)
    directions = np.stack([y_dir, x_dir, read])
    return _geometry(path, directions, positions, shape[2:], final, voxel_mm)


def _geometry(
    path: Path,
    directions: Floats,
    centers: Floats,
    encoded: tuple[int, int],
    final: tuple[int, int],
    voxel_mm: Voxel | None,
) -> Geometry | None:
    """From directions ``(3, 3)`` of y, x, normal and where the encoded field has its centres."""
    shift = crop_shift(encoded, final)
    try:
        geometry = Geometry.of_vectors(directions[0], directions[1], directions[2], centers)
    except ScanFormatError as error:
        _warn_unknown(path, str(error))
        return None
    if voxel_mm is None:
        return None if any(shift) else geometry
    return geometry.seen_from(shift, voxel_mm)


def _are_known(directions: Floats) -> bool:
    """Whether all directions ``(slice, 3, 3)`` are given."""
    return bool((np.linalg.norm(directions, axis=-1) > 1e-6).all())


def _units(vectors: Floats) -> Floats:
    units: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units


def _warn_unknown(path: Path, what: str) -> None:
    warn("W-GEOMETRY", f"{path.name}: where the images lie in the patient is not known: {what}")
