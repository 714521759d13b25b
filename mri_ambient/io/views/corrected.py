"""Raw k-space corrected where its samples leave no doubt: images, k = 0, field of view, residue.

Everything else takes the samples to be k-space with k = 0 at ``n // 2``, images to be in the middle
of the field of view, and what is not zero to be measured. A scan of which all this holds is left as
it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, ScanFormatError, warn
from ...physics.axis_fourier import half_field_phase
from ...physics.crop import center_crop, pad
from ...physics.patterns import calibration_block
from ..extent import Extent, find_extents
from ..image_space import Energy, check_cartesian, energy_of, image_axes
from ..names import name_of
from ..sampling import Ksp, Mask, Sampling, has_phase, real_numbers, sampling_at
from ..scan_file import ScanFile, zero_outside
from .centre import WIDTH, Peak, find_peak, half_off, images_half_off
from .residue import weak_places
from .transformed import Transformed
from .view import View

LINES = ("row", "column")
"""Along y and x."""

GAP = 1e4
"""Ratio between the energies of the weakest line that was measured and the next, residue."""

LEAST_LINES = 0.04
"""Least part of the lines on both sides of the gap."""

FEWEST = 8
"""Lines of a calibration block."""

Pair = tuple[int, int]
Plane = TypeVar("Plane", Mask, Ksp, NDArray[np.float32])


@dataclass(frozen=True)
class Move:
    """How samples come to their places.

    Attributes:
        matrix: size ``(y, x)`` with rows and columns that were not stored.
        shift: by how many rows and columns samples move, round the ends of this matrix.
        half: along which axes images move by half a field of view.
        unsure: along which axes rows may be missing instead, as the samples do not show.
    """

    matrix: Pair
    shift: Pair
    half: tuple[bool, bool] = (False, False)
    unsure: tuple[bool, bool] = (False, False)

    def __call__(self, plane: Plane) -> Plane:
        """K-space or a mask ``(..., y, x)`` with its samples moved; images stay where they are."""
        rows, columns = (m - n for m, n in zip(self.matrix, plane.shape[-2:], strict=True))
        if rows or columns:
            plane = pad(plane, ((0, rows), (0, columns)))
        return np.roll(plane, self.shift, axis=(-2, -1)) if any(self.shift) else plane

    def ksp(self, ksp: Ksp) -> Ksp:
        """K-space ``(coil, y, x)``, moved."""
        ksp = self(ksp)
        if self.half[0]:
            ksp = ksp * half_field_phase(self.matrix[0])[:, None]
        return ksp * half_field_phase(self.matrix[1]) if self.half[1] else ksp

    def img(self, img: Plane) -> Plane:
        """Images ``(..., y, x)``, moved back by half a field of view."""
        turns = [
            -(n // 2) if half else 0 for n, half in zip(img.shape[-2:], self.half, strict=True)
        ]
        return np.roll(img, turns, axis=(-2, -1))


class Corrected(View):
    """A raw file with samples at their places, and without residue.

    Args:
        source: the file as it was read.
        move: where its samples go.
        residue: which of them were not measured, bool ``(y, x)``.
    """

    def __init__(self, source: ScanFile, move: Move, residue: Mask) -> None:
        super().__init__(source)
        self.move, self.residue = move, residue
        self.ends_known = source.ends_known and not any(move.unsure)
        old, new = source.shape[2:], move.matrix
        self.shape = (*source.shape[:2], *new)
        rows, columns = (
            m if final == n else final
            for final, n, m in zip(source.recon_shape, old, new, strict=True)
        )
        self.recon_shape = (rows, columns)
        if source.voxel_mm is not None:
            y_mm, x_mm, slice_mm = source.voxel_mm
            self.voxel_mm = (y_mm * old[0] / new[0], x_mm * old[1] / new[1], slice_mm)
        if source.given_mask is not None:
            self.given_mask = move(source.given_mask)
        self.steps = (*source.steps, *self._steps())

    def _steps(self) -> list[str]:
        """What was done, for the records."""
        steps = ["drop-residue"] if bool(self.residue.any()) else []
        if any(self.move.shift):
            steps.append("centre {:+d},{:+d}".format(*self.move.shift))
        return steps + ["half-field"] * any(self.move.half)

    @cached_property
    def sampling(self) -> Sampling:
        """Where the source was sampled, moved, and without residue."""
        found = self.source.sampling
        own = sampling_at(self.path, self.move(found.mask[0] & ~self.residue))
        columns = np.broadcast_to(found.acquired, self.source.shape[2:])
        return Sampling(own.mask, own.acquired & self.move(columns).any(axis=0))

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``, k = 0 at ``n // 2``."""
        return self.move.ksp(zero_outside(~self.residue, self.source.read_ksp(index)))

    def read_maps(self, index: int) -> Ksp | None:
        """See :meth:`ScanFile.read_maps`; none where rows or columns were added."""
        maps = self.source.read_maps(index)
        fits = maps is not None and maps.shape[-2:] == self.move.matrix
        return self.move.img(maps) if maps is not None and fits else None

    def read_target(self, name: str) -> NDArray[np.float32] | None:
        """See :meth:`ScanFile.read_target`; moved too if it is half a field of view off."""
        target = self.source.read_target(name)
        if target is None or not any(self.move.half):
            return target
        halves = images_half_off(np.square(target, dtype=np.float64).sum(axis=0))
        return self.move.img(target) if halves == self.move.half else target


def corrected(file: ScanFile, centre: str | Sequence[int] = "auto") -> ScanFile:
    """A raw file with k = 0 at ``n // 2``: the file itself where it is there already.

    Args:
        file: as its reader gives it.
        centre: "auto" finds k = 0, images half a field of view off, and axes of images; "header"
            leaves all as the file has it; "Y,X" are the row and column of k = 0 in the matrix as
            stored; "Y,X,NY,NX" are these and the size of the full matrix, of which rows or columns
            beyond one end were not stored.

    Raises:
        ScanFormatError: k = 0 is not at ``n // 2``, but it is not certain where it is; or the scan
            is not Cartesian, or has no phases.
        ConfigError: ``centre`` is none of these, or the file is prepared.

    Warns:
        NumericalWarning: W-IMAGE-SPACE, W-RESIDUE, W-CENTRE or W-HALF-FOV: what is corrected; or
            W-WEAK-SAMPLES.
    """
    choice = _parse_centre(centre, file)
    probes = [] if file.prepared else _probes(file)
    is_real = probes and not any(map(has_phase, probes))
    if is_real and not any(has_phase(file.read_ksp(index)) for index in range(len(file))):
        raise real_numbers(file.path)
    energies = [energy_of(ksp) for ksp in probes]
    axes: tuple[int, ...] = ()
    if choice == "auto" and file.calib_mask is None:
        check_cartesian(file.path, probes, energies)
        axes = image_axes(probes, energies)
    if axes:
        names = " and ".join("yx"[axis] for axis in axes)
        warn(
            "W-IMAGE-SPACE",
            f"{name_of(file.path)}: the samples are those of images along {names}, not of k-space; "
            "they were Fourier-transformed",
        )
        file = Transformed(file, axes)
        probes = _probes(file)
        energies = [energy_of(ksp) for ksp in probes]
    if not probes:
        return file
    residue = _find_residue(file, np.sum(energies, axis=0))
    energies = [np.where(residue, 0, energy) for energy in energies]
    move = _find_move(file, probes, energies, choice)
    still = move == Move((file.shape[2], file.shape[3]), (0, 0))
    return file if still and not residue.any() else Corrected(file, move, residue)


def _parse_centre(
    centre: str | Sequence[int], file: ScanFile
) -> Literal["auto", "header"] | tuple[Pair, Pair | None]:
    """The user's choice, checked: k = 0, and the full matrix where it was given."""
    words = centre.split(",") if isinstance(centre, str) else [str(word) for word in centre]
    if file.prepared and words != ["auto"]:
        raise ConfigError(f"{file.path}: is prepared already; give the scan it was made from")
    if words == ["auto"]:
        return "auto"
    if words == ["header"]:
        return "header"
    ny, nx = file.shape[2:]
    if len(words) in (2, 4) and all(word.strip().isdecimal() for word in words):
        y, x, *full = (int(word) for word in words)
        rows, columns = full or (ny, nx)
        if y < ny <= rows <= 2 * ny and x < nx <= columns <= 2 * nx:
            return (y, x), (rows, columns) if full else None
    raise ConfigError(
        f"{file.path}: centre is {centre!r}, wanted auto, header, or the row and column of k = 0, "
        f"in the matrix of {ny} x {nx} e.g. {ny // 2},{nx // 2}, and after these the size of the "
        f"full matrix if rows or columns were not stored, e.g. {ny // 2},{nx // 2},{ny},{nx}"
    )


def _probes(file: ScanFile) -> list[Ksp]:
    """K-space of up to three slices that can be read; those who read the others name the damage."""
    n, probes = len(file), []
    for index in sorted({n // 4, n // 2, 3 * n // 4}):
        try:
            probes.append(file.read_ksp(index))
        except ScanFormatError:
            continue
    return [ksp for ksp in probes if bool(ksp.any())]


def _find_residue(file: ScanFile, energy: Energy) -> NDArray[np.bool_]:
    """Positions ``(y, x)`` that hold what processing left of zeros; a mask in the file decides."""
    residue = np.zeros(energy.shape, bool)
    if file.given_mask is not None:
        return residue
    residue |= _below_gap(energy.sum(axis=0))
    residue |= _below_gap(np.where(residue, 0, energy).sum(axis=1))[:, None]
    residue |= _below_gap(np.where(residue, 0, energy).ravel()).reshape(energy.shape)
    if residue.any():
        ratio = np.sqrt(energy[residue].max() / np.median(energy[~residue & (energy > 0)]))
        _warn_residue(file, residue, f"at most {ratio:.1g} times the others")
    weak = weak_places(np.where(residue, 0, energy))
    if weak is None:
        return residue
    size = f"about {weak.ratio:.1g} times those near them"
    if weak.certain:
        _warn_residue(file, weak.residue, size)
        return residue | weak.residue
    warn(
        "W-WEAK-SAMPLES",
        f"{name_of(file.path)}: samples at {weak.residue.sum()} of {weak.residue.size} positions "
        f"are {size}, as if they were not measured; they count as measured, and nothing is scored",
    )
    return residue


def _warn_residue(file: ScanFile, residue: Mask, size: str) -> None:
    warn(
        "W-RESIDUE",
        f"{name_of(file.path)}: samples at {residue.sum()} of {residue.size} positions are {size}, "
        "which is what processing leaves of zeros; they count as not measured",
    )


def _below_gap(energy: Energy) -> NDArray[np.bool_]:
    """The entries below a gap of orders of magnitude; none if there is no such gap."""
    order = np.sort(energy[energy > 0])
    margin = max(2, int(LEAST_LINES * len(order)))
    ratios = order[1:] / order[:-1]
    inner = ratios[margin - 1 : len(ratios) - margin + 1]
    if inner.size == 0 or inner.max() < GAP:
        return np.zeros(energy.shape, bool)
    below: NDArray[np.bool_] = energy <= order[margin - 1 + int(inner.argmax())]
    return below & (energy > 0)


def _find_move(
    file: ScanFile,
    probes: Sequence[Ksp],
    energies: Sequence[Energy],
    choice: Literal["auto", "header"] | tuple[Pair, Pair | None],
) -> Move:
    """Where samples have to go; warnings for what the user did not choose."""
    ny, nx = file.shape[2:]
    still = Move((ny, nx), (0, 0))
    if choice == "header" or (choice == "auto" and file.calib_mask is not None):
        return still
    given = None if choice == "auto" else choice[1]
    place = _find_place(file, energies) if choice == "auto" else choice[0]
    extents = find_extents(np.sum(energies, axis=0), place)
    matrix = given or _matrix((ny, nx), place, extents)
    shift = (matrix[0] // 2 - place[0], matrix[1] // 2 - place[1])
    move = Move(matrix, shift)
    if choice == "auto" and move != still:
        y, x = (found == "unknown" and file.voxel_mm is None for found in extents)
        move = replace(move, unsure=(y, x))
        _warn_moved(file, place, move)
    if file.calib_mask is not None:
        return move
    half = _find_half(move, probes, energies)
    if any(half):
        axes = " and ".join(name for name, off in zip("yx", half, strict=True) if off)
        warn(
            "W-HALF-FOV",
            f"{name_of(file.path)}: images are half a field of view off along {axes}, with the "
            "object at the border; they were moved to the middle",
        )
    return replace(move, half=half)


def _warn_moved(file: ScanFile, place: Pair, move: Move) -> None:
    ny, nx = file.shape[2:]
    text = f"k = 0 is at row {place[0]} and column {place[1]} of {ny} x {nx}, not at {ny // 2} and "
    text += f"{nx // 2}; samples were moved there"
    for name, n, m in zip(LINES, (ny, nx), move.matrix, strict=True):
        if m > n:
            text += f"; {m - n} of {m} {name}s beyond one end were not stored (partial Fourier)"
    for axis in np.flatnonzero(move.unsure):
        n = 2 * max(place[axis], (ny, nx)[axis] - place[axis])
        (y, x), (rows, columns) = place, (n, nx) if axis == 0 else (ny, n)
        text += (
            f"; or {LINES[axis]}s beyond one end were not stored (partial Fourier): the samples "
        )
        text += "do not show which, so that nothing is scored against them; "
        text += f"say by centre (--centre {y},{x}) that none are missing, or "
        text += f"by centre (--centre {y},{x},{rows},{columns}) that they are"
    warn("W-CENTRE", f"{name_of(file.path)}: {text}")


def _find_place(file: ScanFile, energies: Sequence[Energy]) -> Pair:
    """Row and column of k = 0; ``n // 2`` unless most slices agree that it is elsewhere.

    Raises:
        ScanFormatError: they differ in where it is, or lines were skipped around it.
    """
    peaks = [found for energy in energies if (found := find_peak(energy)) is not None]
    hit = np.any([energy > 0 for energy in energies], axis=0)
    places = [n // 2 + _shift(file, peaks, axis) for axis, n in enumerate(hit.shape)]
    place = (places[0], places[1])
    blocks = [_block(hit, at) for at in ((hit.shape[0] // 2, hit.shape[1] // 2), place)]
    for axis, n in enumerate(hit.shape):
        shift = place[axis] - n // 2
        if not shift or hit.any(axis=1 - axis).all():
            continue  # nothing moves, or every line was measured
        here, there = blocks[0][axis], blocks[1][axis]
        if here >= max(there, 4 * abs(shift)):
            places[axis] = n // 2  # the block around n // 2 holds the peak
        elif here >= FEWEST > there:
            text = f"most energy is at {LINES[axis]} {place[axis]}, where lines were skipped"
            raise _uncertain(file, text)
    return places[0], places[1]


def _block(hit: NDArray[np.bool_], place: Pair) -> Pair:
    """Sides of the fully sampled rectangle around a place."""
    shift = (hit.shape[0] // 2 - place[0], hit.shape[1] // 2 - place[1])
    moved = np.roll(hit, shift, axis=(0, 1))
    return calibration_block(moved[None], WIDTH)


def _shift(file: ScanFile, peaks: Sequence[Peak], axis: int) -> int:
    """Samples from ``n // 2`` to k = 0 along an axis."""
    n = file.shape[2 + axis]
    shifts = [found.shift(axis, n) for found in peaks]
    off = sorted(shift for shift in shifts if shift)
    if 2 * len(off) <= len(shifts):
        return 0
    middle = off[len(off) // 2]
    if any(abs((shift - middle + n // 2) % n - n // 2) > 1 for shift in off):
        places = ", ".join(str(n // 2 + shift) for shift in off)
        raise _uncertain(file, f"slices differ in the {LINES[axis]} of k = 0 ({places})")
    return middle


def _uncertain(file: ScanFile, text: str) -> ScanFormatError:
    ny, nx = file.shape[2:]
    return ScanFormatError(
        f"{file.path}: {text}; say by centre where k = 0 is in the matrix of {ny} x {nx} "
        f"(--centre Y,X), or that it is at {ny // 2},{nx // 2} (--centre header)"
    )


def _matrix(stored: Pair, place: Pair, extents: Sequence[Extent]) -> Pair:
    """Size of the matrix around k = 0: larger than the stored one where that ends too early."""
    sizes = [
        2 * max(at, n - at) if found == "cut" else n
        for n, at, found in zip(stored, place, extents, strict=True)
    ]
    return sizes[0], sizes[1]


def _find_half(move: Move, probes: Sequence[Ksp], energies: Sequence[Energy]) -> tuple[bool, bool]:
    """Along which axes images are half a field of view off, in all slices that hold signal."""
    hit: Mask = np.any([energy > 0 for energy in energies], axis=0)
    block = calibration_block(move(hit)[None], WIDTH)
    pairs = zip(probes, energies, strict=True)
    filled = [ksp for ksp, energy in pairs if find_peak(energy) is not None]
    if min(block) < FEWEST or not filled:
        return False, False
    moved = (move(ksp) for ksp in filled)
    found = [half_off(center_crop(ksp, block)) for ksp in moved]
    return all(half[0] for half in found), all(half[1] for half in found)
