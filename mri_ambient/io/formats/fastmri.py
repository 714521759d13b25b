"""The fastMRI layout (Zbontar et al. 2018, arXiv:1811.08839), and M4Raw, which shares it.

====================== ======================================= ====================================
dataset                shape                                   remark
====================== ======================================= ====================================
kspace                 (slice, coil, y, x) or (slice, y, x)    complex; the second form is one coil
mask                   (x,) or (y, x)                          optional; 0 or 1 of any type
ismrmrd_header         ()                                      optional; XML text
reconstruction_rss     (slice, h, w)                           optional; the reference image
reconstruction_esc     (slice, h, w)                           optional; the same for one coil
noise                  (coil, sample)                          optional; complex noise-only samples
acs                    (slice, coil, h, w)                     optional; lines for the coil maps
====================== ======================================= ====================================

``noise`` is an extension of mri-ambient: samples received without excitation, in the units of
``kspace``. Others are ``acs`` (:mod:`~mri_ambient.io.views.acs`) and the root attribute
``geometry``, see :class:`~mri_ambient.io.Geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ...physics.crop import pad
from ..geometry import Geometry
from ..hdf5 import (
    LOCK,
    H5Writer,
    check_size,
    check_written,
    find_dataset,
    is_complex,
    open_h5,
    read_attributes,
    read_complex,
    read_real,
    read_text,
    write_attributes,
)
from ..header import Header, parse_header
from ..sampling import Ksp
from ..scan_file import TARGETS, Contents, ScanFile, header_of, zero_outside
from .axes_guess import refuse_other_axes, refuse_phase_encoded_slices, refuse_swapped_axes
from .named_axes import Axes, NamedArray, NamedArrayFile, parse_axes
from .readout_geometry import with_distance
from .stored_arrays import h5_array

AXES = ("slice", "coil", "y", "x")
"""Of k-space."""


class FastmriFile(NamedArrayFile):
    """A fastMRI or M4Raw volume on disk; arguments as of :class:`NamedArrayFile`."""

    format = "fastmri"

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether a file has this layout."""
        return not contents.tag and "kspace" in contents.names

    _missing = (0, 0)

    def __init__(
        self,
        path: str | Path,
        axes: str | Sequence[str] | None = None,
        dataset: str | None = None,
        volume: str | None = None,
    ) -> None:
        """Read the facts, no slices but what a guess of the axes needs."""
        ScanFile.__init__(self, path)
        with open_h5(self.path, for_text=True) as file:
            ksp = self.ksp_in(file, parse_axes(axes), dataset)
            if axes is None:
                _refuse_other_axes(file, ksp)
            self.take_ksp(ksp, volume)
            self.take_attributes(read_attributes(file))
            self.identifiers.pop("geometry", None)
            self.identifiers.pop("is_3d", None)
            self.is_3d |= bool(self.attributes.pop("is_3d", False)) or _known_axes(file) is not None
            self.geometry = self._read_geometry()
            self.noise = self._read_noise(file)
            self._header = self._read_header(file)
            self._place_columns(self._header)
            self.take_mask(read_real(find_dataset(file, "mask")) if "mask" in file else None)
            self._set_geometry(_target_shape(file))

    @classmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The k-space of a file."""
        with open_h5(path, for_text=True) as file:
            return cls.ksp_in(file, axes, dataset)

    @classmethod
    def ksp_in(cls, file: h5py.File, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The dataset ``kspace``, or another one that was named."""
        path, name = Path(file.filename), dataset or "kspace"
        stored = find_dataset(file, name)
        shape = stored.shape or ()
        found = h5_array(path, stored, name)
        if found is None or (axes is None and len(found.shape) not in (3, 4)):
            known = _known_axes(file) if found else None
            if found is None or known is None or len(known) != len(found.shape):
                raise ScanFormatError(
                    f"{path}: {name} is {stored.dtype} {shape}, {len(shape)} axes; wanted complex "
                    "(slice, coil, y, x), or (slice, y, x) for one coil; of complex numbers, name "
                    "the axes (--axes slice,coil,y,x)"
                )
            axes = known
        if axes is None:
            axes = AXES if len(found.shape) == 4 else ("slice", "y", "x")
        ksp = NamedArray(found, axes)
        check_size(ksp.shape[1:], 8, f"{path}: a slice of {name}")
        check_written(stored)
        return ksp

    def _read_geometry(self) -> Geometry | None:
        text = self.attributes.pop("geometry", None)
        try:
            return None if text is None else Geometry.from_text(str(text))
        except (KeyError, TypeError, ValueError):
            self._warn("W-ATTRIBUTE", "attribute geometry cannot be read")
            return None

    def _read_header(self, file: h5py.File) -> Header | None:
        name = "ismrmrd_header"
        xml = read_text(find_dataset(file, name)) if name in file else b""
        if not xml.strip(b" \r\n\t\0"):
            return None
        try:
            return parse_header(xml)
        except ScanFormatError as error:
            raise ScanFormatError(
                f"{self.path}: {error}; export the scan again, or delete {name} from the file: the "
                "final matrix is then the encoded one, and the voxel size is not known"
            ) from error

    def _read_noise(self, file: h5py.File) -> Ksp | None:
        if "noise" not in file:
            return None
        noise = find_dataset(file, "noise")
        if not is_complex(noise.dtype) or noise.ndim != 2:
            found = f"{noise.dtype} {noise.shape}, not complex (coil, sample)"
            self._warn("W-NOISE-DATASET", f"'noise' is {found}, and is not used")
            return None
        n_coils = self.shape[1]
        if noise.shape[0] != n_coils or noise.shape[1] <= n_coils:
            raise ScanFormatError(
                f"{self.path}: 'noise' has shape {noise.shape}, wanted ({n_coils}, samples) with "
                f"more than {n_coils} samples; rename it if it is no noise scan"
            )
        n_averages = self.ksp.size("avg")
        return read_complex(noise) / np.float32(math.sqrt(n_averages))

    def _set_geometry(self, target_shape: tuple[int, int] | None) -> None:
        """Take matrix, voxel size and oversampling from the header."""
        ny, nx = self.shape[-2:]
        header = self._header
        if header is None:
            matrix = "that of the reference image" if target_shape else "the encoded one"
            taken = f"the final matrix is taken to be {matrix}, the voxel size is unknown"
            self._warn("W-NO-HEADER", f"no ISMRMRD header: {taken}")
            self.recon_shape = _fitting(target_shape or (ny, nx), (ny, nx))
            return
        self.take_header(header.xml)
        oversampling = header.readout_oversampling
        rows, columns = header.encoded_shape
        if ny == round(rows / oversampling):
            rows, oversampling = ny, 1.0  # no oversampling, or it was removed before writing
        if (ny, nx) == (rows, columns):
            self.padding = header.padding
            self.voxel_mm = with_distance(self.path, self.geometry, header.voxel_mm)
        else:
            self._warn(
                "W-HEADER-MISMATCH",
                f"the header describes a matrix of {rows} x {columns}, kspace has {ny} x {nx}: "
                "the voxel size is unknown and all columns count as acquired",
            )
        self.nominal_oversampling = oversampling if ny == rows else 1.0
        rows_left = round(ny / self.nominal_oversampling)
        self.recon_shape = _fitting(target_shape or header.recon_shape, (rows_left, nx))

    def _place_columns(self, header: Header | None) -> None:
        """Count the columns of partial Fourier that were never stored, if the header names them."""
        if header is None:
            return
        (left, right), columns = header.padding, header.encoded_shape[1]
        if self.ksp.is_3d or not self.shape[3] == right - left < columns:
            return
        self._missing = (left, columns - right)
        self.shape = (*self.shape[:3], columns)

    def take_mask(self, mask: NDArray[np.generic] | None, name: str = "mask") -> None:
        """See :meth:`NamedArrayFile.take_mask`; columns never stored are not sampled."""
        super().take_mask(mask, name)
        if mask is not None and self.given_mask is not None:
            self.given_mask = pad(self.given_mask, ((0, 0), self._missing))

    def _read_all(self, index: int) -> Ksp:
        ksp = super()._read_all(index)
        return pad(ksp, ((0, 0), self._missing)) if any(self._missing) else ksp

    def read_target(self, name: str) -> NDArray[np.float32] | None:
        """The reference volume ``name``, float32 ``(slice, h, w)``, or None if there is none."""
        with open_h5(self.path) as file:
            if name not in file:
                return None
            target = read_real(find_dataset(file, name))
        if target.ndim != 3 or target.shape[0] != len(self):
            raise ScanFormatError(
                f"{self.path}: {name} has shape {target.shape}, wanted ({len(self)}, h, w)"
            )
        return target.astype(np.float32)

    def _warn(self, code: str, text: str) -> None:
        warn(code, f"{self.path.name}: {text}")


def write_fastmri(file: ScanFile, path: Path) -> None:
    """Write a raw scan in this layout, slice by slice, completely or not at all.

    Its header is written if it describes this k-space, otherwise a new one; where slices lie in the
    patient goes into the root attribute ``geometry``, another extension; ``is_3d`` marks slices
    across the readout of a 3-D scan.
    """
    with LOCK, H5Writer(path, len(file)) as out:
        out.create_slices("kspace", file.shape, "complex64")
        if file.calib_mask is not None:
            out.create_slices("acs", file.shape, "complex64")
        for index in range(len(file)):
            out.mark_written((index,))
            out.file["kspace"][index] = file.read_ksp(index)
            if (calib := file.read_calib(index)) is not None and file.calib_mask is not None:
                out.file["acs"][index] = zero_outside(file.calib_mask[0], calib)
        if file.given_mask is not None:
            out.file["mask"] = file.given_mask
        if file.noise is not None:
            out.file["noise"] = file.noise
        if file.header_xml is not None or file.voxel_mm is not None:
            out.file["ismrmrd_header"] = header_of(file)
        for name in TARGETS:
            if (target := file.read_target(name)) is not None:
                out.file[name] = target
        geometry = None if file.geometry is None else file.geometry.to_text()
        write_attributes(
            out.file, {**file.attributes, "geometry": geometry, "is_3d": file.is_3d or None}
        )


def _known_axes(file: h5py.File) -> Axes | None:
    """Axes of SKM-TEA (Desai et al. 2021, arXiv:2203.06823), whose readout is transformed."""
    return ("slice", "y", "x", "con", "coil") if {"maps", "target"} <= set(file) else None


def _target_shape(file: h5py.File) -> tuple[int, int] | None:
    """Size of the reference image, if the file holds one."""
    for name in TARGETS:
        target = file.get(name)
        if isinstance(target, h5py.Dataset) and len(target.shape or ()) == 3 and target.size:
            return int(target.shape[1]), int(target.shape[2])
    return None


def _refuse_other_axes(file: h5py.File, ksp: NamedArray) -> None:
    """Refuse k-space whose axes are not those of the layout."""
    array, by_coil = ksp.array, ksp.axes == AXES
    if by_coil or (ksp.axes == ("slice", "y", "x") and _target_shape(file) is None):
        refuse_other_axes(array, ksp.axes)
    if by_coil and _n_targets(file) != array.shape[0]:
        refuse_swapped_axes(array)
        refuse_phase_encoded_slices(array)


def _n_targets(file: h5py.File) -> int | None:
    """Slices of the reference image, if the file holds one."""
    found = [file.get(name) for name in TARGETS]
    targets = [one for one in found if isinstance(one, h5py.Dataset) and one.ndim == 3]
    return len(targets[0]) if targets else None


def _fitting(wanted: tuple[int, int], available: tuple[int, int]) -> tuple[int, int]:
    """The part of a matrix that can be cut from an image; images are never padded."""
    return min(wanted[0], available[0]), min(wanted[1], available[1])
