"""Places where one line of k-space does not follow the other.

Where a line or a readout sample was lost or stored twice, all those behind it are one place off;
elsewhere a receiver changes its sign or its phase. The image is that of two parts of k-space, each
moved or turned by itself, and its RSS is wrong in the same way. A kernel over coils predicts every
line from its two neighbours, as in GRAPPA (Griswold et al. 2002, doi:10.1002/mrm.10171). It is
learnt on other lines, each weighted so that those about k = 0 do not decide alone. On both sides of
a seam it fails; a few lines further off it predicts as well as anywhere near. A line that was
stored twice is told by its noise, too: two lines are never equal.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ...errors import NumericalWarning
from .line_consistency import LEAST_COILS, LITTLE_VARIATION, NOISE, coil_variation, of_signal

LEAST_SIZE = 2.5
"""Error on both sides of a seam over the largest near it, from which on it is warned of."""

FLOOR = 0.06
"""Error of a kernel that is of no account, as a share of the energy of a line."""

LEAST_LINES, LEAST_LENGTH = 10, 12
"""Lines with two neighbours, and samples of each, without which nothing is said."""

LEAST_ENERGY = 8.0
"""Energy of a line that tells, over that of the error that noise makes."""

TOGETHER = 4
"""Lines whose kernel is learnt without them and their neighbours."""

NEAR = (-4, -3, -2, 3, 4, 5)
"""Places beside a seam that it is compared with, from the line before it."""


def equal_lines(ksp: Tensor) -> tuple[int, ...]:
    """Columns of k-space ``(coil, y, x)`` that equal the next one, counted from k = 0."""
    same = (ksp[..., 1:] == ksp[..., :-1]).all(dim=(0, 1)) & ksp[..., 1:].any(dim=1).any(dim=0)
    return tuple(int(x) - ksp.shape[-1] // 2 for x in torch.nonzero(same).flatten())


@dataclass(frozen=True)
class Seam:
    """The largest break between two neighbouring lines.

    Attributes:
        line: the line before it, counted from k = 0.
        size: errors of prediction of the two, over the largest near them.
    """

    line: int
    size: float


def coils_differ(blocks: Sequence[Tensor]) -> bool:
    """Whether coils differ enough along x to predict one column from others.

    Args:
        blocks: calibration blocks ``(coil, y, x)`` of whitened coils, the strongest first.
    """
    kept = [block[of_signal(block)] for block in blocks]
    found = [coil_variation(block) for block in kept if len(block) >= LEAST_COILS]
    return bool(found) and median(found) >= LITTLE_VARIATION


def largest_seam(ksp: Tensor, measured: Tensor | None = None) -> Seam | None:
    """The largest break between two neighbouring columns; None where nothing tells.

    Args:
        ksp: part of a slice about k = 0 of whitened coils ``(coil, y, x)``, the strongest first.
        measured: columns with samples in all of these rows, bool ``(x,)``; None for all.
    """
    if measured is None:
        measured = torch.ones(ksp.shape[-1], dtype=torch.bool)
    lines = torch.nonzero(measured[:-2] & measured[1:-1] & measured[2:]).flatten() + 1
    if len(lines) < LEAST_LINES or ksp.shape[1] < LEAST_LENGTH:
        return None
    ksp = ksp[of_signal(ksp[..., lines])].to(torch.complex128)
    if len(ksp) < LEAST_COILS:
        return None
    fit = _Fit(ksp, lines)
    first = fit.largest(torch.ones(len(lines)))
    if first is None:
        return None
    # Without the two lines of the seam, which spoil the kernels of all others.
    beside = fit.lines - first.line
    return fit.largest(((beside < 0) | (beside > 1)).to(torch.float64))


class _Fit:
    """Lines, their neighbours, and how well kernels predict the ones from the others."""

    def __init__(self, ksp: Tensor, lines: Tensor) -> None:
        near = torch.cat([ksp[:, :-2], ksp[:, 1:-1], ksp[:, 2:]])
        self.lines = lines - ksp.shape[-1] // 2
        self.sources = torch.cat([near[..., lines - 1], near[..., lines + 1]]).movedim(-1, 0)
        self.targets = ksp[:, 1:-1, lines].movedim(-1, 0)  # (line, coil, y)
        self.energy = self.targets.abs().square().mean(dim=(1, 2))
        weights = (self.energy + NOISE).rsqrt()
        self.weights = weights / weights.mean()
        self.grams = self.sources @ self.sources.mH
        self.crosses = self.sources @ self.targets.mH

    def largest(self, kept: Tensor) -> Seam | None:
        """The largest seam, by kernels learnt on some lines: 1 or 0 ``(line,)``."""
        share, tells = self._errors(self.weights * kept)
        place = {int(x): i for i, x in enumerate(self.lines)}
        found = []
        for x, i in place.items():
            j = place.get(x + 1)
            others = [float(share[place[x + d]]) for d in NEAR if x + d in place]
            if j is not None and tells[i] and tells[j] and len(others) > 1:
                size = float((share[i] * share[j]).sqrt()) / (FLOOR + max(others))
                found.append(Seam(x, size))
        return max(found, key=lambda seam: seam.size, default=None)

    def _errors(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of each line, the error without that of noise as a share of its energy; if it tells."""
        grams, crosses = (part * weights[:, None, None] for part in (self.grams, self.crosses))
        gram, cross = grams.sum(dim=0), crosses.sum(dim=0)
        gram = gram + NOISE * self.targets.shape[1] * torch.eye(len(gram), dtype=gram.dtype)
        share, tells = [], []
        for start in range(0, len(weights), TOGETHER):
            own, out = (
                slice(start, start + TOGETHER),
                slice(max(start - 1, 0), start + TOGETHER + 1),
            )
            others = gram - grams[out].sum(dim=0), cross - crosses[out].sum(dim=0)
            kernel = torch.linalg.solve(*others).mH
            noise = NOISE * (1 + kernel.abs().square().sum(dim=1).mean())
            missed = self.targets[own] - kernel @ self.sources[own]
            error, energy = missed.abs().square().mean(dim=(1, 2)) / noise, self.energy[own] / noise
            share.append((error - 1).clamp_min(0) / energy.clamp_min(1))
            tells.append(energy > LEAST_ENERGY)
        return torch.cat(share), torch.cat(tells)


def seam_warnings(name: str, found: Sequence[Seam | None], axis: str) -> list[NumericalWarning]:
    """W-LINES for the largest seam between lines along an axis ("columns" or "rows")."""
    seams = [seam for seam in found if seam is not None and seam.size > LEAST_SIZE]
    if not seams:
        return []
    seam = max(seams, key=lambda seam: seam.size)
    text = (
        f"{name}: {axis} {seam.line:+d} and {seam.line + 1:+d} from k = 0 do not follow each "
        f"other: their neighbours predict them with {seam.size:.2g} times the error of the {axis} "
        "near them, as where one was lost or stored twice"
    )
    return [NumericalWarning("W-LINES", text)]


def equal_warnings(
    name: str, found: Mapping[int, tuple[int, ...]], axis: str
) -> list[NumericalWarning]:
    """W-LINES where slices hold lines along an axis ("columns" or "rows") twice."""
    slices = [index for index, lines in found.items() if lines]
    if not slices:
        return []
    places = ", ".join(f"{line:+d}" for line in sorted(set().union(*found.values())))
    text = (
        f"{name}: {axis} {places} from k = 0 are exactly the next ones in slices {slices}: they "
        "were stored twice, or filled in"
    )
    return [NumericalWarning("W-LINES", text)]
