"""Calibration lines that lie apart: in a file of their own, or in a dataset beside the k-space.

They are a block of fully sampled k-space of the same coils, slices and field of view, of any matrix
and contrast. Where they hold the very samples of the scan, or the scan lacks its centre, they are a
part of its k-space that was stored apart, and complete it, if need be times a complex factor.
Others are for the coil maps only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, collected, issue, warn
from ...physics.crop import center_crop, center_fit
from ...physics.patterns import calibration_block
from ..formats.fastmri import FastmriFile
from ..formats.named_axes import Axes, NamedArray, NamedArrayFile
from ..formats.stored_arrays import h5_array
from ..hdf5 import find_dataset, open_h5
from ..names import name_of
from ..sampling import Ksp, Mask, Sampling, sampling_at
from ..scan_file import Contents, ScanFile
from .centre import WIDTH, half_off
from .corrected import FEWEST, Corrected, Move, corrected
from .overlap import AS_STORED, Overlap, read_overlap
from .view import View

NAMES = ("acs", "calib", "calibration", "kspace_acs", "kspace_calib")
"""Datasets that hold calibration lines beside a k-space of the fastMRI layout."""

FOV_TOLERANCE = 0.02
"""Largest difference of two fields of view that count as the same, as a share."""

LEAST_LIKENESS = 0.5
"""Likeness of the samples of scan and calibration lines where both were measured: 0.9 where
contrasts are inverted, 0.3 to 0.5 where coils are in another order."""


class WithCalibration(View):
    """A raw scan with calibration lines that lie apart.

    Args:
        source: the scan.
        lines: k-space of the same slices and coils that holds them.

    Raises:
        ScanFormatError: they are of other slices, coils, or another field of view, are mirrored,
            conjugated or exchanged, or of another contrast than a scan without its centre.

    Warns:
        NumericalWarning: W-CENTRE-APART: they complete a scan without its centre; W-CENTRE: they
            were moved to where they agree with the scan.
    """

    def __init__(self, source: ScanFile, lines: ScanFile) -> None:
        """Read up to three slices of both, to see whether the samples are the same."""
        super().__init__(source)
        _check_fit(source, lines)
        self.lines, self.matrix = lines, (source.shape[2], source.shape[3])
        self.factor: complex | None = None
        overlap = self._overlap()
        if overlap is not None and not overlap.same and (shift := overlap.shift) != (0, 0):
            self.lines = _moved(lines, shift)
            overlap = self._overlap()
        self.completes = overlap is None or overlap.same or self._check(overlap)
        if overlap is None:
            text = "holds no sample of the centre of k-space; the calibration lines, which do, "
            warn("W-CENTRE-APART", f"{name_of(self.path)}: {text}complete it")
        plane = center_fit(self.lines.mask, self.matrix)
        if self.completes:
            self.sampling = _completed(source, plane)
            self.given_mask = None if self.given_mask is None else self.sampling.mask[0]
        else:
            self.calib_mask = plane
        self.steps = (*source.steps, "complete-by-acs" if self.completes else "acs")

    def _overlap(self) -> Overlap | None:
        plane = center_fit(self.lines.mask, self.matrix)[0]
        return read_overlap(self.source, self.read_calib, plane)

    def _check(self, overlap: Overlap) -> bool:
        """Whether lines with other samples complete the scan; sets ``factor`` if they do."""
        if not overlap.own.any():
            return False
        _check_samples(self.lines.path, overlap)
        if not overlap.lacks_centre:
            return False
        if not overlap.agrees:
            raise ScanFormatError(
                f"{self.path}: the scan holds no centre of k-space, and the calibration lines "
                f"({name_of(self.lines.path)}), times whatever factor, are not its own where both "
                "were measured: they are of another contrast, or noisier; wanted lines of the same "
                "acquisition"
            )
        self.factor = overlap.factor
        gain, phase = abs(self.factor), np.angle(self.factor)
        warn(
            "W-CENTRE-APART",
            f"{name_of(self.path)}: lacks the centre of k-space ({overlap.gap} samples wide); the "
            f"calibration lines complete it, times {gain:.3g} and turned by {phase:.2f} rad, by "
            "which they agree with the scan where both were measured",
        )
        return True

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
        calib = self.read_calib(index)
        if self.factor is not None:
            calib *= np.complex64(self.factor)
        return np.where(self.source.mask[0], ksp, calib)

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


def _check_samples(path: Path, overlap: Overlap) -> None:
    """Refuse lines that agree with the scan only when they are changed, or not even alike.

    Raises:
        ScanFormatError: they are stored otherwise than the scan, have another field of view, or the
            coils see another object there, as if they were in another order.
    """
    version, best, stored = overlap.version
    if version != AS_STORED:
        raise ScanFormatError(
            f"{path}: calibration lines are {version}: changed back, they agree with the scan "
            f"where both were measured (correlation {best:.2f}), as they are, they do not "
            f"({stored:.2f}); wanted lines stored as the scan is"
        )
    (y, x), best, stored = overlap.fields
    if (y, x) != (1, 1):
        raise ScanFormatError(
            f"{path}: calibration lines have {y:.2f} times the field of view of the scan along y "
            f"and {x:.2f} times along x: so they agree with the scan where both were measured "
            f"(correlation {best:.2f}), as they are, they do not ({stored:.2f}); wanted lines of "
            "the same field of view"
        )
    if (likeness := overlap.likeness) < LEAST_LIKENESS:
        raise ScanFormatError(
            f"{path}: calibration lines are unlike the scan where both were measured "
            f"({likeness:.2f} of 1, wanted {LEAST_LIKENESS:g}); wanted lines of the same object, "
            "coils in the same order"
        )


def _moved(lines: ScanFile, shift: tuple[int, int]) -> ScanFile:
    """Lines moved by some rows and columns, in a matrix that holds all of them."""
    y, x = shift
    warn(
        "W-CENTRE",
        f"{name_of(lines.path)}: the calibration lines agree with the scan where they are moved by "
        f"{y:+d} rows and {x:+d} columns; they were placed so",
    )
    ny, nx = lines.shape[2:]
    matrix = (ny + 2 * abs(y), nx + 2 * abs(x))
    return Corrected(
        lines, Move(matrix, (abs(y) + y, abs(x) + x)), np.zeros((ny, nx), dtype=np.bool_)
    )


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
    """A raw scan with calibration lines, each corrected (:mod:`~mri_ambient.io.views.corrected`).

    k = 0 of a scan is not looked for where its own centre was not sampled. Images half a field of
    view off are moved: those of the scan by its own centre, otherwise as those of the lines.
    """
    has_centre = min(calibration_block(scan.mask)) >= FEWEST
    placed = corrected(scan, centre if has_centre or centre != "auto" else "header")
    with collected() as given:
        block = corrected(lines)
    if isinstance(block, Corrected):
        move = _not_round(block.move, (lines.shape[2], lines.shape[3]), scan.shape[2:])
        _warn_placed(lines, move)
        block = Corrected(lines, move, block.residue)
    found = _half(block)
    of_scan, of_lines = _halves(placed, block, has_centre=has_centre, by_lines=centre == "auto")
    if of_lines != found and any(of_lines):
        warn(
            "W-HALF-FOV",
            f"{name_of(lines.path)}: images of the calibration lines are half a field of view from "
            "those of the scan; they were moved there",
        )
    elif not any(found) and of_scan != _half(placed):
        warn(
            "W-HALF-FOV",
            f"{name_of(scan.path)}: images are half a field of view from those of the calibration "
            "lines; they were moved there",
        )
    for warning in given:  # the remedy of W-CENTRE is an option for scans
        if warning.code != "W-CENTRE" and (warning.code != "W-HALF-FOV" or of_lines == found):
            issue(warning)
    return WithCalibration(_with_half(placed, of_scan), _with_half(block, of_lines))


Halves = tuple[bool, bool]


def _halves(
    scan: ScanFile, lines: ScanFile, *, has_centre: bool, by_lines: bool
) -> tuple[Halves, Halves]:
    """By which axes images of a scan and of its calibration lines are to be moved.

    Args:
        scan: corrected by its own samples.
        lines: as well.
        has_centre: whether the scan has a centre of its own, which tells where its images are.
        by_lines: whether they may be moved to where the images of the lines belong.
    """
    own, found = _half(scan), _half(lines)
    apart = _half_between(_with_half(scan, (False, False)), _with_half(lines, (False, False)))
    tells = (False, False)
    if any(apart) and not any(found):  # whether they would be at the border
        tells = _at_border(_with_half(lines, (bool(apart[0]), bool(apart[1]))))
    of_scan, of_lines = [], []
    for o, f, turned, certain in zip(own, found, apart, tells, strict=True):
        if has_centre or not by_lines:
            of_scan.append(o)
            of_lines.append(o or (f and by_lines) if turned is None else o != turned)
        elif turned and not (f or certain):  # the scan stays, since the lines do not tell
            of_scan.append(o)
            of_lines.append(True)
        else:
            of_scan.append(f != bool(turned))
            of_lines.append(f)
    return (of_scan[0], of_scan[1]), (of_lines[0], of_lines[1])


def _at_border(lines: ScanFile) -> Halves:
    """Along which axes images of the middle slice are certainly half a field of view off."""
    block = calibration_block(lines.mask, WIDTH)
    if min(block) < FEWEST:
        return False, False
    return half_off(center_crop(lines.read_ksp(len(lines) // 2), block))


def _half(file: ScanFile) -> Halves:
    return file.move.half if isinstance(file, Corrected) else (False, False)


def _with_half(file: ScanFile, half: Halves) -> ScanFile:
    """The same scan with its images moved by half a field of view along these axes, or not."""
    if isinstance(file, Corrected):
        return Corrected(file.source, replace(file.move, half=half), file.residue)
    size = (file.shape[2], file.shape[3])
    return Corrected(file, Move(size, (0, 0), half), np.zeros(size, bool)) if any(half) else file


def _half_between(scan: ScanFile, lines: ScanFile) -> tuple[bool | None, bool | None]:
    """See :attr:`Overlap.half`."""
    if scan.shape[:2] != lines.shape[:2]:
        return None, None
    matrix = (scan.shape[2], scan.shape[3])
    plane = center_fit(lines.mask, matrix)[0]
    overlap = read_overlap(scan, lambda index: center_fit(lines.read_ksp(index), matrix), plane)
    return (None, None) if overlap is None else overlap.half


def _warn_placed(lines: ScanFile, move: Move) -> None:
    """Say where k = 0 is in the block, if it is not in the middle."""
    y, x = (n // 2 - shift for n, shift in zip(move.matrix, move.shift, strict=True))
    ny, nx = lines.shape[2:]
    if (y, x) != (ny // 2, nx // 2):
        warn(
            "W-CENTRE",
            f"{name_of(lines.path)}: k = 0 of the calibration lines is at row {y} and column {x} "
            f"of {ny} x {nx}, not at {ny // 2} and {nx // 2}; they were placed so",
        )


def _not_round(move: Move, size: tuple[int, int], matrix: Sequence[int]) -> Move:
    """A move of a block that is smaller than the matrix of the scan: not round its ends.

    Unless k = 0 is in its corner.
    """
    sizes, shifts = list(move.matrix), list(move.shift)
    for axis, (n, whole) in enumerate(zip(size, matrix, strict=True)):
        at = n // 2 - shifts[axis]
        if shifts[axis] and sizes[axis] == n < whole and n // 8 <= at < n - n // 8:
            sizes[axis] = 2 * max(at, n - at)
            shifts[axis] = sizes[axis] // 2 - at
    return replace(move, matrix=(sizes[0], sizes[1]), shift=(shifts[0], shifts[1]))
