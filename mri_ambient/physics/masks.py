"""Sampling masks: how they are drawn, and subsampled further.

A mask is a bool tensor ``(1, y, x)``, True where k-space was sampled; it broadcasts over coils and
slices. Cartesian line masks vary along x, the phase-encode axis. What a mask samples is measured
in :mod:`~mri_ambient.physics.patterns`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..errors import ConfigError
from .crop import center_crop
from .mask_spec import KINDS, MaskSpec
from .patterns import (
    achieved_acceleration,
    calibration_block,
    is_line_mask,
    line_coverage,
    mask_kind,
)


def _centre(n: int, calib: int) -> Tensor:
    """The ``calib`` positions around k = 0 of an axis, bool ``(n,)``."""
    offset = torch.arange(n) - (n // 2 - calib // 2)
    return (offset >= 0) & (offset < calib)


def _n_wanted(spec: MaskSpec, acquired: Tensor, calib: Tensor, what: str) -> int:
    """How many of the acquired lines or samples are to be sampled, calibration included."""
    n_acquired, n_calib = int(acquired.sum()), int(calib.sum())
    n_wanted = round(n_acquired / spec.acceleration)
    if n_wanted < max(n_calib, 1):
        highest = f"{n_acquired / n_calib:.2f}" if n_calib else str(n_acquired)
        raise ConfigError(
            f"acceleration {spec.acceleration:g} leaves {n_wanted} of {n_acquired} {what}, but "
            f"{n_calib} calibration {what} are always sampled; use a smaller calib "
            f"(--calib-lines), or an acceleration of at most {highest}"
        )
    return n_wanted


def _calibration_lines(spec: MaskSpec, acquired: Tensor) -> tuple[Tensor, int]:
    """Calibration lines, bool ``(x,)``, and how many lines are to be sampled with them."""
    calib = _centre(acquired.numel(), spec.calib) & acquired
    return calib, _n_wanted(spec, acquired, calib, "lines")


def _weighted_lines(spec: MaskSpec, acquired: Tensor, rng: Generator, density: Tensor) -> Tensor:
    """Calibration lines plus outer lines drawn without replacement by ``density``, ``(x,)``."""
    calib, n_lines = _calibration_lines(spec, acquired)
    lines = calib.clone()
    n_outer = n_lines - int(calib.sum())
    if n_outer > 0:
        weight = torch.where(acquired & ~calib, density, 0.0)
        lines[torch.multinomial(weight, n_outer, replacement=False, generator=rng)] = True
    return lines


def random_mask(shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator) -> Tensor:
    """Outer lines drawn uniformly."""
    return _weighted_lines(spec, acquired, rng, torch.ones(shape[-1]))


def gaussian_mask(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator
) -> Tensor:
    """Outer lines drawn with a Gaussian density, standard deviation a quarter of the width."""
    x = torch.arange(shape[-1]) - shape[-1] // 2
    density = torch.exp(-0.5 * (4 * x / shape[-1]).square())
    return _weighted_lines(spec, acquired, rng, density)


def equispaced_mask(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator
) -> Tensor:
    """Every k-th line with a random offset, plus calibration lines.

    The step is the whole number whose achieved rate is nearest to the wanted one.
    """
    calib, _ = _calibration_lines(spec, acquired)
    n_acquired = int(acquired.sum())
    columns = torch.arange(shape[-1]) - int(torch.nonzero(acquired)[0])

    def lines(step: int, offset: int) -> Tensor:
        return acquired & (calib | (columns % step == offset))

    def error(step: int) -> float:
        return abs(n_acquired / int(lines(step, 0).sum()) - spec.acceleration)

    step = min(range(1, n_acquired + 1), key=error)
    offset = int(torch.randint(step, (), generator=rng))
    return lines(step, offset)


def poisson_mask(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator
) -> Tensor:
    """Variable-density 2-D Poisson disc with a calibration square; corners stay empty.

    Minimum distances grow from the square to the largest ellipse around k = 0 that acquired columns
    reach on their longer side. They are isotropic in units of this ellipse.
    """
    from .poisson import variable_density_disc  # scipy is slow to import

    ny, nx = shape
    plane = acquired.expand(shape)
    calib = _centre(ny, spec.calib)[:, None] & _centre(nx, spec.calib) & plane
    n_wanted = _n_wanted(spec, plane, calib, "samples")
    distance = _distance_from_square(shape, spec.calib, acquired)
    width = 2 * int((torch.arange(nx) - nx // 2).abs()[acquired].max())
    spacing = (max(width / ny, 1.0), max(ny / max(width, 1), 1.0))
    candidates = plane & ~calib & (distance < 1)
    n_outer = n_wanted - int(calib.sum())
    disc = calib | variable_density_disc(candidates, distance, n_outer, rng, spacing)
    n_samples = int(disc.sum())
    if n_samples < n_wanted:
        # The number varies by less than 1 % from draw to draw.
        lowest = math.ceil(10.1 * int(plane.sum()) / n_samples) / 10
        raise ConfigError(
            f"acceleration {spec.acceleration:g} needs {n_wanted} samples, but a Poisson disc "
            f"of {ny}x{nx} has {n_samples}; use at least {lowest:g}, or random lines"
        )
    return disc


def _distance_from_square(shape: tuple[int, int], calib: int, acquired: Tensor) -> Tensor:
    """Relative distance from the calibration square: 0 there, 1 on the ellipse, ``(y, x)``."""
    y, x = (((torch.arange(n) - n // 2).abs() - calib // 2).clamp(min=0).double() for n in shape)
    half_y, half_x = (k.max().clamp(min=1) for k in (y, x[acquired]))
    return torch.hypot((y / half_y)[:, None], x / half_x)


MASKS: dict[str, Callable[[tuple[int, int], MaskSpec, Tensor, Generator], Tensor]] = dict(
    zip(KINDS, (random_mask, equispaced_mask, gaussian_mask, poisson_mask), strict=True)
)
"""How lines ``(x,)`` or samples ``(y, x)`` are drawn: ``draw(shape, spec, acquired, rng)``."""


def outer_samples(mask: Tensor) -> Tensor:
    """The sampled positions outside the calibration lines (or block), bool like ``mask``.

    These may be removed by :func:`subsample_further`; calibration data are always kept.
    """
    height, width = calibration_block(mask)
    outer = mask.clone()
    center_crop(outer, (mask.shape[-2] if is_line_mask(mask) else height, width)).fill_(False)
    return outer


def subsample_further(mask: Tensor, fraction: float, rng: Generator) -> Tensor:
    """Remove a random share of the sampled outer lines (of a 2-D mask: outer samples).

    The number to remove is rounded; a share above 0 removes at least one.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the share of lines to remove must be from 0 to 1, got {fraction}")
    outer = _outer_pool(mask)
    n_remove = round(fraction * int(outer.sum()))
    return _without(mask, _drawn(outer, max(n_remove, 1) if fraction > 0 else 0, rng))


def hold_out_lines(mask: Tensor, n_lines: int, rng: Generator) -> Tensor:
    """Remove random sampled outer lines, at most half (of a 2-D mask: as many samples)."""
    if n_lines < 1:
        raise ConfigError(f"at least one line must be held out, got {n_lines}")
    outer = _outer_pool(mask)
    n_outer = int(outer.sum())
    n_remove = n_lines if is_line_mask(mask) else n_lines * mask.shape[-2]
    if 2 * n_remove > n_outer:
        raise ConfigError(
            f"cannot hold out {n_remove} {mask_kind(mask)}: only {n_outer} lie outside the "
            "calibration, and at least half must stay; hold out fewer lines"
        )
    return _without(mask, _drawn(outer, n_remove, rng))


def hold_out_one_in(n: int, mask: Tensor, rng: Generator) -> Tensor:
    """Remove one of every ``n`` sampled outer lines (of a 2-D mask: outer samples), at all radii.

    They are ordered by their distance from k = 0, and of every ``n`` that follow each other one is
    drawn, so that strong lines near the calibration are among them. Of fewer than ``n``, but at
    least two, one is removed.
    """
    outer = _outer_pool(mask).nonzero().flatten()
    ny, nx = mask.shape[-2:]
    radius = ((outer % nx - nx // 2) / nx).abs()
    if not is_line_mask(mask):
        radius = torch.hypot(radius, (outer // nx - ny // 2) / ny)
    order = radius.argsort(stable=True)
    if len(outer) >= n:
        groups = order[: len(order) // n * n].view(-1, n)
        place = torch.randint(n, (len(groups), 1), generator=rng)
        chosen = groups.gather(1, place)[:, 0]
    else:
        chosen = order[torch.randperm(len(order), generator=rng)][: int(len(order) >= 2)]
    return _without(mask, outer[chosen])


def _outer_pool(mask: Tensor) -> Tensor:
    """Outer lines, bool ``(x,)``; of a 2-D mask, outer samples ``(y * x,)``."""
    outer = outer_samples(mask)
    return line_coverage(outer) if is_line_mask(mask) else outer.flatten()


def _drawn(outer: Tensor, n: int, rng: Generator) -> Tensor:
    """Indices of ``n`` random lines or samples of the outer ones."""
    candidates = torch.nonzero(outer).flatten()
    return candidates[torch.randperm(candidates.numel(), generator=rng)[:n]]


def _without(mask: Tensor, removed: Tensor) -> Tensor:
    """The mask without the lines or samples of these indices."""
    by_line = is_line_mask(mask)
    kept = torch.ones(mask.shape[-1] if by_line else mask[0].numel(), dtype=torch.bool)
    kept[removed] = False
    return mask & (kept.expand_as(mask) if by_line else kept.view_as(mask))


def training_fraction(mask: Tensor, acquired: Tensor | None = None) -> float:
    """The share of outer lines that A-DPS removes for training: from rate R to R + 1.

    Aali et al. 2024 (arXiv 2403.08728): 54 / 16 / 8 / 5 of the outer lines at R = 2 / 4 / 6 / 8
    for 320 columns and 20 calibration lines.
    """
    n_outer = int(_outer_pool(mask).sum())
    n_sampled = int((line_coverage(mask) if is_line_mask(mask) else mask).sum())
    if n_outer == 0:
        return 0.0
    rate = achieved_acceleration(mask, acquired)
    n_keep = int(rate * n_sampled / (rate + 1))
    return min(n_sampled - n_keep, n_outer) / n_outer


def sampling_density(mask: Tensor, acquired: Tensor | None = None) -> Tensor:
    """Probability ``(1, y, x)`` that a mask samples a position, estimated from this mask alone.

    1 in the calibration, the share of sampled positions elsewhere, 0 in columns never acquired.
    """
    if acquired is None:
        acquired = torch.ones(mask.shape[-1], dtype=torch.bool)
    outer = outer_samples(mask)
    calib = mask & ~outer
    n_positions = mask.shape[-2] * int(acquired.sum()) - int(calib.sum())
    density = int(outer.sum()) / max(n_positions, 1)
    return torch.where(calib, 1.0, torch.where(acquired, density, 0.0))


def unseen_probability(density: Tensor, mean_fraction: float) -> Tensor:
    """P(M=1 | M~=0) when ``mean_fraction`` of the sampled outer positions is removed.

    With p the density with which a position is sampled, ``p f / (1 - p (1 - f))``.
    """
    return density * mean_fraction / (1 - density * (1 - mean_fraction)).clamp(min=1e-6)
