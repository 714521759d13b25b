"""Calibration lines acquired with another gain or phase than the lines outside of their block.

They agree among each other, so that neighbours predict them (:mod:`.line_misfit`). Here a kernel
over coils predicts a line from those nearer to k = 0, and what it predicts of the lines of the
block tells how far that is possible.

Figures: docs/decisions/acquisitions.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import NumericalWarning
from .virtual_coils import LEAST_COILS, LEAST_SIDE, NOISE, of_signal, rows_around

LEAST_STEP = 0.3
"""Logarithm of the gain, and phase in radians, of a step between lines that is warned of."""

TIMES = 4.0
"""How many times larger a step must be than the largest that is found within the block."""

FURTHER = 1.5
"""How many times larger it must be in lines that are not the first ones beside the block: those of
boxes, of two legs and of folded heads had up to 1.3 times the least."""

NEIGHBOURS, FARTHEST = 3, 4
"""Lines that predict one further out, and how far the nearest of them may be."""

LEAST_PLACES = 10
"""Lines of the block that a kernel is learnt and tried on."""

UNSEEN = 0.2
"""Largest share of the energy of a combination of coils that a kernel may fail to predict."""

LEAST_LIKENESS = 0.7
"""Squared correlation of a line with what is predicted; noise may be larger than was found."""

LEAST_SHARE = 0.9
"""Least share of signal in what is predicted of a line."""


def line_steps(strip: Tensor, measured: NDArray[np.bool_], width: int) -> dict[int, Step]:
    """Steps at the three lines on either side of the calibration block, by column.

    Each is predicted from at least one line of the block. Far from k = 0, a filter of k-space is
    steep enough to look like a step.

    Args:
        strip: the middle rows of whitened coils ``(coil, y, x)``, the strongest first.
        measured: columns with samples in all of these rows, bool ``(x,)``.
        width: columns of the calibration block.
    """
    first = len(measured) // 2 - width // 2
    block = range(first, first + width)
    strip = strip[of_signal(strip[..., first : block.stop])].to(torch.complex128)
    if len(strip) < LEAST_COILS or strip.shape[1] < LEAST_SIDE or not measured[list(block)].all():
        return {}
    lines = np.flatnonzero(measured).tolist()
    found: dict[int, Step] = {}
    for outwards in (lines, lines[::-1]):
        kernels: dict[tuple[int, ...], _Kernel | None] = {}
        start = 1 + max(i for i, x in enumerate(outwards) if x in block)
        for i in range(start, min(start + NEIGHBOURS, len(outwards))):
            x = outwards[i]
            near = tuple(inner - x for inner in outwards[i - NEIGHBOURS : i])
            if abs(near[-1]) > FARTHEST:
                break
            if near not in kernels:
                kernels[near] = _Kernel.learnt(strip, near, block)
            kernel = kernels[near]
            step = None if kernel is None else kernel.step(x)
            if step is not None and step.share < LEAST_SHARE:
                break
            if step is not None:
                found[x] = step if i == start else replace(step, size=step.size / FURTHER)
    return found


@dataclass(frozen=True)
class Step:
    """How a line differs from what lines nearer to k = 0 predict of it.

    Attributes:
        log: logarithm of the complex factor on what is predicted, 0 for right lines.
        size: the step over the least that is certain: above 1 it is warned of.
        share: of signal in what is predicted.
    """

    log: complex
    size: float
    share: float


@dataclass(frozen=True)
class _Kernel:
    """A kernel that predicts a line from others at fixed distances.

    Coils are combined to those that it predicts well, by lines it was not learnt on, each weighted
    by its error. Noise of the sources, which makes predictions too large, is subtracted.

    Attributes:
        strip: the middle rows of the coils, ``(coil, y, x)``.
        near: distances of the sources from the line, in columns.
        kernel: from sources to coils, ``(coil, source)``.
        weights: of the coils in each combination, ``(combination, coil)``.
        usual, spread: median of the logarithm of the gain within the block; the largest deviation
            of it and of the phase.
    """

    strip: Tensor
    near: tuple[int, ...]
    kernel: Tensor
    weights: Tensor
    usual: float
    spread: tuple[float, float]

    @classmethod
    def learnt(cls, strip: Tensor, near: tuple[int, ...], block: range) -> _Kernel | None:
        """Learn from a block of columns; None if it is too narrow, or predicts nothing."""
        places = [x for x in block if all(x + distance in block for distance in near)]
        if len(places) < LEAST_PLACES:
            return None
        sources, targets = _pairs(strip, near, places)
        grams, crosses = sources @ sources.mH, sources @ targets.mH
        ridge = NOISE * len(strip) * torch.eye(sources.shape[1], dtype=sources.dtype)
        gram, cross = grams.sum(dim=0) + ridge, crosses.sum(dim=0)
        others = torch.linalg.solve(gram - grams, cross - crosses).mH  # without the line itself
        missed = targets - others @ sources
        whole, rest = ((part @ part.mH).sum(dim=0) for part in (targets, missed))
        white = torch.linalg.inv(torch.linalg.cholesky(whole))
        unseen, basis = torch.linalg.eigh(white @ rest @ white.mH)
        good = unseen < UNSEEN
        if not bool(good.any()):
            return None
        weights = (basis[:, good].mH @ white) / unseen[good].sqrt()[:, None]
        logs = _factors(weights, others, sources, targets)[0].log()
        usual = float(logs.real.median())
        spread = (float((logs.real - usual).abs().max()), float(logs.imag.abs().max()))
        return cls(strip, near, torch.linalg.solve(gram, cross).mH, weights, usual, spread)

    def step(self, x: int) -> Step:
        """How column ``x`` differs from what is predicted."""
        factors, share = _factors(self.weights, self.kernel, *_pairs(self.strip, self.near, [x]))
        log = complex(factors[0].log()) - self.usual
        limits = [max(LEAST_STEP, TIMES * spread) for spread in self.spread]
        size = max(abs(log.real) / limits[0], abs(log.imag) / limits[1])
        return Step(log, size, float(share[0]))


def _pairs(strip: Tensor, near: Sequence[int], places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sources and targets of columns, ``(place, source, y)`` and ``(place, coil, y)``."""
    rows = rows_around(strip, 2)
    sources = [torch.cat([row[..., x + d] for row in rows for d in near]) for x in places]
    return torch.stack(sources), torch.stack([rows[2][..., x] for x in places])


def _factors(
    weights: Tensor, kernel: Tensor, sources: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Factors between targets and what is predicted, and the share of signal in that."""
    kernel, wanted = weights @ kernel, weights @ targets
    predicted = kernel @ sources
    energy = predicted.abs().square().sum(dim=(-2, -1))
    noise = NOISE * sources.shape[-1] * kernel.abs().square().sum(dim=(-2, -1))
    share = 1 - noise / energy
    product = (predicted.conj() * wanted).sum(dim=(-2, -1))
    likeness = product.abs().square() / (energy * wanted.abs().square().sum(dim=(-2, -1)))
    share = torch.where(likeness < LEAST_LIKENESS, 0, share)
    return product / (energy * share.clamp_min(1 - LEAST_SHARE)), share


def step_warnings(
    name: str, slices: Sequence[Mapping[int, Step]], n: int
) -> list[NumericalWarning]:
    """W-LINES for steps that most slices that tell agree on, along ``n`` columns."""
    found = {x: [steps[x] for steps in slices if x in steps] for x in set().union(*slices)}
    logs = {
        x: sum(step.log for step in steps) / len(steps)
        for x, steps in found.items()
        if median(step.size for step in steps) > 1
    }
    if not logs:
        return []
    left, right = (x for x in logs if x < n // 2), (x for x in logs if x > n // 2)
    ends = [*sorted(left)[-1:], *sorted(right)[:1]]
    text = f"{name}: columns of k-space do not belong together: "
    if len(ends) == 2 and abs(logs[ends[0]] - logs[ends[1]]) < LEAST_STEP:
        text += (
            f"those outside of columns {ends[0] + 1} to {ends[1] - 1} have "
            f"{_factor(logs[ends[0]])} predicted from those inside, as where these are calibration "
            "lines of another gain, phase or contrast"
        )
    else:
        each = (f"column {x} has {_factor(logs[x])}" for x in ends)
        text += f"{' and '.join(each)} predicted from columns nearer to k = 0"
    return [NumericalWarning("W-LINES", text)]


def _factor(log: complex) -> str:
    """A complex factor, in words."""
    turned = f", turned by {log.imag:+.1f} rad," if abs(log.imag) >= LEAST_STEP / 2 else ""
    return f"{math.exp(log.real):.2g} times the amplitude{turned}"
