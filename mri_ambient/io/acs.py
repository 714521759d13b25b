"""Calibration lines that lie apart: in a file of their own, or in a dataset beside the k-space.

They are a block of fully sampled k-space of the same coils, slices and field of view, of any matrix
and contrast. Where they hold the very samples of the scan, or the scan lacks its centre, they are a
part of its k-space that was stored apart, and complete it. Others are for the coil maps only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ScanFormatError, warn
from ..physics.crop import center_fit
from ..physics.patterns import calibration_block
from .corrected import FEWEST, Corrected, Move, corrected
from .fastmri import FastmriFile
from .hdf5 import find_dataset, open_h5
from .named_axes import Axes, NamedArray, NamedArrayFile
from .names import name_of
from .sampling import Ksp, Mask, Sampling, sampling_at
from .scan_file import Contents, ScanFile
from .stored_arrays import h5_array
from .view import View

NAMES = ("acs", "calib", "calibration", "kspace_acs", "kspace_calib")
"""Datasets that hold calibration lines beside a k-space of the fastMRI layout."""

FOV_TOLERANCE = 0.02
"""Largest difference of two fields of view that count as the same, as a share."""

EQUAL = 1e-5
"""Largest difference of samples that are the same, to the largest sample."""

LEAST_LIKENESS = 0.5
"""Likeness of the samples of scan and calibration lines where both were measured: 0.9 where
contrasts are inverted, 0.3 to 0.5 where coils are in another order."""


class WithCalibration(View):
    """A raw scan with calibration lines that lie apart.

    Args:
        source: the scan.
        lines: k-space of the same slices and coils that holds them.

    Raises:
        ScanFormatError: they are of other slices, coils, or another field of view.
    """

    def __init__(self, source: ScanFile, lines: ScanFile) -> None:
        """Read up to three slices of both, to see whether the samples are the same."""
        super().__init__(source)
        _check_fit(source, lines)
        self.lines, self.matrix = lines, (source.shape[2], source.shape[3])
        plane = center_fit(lines.mask, self.matrix)
        self.completes = _same_samples(source, self, plane)
        if self.completes:
            self.sampling = _completed(source, plane)
            self.given_mask = None if self.given_mask is None else self.sampling.mask[0]
        else:
            self.calib_mask = plane
        self.steps = (*source.steps, "complete-by-acs" if self.completes else "acs")

    @cached_property
    def sampling(self) -> Sampling:
        """That of the scan."""
        return self.source.sampling

    @cached_property
    def sha256(self) -> str:
        """Hash of the scan, and of the calibration lines where they are in another file."""
        if self.lines.path == self.path:
            return self.source.sha256
        return hashlib.sha256((self.source.sha256 + self.lines.sha256).encode()).hexdigest()

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``, with lines that complete it."""
        ksp = self.source.read_ksp(index)
        if not self.completes:
            return ksp
        return np.where(self.source.mask[0], ksp, self.read_calib(index))

    def read_calib(self, index: int) -> Ksp:
        """The calibration lines of one slice on the matrix of the scan, complex64 as k-space."""
        return center_fit(self.lines.read_ksp(index), self.matrix)

    def read_target(self, name: str) -> NDArray[np.float32] | None:
        """See :meth:`ScanFile.read_target`."""
        return self.source.read_target(name)


def _check_fit(scan: ScanFile, lines: ScanFile) -> None:
    """Refuse calibration lines of other slices or coils, or of another field of view."""
    (n_slices, n_coils), found = scan.shape[:2], lines.shape[:2]
    if found != (n_slices, n_coils):
        raise ScanFormatError(
            f"{lines.path}: calibration lines of {found[0]} slices and {found[1]} coils, the scan "
            f"has {n_slices} slices and {n_coils} coils; wanted lines of the same slices and coils"
        )
    wide, own = _fov_mm(scan), _fov_mm(lines)
    if wide is None or own is None:
        return
    if any(abs(a - b) > FOV_TOLERANCE * a for a, b in zip(wide, own, strict=True)):
        raise ScanFormatError(
            f"{lines.path}: calibration lines of a field of view of {own[0]:.0f} x {own[1]:.0f} mm "
            f"(y, x), the scan has {wide[0]:.0f} x {wide[1]:.0f} mm, readout oversampling "
            "included; wanted lines of the same field of view"
        )


def _fov_mm(file: ScanFile) -> tuple[float, float] | None:
    """Field of view ``(y, x)`` with readout oversampling; None if it is not known."""
    if file.voxel_mm is None:
        return None
    return file.voxel_mm[0] * file.shape[2], file.voxel_mm[1] * file.shape[3]


def _same_samples(scan: ScanFile, lines: WithCalibration, plane: Mask) -> bool:
    """Whether both hold the same samples wherever both hold some, in up to three slices.

    Where they have no place in common, the scan lacks its centre, which must be in the lines.

    Raises:
        ScanFormatError: the coils see another object there, as if they were in another order.

    Warns:
        NumericalWarning: W-CENTRE-APART: there is nothing to compare.
    """
    both, n = (scan.mask & plane)[0], len(scan)
    if not both.any():
        text = (
            "holds no sample of the centre of k-space; the calibration lines, which do, complete it"
        )
        warn("W-CENTRE-APART", f"{name_of(scan.path)}: {text}")
        return True
    slices = sorted({n // 4, n // 2, 3 * n // 4})
    own, other = (
        np.concatenate([read(index)[:, both] for index in slices], axis=1)
        for read in (scan.read_ksp, lines.read_calib)
    )
    if not own.any():
        return False
    products = np.abs((own.conj() * other).sum(axis=0)).sum()
    norms = np.linalg.norm(own, axis=0) * np.linalg.norm(other, axis=0)
    likeness = float(products / norms.sum())
    if likeness < LEAST_LIKENESS:
        raise ScanFormatError(
            f"{lines.lines.path}: calibration lines are unlike the scan where both were measured "
            f"({likeness:.2f} of 1, wanted {LEAST_LIKENESS:g}); wanted lines of the same object, "
            "coils in the same order"
        )
    return float(np.abs(own - other).max()) <= EQUAL * float(np.abs(own).max())


def _completed(scan: ScanFile, plane: Mask) -> Sampling:
    own = sampling_at(scan.path, (scan.mask | plane)[0])
    return Sampling(own.mask, own.acquired & (scan.acquired | plane[0].any(axis=0)))


class LinesBeside(NamedArrayFile):
    """Calibration lines in a dataset of the scan's own HDF5 file, with the axes of its k-space.

    Raises:
        ScanFormatError: there is no such dataset, it is not complex, or has other axes.
    """

    def __init__(self, scan: NamedArrayFile, name: str) -> None:
        """Read the shape."""
        ScanFile.__init__(self, scan.path)
        self.format = scan.format
        ksp = self.find_ksp(self.path, scan.ksp.axes, name)
        self.take_ksp(ksp, scan.volume if scan.volume in ksp.volumes else None)

    @classmethod
    def find_ksp(cls, path: Path, axes: Axes | None, dataset: str | None) -> NamedArray:
        """The dataset; without ``axes``, those of fastMRI files, without ``dataset``, ``acs``."""
        name = dataset or NAMES[0]
        with open_h5(path) as opened:
            array = h5_array(path, find_dataset(opened, name), name)
        if array is None:
            raise ScanFormatError(f"{path}: {name} is not complex, wanted calibration lines")
        return NamedArray(array, axes or ("slice", "coil", "y", "x"))


def lines_beside(scan: ScanFile, contents: Contents) -> LinesBeside | None:
    """Calibration lines in the scan's own HDF5 file, if there is a dataset of such a name.

    ``contents`` are those of the file.

    Warns:
        NumericalWarning: W-CALIBRATION-LINES: they do not fit, and are not used.
    """
    if not isinstance(scan, FastmriFile):
        return None
    names = [name for name in NAMES if name in contents.names]
    if not names:
        return None
    try:
        found = LinesBeside(scan, names[0])
        _check_fit(scan, found)
    except ScanFormatError as error:
        warn("W-CALIBRATION-LINES", f"{error}; {names[0]!r} is not used")
        return None
    return found


def corrected_with(
    scan: ScanFile, lines: ScanFile, centre: str | Sequence[int] = "auto"
) -> WithCalibration:
    """A raw scan with calibration lines, each corrected (:mod:`~mri_ambient.io.corrected`).

    k = 0 of a scan is not looked for where its own centre was not sampled. Both move together by
    half a field of view.
    """
    if centre == "auto" and min(calibration_block(scan.mask)) < FEWEST:
        centre = "header"
    scan, centred = corrected(scan, centre), corrected(lines)
    half = scan.move.half if isinstance(scan, Corrected) else (False, False)
    if isinstance(centred, Corrected):
        centred = Corrected(lines, replace(centred.move, half=half), centred.residue)
    elif any(half):
        size = (lines.shape[2], lines.shape[3])
        centred = Corrected(lines, Move(size, (0, 0), half), np.zeros(size, bool))
    return WithCalibration(scan, centred)
