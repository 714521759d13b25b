"""Where a volume was sampled, found from its k-space, a mask and a header.

A position is sampled if any slice and coil holds a non-zero value there. Where the samples form
lines, stray exact zeros on a line do not break it; 2-D patterns are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ScanFormatError, warn
from ..physics.patterns import is_line_mask, line_coverage, whole_lines
from .names import name_of

MISSING = 12.0
"""Lines that margins would hold, if they were sampled as densely as what lies beside them; random
masks leave them all out once in 10^5 times."""

MOST_LOST = 0.05
"""Share of its columns that a slice may lack."""

TORN, WHOLE = 0.8, 0.98
"""A coil lost a line that holds less than the first share of what all coils do, beside one that
holds more than the second. Samples that were rounded to zero grow in number from line to line."""

FEWEST_LOST = 8
"""Samples of a line: fewer may have been rounded to zero."""

Mask = NDArray[np.bool_]
Ksp = NDArray[np.complex64]


@dataclass(frozen=True)
class Sampling:
    """Where a volume was sampled.

    Attributes:
        mask: sampled positions, bool ``(1, y, x)``.
        acquired: bool ``(x,)``: False for columns the scanner never acquires.
    """

    mask: Mask
    acquired: Mask


@dataclass(frozen=True)
class Torn:
    """A coil of a slice that lost samples.

    Attributes:
        index: of the slice.
        coil: its number.
        columns: that it lost, bool ``(x,)``.
        rows: whether it lost rows, too.
        n_lines: columns that the slice holds.
    """

    index: int
    coil: int
    columns: Mask
    rows: bool
    n_lines: int


def find_sampling(
    path: Path,
    read: Callable[[int], Ksp],
    shape: tuple[int, int, int, int],
    given: Mask | None = None,
    padding: tuple[int, int] | None = None,
) -> Sampling:
    """Find the sampling of a volume in one pass over its slices.

    A mask in the file decides: samples outside it are ignored, with a warning. Positions in it
    that hold only zeros count as not sampled (fastMRI's masks run on into columns never acquired);
    a mask with zeros at more than half of its positions belongs to other data and is refused.

    Args:
        path: the file, for messages.
        read: gives the k-space of slice ``i``, complex ``(coil, y, x)``.
        shape: of the volume, ``(slice, coil, y, x)``.
        given: the mask the file holds, bool ``(y, x)``.
        padding: ``(left, right)``: columns ``left <= x < right`` are acquired, by the header.

    Raises:
        ScanFormatError: there are only zeros, the mask belongs to other data, or the slices were
            sampled at different positions.
    """
    hit, counts, torn = _non_zero(path, read, shape)
    if not hit.any():
        raise ScanFormatError(f"{path}: kspace holds nothing but zeros; export the scan again")
    lost = _lost_columns(path, hit, counts)
    if torn:
        lost |= _lost_by_coils(path, torn)
    measured = whole_lines(hit & ~lost)
    acquired = _acquired(path, measured, padding)
    if given is not None:
        _check_given(path, hit, measured, given & acquired)
        measured = measured & given
    return Sampling(mask=measured[None], acquired=acquired & _extent(measured))


def sampling_at(path: Path, measured: Mask, padding: tuple[int, int] | None = None) -> Sampling:
    """The sampling of a volume known to be measured at these positions, bool ``(y, x)``."""
    acquired = _acquired(path, measured, padding)
    return Sampling(mask=measured[None], acquired=acquired & _extent(measured))


def _non_zero(
    path: Path, read: Callable[[int], Ksp], shape: tuple[int, int, int, int]
) -> tuple[Mask, NDArray[np.int_], list[Torn]]:
    """Non-zero positions of the volume ``(y, x)``, their number ``(slice, x)``, torn coils."""
    n_slices, _, ny, nx = shape
    hits = np.zeros((ny, nx), dtype=bool)
    counts = np.zeros((n_slices, nx), dtype=int)
    torn: list[Torn] = []
    is_complex = False
    for index in range(n_slices):
        ksp = read(index)
        hit = np.asarray(ksp.any(axis=0))
        is_complex = is_complex or has_phase(ksp)
        hits |= hit
        hit.sum(axis=0, out=counts[index])
        torn += _torn_coils(index, ksp, hit)
        del hit, ksp  # they would fragment the memory that reading the next slice needs
    if hits.any() and not is_complex:
        raise real_numbers(path)
    return hits, counts, torn


def has_phase(ksp: Ksp) -> bool:
    """Whether samples have real and imaginary parts."""
    return bool(ksp.real.any() and ksp.imag.any())


def real_numbers(path: Path) -> ScanFormatError:
    """The error of a file without phases."""
    return ScanFormatError(
        f"{path}: the samples are real numbers, as of magnitude images, and those of k-space are "
        "complex; export k-space with real and imaginary parts"
    )


def _torn_coils(index: int, ksp: Ksp, hit: Mask) -> Iterator[Torn]:
    """Coils of a slice that hold zeros in lines where others hold samples."""
    n_rows, n_columns = hit.sum(axis=0), hit.sum(axis=1)
    for number, coil in enumerate(ksp):
        held = coil != 0
        columns, rows = _gaps(held.sum(axis=0), n_rows), _gaps(held.sum(axis=1), n_columns)
        if columns.any() or rows.any():
            yield Torn(index, number, columns, bool(rows.any()), int(n_rows.astype(bool).sum()))


def _gaps(held: NDArray[np.int_], wanted: NDArray[np.int_]) -> Mask:
    """Lines of which a coil holds few samples, between lines of which it holds all."""
    lines = np.flatnonzero(wanted)
    share = held[lines] / wanted[lines]
    low = (share < TORN) & (wanted[lines] - held[lines] >= FEWEST_LOST)
    gaps = np.zeros(len(wanted), bool)
    if not low.any() or low.all():
        return gaps
    starts = np.flatnonzero(np.diff(low, prepend=False) & low)
    ends = np.flatnonzero(np.diff(low, append=False) & low) + 1
    for start, end in zip(starts, ends, strict=True):
        beside = share[[i for i in (start - 1, end) if 0 <= i < len(share)]]
        gaps[lines[start:end]] = bool((beside > WHOLE).all())
    return gaps


def _lost_by_coils(path: Path, torn: Sequence[Torn]) -> Mask:
    """Columns ``(x,)`` that single coils lack."""
    lost: Mask = np.any([one.columns for one in torn], axis=0)
    places = ", ".join(f"coil {one.coil} of slice {one.index}" for one in torn[:4])
    n, text = int(lost.sum()), f"({places}{', ...' if len(torn) > 4 else ''}, counted from 0)"
    if n > MOST_LOST * torn[0].n_lines or any(one.rows for one in torn):
        raise ScanFormatError(
            f"{path}: single coils hold zeros where the others hold samples {text}; the data was "
            "lost: export the scan again, or leave these coils out of all slices"
        )
    warn(
        "W-MISSING-COLUMNS",
        f"{name_of(path)}: single coils hold zeros in {n} of {torn[0].n_lines} sampled columns "
        f"{text}, which count as not measured",
    )
    return lost


def _lost_columns(path: Path, hit: Mask, counts: NDArray[np.int_]) -> Mask:
    """Columns ``(x,)`` that a slice lacks, or has a part of, though others hold them.

    One mask serves the volume: zeros of a slice sampled elsewhere would count as data.
    """
    lines, totals = hit.any(axis=0), counts.sum(axis=1)
    n_lines, n_hit = int(lines.sum()), int(hit.sum())
    missing = lines & (counts == 0)
    torn = lines & (counts < 0.9 * counts.max(axis=0))
    n_missing, n_torn = missing.sum(axis=1), torn.sum(axis=1)
    few = n_torn <= MOST_LOST * n_lines  # in many columns it is rounding to zero
    n_lost = np.where(few, n_torn, n_missing)
    empty = np.flatnonzero(totals == 0).tolist()
    if empty:
        warn("W-EMPTY-SLICES", f"{name_of(path)}: slices {empty} hold only zeros")
    elsewhere = (totals > 0) & ((n_missing > MOST_LOST * n_lines) | (totals < 0.6 * n_hit))
    for index in np.flatnonzero(elsewhere).tolist():
        raise ScanFormatError(
            f"{path}: slices are sampled in different places (slice {index} holds "
            f"{int(totals[index])} of the volume's {n_hit} sampled positions); if the scan was "
            "cut off, export it again, otherwise write the slices into files of their own"
        )
    lossy = np.flatnonzero((totals > 0) & (n_lost > 0)).tolist()
    if lossy:
        most = int(n_lost[lossy].max())
        warn(
            "W-MISSING-COLUMNS",
            f"{name_of(path)}: slices {lossy} hold zeros in up to {most} of {n_lines} sampled "
            "columns, which count as not measured in all slices",
        )
    lost: Mask = np.where(few[:, None], torn, missing)[totals > 0].any(axis=0)
    return lost


def _acquired(path: Path, measured: Mask, padding: tuple[int, int] | None) -> Mask:
    """Columns that are acquired according to the header; all if the data contradicts it."""
    left, right = padding or (0, measured.shape[1])
    acquired = np.zeros(measured.shape[1], bool)
    acquired[left:right] = True
    n_outside = int((line_coverage(measured) & ~acquired).sum())
    if n_outside:
        warn(
            "W-HEADER-LIMITS",
            f"{name_of(path)}: by the header only columns {left} to {right - 1} are acquired, but "
            f"{n_outside} others hold data",
        )
        acquired[:] = True
    return acquired


def _check_given(path: Path, hit: Mask, measured: Mask, given: Mask) -> None:
    rows = np.asarray(measured.any(axis=1))[:, None]
    n_given, n_held = int((given & rows).sum()), int((given & measured).sum())
    if 2 * n_held < n_given or n_held == 0:
        raise ScanFormatError(
            f"{path}: kspace holds nothing at {n_given - n_held} of the {n_given} positions "
            "sampled according to 'mask'; the mask belongs to other data, or is shifted, inverted "
            "or transposed"
        )
    n_stray = int((hit & ~given).sum())
    if _contradict(hit, measured, given):
        raise ScanFormatError(
            f"{path}: mask and k-space contradict each other: kspace holds nothing at "
            f"{int((given & ~measured).sum())} positions sampled according to 'mask', and samples "
            f"at {n_stray} others{_fits_moved(measured, given)}; give the right one (mask, --mask "
            "FILE), or delete it, so that what is not zero counts as measured"
        )
    if n_given - n_held > 0.01 * n_given:
        warn(
            "W-MASK-ZEROS",
            f"{name_of(path)}: kspace is zero at {n_given - n_held} of the {n_given} positions "
            "sampled according to 'mask'",
        )
    if n_stray:
        warn(
            "W-OUTSIDE-MASK",
            f"{name_of(path)}: {n_stray} of {int(hit.sum())} positions with data are not in 'mask'",
        )


def _contradict(hit: Mask, measured: Mask, given: Mask) -> bool:
    """Whether 1 % of both lie elsewhere, and neither is a part of fully sampled k-space.

    Columns beyond the outermost that hold samples count as never acquired.
    """
    box = _between(measured) | _between(measured.T).T
    empty, stray = given & box & ~measured, hit & ~given
    is_part = 10 * int(stray.sum()) >= 9 * int((box & ~given).sum())
    few = 100 * int(empty.sum()) <= int(given.sum()) or 100 * int(stray.sum()) <= int(hit.sum())
    return not few and not is_part


def _between(mask: Mask) -> Mask:
    """Positions of every row from its first sample to its last."""
    before, after = (np.logical_or.accumulate(mask[:, ::k], axis=1)[:, ::k] for k in (1, -1))
    return before & after


def _fits_moved(measured: Mask, given: Mask) -> str:
    """Says by how many columns the mask must be moved to fit; empty if that does not help."""
    columns = line_coverage(measured[None])
    for shift in (1, -1, 2, -2):
        if np.array_equal(np.roll(line_coverage(given[None]), shift), columns):
            return f", as if the mask was off by {abs(shift)} column{'s' * (abs(shift) > 1)}"
    return ""


def _extent(mask: Mask) -> Mask:
    """Bool ``(x,)``: columns that were meant to be acquired, judged by the lines; all if in doubt.

    A scan without gaps is not undersampled: if half or more of the lines lie side by side, those
    missing at the edges (partial Fourier, zero filling) were never meant to be acquired, with or
    without a header. Neither were margins in which many lines are missing on both sides.
    """
    lines = line_coverage(mask)
    n = lines.size
    positions = np.flatnonzero(lines)
    first, last = int(positions[0]), int(positions[-1])
    length = last - first + 1
    unbroken = length == positions.size
    inside = np.zeros_like(lines)
    inside[first : last + 1] = True
    is_known = 2 * length >= n if unbroken else _is_padded(lines, first, last)
    return inside if is_known and is_line_mask(mask) else np.ones_like(lines)


def _is_padded(lines: Mask, first: int, last: int) -> bool:
    """Whether margins of the same width hold no line where :data:`MISSING` would be expected."""
    left, right, quarter = first, lines.size - 1 - last, (last - first + 1) // 4
    if quarter == 0 or 8 * min(left, right) < lines.size or 4 * abs(left - right) > left + right:
        return False
    outer = (lines[first : first + quarter], lines[last + 1 - quarter : last + 1])
    expected = [float(part.mean()) * n for part, n in zip(outer, (left, right), strict=True)]
    return sum(expected) >= MISSING
