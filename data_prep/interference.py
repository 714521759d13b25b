r"""Interference: what the receiver adds to all lines of k-space alike, as no object does.

**Zippers.** A radio frequency is one frequency of the readout, so one row of the image. After the
transform along the readout this row has the same energy in every line, while an object has less of
it the farther a line is from k = 0, and little more in a row than in those near it. The phase varies
from line to line like noise; a point of the object, such as a vessel, has the same energy in every
line, too, but phases that make it a point of the image.

**Offsets.** A constant added to all samples is a point in the middle of the image. It is looked for
where the object is weakest: samples are divided by the mean energy around them, which is the best
filter for a known signal in noise of unequal strength.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool1d, pad

from ..physics.axis_fourier import ifftc

LEAST_RATIO = 8.0
"""Energy of a zipper, in outer lines, over that of the largest row near it."""

LEAST_POINT = 12.0
"""Energy of an offset, in the filtered image, over the largest near it."""

NEAR, WIDE = 3, 8
"""Rows near it are so many rows away: a frequency between two rows leaks into the next ones."""

FEWEST, MOST = 24, 64
"""Lines without which nothing is said, and the outermost lines that are looked at."""

LIKE_NOISE = 12.0
"""Largest peak over mean energy, along x, of phases that vary like noise; that of a point is the
number of lines."""

TALL, FLOOR = 9, 0.1
"""Samples of a line over which energy is averaged, and the least mean, as a share of the median."""


@dataclass(frozen=True)
class Interference:
    """What a slice holds besides the object.

    Attributes:
        rows: of zippers.
        offset: whether a constant was added to all samples.
    """

    rows: tuple[int, ...] = ()
    offset: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows) or self.offset


def find_interference(ksp: Tensor, mask: Tensor) -> Interference:
    """Interference of a slice ``(coil, y, x)``, measured at a mask ``(1, y, x)`` of whole columns."""
    lines, n = outer_lines(mask), ksp.shape[-1]
    if lines.numel() < FEWEST:
        return Interference()
    outer = _equal_coils(ksp[..., lines])
    hybrid = ifftc(outer, dim=-2)
    rows = torch.nonzero(row_ratios(hybrid) > LEAST_RATIO).flatten().tolist()
    zippers = tuple(row for row in rows if _varies_like_noise(hybrid[:, row], lines, n))
    return Interference(zippers, middle_ratio(outer, lines, n) > LEAST_POINT)


def outer_lines(mask: Tensor) -> Tensor:
    """The outermost sampled columns of a mask ``(1, y, x)``, the farthest from k = 0 first."""
    columns = torch.nonzero(mask[0].any(dim=0)).flatten()
    distance = (columns - mask.shape[-1] // 2).abs()
    return columns[distance.argsort(descending=True, stable=True)[:MOST]]


def row_ratios(hybrid: Tensor) -> Tensor:
    """Energy of every row over that of the largest row near it, real ``(y,)``.

    The smaller of those in the outermost quarter of the lines and in the next one.

    Args:
        hybrid: lines after the transform along the readout, ``(coil, y, line)``, from outside.
    """
    quarter = hybrid.shape[-1] // 4
    ratios = []
    for part in hybrid[..., : 2 * quarter].split(quarter, dim=-1):
        energy = part.abs().square().sum(dim=(0, 2))
        ratios.append(energy / _largest_near(energy).clamp_min(1e-30))
    return torch.minimum(*ratios)


def middle_ratio(outer: Tensor, lines: Tensor, n: int) -> float:
    """Energy of the middle of the filtered image over the largest near it.

    Args:
        outer: lines, ``(coil, y, line)``.
        lines: their columns, of ``n``.
        n: columns of the matrix.
    """
    order = lines.argsort()
    hybrid = ifftc(_filtered(outer[..., order]), dim=-2)
    y, x = hybrid.shape[1] // 2, n // 2
    near = _image(hybrid[:, y - WIDE : y + WIDE + 1], lines[order], n)
    energy = near[..., x - WIDE : x + WIDE + 1].abs().square().sum(dim=0)
    others = torch.cat([energy[: WIDE - NEAR + 1], energy[WIDE + NEAR :]]).amax()
    return float(energy[WIDE, WIDE] / others.clamp_min(1e-30))


def _equal_coils(ksp: Tensor) -> Tensor:
    """K-space ``(coil, y, line)`` with coils of mean energy 1; zeros stay zeros."""
    energy = ksp.abs().square().mean(dim=(1, 2), keepdim=True)
    return ksp / energy.clamp_min(torch.finfo(energy.dtype).tiny).sqrt()


def _filtered(outer: Tensor) -> Tensor:
    """Lines ``(coil, y, line)``, from left to right, over the mean energy around each sample."""
    energy = outer.abs().square().mean(dim=0)[None]
    edges = (1, 1, TALL // 2, TALL // 2)
    around = avg_pool2d(pad(energy, edges, mode="replicate"), (TALL, 3), stride=1)[0]
    least = FLOOR * float(around.median())
    return outer / around.clamp_min(max(least, 1e-30))


def _image(rows: Tensor, lines: Tensor, n: int) -> Tensor:
    """Rows ``(..., line)`` of hybrid space as those of an image, ``(..., x)``."""
    spectrum = rows.new_zeros(*rows.shape[:-1], n)
    spectrum[..., lines] = rows
    return ifftc(spectrum, dim=-1)


def _largest_near(energy: Tensor) -> Tensor:
    """The largest value :data:`NEAR` to :data:`WIDE` rows away on both sides, ``(y,)``."""
    around = pad(energy[None], (WIDE, WIDE), mode="circular")
    side = max_pool1d(around, WIDE - NEAR + 1, stride=1)[0]
    n = len(energy)
    return torch.maximum(side[:n], side[WIDE + NEAR : WIDE + NEAR + n])


def _varies_like_noise(values: Tensor, lines: Tensor, n: int) -> bool:
    """Whether the phases of a row ``(coil, line)`` are no point in an image of ``n`` columns."""
    energy = (
        _image(values / values.norm(dim=0).clamp_min(1e-30), lines, n).abs().square().sum(dim=0)
    )
    return float(energy.max() / energy.mean()) < LIKE_NOISE
