"""Sampling masks: how they are drawn, thinned further, and measured.

A mask is a bool tensor ``(1, y, x)``, True where k-space was sampled; it broadcasts over coils and
slices. Cartesian line masks vary along x, the phase-encode axis. The acceleration R is always the
*achieved* rate, acquired positions over sampled positions, calibration included; columns a scanner
never acquires (partial Fourier, zero-filled edges) count in neither.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from ..errors import ConfigError

MAX_CALIB = 24
"""Largest side of the calibration block, in k-space samples."""

POISSON_TRIES = 20
"""Seeds tried before a Poisson disc of some acceleration is given up."""

POISSON_STEPS = 30
"""Bisections of the density of one disc: after these the interval is 1e-9 of what it was."""

MIN_POISSON = 1.8
"""Lowest rate of a Poisson disc: samples keep a distance even where densest, in an ellipse only.

Without a calibration square sigpy's densest disc has R = 1.7; its search for less takes minutes.
"""

LINE_FILL = 0.8
"""Least share of non-zero samples in a column that counts as one sampled line."""


@dataclass(frozen=True)
class MaskSpec:
    """A recipe for masks; a prior remembers the one it was trained with.

    Attributes:
        kind: a key of :data:`MASKS`.
        acceleration: the achieved rate to aim for, calibration included.
        calib: fully sampled centre: lines, or the side of the square for 2-D masks.
    """

    kind: str = "random"
    acceleration: float = 4.0
    calib: int = 20

    def __post_init__(self) -> None:
        if self.kind not in MASKS:
            raise ConfigError(f"mask type {self.kind!r} is unknown; choose from {', '.join(MASKS)}")
        if not 1 <= self.acceleration < math.inf:
            raise ConfigError(
                f"acceleration must be at least 1 and finite, got {self.acceleration}"
            )
        if self.calib < 0:
            raise ConfigError(f"calibration lines must not be negative, got {self.calib}")

    def draw(
        self, shape: tuple[int, int], rng: Generator, acquired: Tensor | None = None
    ) -> Tensor:
        """One mask ``(1, y, x)`` for a k-space of ``shape``.

        Args:
            shape: k-space size ``(y, x)``.
            rng: where the randomness comes from.
            acquired: bool ``(x,)``, the columns a scanner would acquire; all by default.

        Raises:
            ConfigError: the acceleration cannot be reached with this calibration block.
        """
        ny, nx = shape
        if acquired is None:
            acquired = torch.ones(nx, dtype=torch.bool)
        if self.acceleration == 1:
            return acquired.expand(1, ny, nx).clone()
        return MASKS[self.kind](shape, self, acquired, rng)


def _n_lines(spec: MaskSpec, acquired: Tensor) -> tuple[int, Tensor]:
    """How many lines to sample, and which of them are calibration, bool ``(x,)``."""
    nx = acquired.numel()
    left = nx // 2 - spec.calib // 2
    center = torch.zeros(nx, dtype=torch.bool)
    center[max(left, 0) : left + spec.calib] = True
    center &= acquired
    n_acquired = int(acquired.sum())
    n_lines = round(n_acquired / spec.acceleration)
    n_center = int(center.sum())
    if n_lines < n_center or n_lines < 1:
        best = f"{n_acquired / n_center:.2f}" if n_center else str(n_acquired)
        raise ConfigError(
            f"acceleration {spec.acceleration:g} leaves {n_lines} of {n_acquired} lines, but "
            f"{n_center} calibration lines are always sampled; use fewer calibration lines or an "
            f"acceleration of at most {best}"
        )
    return n_lines, center


def _as_lines(lines: Tensor, shape: tuple[int, int]) -> Tensor:
    return lines.expand(1, *shape).clone()


def _weighted_lines(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator, density: Tensor
) -> Tensor:
    """Calibration lines plus outer lines drawn without replacement by ``density``."""
    n_lines, center = _n_lines(spec, acquired)
    lines = center.clone()
    n_outer = n_lines - int(center.sum())
    if n_outer > 0:
        weight = torch.where(acquired & ~center, density, 0.0)
        lines[torch.multinomial(weight, n_outer, replacement=False, generator=rng)] = True
    return _as_lines(lines, shape)


def random_mask(shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator) -> Tensor:
    """Outer lines drawn uniformly: every one has the same chance."""
    return _weighted_lines(shape, spec, acquired, rng, torch.ones(shape[-1]))


def gaussian_mask(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator
) -> Tensor:
    """Outer lines drawn with a Gaussian density, standard deviation a quarter of the width."""
    x = torch.arange(shape[-1]) - shape[-1] // 2
    return _weighted_lines(
        shape, spec, acquired, rng, torch.exp(-0.5 * (4 * x / shape[-1]).square())
    )


def equispaced_mask(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator
) -> Tensor:
    """Every k-th line with a random offset, plus calibration lines.

    The lines are truly equispaced, so the step is the whole number whose achieved rate comes
    nearest to the one asked for.
    """
    _, center = _n_lines(spec, acquired)
    n_acquired = int(acquired.sum())
    columns = torch.arange(shape[-1]) - int(torch.nonzero(acquired)[0])

    def lines(step: int, offset: int) -> Tensor:
        return acquired & (center | (columns % step == offset))

    def miss(step: int) -> float:
        return abs(n_acquired / int(lines(step, 0).sum()) - spec.acceleration)

    step = min(range(1, n_acquired + 1), key=miss)
    offset = int(torch.randint(step, (), generator=rng))
    return _as_lines(lines(step, offset), shape)


def poisson_mask(
    shape: tuple[int, int], spec: MaskSpec, acquired: Tensor, rng: Generator
) -> Tensor:
    """Variable-density 2-D Poisson disc with a calibration square (sigpy's generator).

    The disc lies around k = 0. Where the scanner acquires one side further out than the other, the
    sparse rim of the shorter side is cut, and the achieved rate is lower than the one asked for.
    """
    columns = torch.nonzero(acquired).flatten()
    middle = shape[1] // 2
    reach = max(middle - int(columns[0]), int(columns[-1]) + 1 - middle)
    left, right = max(middle - reach, 0), min(middle + reach, shape[1])
    calib = (min(spec.calib, shape[0] - 1), min(spec.calib, right - left - 1))
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[..., left:right] = _poisson_disc((shape[0], right - left), spec.acceleration, calib, rng)
    # sigpy puts an odd square into an even matrix one sample before its centre.
    top, first = shape[0] // 2 - calib[0] // 2, middle - calib[1] // 2
    mask[..., top : top + calib[0], first : first + calib[1]] = True
    return mask & acquired


def _poisson_disc(
    shape: tuple[int, int], acceleration: float, calib: tuple[int, int], rng: Generator
) -> Tensor:
    """Sampled positions, bool ``(y, x)``, within 0.1 of the wanted acceleration."""
    wanted = (
        f"no Poisson disc mask of acceleration {acceleration:g} with a {calib[0]}x{calib[1]} "
        f"calibration square fits a {shape[0]}x{shape[1]} k-space"
    )
    if calib[0] * calib[1] * acceleration > shape[0] * shape[1]:
        raise ConfigError(f"{wanted}: the square alone is more; use fewer calibration lines")
    if acceleration < MIN_POISSON:
        raise ConfigError(f"{wanted}: its samples keep apart; use at least {MIN_POISSON:g}")
    for _ in range(POISSON_TRIES):
        seed = int(torch.randint(2**31 - 1, (), generator=rng))
        disc = _disc_at_rate(shape, acceleration, calib, seed)
        if disc is not None:  # the search for the density misses the rate with some seeds
            return torch.from_numpy(disc)
    raise ConfigError(f"{wanted}; try another acceleration or random lines")


def _disc_at_rate(
    shape: tuple[int, int], acceleration: float, calib: tuple[int, int], seed: int
) -> NDArray[np.bool_] | None:
    """A disc within 0.1 of a rate, by bisection of how fast its density falls, or None.

    The same search as ``sigpy.mri.poisson``, which never ends where a rate cannot be reached; hence
    its generator, called from a loop that does end.
    """
    from sigpy.mri.samp import _poisson  # slow to import (numba), and only these masks need it

    ny, nx = shape
    y, x = np.mgrid[:ny, :nx]
    x = np.maximum(abs(x - nx / 2) - calib[1] / 2, 0)
    y = np.maximum(abs(y - ny / 2) - calib[0] / 2, 0)
    r = np.hypot(x / x.max(), y / y.max())
    low, high = 0.0, float(max(shape))
    for _ in range(POISSON_STEPS):
        slope = (low + high) / 2
        radius_x, radius_y = (np.clip((1 + r * slope) * n / max(shape), 1, None) for n in (nx, ny))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's remarks on sigpy's own code
            disc = _poisson(nx, ny, 30, radius_x, radius_y, calib, seed)
        disc = (disc != 0) & (r < 1)
        rate = ny * nx / disc.sum()
        if abs(rate - acceleration) < 0.1:
            return np.asarray(disc, dtype=bool)
        low, high = (slope, high) if rate < acceleration else (low, slope)
    return None


MASKS: dict[str, Callable[[tuple[int, int], MaskSpec, Tensor, Generator], Tensor]] = {
    "random": random_mask,
    "equispaced": equispaced_mask,
    "gaussian": gaussian_mask,
    "poisson": poisson_mask,
}


def is_line_mask(mask: Tensor) -> bool:
    """Whether whole columns (of the rows acquired at all) are sampled or skipped together."""
    plane = mask.reshape(-1, *mask.shape[-2:]).any(dim=0)
    rows, lines = plane.any(dim=-1), plane.any(dim=-2)
    return bool((plane == rows[:, None] & lines).all())


def mask_kind(mask: Tensor) -> str:
    """What a mask samples or skips as a whole: "lines", or else single "samples"."""
    return "lines" if is_line_mask(mask) else "samples"


def line_coverage(mask: Tensor) -> Tensor:
    """Which columns hold any sample, bool ``(x,)``."""
    return mask.reshape(-1, mask.shape[-1]).any(dim=0)


def whole_lines(hit: Tensor) -> Tensor:
    """Close stray zeros where the non-zero positions ``(y, x)`` form lines; leave 2-D patterns."""
    rows, lines = hit.any(dim=1), hit.any(dim=0)
    fill = hit[rows][:, lines].float().mean(dim=0)
    return rows[:, None] & lines if bool((fill >= LINE_FILL).all()) else hit


def achieved_acceleration(mask: Tensor, acquired: Tensor | None = None) -> float:
    """R: acquired over sampled positions.

    ``acquired`` is bool ``(x,)``; all columns by default. Rows that no line of a line mask holds
    (partial echo) were never acquired either.
    """
    n_sampled = int(mask.sum())
    if n_sampled == 0:
        raise ValueError("the mask samples nothing")
    n_columns = mask.shape[-1] if acquired is None else int(acquired.sum())
    n_rows = mask[..., 0].numel()
    if is_line_mask(mask):
        n_rows = int(mask.any(dim=-1).sum())
    return n_rows * n_columns / n_sampled


def calibration_block(mask: Tensor, limit: int = MAX_CALIB) -> tuple[int, int]:
    """Sides ``(y, x)`` of the largest centred, fully sampled rectangle, each at most ``limit``.

    Centred as :func:`~mri_ambient.physics.fourier.center_crop` cuts it. ``(0, 0)`` where even k = 0
    was not sampled.
    """
    ny, nx = mask.shape[-2:]
    plane = mask.reshape(-1, ny, nx).all(dim=0)
    best = (0, 0)
    for height in range(1, min(limit, ny) + 1):
        top = ny // 2 - height // 2
        full = plane[top : top + height].all(dim=0)
        width = 0
        while width < min(limit, nx):
            left = nx // 2 - (width + 1) // 2
            if not full[left : left + width + 1].all():
                break
            width += 1
        if height * width >= best[0] * best[1] and width:
            best = (height, width)
    return best


def outer_samples(mask: Tensor) -> Tensor:
    """The sampled positions outside the calibration lines (or block), bool like ``mask``.

    These may be removed by :func:`subsample_further`; calibration data are always kept.
    """
    height, width = calibration_block(mask)
    ny, nx = mask.shape[-2:]
    outer = mask.clone()
    top, left = ny // 2 - height // 2, nx // 2 - width // 2
    rows = slice(None) if is_line_mask(mask) else slice(top, top + height)
    outer[..., rows, left : left + width] = False
    return outer


def subsample_further(mask: Tensor, fraction: float, rng: Generator) -> Tensor:
    """Remove a random share of the sampled outer lines (of a 2-D mask: outer samples).

    Args:
        mask: bool ``(1, y, x)``.
        fraction: share to remove, 0 to 1; the number of lines is rounded, at least one is removed
            if there is one and ``fraction`` is positive.
        rng: where the randomness comes from.

    Returns:
        A mask whose samples all lie in ``mask``, calibration kept.

    Raises:
        ValueError: ``fraction`` is not a share.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the share of lines to remove must be from 0 to 1, got {fraction}")
    n_outer = int(_outer_pool(mask).sum())
    n_remove = round(fraction * n_outer)
    if fraction > 0 and n_outer:
        n_remove = max(n_remove, 1)
    return _without(mask, n_remove, rng)


def hide_lines(mask: Tensor, n_lines: int, rng: Generator) -> Tensor:
    """Remove sampled outer lines (of a 2-D mask: as many outer samples as so many lines hold).

    Args:
        mask: bool ``(1, y, x)``.
        n_lines: how many.
        rng: where the randomness comes from.

    Raises:
        ConfigError: fewer than one, or more than half of the outer lines or samples would go.
    """
    if n_lines < 1:
        raise ConfigError(f"at least one line must be hidden, got {n_lines}")
    n_outer = int(_outer_pool(mask).sum())
    n_remove = n_lines if is_line_mask(mask) else n_lines * mask.shape[-2]
    if 2 * n_remove > n_outer:
        raise ConfigError(
            f"cannot hide {n_remove} {mask_kind(mask)}: only {n_outer} lie outside the "
            "calibration, and at least half must stay"
        )
    return _without(mask, n_remove, rng)


def _outer_pool(mask: Tensor) -> Tensor:
    """Outer lines, bool ``(x,)``; of a 2-D mask, outer samples ``(y * x,)``."""
    outer = outer_samples(mask)
    return line_coverage(outer) if is_line_mask(mask) else outer.flatten()


def _without(mask: Tensor, n_remove: int, rng: Generator) -> Tensor:
    """The mask without so many random outer lines or samples."""
    pool = _outer_pool(mask)
    candidates = torch.nonzero(pool).flatten()
    order = torch.randperm(candidates.numel(), generator=rng)
    removed = torch.zeros(pool.shape, dtype=torch.bool)
    removed[candidates[order[:n_remove]]] = True
    return mask & ~(removed.expand_as(mask) if is_line_mask(mask) else removed.view_as(mask))


def training_fraction(mask: Tensor, acquired: Tensor | None = None) -> float:
    """The share of outer lines the A-DPS paper removes: from rate R to R + 1.

    Aali et al. 2024 (arXiv 2403.08728): 54 / 16 / 8 / 5 of the outer lines at R = 2 / 4 / 6 / 8
    for 320 columns and 20 calibration lines.
    """
    by_line = is_line_mask(mask)
    outer = outer_samples(mask)
    n_outer = int((line_coverage(outer) if by_line else outer).sum())
    n_sampled = int((line_coverage(mask) if by_line else mask).sum())
    if n_outer == 0:
        return 0.0
    rate = achieved_acceleration(mask, acquired)
    n_keep = int(rate * n_sampled / (rate + 1))
    return min(n_sampled - n_keep, n_outer) / n_outer


def sampling_density(mask: Tensor, acquired: Tensor | None = None) -> Tensor:
    """Chance that a mask like this one samples a position, as far as one mask tells.

    Returns:
        ``(1, y, x)``: 1 in the calibration block (or lines), the share of sampled positions
        elsewhere, 0 in columns that are never acquired.
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
