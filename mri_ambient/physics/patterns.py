"""Sampling patterns: what a mask samples, and how much of it.

Masks are bool ``(1, y, x)``, arrays of numpy as files give them, or tensors. The acceleration R is
always the *achieved* rate, acquired positions over sampled positions, calibration included; columns
a scanner never acquires (partial Fourier, zero-filled edges) count in neither.

Nothing here imports torch: what a file holds is told without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Mask = TypeVar("Mask", "Tensor", NDArray[np.bool_])


def _any(mask: Mask, axis: int) -> Mask:
    """Along an axis."""
    return mask.any(axis)  # type: ignore[return-value]  # numpy declares single values, too


def _all(mask: Mask, axis: int) -> Mask:
    """Along an axis."""
    return mask.all(axis)  # type: ignore[return-value]  # as above


def _array(mask: Mask) -> NDArray[np.bool_]:
    """As an array of numpy, whose calls on so little take a tenth of those of torch."""
    return mask if isinstance(mask, np.ndarray) else mask.cpu().numpy()


def acquired_rows(plane: Mask) -> Mask:
    """Bool ``(y,)``: from the first row with a sample to the last; a partial echo leaves some out.

    Rows missing in between were skipped to save time: then y is a phase-encoding axis.
    """
    rows = _any(plane, -1)
    n_before = rows.cumsum(0)  # and in the row itself
    between: Mask = (n_before > 0) & ((n_before < n_before[-1]) | rows)
    return between


def is_line_mask(mask: Mask) -> bool:
    """Whether whole columns (of the rows acquired at all) are sampled or skipped together."""
    plane = _array(_any(mask.reshape(-1, *mask.shape[-2:]), 0))
    return bool((plane == acquired_rows(plane)[:, None] & _any(plane, -2)).all())


def readout_is_full(mask: Mask) -> bool:
    """Whether every sampled column ``(1, y, x)`` holds every row: the readout never aliases."""
    plane = mask[0]
    return bool((plane == _any(plane, -2)).all())


def mask_kind(mask: Mask) -> str:
    """What a mask samples or skips as a whole: "lines", or single "samples"."""
    return "lines" if is_line_mask(mask) else "samples"


def line_coverage(mask: Mask) -> Mask:
    """Which columns hold any sample, bool ``(x,)``."""
    return _any(mask.reshape(-1, mask.shape[-1]), 0)


def whole_lines(hit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close stray zeros where the non-zero positions ``(y, x)`` form lines, at least 80 % full.

    Up to 2 % of the rows may hold nothing but zeros.
    """
    rows, lines = _any(hit, 1), _any(hit, 0)
    whole = acquired_rows(hit)
    if 50 * int((whole & ~rows).sum()) <= int(whole.sum()):
        rows = whole
    n_hit = hit[rows][:, lines].sum(axis=0)
    return rows[:, None] & lines if bool((5 * n_hit >= 4 * rows.sum()).all()) else hit


def achieved_acceleration(mask: Mask, acquired: Mask | None = None) -> float:
    """R: acquired over sampled positions; ``acquired`` is bool ``(x,)``, all columns by default.

    Rows that no line of a line mask holds (partial echo) were never acquired.
    """
    n_sampled = int(mask.sum())
    if n_sampled == 0:
        raise ValueError("the mask samples nothing")
    n_columns = mask.shape[-1] if acquired is None else int(acquired.sum())
    n_rows = int(_any(mask, -1).sum()) if is_line_mask(mask) else math.prod(mask.shape[:-1])
    return n_rows * n_columns / n_sampled


def calibration_block(mask: Mask, limit: int = 24) -> tuple[int, int]:
    """Sides ``(y, x)`` of the largest centred, fully sampled rectangle, each at most ``limit``.

    Centred as :func:`~mri_ambient.physics.crop.center_crop` cuts it; ``(0, 0)`` without k = 0.
    """
    ny, nx = mask.shape[-2:]
    plane = _array(_all(mask.reshape(-1, ny, nx), 0))
    block = plane[np.ix_(_outwards(ny, limit), _outwards(nx, limit))]
    full = np.logical_and.accumulate(np.logical_and.accumulate(block, axis=0), axis=1)
    best = (0, 0)
    for height, width in enumerate(full.sum(axis=1).tolist(), start=1):
        if height * width >= best[0] * best[1] and width:
            best = (height, width)
    return best


def _outwards(n: int, limit: int) -> list[int]:
    """Places in the order in which a growing rectangle reaches them: 0, -1, 1, ... from k = 0."""
    steps = range(1, min(limit, n) + 1)
    return [n // 2 + (step // 2 if step % 2 else -(step // 2)) for step in steps]
