r"""Poisson discs on a grid: random samples that keep a minimum distance from each other.

Positions are visited in random order. A position is sampled unless it lies within the radius of an
earlier sample: dart throwing on a grid, where Bridson (2007, doi:10.1145/1278780.1278807) draws
from the continuous plane. The radius grows with the distance from the calibration region, and its
growth is searched for the wanted number of samples (Dwork et al. 2021,
doi:10.1016/j.mri.2020.11.012):

.. math:: r(k) = s \, d(k) + u(k),

with the slope s, the relative distance d (0 at the calibration region, 1 at the edge) and u uniform
in :data:`SMALLEST_RADIUS` + (0, 1) samples. Without u the number of samples would jump with s,
because distances on a grid take few values: 1, sqrt(2), 2, ...
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Generator, Tensor

SMALLEST_RADIUS = 0.2
"""Smallest radius, in samples. With 0, nearly all positions beside the calibration region would be
sampled and belong to it."""

SURPLUS = 0.01
"""The search for the slope stops at this share of excess samples, which are removed at random."""


def poisson_disc(
    radius: Tensor, order: Tensor, spacing: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Flat indices of samples of which none lies within the radius of an earlier one, in order.

    Args:
        radius: minimum distance of later samples from each position, positive, ``(y, x)``.
        order: flat indices of the positions to visit, at least one; the others stay empty.
        spacing: distance of neighbours along y and x, in the unit of ``radius``.
    """
    visited = radius.double().flatten()[order]
    margins = tuple(int(float(visited.max()) / step) for step in spacing)
    y, x = (torch.arange(-margin, margin + 1).double() for margin in margins)
    distance = torch.hypot(spacing[0] * y[:, None], spacing[1] * x)
    distances = distance.unique()  # type: ignore[no-untyped-call]
    level = torch.searchsorted(distances, visited) - 1
    width = radius.shape[1] + 2 * margins[1]
    blocked = bytearray(width * (radius.shape[0] + 2 * margins[0]))

    @cache
    def rows_of(level: int) -> list[tuple[int, int, bytes]]:
        """The positions up to a distance: start and end of each row, relative to the centre."""
        halves = ((distance <= distances[level]).sum(dim=1) - 1) // 2
        starts = width * y.long() - halves
        lengths = (2 * halves + 1).tolist()
        rows = zip(starts.tolist(), lengths, strict=True)
        return [(start, start + n, b"\1" * n) for start, n in rows if n > 0]

    places = (order // radius.shape[1] + margins[0]) * width + order % radius.shape[1] + margins[1]
    samples = []
    for i, (place, its_level) in enumerate(zip(places.tolist(), level.tolist(), strict=True)):
        if blocked[place]:
            continue
        samples.append(i)
        if its_level:  # level 0 is the position alone
            for start, end, marks in rows_of(its_level):
                blocked[place + start : place + end] = marks
    return order[samples]


def variable_density_disc(
    candidates: Tensor,
    distance: Tensor,
    n_samples: int,
    rng: Generator,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """At most ``n_samples`` samples whose minimum distance grows with ``distance``, ``(y, x)``.

    Args:
        candidates: positions that may be sampled, bool ``(y, x)``.
        distance: d(k), relative distance from the calibration region, ``(y, x)``.
        n_samples: how many samples are wanted; even the densest disc may have fewer.
        rng: random stream.
        spacing: distance of neighbours along y and x; 1 along the finer axis.
    """
    from scipy.optimize import brentq  # slow to import

    order = candidates.flatten().nonzero()[:, 0]
    order = order[torch.randperm(len(order), generator=rng)]
    smallest = SMALLEST_RADIUS + torch.rand(distance.shape, generator=rng, dtype=torch.float64)
    drawn: dict[float, Tensor] = {}

    def error(slope: float) -> float:
        """Negative if the disc of a slope has too many samples, 0 if their number is accepted."""
        if slope not in drawn:
            drawn[slope] = poisson_disc(slope * distance + smallest, order, spacing)
        n = len(drawn[slope])
        if n_samples <= n <= (1 + SURPLUS) * n_samples:
            return 0.0
        # The mean distance of samples is nearly linear in the slope.
        return 1 / math.sqrt(n) - 1 / math.sqrt((1 + SURPLUS / 2) * n_samples)

    steepest = max(distance.shape) / 4
    if n_samples and len(order) and error(0.0) < 0 < error(steepest):
        brentq(error, 0.0, steepest, maxiter=30, disp=False)  # 3 to 7 steps are usual
    enough = [disc for disc in drawn.values() if len(disc) >= n_samples] or list(drawn.values())
    best = min(enough, key=len, default=order[:0])
    kept = best[torch.randperm(len(best), generator=rng)[:n_samples]]
    disc = torch.zeros(distance.shape, dtype=torch.bool)
    disc.view(-1)[kept] = True
    return disc
