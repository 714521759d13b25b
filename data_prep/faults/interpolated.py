"""K-space that was computed: of undersampled images that were cropped, resized or rotated.

Such k-space is complete, but little of it was measured: each sample is a mean of those nearby, and
is large only near one that was measured. Lines that parallel imaging filled in have more or less
noise than others. Magnitudes of measured samples far from k = 0 have the spread of a Rayleigh
distribution about a mean that changes slowly, whether they are noise or details of an object. Peaks
of gratings have more.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool1d

from ...errors import NumericalWarning
from ...physics.crop import center_crop
from .virtual_coils import NOISE

LEAST_SPREAD = 2.3
"""Mean square of the energies over their squared mean, from which on it is warned of. It is 2 of
noise, 2.03 at most in right scans of heads, 2.4 to 9.8 where k-space was computed."""

OUTER = 0.4
"""Share of the rows and of the columns, at the ends of k-space, that are looked at."""

WINDOW = 7
"""Rows and columns over which the mean energy is taken."""

LEAST_SAMPLES = 1500
"""Samples of all coils without which nothing is said: the spread of noise is then within 0.35."""

LEAST_SIDE = 24
"""Rows and columns at the ends of k-space without which nothing is said."""

LEAST_LEVEL = 0.6
"""Mean energy of lines that are looked at, over the median of all."""

MOST_ENERGY = 20.0
"""Mean energy over that of noise, above which the spread is that of the object: of fine gratings it
is up to 4. Noise that parallel imaging amplified has up to 14 times the energy that is found."""


def whole_corners(ksp: Tensor, mask: Tensor) -> Tensor | None:
    """The four corners of k-space ``(coil, y, x)``, put together; None unless it is complete there.

    Args:
        ksp: of a slice, ``(coil, y, x)``.
        mask: sampled positions, bool ``(y, x)``.
    """
    whole = bool(_corners(mask).all()) and min(_corners(mask).shape) >= LEAST_SIDE
    return _corners(ksp).clone() if whole else None


def spread(corners: Tensor) -> float:
    """Spread of the energies of :func:`whole_corners` of whitened coils; 0 if they tell nothing."""
    power = corners.abs().square()
    power = power[power.amax(dim=(1, 2)) > 0]
    if power.numel() < LEAST_SAMPLES or float(power.mean()) > MOST_ENERGY * NOISE:
        return 0.0
    mean = avg_pool2d(power, WINDOW, stride=1).clamp_min(torch.finfo(power.dtype).tiny)
    edge = WINDOW // 2
    ratio = power[:, edge:-edge, edge:-edge] / mean
    rows, columns = (_level(mean.mean(dim=(0, dim))) for dim in (2, 1))
    ratio = ratio[:, rows][..., columns]
    if ratio.numel() < LEAST_SAMPLES:
        return 0.0
    return float((ratio.square().mean(dim=(1, 2)) / ratio.mean(dim=(1, 2)).square()).median())


def _level(energy: Tensor) -> Tensor:
    """Lines near which the mean energy hardly changes; where a filter ends k-space, it does."""
    level = energy > LEAST_LEVEL * energy.median()
    wide = 2 * WINDOW - 1
    return -max_pool1d(-level[None].float(), wide, stride=1, padding=wide // 2)[0] > 0


def _corners(x: Tensor) -> Tensor:
    """The four corners of k-space ``(..., y, x)``, put together."""
    ny, nx = x.shape[-2:]
    shape = (round(OUTER * ny), round(OUTER * nx))
    return center_crop(x.roll((ny // 2, nx // 2), (-2, -1)), shape)


def interpolated_warnings(name: str, spreads: Sequence[float]) -> list[NumericalWarning]:
    """W-INTERPOLATED, by the spread of slices."""
    if not spreads or median(spreads) < LEAST_SPREAD:
        return []
    text = (
        f"{name}: far from k = 0, some samples are much larger than those beside them (the mean "
        f"square of their energies is {median(spreads):.1f} times the squared mean; it is 2 of "
        "noise): most were computed from few, not measured, as where undersampled images were "
        "cropped, resized or rotated, or parallel imaging filled lines in; or lines were scaled"
    )
    return [NumericalWarning("W-INTERPOLATED", text)]
