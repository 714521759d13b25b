"""Where a volume was sampled, judged from its data.

A position is sampled if any slice and coil holds a non-zero value there. Where the samples form
lines, stray exact zeros on a line do not break it; 2-D patterns are taken as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import NumericalWarning, ScanFormatError
from ..physics.masks import is_line_mask, line_coverage

LINE_FILL = 0.8
"""Share of non-zero samples from which on a column counts as one sampled line."""

MIN_RUN = 0.5
"""Share of the columns that an unbroken run of lines must fill to count as all that is acquired."""


@dataclass(frozen=True)
class Sampling:
    """Where a volume was sampled.

    Attributes:
        mask: sampled positions, bool ``(1, y, x)``.
        acquired: bool ``(x,)``: False for columns the scanner never acquires.
    """

    mask: Tensor
    acquired: Tensor


def find_sampling(
    path: Path,
    read: Callable[[int], Tensor],
    shape: tuple[int, int, int, int],
    given: Tensor | None = None,
    padding: tuple[int, int] | None = None,
) -> Sampling:
    """Find the sampling of a volume in one pass over its slices.

    A mask in the file wins over data outside it: people store masks beside full data and mean
    them, so such data is ignored, with a warning. Positions the mask calls sampled but that hold
    nothing are not sampled (fastMRI's masks run on into columns never acquired); a mask of which
    more than half holds nothing belongs to other data and is refused.

    Args:
        path: the file, for messages.
        read: gives the k-space of slice ``i``, complex ``(coil, y, x)``.
        shape: of the volume, ``(slice, coil, y, x)``.
        given: the mask the file holds, bool ``(y, x)``.
        padding: ``(left, right)``: the columns that are acquired, says the header.

    Raises:
        ScanFormatError: there is no data, the mask belongs to other data, or the slices were
            sampled in different places.
    """
    hit, counts = _non_zero(read, shape)
    if not hit.any():
        raise ScanFormatError(f"{path}: kspace holds nothing but zeros")
    _check_slices_agree(path, hit, counts)
    measured = whole_lines(hit)
    acquired = _acquired(path, measured, padding)
    if given is not None:
        _check_given(path, hit, measured, given & acquired)
        measured = measured & given
    return Sampling(mask=measured[None], acquired=acquired & _unbroken_run(measured))


def _non_zero(
    read: Callable[[int], Tensor], shape: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Non-zero positions of the volume ``(y, x)``, and their number ``(slice, x)``."""
    n_slices, _, ny, nx = shape
    hits = np.zeros((ny, nx), dtype=bool)
    counts = np.zeros((n_slices, nx), dtype=int)
    for index in range(n_slices):
        _note(read(index).numpy(), hits, counts[index])
    return torch.from_numpy(hits), torch.from_numpy(counts)


def _note(ksp: NDArray[np.complex64], hits: NDArray[np.bool_], counts: NDArray[np.int_]) -> None:
    # NumPy tells zeros ten times faster than torch's complex !=. Nothing outlives this call: what
    # is left between two slices would split the memory that reading the next one needs.
    hit = ksp.any(axis=0)
    hits |= hit
    hit.sum(axis=0, out=counts)


def whole_lines(hit: Tensor) -> Tensor:
    """Close stray zeros where the non-zero positions ``(y, x)`` form lines; leave 2-D patterns."""
    rows, lines = hit.any(dim=1), hit.any(dim=0)
    fill = hit[rows][:, lines].float().mean(dim=0)
    return rows[:, None] & lines if bool((fill >= LINE_FILL).all()) else hit


def _check_slices_agree(path: Path, hit: Tensor, counts: Tensor) -> None:
    """One mask serves the volume: zeros of a slice sampled otherwise would pass for data."""
    lines = hit.any(dim=0)
    totals = counts.sum(dim=1)
    empty = torch.nonzero(totals == 0).flatten().tolist()
    if empty:
        _warn(f"{path}: slices {empty} hold nothing but zeros")
    for index in torch.nonzero(totals).flatten().tolist():
        n_missing = int((lines & (counts[index] == 0)).sum())
        if n_missing > 0.05 * int(lines.sum()) or 2 * int(totals[index]) < int(hit.sum()):
            raise ScanFormatError(
                f"{path}: slices are sampled in different places (slice {index} holds "
                f"{int(totals[index])} of the volume's {int(hit.sum())} sampled positions); write "
                "the slices into files of their own"
            )
        if n_missing:
            _warn(
                f"{path}: slice {index} holds zeros in {n_missing} of {int(lines.sum())} sampled "
                "columns"
            )


def _acquired(path: Path, measured: Tensor, padding: tuple[int, int] | None) -> Tensor:
    """Columns the header says are acquired; all of them where the data contradicts it."""
    columns = torch.arange(measured.shape[1])
    if padding is None:
        return columns >= 0
    acquired = (columns >= padding[0]) & (columns < padding[1])
    n_outside = int((line_coverage(measured) & ~acquired).sum())
    if n_outside:
        _warn(
            f"{path}: the header says that only columns {padding[0]} to {padding[1] - 1} are "
            f"acquired, but {n_outside} others hold data; the header's limits are ignored"
        )
        return columns >= 0
    return acquired


def _check_given(path: Path, hit: Tensor, measured: Tensor, given: Tensor) -> None:
    rows = measured.any(dim=1)[:, None]
    n_given, n_held = int((given & rows).sum()), int((given & measured).sum())
    if 2 * n_held < n_given or n_held == 0:
        raise ScanFormatError(
            f"{path}: kspace holds nothing at {n_given - n_held} of the {n_given} positions that "
            "'mask' calls sampled; the mask belongs to other data, or is shifted, inverted or "
            "transposed"
        )
    if n_given - n_held > 0.01 * n_given:
        _warn(
            f"{path}: kspace is zero at {n_given - n_held} of the {n_given} positions that 'mask' "
            "calls sampled; they count as not sampled"
        )
    n_stray = int((hit & ~given).sum())
    if n_stray:
        _warn(
            f"{path}: {n_stray} of {int(hit.sum())} positions that hold data are not in 'mask'; "
            "that data is ignored"
        )


def _unbroken_run(mask: Tensor) -> Tensor:
    """Bool ``(x,)``: the sampled lines if they leave no gap, everything otherwise.

    A scan that is sampled without gaps is not undersampled: what it lacks at the edges (partial
    Fourier, zero filling) was never meant to be acquired, whether a header says so or not.
    """
    lines = line_coverage(mask)
    positions = torch.nonzero(lines).flatten()
    length = int(positions[-1] - positions[0]) + 1
    unbroken = length == positions.numel() and length >= MIN_RUN * lines.numel()
    return lines if unbroken and is_line_mask(mask) else torch.ones_like(lines)


def _warn(message: str) -> None:
    warnings.warn(message, NumericalWarning, stacklevel=4)
