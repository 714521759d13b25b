"""Whether k-space ends beside k = 0, as partial Fourier scans do that are stored without zeros."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .image_space import Energy

CUT = 2.5
"""Least ratio of the energies that would be the same if k-space was shifted round its ends."""

FAR = 0.06
"""Share of the samples of an axis by which k = 0 is off where rows are missing: 7/8 were stored."""

Extent = Literal["whole", "cut", "unknown"]


def find_extents(energy: Energy, place: tuple[int, int]) -> list[Extent]:
    """:func:`extent` along y and x of energy ``(y, x)`` with k = 0 at ``place``; 0: not sampled.

    Where lines hold samples at other places than their neighbours, sums of them do not show that
    k-space is whole.
    """
    hit = energy > 0
    alike = bool((hit == np.outer(hit.any(axis=1), hit.any(axis=0))).all())
    return [extent(energy.sum(axis=1 - axis), at, alike=alike) for axis, at in enumerate(place)]


def extent(profile: Energy, at: int, *, alike: bool = True) -> Extent:
    """Whether k-space ends beside k = 0, ``at``, by the energy along its axis.

    If it was shifted round the ends, what is missing at the end that is nearer to k = 0 is at the
    other one, with the energy of the samples on the other side of k = 0. Where both hold noise
    alone, or nothing, nothing tells; a few rows were then shifted.

    Args:
        profile: energy along the axis, ``(n,)``; 0 where there is no sample.
        at: k = 0. Near an end, where other orders of the samples put it, nothing ends beside it.
        alike: whether all lines across the axis that hold samples hold them at the same places.
    """
    n = len(profile)
    if at == n // 2 or not n // 8 <= at < n - n // 8:
        return "whole"
    if at >= n // 2:
        profile, at = profile[::-1], n - 1 - at
    width, inside, outside = max(n // 16, 1), profile[: 2 * at + 1], profile[2 * at + 1 :]
    outside, far = outside[outside > 0], n // 2 - at > FAR * n
    if not outside.size:  # of undersampled k-space, no line may have been drawn there
        return "whole" if inside.all() or not far else "unknown"
    if not (far or profile.all()):
        return "whole"
    mirrored = outside[:width].mean()
    if mirrored > CUT * outside[-width:].mean():
        return "cut"
    window = np.ones(min(width, len(outside))) / min(width, len(outside))
    floor = np.convolve(outside, window, "valid").min()
    return "unknown" if far and (mirrored < CUT * floor or not alike) else "whole"
