"""Places of k-space that hold little, among measured ones: residue that processing left of zeros.

Energy falls steeply from k = 0 outwards, so that residue may be stronger than what was measured
further out. What tells is the jump between neighbours: the energies near every place have two
levels, there is little between them, and the block around k = 0 holds the upper one alone. Gratings
and objects apart have zeros of their own in k-space, but these cross the block as well.

Lines are summed along the line, samples over coils and slices.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..image_space import Energy
from ..sampling import Mask

JUMP = 10.0
"""Least ratio of the energies of a line that was measured and its neighbour that was not."""

LEAST_SHARE = 1 / 3
"""Of the places outside of the block around k = 0, that were not measured."""

FEWEST_RISES = 5
"""Times that energy rises again outwards: it falls once where k-space ends, or is padded."""

FEWEST = 8
"""Lines of the block around k = 0."""

MOST_UNEVEN = 4.0
"""Largest mean energy of residue along a line, over that of the usual line, if it is noise. What
follows the energy of k-space may be weak signal."""

LEAST_ALIKE = 0.6
"""Correlation of the log energies of residue and of what was measured, along lines, from which the
first follows the second."""

SMALLEST = 32
"""Lines, or the root of the number of samples, without which nothing is said."""

REACH = 4
"""Neighbours of a sample."""

BLOCK_FULL = 0.97
"""Share of the middle of k-space that is above the residue."""

CERTAIN, LIKELY = (0.02, 3.0), (0.06, 2.0)
"""Largest share of samples in the middle third between both levels, and least logarithm of the
ratio of the levels, where samples are residue or may be. Right scans, except for those with
exact zeros in their k-space, have more than 0.06 and less than 2."""


@dataclass(frozen=True)
class Weak:
    """Places with much less energy than their neighbours.

    Attributes:
        residue: where they are, bool ``(y, x)``.
        certain: whether they were certainly not measured.
        ratio: of their amplitude to that of the others near them, usually.
    """

    residue: Mask
    certain: bool
    ratio: float


def weak_places(energy: Energy) -> Weak | None:
    """Columns, rows or samples of energy ``(y, x)`` that may be residue; None in right scans."""
    for axis in (0, 1):
        found = _weak_lines(energy.sum(axis=axis))
        if found is not None:
            residue = np.expand_dims(found.residue, axis) & (energy > 0)
            return Weak(residue, _is_flat(energy, residue), found.ratio)
    return _weak_samples(energy)


def _is_flat(energy: Energy, residue: Mask) -> bool:
    """Whether residue ``(y, x)`` has about the same energy everywhere, as noise has.

    Nor does it follow the energy of what was measured. A few samples may be much larger.
    """
    most = 30 * np.median(energy[residue])
    energy = np.where(residue, np.minimum(energy, most), energy)
    for axis in (0, 1):
        profiles = []
        for chosen in (residue, ~residue & (energy > 0)):
            counts = chosen.sum(axis=axis)
            mean = np.where(chosen, energy, 0).sum(axis=axis) / np.maximum(counts, 1)
            profiles.append(np.where(counts > 0, mean, np.nan))
        both = np.isfinite(profiles).all(axis=0)
        if both.sum() < SMALLEST:  # lines along this axis
            continue
        n_near = _sum_near(np.ones(int(both.sum())), 3)
        own, other = (_sum_near(profile[both], 3) / n_near for profile in profiles)
        if own.max() > MOST_UNEVEN * np.median(own):
            return False
        if np.corrcoef(np.log(own), np.log(other))[0, 1] > LEAST_ALIKE:
            return False
    return True


def _weak_lines(energy: Energy) -> Weak | None:
    """The same of lines ``(n,)``."""
    held = np.flatnonzero(energy)
    if len(held) < SMALLEST or len(held) < 0.98 * (held[-1] - held[0] + 1):
        return None
    log = np.log(energy[held])
    middle = int(np.convolve(energy[held], (1, 2, 1), "same").argmax())
    low = np.concatenate([_below(log[middle::-1])[:0:-1], _below(log[middle:])])
    ends = [np.flatnonzero(part) for part in (low[:middle][::-1], low[middle:])]
    first, last = (int(part[0]) if len(part) else 0 for part in ends)
    if not last or not len(ends[0]) or last + first < FEWEST:
        return None
    first, last = middle - first - 1, middle + last  # the first lines below, on either side
    outside = np.ones(len(log), bool)
    outside[first + 1 : last] = False
    rises = int((low[last:-1] & ~low[last + 1 :]).sum() + (low[1 : first + 1] & ~low[:first]).sum())
    sides = [log[: first + 1], log[last:]]
    strong = all(
        part.min() > side.max() - np.log(JUMP)
        for part, side in zip((log[first + 1 : middle], log[middle:last]), sides, strict=True)
        if part.size
    )
    steps = np.abs(np.diff(log))[low[1:] != low[:-1]]
    if not strong or rises < FEWEST_RISES or low[outside].mean() < LEAST_SHARE:
        return None
    if steps.min() < np.log(JUMP):
        return None
    residue = np.zeros(len(energy), bool)
    residue[held] = low
    return Weak(residue, True, float(np.exp(-np.median(steps) / 2)))


def _below(log: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which lines, from k = 0 outwards, are at the lower of two levels, by their log energy."""
    low = np.zeros(len(log), bool)
    upper, lower = log[0], -np.inf
    for i, value in enumerate(log):
        border = upper - np.log(JUMP) if lower == -np.inf else (upper + lower) / 2
        low[i] = i > FEWEST // 2 and value < border
        if low[i]:
            lower = value
        else:
            upper = value
    return low


def _weak_samples(energy: Energy) -> Weak | None:
    """Samples ``(y, x)`` at the lower of two levels."""
    held = energy > 0
    rows, columns = (_between(np.asarray(held.any(axis=axis))) for axis in (1, 0))
    box = np.ix_(rows, columns)
    if held.sum() < SMALLEST**2 or held[box].mean() < 0.75:
        return None
    log = np.log(np.where(held, energy, 1))
    middle = np.unravel_index(_sum_near(energy, 3).argmax(), energy.shape)
    below = _below_outer(log, held, (int(middle[0]), int(middle[1])))
    upper = held & (below > _border(below[held]))
    if _between_levels(below[held], upper[held]) > 2 * LIKELY[0]:
        return None  # one level, as of most scans
    upper, levels = _two_levels(log, held, upper)
    near = tuple(slice(max(at - 5, 0), at + 6) for at in middle)
    outside = held.copy()
    outside[near] = False
    lower, apart = held & ~upper, levels[0] - levels[1]
    share = float(lower[outside].mean())
    if upper[near].mean() < BLOCK_FULL or not LEAST_SHARE <= share < 1:
        return None
    place = ((log - levels[1]) / np.maximum(apart, 1e-9))[outside]
    middling = float(((place > 1 / 3) & (place < 2 / 3)).mean())
    least = float(np.quantile(apart[outside], 0.05))
    if middling > LIKELY[0] or least < LIKELY[1]:
        return None
    certain = middling <= CERTAIN[0] and least >= CERTAIN[1] and _is_flat(energy, lower)
    return Weak(lower, certain, float(np.exp(-np.median(apart[outside]) / 2)))


def _between(held: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Places from the first that is held to the last."""
    places = np.flatnonzero(held)
    return np.arange(places[0], places[-1] + 1) if len(places) else places


def _below_outer(log: NDArray[np.float64], held: Mask, middle: tuple[int, int]) -> Energy:
    """Log energy over the largest of the neighbours that are as far from k = 0, or further."""
    ny, nx = log.shape
    y, x = np.ogrid[:ny, :nx]
    far = np.hypot(y - middle[0], x - middle[1])
    values = np.where(held, log, -np.inf)
    largest = values.copy()
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            own = np.s_[max(0, -dy) : ny - max(0, dy), max(0, -dx) : nx - max(0, dx)]
            other = np.s_[max(0, dy) : ny - max(0, -dy), max(0, dx) : nx - max(0, -dx)]
            outer = np.where(far[other] >= far[own], values[other], -np.inf)
            np.maximum(largest[own], outer, out=largest[own])
    below: Energy = np.where(held, log - np.where(held, largest, 0), 0)
    return below


def _border(values: NDArray[np.float64]) -> float:
    """Between two groups of values of the least spread within the groups (Otsu 1979)."""
    counts, edges = np.histogram(values, 200)
    centres = (edges[1:] + edges[:-1]) / 2
    n, total = np.cumsum(counts)[:-1], np.cumsum(counts * centres)[:-1]
    n_all, total_all = counts.sum(), (counts * centres).sum()
    spread = (
        (total / np.maximum(n, 1) - (total_all - total) / np.maximum(n_all - n, 1)) ** 2
        * n
        * (n_all - n)
    )
    return float(edges[1 + int(spread.argmax())])


def _between_levels(values: NDArray[np.float64], upper: NDArray[np.bool_]) -> float:
    """Share of values in the middle third between the means of both groups."""
    if upper.all() or not upper.any():
        return 1.0
    low, high = float(values[~upper].mean()), float(values[upper].mean())
    place = (values - low) / (high - low)
    return float(((place > 1 / 3) & (place < 2 / 3)).mean())


def _two_levels(
    log: NDArray[np.float64], held: Mask, upper: Mask
) -> tuple[Mask, tuple[Energy, Energy]]:
    """Samples nearer to the upper of the levels near them, and the levels ``(y, x)``.

    In corners beyond the last measured sample, levels are those of the nearest places that have
    two.
    """
    levels = _level(log, upper), _level(log, held & ~upper)
    for _ in range(4):
        apart = levels[0] - levels[1]
        known = apart > np.median(apart[held]) / 2
        upper = held & (log > (levels[0] + levels[1]) / 2)
        levels = _level(log, upper & known), _level(log, held & ~upper & known)
    return held & (log > (levels[0] + levels[1]) / 2), levels


def _level(log: NDArray[np.float64], chosen: Mask) -> Energy:
    """Mean log energy of the chosen samples near every place, of as few as hold some."""
    found = np.zeros(log.shape)
    empty = np.ones(log.shape, bool)
    for width in (9, 25, 75, 225, 4 * max(log.shape) + 1):
        count = _sum_near(chosen.astype(float), width)
        enough = empty & (count > 3.5)
        found[enough] = _sum_near(np.where(chosen, log, 0.0), width)[enough] / count[enough]
        empty &= ~enough
    return found


def _sum_near(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Sum over a window of odd width around every place, along all axes, zeros beyond the ends."""
    for axis, n in enumerate(values.shape):
        sums = np.cumsum(values, axis=axis)
        before = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        place = np.arange(n)
        last, first = np.minimum(place + width // 2 + 1, n), np.maximum(place - width // 2, 0)
        values = before.take(last, axis) - before.take(first, axis)
    return values
