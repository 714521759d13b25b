"""NIfTI-1 (.nii.gz), for viewers and for image analysis.

Every file holds one part of a volume, float32 ``(x, y, slice)``: x runs from left to right on the
screen, y upwards, so that viewers that ignore orientations show it upright. Slices are in the order
of the scan or in the reverse one, which the sidecar ``.nii.json`` says. The world coordinates are
those of the patient (R, A, S), by sform and qform with code 1, where the scan tells them. Otherwise
both codes are 0, only the voxel size is right, and the sidecar says so.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._version import __version__
from ...errors import ScanFormatError
from ...runtime.files import atomic_path, write_json
from ..geometry import Floats
from ..grid import Grid
from .parts import KINDS, NOT_FOR_DIAGNOSIS, SUFFIXES, made_by, white_level
from .reconstruction import ReconstructionFile
from .save_options import SaveOptions, Writer


class NiftiWriter(Writer):
    """A NIfTI file and a sidecar of every part."""

    def check(self, stem: str, grid: Grid, options: SaveOptions) -> None:
        """Refuse slices that no grid of voxels holds."""
        orthogonal_affine(grid)

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """``<stem>.nii.gz``, ``<stem>_part-phase.nii.gz``, ..., each with ``.nii.json``."""
        stems = [f"{result.path.stem}{SUFFIXES[part]}" for part in result.parts(options.parts)]
        return [f"{stem}{ending}" for stem in stems for ending in (".nii.json", ".nii.gz")]

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write the parts one after the other."""
        for part in result.parts(options.parts):
            path = folder / f"{result.path.stem}{SUFFIXES[part]}.nii.gz"
            write_json(path.with_suffix(".json"), sidecar(result, part))
            write_nifti(path, result, part)


@dataclass(frozen=True)
class Stack:
    """The slices of a part in the order and orientation in which NIfTI files hold them.

    Slices are as viewers show them, and in the order that makes the axes left-handed in the world
    of NIfTI, as converters from DICOM store them.

    Attributes:
        result: the reconstruction.
        part: "mag", "phase" or "std".
    """

    result: ReconstructionFile
    part: str

    @cached_property
    def is_reversed(self) -> bool:
        """Whether the first slice of the result is the last one here."""
        affine = orthogonal_affine(self._grid)
        # With y downwards, as here, left-handed axes have a positive determinant.
        return affine is not None and np.linalg.det(affine[:3, :3]) < 0

    @property
    def _grid(self) -> Grid:
        return self.result.grid.turned(self.result.grid.display_turn())

    @property
    def grid(self) -> Grid:
        """The pixels of the images."""
        return self._grid.reversed_slices() if self.is_reversed else self._grid

    def images(self) -> Iterator[NDArray[np.float32]]:
        """The slices, ``(y, x)``."""
        turn, indices = self.result.grid.display_turn(), range(len(self.result))
        for index in reversed(indices) if self.is_reversed else indices:
            yield turn(self.result.read_part(self.part, index))

    def limits(self) -> tuple[float, float]:
        """The values shown black and white."""
        return (-np.pi, np.pi) if self.part == "phase" else (0.0, white_level(self.images()))

    def header(self) -> Any:  # noqa: ANN401 -- of nibabel
        """The header of a NIfTI-1 file."""
        import nibabel

        header: Any = nibabel.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
        header.set_data_dtype(np.float32)
        header.set_data_shape(self.grid.shape[::-1])
        y_mm, x_mm, slice_mm = self.grid.voxel_mm or (1.0, 1.0, 1.0)
        header.set_zooms((x_mm, y_mm, slice_mm))
        header.set_xyzt_units("mm")
        affine = orthogonal_affine(self.grid)
        if affine is not None:
            header.set_qform(affine @ _upwards(self.grid.shape[1]), code=1)
            header.set_sform(affine @ _upwards(self.grid.shape[1]), code=1)
        header["descrip"] = f"{made_by(self.result)}; {NOT_FOR_DIAGNOSIS}".encode()[:79]
        header["cal_min"], header["cal_max"] = self.limits()
        header["magic"], header["vox_offset"] = b"n+1", 352
        return header


def write_nifti(path: Path, result: ReconstructionFile, part: str) -> None:
    """Write one part of a result; the same bytes whenever it is written.

    Raises:
        ScanFormatError: NIfTI cannot hold where its slices lie.
    """
    stack = Stack(result, part)
    header = stack.header()
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as out,
    ):
        out.write(header.binaryblock)
        out.write(bytes(int(header["vox_offset"]) - len(header.binaryblock)))
        for img in stack.images():
            out.write(np.ascontiguousarray(img[::-1], "<f4").tobytes())


def sidecar(result: ReconstructionFile, part: str) -> dict[str, Any]:
    """What stands in the JSON beside a NIfTI file, in the words of BIDS where it has some."""
    kind, units = KINDS[part]
    return {
        "Description": f"{kind}, {made_by(result)}; {NOT_FOR_DIAGNOSIS}",
        "OrientationSource": result.grid.orientation_source,
        "SliceOrder": "reversed" if Stack(result, part).is_reversed else "as in the scan",
        "Units": units,
        "ReconstructionMethod": result.attributes.get("method"),
        "ParallelReductionFactorInPlane": result.attributes.get("acceleration"),
        "SkullStripped": False,
        "SourceScan": result.attributes.get("scan_id"),
        "SourceSHA256": result.settings.get("input_sha256"),
        "GeneratedBy": [{"Name": "mri-ambient", "Version": __version__}],
    }


def orthogonal_affine(grid: Grid) -> Floats | None:
    """From ``(x, y, slice)`` to NIfTI's world; None if it is not known.

    Raises:
        ScanFormatError: slices are unevenly spaced, or moved against each other within their plane:
            no grid of rectangular voxels holds them.
    """
    try:
        affine = grid.affine()
    except ScanFormatError as error:
        raise ScanFormatError(f"NIfTI cannot hold this volume: {error}; {_REMEDY}") from error
    if affine is None:
        return None
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    off = np.degrees(np.arcsin(min(1.0, np.abs(axes.T @ axes - np.eye(3)).max())))
    if off > 0.5:
        raise ScanFormatError(
            f"NIfTI cannot hold this volume: its slices are moved against each other, {off:.1f} "
            f"degrees off their normal, wanted a stack along it; {_REMEDY}"
        )
    return affine


_REMEDY = "save the format dicom (--save dicom), which has a position for every slice"


def _upwards(n_rows: int) -> Floats:
    """From indices ``(x, y, slice)`` with y upwards to those with y downwards, ``(4, 4)``."""
    matrix = np.diag([1.0, -1.0, 1.0, 1.0])
    matrix[1, 3] = n_rows - 1
    return matrix
