"""Places where one line of k-space does not follow the other.

Where a line or a readout sample was lost or stored twice, all those behind it are one place off;
elsewhere a receiver changes its sign or its phase. The image is that of two parts of k-space, each
moved or turned by itself, and its RSS is wrong in the same way. A kernel over coils predicts every
line from its two neighbours, as in GRAPPA (Griswold et al. 2002, doi:10.1002/mrm.10171). It is
learnt on other lines, each weighted so that those about k = 0 do not decide alone. On both sides of
a seam it fails; a few lines further off it predicts as well as anywhere near.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from ...errors import NumericalWarning
from .virtual_coils import LEAST_COILS, LITTLE_VARIATION, NOISE, coil_variation, of_signal

LEAST_SIZE = 2.5
"""Error on both sides of a seam over the largest near it, from which on it is warned of."""

LEAST_ERROR = 0.06
"""Error of a kernel that is of no account, as a share of the energy of a line."""

LEAST_LINES, LEAST_LENGTH = 10, 12
"""Lines with two neighbours, and samples of each, without which nothing is said."""

LEAST_ENERGY = 8.0
"""Energy of a line that tells, over that of the error that noise makes."""

TOGETHER = 4
"""Lines whose kernel is learnt without them and their neighbours."""

NEAR = ((-4, -3, -2), (3, 4, 5))
"""Places on either side of a seam that it is compared with, from the line before it."""

LOST, TURNED = 0.5, 0.15
"""Largest share of the error that is left once a line is missed, or a phase is undone."""

LEAST_TURN, MOST_UNLIKE = 0.5, 0.25
"""Radians between the two sides of a seam that are no filter of k-space; sine of half the sum of
those that either side tells, which are opposite where the phase changes."""


@dataclass(frozen=True)
class Seam:
    """The largest break between two neighbouring lines.

    Attributes:
        line: the line before it, counted from k = 0.
        size: errors of prediction of the two, over the largest near them.
        lost: what is left of the error if a line between them was lost, as a share; 1 if not known.
        turned: the same if the phase changes there.
    """

    line: int
    size: float
    lost: float = 1.0
    turned: float = 1.0

    @property
    def certain(self) -> bool:
        """Whether lines do not follow each other, and it is known why."""
        return self.size > LEAST_SIZE and (self.lost < LOST or self.turned < TURNED)


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
    seam = fit.largest(((beside < 0) | (beside > 1)).to(torch.float64))
    if seam is None or seam.size < LEAST_SIZE:
        return seam
    return _repaired(ksp, measured, seam)


class _Fit:
    """Lines, those near them, and how well kernels predict the ones from the others.

    Args:
        ksp: k-space ``(coil, y, x)``.
        lines: columns that are predicted.
        near: places of the columns that predict one.
    """

    def __init__(self, ksp: Tensor, lines: Tensor, near: Sequence[int] = (-1, 1)) -> None:
        self.lines = lines - ksp.shape[-1] // 2
        self.sources, self.targets = _sources(ksp, [lines + d for d in near]), _targets(ksp, lines)
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
            others = [[share[place[x + d]] for d in side if x + d in place] for side in NEAR]
            if j is not None and tells[i] and tells[j] and all(others):
                most = max(float(one) for side in others for one in side)
                found.append(Seam(x, float((share[i] * share[j]).sqrt()) / (LEAST_ERROR + most)))
        return max(found, key=lambda seam: seam.size, default=None)

    def kernel(self) -> Tensor:
        """The kernel that predicts all lines, ``(coil, source)``."""
        gram, cross, _, _ = self._sums(self.weights)
        kernel: Tensor = torch.linalg.solve(gram, cross)
        return kernel.mH

    def _sums(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The normal equations, all and line by line."""
        grams, crosses = (part * weights[:, None, None] for part in (self.grams, self.crosses))
        gram, cross = grams.sum(dim=0), crosses.sum(dim=0)
        ridge = NOISE * self.targets.shape[1] * torch.eye(len(gram), dtype=gram.dtype)
        return gram + ridge, cross, grams, crosses

    def _errors(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Of each line, the error without that of noise as a share of its energy; if it tells."""
        gram, cross, grams, crosses = self._sums(weights)
        share, tells = [], []
        for start in range(0, len(weights), TOGETHER):
            own, out = (
                slice(start, start + TOGETHER),
                slice(max(start - 1, 0), start + TOGETHER + 1),
            )
            others = gram - grams[out].sum(dim=0), cross - crosses[out].sum(dim=0)
            kernel = torch.linalg.solve(*others).mH
            missed = self.targets[own] - kernel @ self.sources[own]
            share.append(_share(kernel, missed, self.targets[own]))
            tells.append(self.energy[own] > LEAST_ENERGY * _noise(kernel))
        return torch.cat(share), torch.cat(tells)


def _repaired(ksp: Tensor, measured: Tensor, seam: Seam) -> Seam:
    """The seam with what is left of its errors once what may have happened is undone.

    Where coils do not predict lines, as of objects that end at the edges of the field of view,
    nothing that happens to lines explains their errors.
    """
    x = seam.line + ksp.shape[-1] // 2
    usual, *wide = (_learnt(ksp, measured, x, near) for near in ((-1, 1), (-1, 2), (-2, 1)))
    if usual is None:
        return seam
    sides = (x, (x - 1, x + 1)), (x + 1, (x, x + 2))
    parts = [_predicted(ksp, usual, *side) for side in sides]
    lost = stored = math.prod(_error(usual, *part) for part in parts)
    if stored <= 0:
        return seam
    kernels = [kernel for kernel in wide if kernel is not None]
    if len(kernels) == len(sides):
        pairs = zip(kernels, sides, strict=True)
        lost = math.prod(_error(one, *_predicted(ksp, one, *side)) for one, side in pairs)
    (before, own, beyond), (behind, other, far) = parts
    factors = _factor(before - own, beyond), _factor(behind - far, other)
    turned = _error(usual, before, own, factors[0] * beyond)
    turned *= _error(usual, behind, factors[1] * other, far)
    angles = [math.atan2(factor.imag, factor.real) for factor in factors]
    unlike = abs(math.sin(sum(angles) / 2)) > MOST_UNLIKE  # each is the inverse of the other
    if abs(angles[0]) < LEAST_TURN or unlike:
        turned = stored
    return replace(seam, lost=math.sqrt(lost / stored), turned=math.sqrt(turned / stored))


def _learnt(ksp: Tensor, measured: Tensor, at: int, near: tuple[int, int]) -> Tensor | None:
    """A kernel of lines and neighbours on one side of the seam behind a column; None if few."""
    places = (0, *near)
    lines = [
        x for x in range(-min(places), len(measured) - max(places))
        if all(measured[x + d] for d in places) and not x + min(places) <= at < x + max(places)
    ]  # fmt: skip
    return _Fit(ksp, torch.tensor(lines), near).kernel() if len(lines) >= LEAST_LINES else None


def _predicted(
    ksp: Tensor, kernel: Tensor, line: int, near: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """A line, and what each of two others predicts of it, ``(1, coil, y)``."""
    left, right = (
        half @ _sources(ksp, [torch.tensor([x])])
        for half, x in zip(kernel.chunk(2, dim=1), near, strict=True)
    )
    return _targets(ksp, torch.tensor([line])), left, right


def _error(kernel: Tensor, target: Tensor, left: Tensor, right: Tensor) -> float:
    """The error of a line, without that of noise, as a share of its energy."""
    return float(_share(kernel, target - left - right, target))


def _factor(wanted: Tensor, part: Tensor) -> complex:
    """By which a part must be multiplied to be nearest to what is wanted."""
    product = torch.vdot(part.flatten(), wanted.flatten())
    return complex(product / part.abs().square().sum().clamp_min(1e-30))


def _sources(ksp: Tensor, lines: Sequence[Tensor]) -> Tensor:
    """Three samples of each coil in some columns ``(line, source, y)``."""
    near = torch.cat([ksp[:, :-2], ksp[:, 1:-1], ksp[:, 2:]])
    return torch.cat([near[..., x] for x in lines]).movedim(-1, 0)


def _targets(ksp: Tensor, lines: Tensor) -> Tensor:
    """The samples that are predicted, ``(line, coil, y)``."""
    return ksp[:, 1:-1, lines].movedim(-1, 0)


def _noise(kernel: Tensor) -> Tensor:
    """Error that noise of a sample and of its sources makes."""
    return NOISE * (1 + kernel.abs().square().sum(dim=1).mean())


def _share(kernel: Tensor, missed: Tensor, targets: Tensor) -> Tensor:
    """Energy that is missed, without that of noise, as a share of that of lines ``(line,)``."""
    error, energy = (x.abs().square().mean(dim=(1, 2)) / _noise(kernel) for x in (missed, targets))
    return (error - 1).clamp_min(0) / energy.clamp_min(1)


def seam_warnings(name: str, found: Sequence[Seam | None], axis: str) -> list[NumericalWarning]:
    """W-LINES for the largest seam between lines along an axis ("columns" or "rows")."""
    seams = [seam for seam in found if seam is not None and seam.certain]
    if not seams:
        return []
    seam = max(seams, key=lambda seam: seam.size)
    text = (
        f"{name}: {axis} {seam.line:+d} and {seam.line + 1:+d} from k = 0 do not follow each "
        f"other: their neighbours predict them with {seam.size:.2g} times the error of the {axis} "
        f"near them, as where {'the phase changes' if seam.turned < TURNED else 'one was lost'}"
    )
    return [NumericalWarning("W-LINES", text)]
