"""Samples that are not what was measured: clipped by the receiver, or filled in by symmetry.

A receiver whose gain is too high leaves many samples of exactly the largest value it has, around
k = 0. Where half of k-space was filled in with complex conjugates of the other half (the images
would have to be real), pairs of samples are equal that have noise of their own otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import NumericalWarning
from ...physics.crop import center_crop
from ...physics.fourier import reverse

LEAST_EQUAL = 6
"""Real or imaginary parts, or magnitudes, of a coil that are as large as the largest."""

FEWEST_EQUAL, CHANCE = 3, 1e-7
"""The same, where the chance of so many is smaller than the second."""

BAND = 0.5
"""Share of the largest above which values are counted, to estimate that chance."""

BELOW = 20
"""Values below the largest which hardly any others are equal to, unless symmetry makes them so."""

LEAST_RATIO = 10.0
"""Largest over median magnitude of a coil that holds more than noise."""

ROUNDING = 1e-6
"""Relative difference of magnitudes that are equal."""

LEAST_PAIRS, NEAR = 0.2, 1e-3
"""Share of the pairs of samples that are conjugates of each other, to this relative difference."""

REAL = 0.999
"""The same, of images without phase and noise (simulated ones). The columns in the middle and at
the end of k-space have no other side, and are never filled in."""

MIDDLE, STRIP = 96, 9
"""Rows and columns that clipped samples are sought in, and those of two strips through k = 0."""

FLOAT = 1e-5
"""Samples below this share of the largest are rounding errors of single precision."""

STEPS = 3.0
"""Samples below so many times the smallest may be equal because they were rounded."""


@dataclass(frozen=True)
class Altered:
    """What is found in a slice.

    Attributes:
        n_clipped: samples of a coil, or of all coils, that are as large as the largest; 0 if that
            may be chance.
        conjugates: share of the pairs of samples that are equal, but for the sign of their phase.
    """

    n_clipped: int
    conjugates: float


def altered(ksp: Tensor) -> Altered:
    """What is found in the middle of a slice ``(coil, y, x)``."""
    ny, nx = (min(n, MIDDLE) for n in ksp.shape[-2:])
    middle = center_crop(ksp, (ny, nx))
    clipped = max(max(_n_clipped(coil) for coil in middle), _n_few_clipped(middle))
    columns, rows = (ksp.shape[-2], min(nx, STRIP)), (min(ny, STRIP), ksp.shape[-1])
    return Altered(clipped, max(_conjugates(center_crop(ksp, part)) for part in (columns, rows)))


def _n_clipped(coil: Tensor) -> int:
    """Samples of a coil ``(y, x)`` that are as large as its largest, where there are many."""
    size = coil.abs()
    held = size[size > 0]
    if held.numel() == 0 or float(size.max()) < LEAST_RATIO * float(held.median()):
        return 0
    parts = torch.view_as_real(coil).abs()
    counts = [int((part >= (1 - ROUNDING) * part.max()).sum()) for part in (parts, size)]
    return max(counts) if max(counts) >= LEAST_EQUAL else _n_few_clipped(coil)


def _n_few_clipped(ksp: Tensor) -> int:
    """Samples, of coils that share a receiver's limit, that are by no chance as large."""
    return max(
        _n_by_no_chance(part.flatten()) for part in (torch.view_as_real(ksp).abs(), ksp.abs())
    )


def _n_by_no_chance(values: Tensor) -> int:
    """How many of the values are as large as the largest; 0 if that may be chance.

    Values are spread evenly over the band below the largest, and rounded to the least difference
    between two of them. The number that equals the largest is then Poisson distributed.
    """
    top = float(values.max())
    n = int((values >= (1 - ROUNDING) * top).sum())
    if top == 0 or n < FEWEST_EQUAL:
        return 0
    held = values[values >= ROUNDING * top].double().sort(descending=True).values / top
    gaps = -held[n - 1 :].diff()
    ties = int((gaps[1 : 1 + BELOW] < ROUNDING / 3).sum())
    steps = gaps[gaps > ROUNDING / 3]
    unit = max(float(steps.amin()), ROUNDING) if len(steps) else 1.0
    expected = int((held > 1 - BAND).sum()) * unit / BAND
    log_chance = (n - 1) * math.log(expected) - math.lgamma(n)
    return n if log_chance < math.log(CHANCE) and 3 * ties < n else 0


def _conjugates(ksp: Tensor) -> float:
    """Share of the pairs of samples on both sides of k = 0 that are conjugates of each other."""
    turned = reverse(reverse(ksp, -2), -1).conj()
    size = ksp.abs()
    held = torch.where(size > 0, size, torch.inf)
    least = STEPS * held.amin(dim=(-2, -1), keepdim=True)
    least = least.maximum(FLOAT * size.amax(dim=(-2, -1), keepdim=True))
    both = (size > least) & (turned != 0)
    equal = both & ((ksp - turned).abs() <= NEAR * size)
    n_pairs = both.sum(dim=(-2, -1))
    shares = (equal.sum(dim=(-2, -1)) / n_pairs)[n_pairs > 0]
    return float(shares.median()) if len(shares) else 0.0


def altered_warnings(name: str, found: Mapping[int, Altered]) -> list[NumericalWarning]:
    """W-CLIPPED and W-CONJUGATE, by what was found in each slice."""
    warnings = []
    if clipped := [index for index, one in found.items() if one.n_clipped]:
        most = max(one.n_clipped for one in found.values())
        text = (
            f"{name}: up to {most} samples are exactly as large as the largest of their coil, or "
            f"of all coils, in slices {clipped}: they were clipped by the receiver"
        )
        warnings.append(NumericalWarning("W-CLIPPED", text))
    if filled := [i for i, one in found.items() if LEAST_PAIRS < one.conjugates < REAL]:
        share = max(found[index].conjugates for index in filled)
        text = (
            f"{name}: up to {100 * share:.0f} % of the samples of slices {filled} are exactly the "
            "conjugates of those on the other side of k = 0: one side was filled in (partial "
            "Fourier), not measured"
        )
        warnings.append(NumericalWarning("W-CONJUGATE", text))
    return warnings
