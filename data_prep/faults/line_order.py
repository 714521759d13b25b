"""Lines of k-space stored in the order in which they were acquired, not by their place.

Lines that were acquired in m interleaves, 0, m, 2m, ..., 1, m + 1, ..., give m parts of k-space,
each with its own middle: the energy along the lines has m peaks of about the same height, and
little between them. An object whose brightness is a cosine of the place, without a mean, has two
such peaks; there, one part of k-space is a copy of the other. Lines of interleaves are not: each
part is the image folded m times, by other weights.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...errors import NumericalWarning
from .line_energies import line_energies

PARTS = (2, 3, 4, 6, 8)
"""Numbers of interleaves that are looked for."""

LEAST_LINES = 16
"""Lines of an interleave."""

OFF = 1.5
"""Lines by which a peak may be off the middle of its part."""

UNEQUAL = 10.0
"""Largest ratio between the energies of the highest and the lowest peak."""

BETWEEN = 0.2
"""Largest energy of the lines where parts meet, over that of the lowest peak."""

COPY = 0.9
"""Correlation of two parts above which one is a copy of the other."""

ROWS = 8
"""Rows on both sides of the peak that are compared."""


def middles(ksp: Tensor, power: Tensor, mask: Tensor) -> tuple[int, ...]:
    """The columns of the middles of k-space where there are several; empty in right scans.

    Args:
        ksp: of a slice, ``(coil, y, x)``.
        power: energy of its samples, ``(y, x)``.
        mask: sampled positions, bool ``(y, x)``. Scans that lack a column are not judged.
    """
    energy, held = line_energies(power, mask)
    n = len(energy)
    if len(held) < n or not bool((energy > 0).all()):
        return ()
    smooth = np.convolve(energy.numpy(), (0.25, 0.5, 0.25), "same")
    for m in PARTS:
        if n >= m * LEAST_LINES:
            peaks = _peaks(smooth, m)
            if peaks and not _are_copies(ksp, peaks):
                return peaks
    return ()


def _peaks(energy: np.ndarray, m: int) -> tuple[int, ...]:
    """The peaks of ``m`` interleaves by the energy of columns ``(x,)``; empty if there are none."""
    n = len(energy)
    ends = np.cumsum([0] + [len(range(first, n, m)) for first in range(m)])
    near = max(1, n // (8 * m))
    peaks, between = [], []
    for start, end in pairwise(ends):
        part = energy[start:end]
        peaks.append(int(start + part.argmax()))
        between += [part[:near].max(), part[-near:].max()]
        if abs(peaks[-1] - (start + end - 1) / 2) > OFF:
            return ()
    heights = energy[peaks]
    if heights.max() > UNEQUAL * heights.min() or max(between) > BETWEEN * heights.min():
        return ()
    return tuple(peaks)


def _are_copies(ksp: Tensor, peaks: tuple[int, ...]) -> bool:
    """Whether k-space ``(coil, y, x)`` about a peak is a copy of that about the first one."""
    energy = ksp[..., list(peaks)].abs().square().sum(dim=(0, 2))
    row, width = int(energy.argmax()), ksp.shape[-1] // (4 * len(peaks))
    rows = ksp[:, max(0, row - ROWS) : row + ROWS + 1]
    first, *others = (rows[..., at - width : at + width + 1] for at in peaks)
    return max(_likeness(first, other) for other in others) > COPY


def _likeness(first: Tensor, other: Tensor) -> float:
    """Largest correlation of two parts ``(coil, y, x)`` that are up to 1.5 lines apart."""
    n = first.shape[-1]
    window = torch.from_numpy(np.hanning(n + 2)[1:-1])
    images = [torch.fft.ifft(part * window, n=8 * n) for part in (first, other)]
    product = (images[0] * images[1].conj()).sum(dim=(0, 1))
    turns = 2j * torch.pi * torch.fft.fftfreq(8 * n, dtype=torch.float64)
    apart = torch.arange(-1.5, 1.6, 0.125, dtype=torch.float64)
    found = (torch.exp(apart[:, None] * turns) @ product).abs().max()
    return float(found / (images[0].norm() * images[1].norm()).clamp_min(1e-30))


def order_warnings(
    name: str, found: Mapping[int, tuple[int, ...]], axis: str
) -> list[NumericalWarning]:
    """W-LINES where slices hold the middle of k-space several times along an axis."""
    slices = [index for index, places in found.items() if places]
    if not slices:
        return []
    places = found[slices[0]]
    text = (
        f"{name}: the middle of k-space occurs {len(places)} times, at {axis} {list(places)}, in "
        f"slices {slices}, as if lines were stored in the order of their acquisition; sort them by "
        "their place, or export the scan again"
    )
    return [NumericalWarning("W-LINES", text)]
