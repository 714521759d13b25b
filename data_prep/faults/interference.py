r"""Interference: what the receiver adds to all lines of k-space alike, as no object does.

**Zippers.** A radio frequency is one frequency of the readout, so one row of the image. After the
transform along the readout this row has the same energy in every line, while an object has less of
it the farther a line is from k = 0, and little more in a row than in those near it. The phase
varies from line to line like noise; a point of the object, such as a vessel, has the same energy in
every line, too, but phases that make it a point of the image.

**Offsets.** A constant added to all samples is a point in the middle of the image. It is looked for
where the object is weakest: samples are divided by the mean energy around them, which is the best
filter for a known signal in noise of unequal strength.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool1d, pad

from ...errors import NumericalWarning
from ...physics.axis_fourier import ifftc
from ...physics.patterns import readout_is_full
from ...scan import Scan

LEAST_RATIO = 8.0
"""Energy of a zipper, in outer lines, over that of the largest row near it."""

LEAST_POINT = 12.0
"""Energy of an offset, in the filtered image, over the largest near it."""

NEAR, WIDE = 3, 8
"""Rows near it are so many rows away: a frequency between two rows leaks into the next ones."""

FEWEST, MOST = 24, 64
"""Lines without which nothing is said (nor with less than 2 ``WIDE`` rows), and the outermost lines
that are looked at."""

LIKE_NOISE = 12.0
"""Largest peak over mean energy, along x, of phases that vary like noise; that of a point is the
number of lines."""

TALL, LEAST_MEAN = 9, 0.1
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


def interference_of(scan: Scan) -> dict[int, Interference]:
    """What the slices of a scan hold, by their index; nothing of scans without whole lines."""
    if not readout_is_full(scan.mask):
        return {}
    each = zip(scan.slices, scan.ksp, strict=True)
    found = {index: find_interference(ksp, scan.mask) for index, ksp in each}
    return {index: one for index, one in found.items() if one.rows or one.offset}


def interference_warnings(name: str, found: Mapping[int, Interference]) -> list[NumericalWarning]:
    """A warning about the zippers of a volume, and one about offsets, if there are such."""
    texts = []
    if zippers := [index for index, one in found.items() if one.rows]:
        rows = sorted({row for index in zippers for row in found[index].rows})
        text = (
            f"every line holds the row {', '.join(map(str, rows))} with the same energy (a zipper)"
        )
        texts.append(f"{name}: slices {zippers}: {text}")
    if offsets := [index for index, one in found.items() if one.offset]:
        text = "a constant was added to all samples, a bright point in the middle of the image"
        texts.append(f"{name}: slices {offsets}: {text}")
    return [NumericalWarning("W-INTERFERENCE", text) for text in texts]


def find_interference(ksp: Tensor, mask: Tensor) -> Interference:
    """Interference of a slice ``(coil, y, x)``; of its mask ``(1, y, x)``, whole columns count."""
    outer, lines = outer_lines(ksp, mask)
    if lines.numel() < FEWEST or ksp.shape[1] < 2 * WIDE:
        return Interference()
    n = ksp.shape[-1]
    hybrid = ifftc(outer, dim=-2)
    rows = torch.nonzero(row_ratios(hybrid) > LEAST_RATIO).flatten().tolist()
    zippers = tuple(row for row in rows if _varies_like_noise(hybrid[:, row], lines, n))
    offset = middle_ratio(outer, lines, n) > LEAST_POINT and ksp.shape[1] // 2 not in zippers
    return Interference(zippers, offset)


def outer_lines(ksp: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The outermost sampled lines, ``(coil, y, line)``, and their columns, from outside.

    Coils have a mean energy of 1, so that they count alike, whatever their gain.
    """
    columns = torch.nonzero(mask[0].any(dim=0)).flatten()
    distance = (columns - mask.shape[-1] // 2).abs()
    lines = columns[distance.argsort(descending=True, stable=True)[:MOST]]
    outer = ksp[..., lines]
    energy = outer.abs().square().mean(dim=(1, 2), keepdim=True)
    return outer / energy.clamp_min(torch.finfo(energy.dtype).tiny).sqrt(), lines


def row_ratios(hybrid: Tensor) -> Tensor:
    """Energy of every row over that of the largest row near it, real ``(y,)``.

    The smaller of those in the outermost quarter of the lines and in the next one.

    Args:
        hybrid: outer lines after the transform along the readout, ``(coil, y, line)``.
    """
    quarter = hybrid.shape[-1] // 4
    ratios = []
    for part in (hybrid[..., :quarter], hybrid[..., quarter : 2 * quarter]):
        energy = part.abs().square().sum(dim=(0, 2))
        ratios.append(energy / _largest_near(energy).clamp_min(1e-30))
    return torch.minimum(*ratios)


def middle_ratio(outer: Tensor, lines: Tensor, n: int) -> float:
    """Energy of the middle of the filtered image over the largest near it.

    Args:
        outer: outer lines, ``(coil, y, line)``.
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


def _filtered(outer: Tensor) -> Tensor:
    """Lines ``(coil, y, line)``, from left to right, over the mean energy around each sample."""
    energy = outer.abs().square().mean(dim=0)[None]
    edges = (1, 1, TALL // 2, TALL // 2)
    around = avg_pool2d(pad(energy, edges, mode="replicate"), (TALL, 3), stride=1)[0]
    least = LEAST_MEAN * float(around.median())
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
    phases = values / values.norm(dim=0).clamp_min(1e-30)
    energy = _image(phases, lines, n).abs().square().sum(dim=0)
    return float(energy.max() / energy.mean()) < LIKE_NOISE
