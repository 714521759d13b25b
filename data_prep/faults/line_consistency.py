"""Lines of k-space that do not belong together: measured of another object, or by another receiver.

Movement between shots, echoes of unequal strength, lines that were lost, copied, interpolated or
taken from another scan give a wrong image, and an RSS that is wrong in the same way. A kernel over
coils predicts a sample from its neighbours and does not depend on the place, as in GRAPPA (Griswold
et al. 2002, doi:10.1002/mrm.10171) and SPIRiT (Lustig and Pauly 2010, doi:10.1002/mrm.22428). Lines
belong together if those beside a line predict it no worse than the samples of the line predict each
other; the second also tells how far coils and noise allow a prediction at all.

Calibration lines acquired with another gain or phase than the lines outside of their block agree
among each other. There, a kernel predicts a line from those nearer to k = 0, and what it predicts
of the lines of the block tells how far that is possible.

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
from ...physics.patterns import is_line_mask

LEAST_MISFIT = 3.0
"""Error across lines, over what is expected of right ones, that is warned of."""

LEAST_COILS, MAX_COILS = 4, 8
"""Virtual coils of signal, the strongest, that are looked at: fewer do not predict lines."""

LEAST_SIDE = 12
"""Rows and columns without which nothing is said."""

NOISE = 2.0
"""Energy of the noise of a whitened sample."""

LEAST_SIGNAL = 3.0
"""Energy of a coil that counts, over that of the noise: one without signal predicts nothing."""

KERNEL = 0.003
"""Error of a kernel where there is no noise, as a share of the energy that it predicts."""

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

LEAST_VARIATION, LITTLE_VARIATION = 0.015, 0.05
"""Of coils along an axis: below the first, lines across it do not predict each other, as with most
arrays along the other axis (spines: 0.006 or less); below the second, they do so badly (slabs of 20
partitions: 0.03). It is 0.19 or more of coils around the object, 0.025 where lines were copied."""

BADLY = 10.0
"""How many times larger an error is then expected: of slabs it is up to 5 times that of others, of
copied or interpolated lines 67 times or more."""

UNSEEN = 0.2
"""Largest share of the energy of a combination of coils that a kernel may fail to predict."""

LEAST_LIKENESS = 0.7
"""Squared correlation of a line with what is predicted; noise may be larger than was found."""

STRAY = 50.0
"""Energy of a line outside of the middle, over that of lines near it, that is warned of. It is 1.4
at most in right scans, and 6 in those of gratings."""

MISSED = 0.05
"""Energy of a line in the middle, over that of its neighbours, below which it is missed. It is at
least 0.34 in right scans."""

LOW = 0.3
"""The same of the column on the other side of k = 0, where both are a pattern of the object."""

LEAST_SHARE = 0.9
"""Least share of signal in what is predicted of a line."""


def sample_energies(ksp: Tensor) -> Tensor:
    """Energy of every sample of a slice ``(coil, y, x)``, over its coils, float64 ``(y, x)``."""
    power = torch.zeros(ksp.shape[1:], dtype=torch.float64, device=ksp.device)
    for coil in ksp:  # all together would take several times the memory of the slice
        power += coil.abs().square()
    return power


def stray_lines(power: Tensor, mask: Tensor) -> dict[int, float]:
    """Columns of much more energy than those near them and those on the other side of k = 0.

    Navigators and other lines that are not marked as such often stand at the first place.

    Args:
        power: of a slice, as :func:`sample_energies` gives it.
        mask: sampled positions, bool ``(y, x)``.

    Returns:
        By the column, the factor; nothing of the quarter in the middle, where energy is steep, nor
        of masks of single samples.
    """
    energy, held = line_energies(power, mask)
    n = len(energy)
    found = {}
    for i, x in enumerate(held):
        if abs(x - n // 2) > n // 8:
            beside = [*held[max(i - 2, 0) : i], *held[i + 1 : i + 3]]
            opposite = 2 * (n // 2) - x
            beside += [other for other in held if abs(other - opposite) <= 1]
            largest = float(energy[beside].max()) if beside else 0.0
            if largest > 0 and energy[x] > STRAY * largest:
                found[x] = float(energy[x]) / largest
    return found


def missed_line(power: Tensor, mask: Tensor) -> int | None:
    """The one column in the middle of k-space that holds no signal, as if the receiver missed it.

    It has less than :data:`MISSED` of the energy of its neighbours. Several such columns, or one
    whose mirror image about k = 0 is low too, are none: k-space of two objects, or of a box, has a
    pattern of them. That of a single coil has zeros that are none of a fault.

    Args:
        power: of a slice, as :func:`sample_energies` gives it.
        mask: sampled positions, bool ``(y, x)``.
    """
    energy, held = line_energies(power, mask)
    n = len(energy)
    beside = {
        x: float(energy[x] / energy[[before, after]].min().clamp_min(1e-30))
        for before, x, after in zip(held, held[1:], held[2:], strict=False)
        if abs(x - n // 2) <= n // 8
    }
    low = [x for x, share in beside.items() if share < LOW]
    missed = [x for x in low if beside[x] < MISSED]
    opposite = {2 * (n // 2) - x + off for x in missed for off in (-1, 0, 1)} - set(missed)
    return missed[0] if len(missed) == 1 and not opposite & set(low) else None


def line_energies(power: Tensor, mask: Tensor) -> tuple[Tensor, list[int]]:
    """Mean energy of the columns without their largest sample ``(x,)``, and which are measured.

    None of masks of single samples.
    """
    if not is_line_mask(mask):
        return torch.zeros(mask.shape[1]), []
    counts = mask.sum(dim=0)
    energy = (power.sum(dim=0) - power.amax(dim=0)) / counts.clamp_min(1)
    return energy, torch.nonzero(counts).flatten().tolist()


def stray_warnings(
    name: str, found: Mapping[int, Mapping[int, float]], axis: str
) -> list[NumericalWarning]:
    """W-LINES for lines along an axis ("columns" or "rows") that slices hold too much energy in."""
    slices = [index for index, lines in found.items() if lines]
    if not slices:
        return []
    places = sorted(set().union(*found.values()))
    most = max(factor for lines in found.values() for factor in lines.values())
    text = (
        f"{name}: {axis} {places} of k-space have up to {most:.0f} times the energy of those near "
        f"them in slices {slices}: lines of another place, navigators for example"
    )
    return [NumericalWarning("W-LINES", text)]


def missed_warnings(
    name: str, found: Mapping[int, int | None], axis: str
) -> list[NumericalWarning]:
    """W-LINES for a line along an axis ("columns" or "rows") that slices hold no signal in."""
    places = {index: place for index, place in found.items() if place is not None}
    if not places:
        return []
    text = (
        f"{name}: {axis} {sorted(set(places.values()))} of k-space hold less than a twentieth of "
        f"the energy of their neighbours in slices {sorted(places)}, as if the receiver missed them"
    )
    return [NumericalWarning("W-LINES", text)]


def line_misfit(block: Tensor) -> float:
    """How much worse the columns beside a column predict it than its samples predict each other.

    The largest mean squared error of a column, over what is expected: that of noise (1), the
    largest within columns, and :data:`KERNEL`; :data:`BADLY` times that where coils hardly differ
    along x. 0 where they do not, and where the block is too small or has too few coils.

    Args:
        block: calibration block ``(coil, y, x)`` of whitened coils, the strongest first.
    """
    block = block[of_signal(block)].to(torch.complex128)
    if len(block) < LEAST_COILS or min(block.shape[1:]) < LEAST_SIDE:
        return 0.0
    if (variation := coil_variation(block)) < LEAST_VARIATION:
        return 0.0
    near = _rows_around(block, 2)
    sources = torch.cat([row[..., side] for row in near for side in (slice(-2), slice(2, None))])
    across, predicted = prediction_errors(sources, near[2][..., 1:-1])
    own = [row[..., 1:-1] for row in _rows_around(block, 3)]
    within, _ = prediction_errors(torch.cat(own[:3] + own[4:]), own[3])
    expected = 1 + within.max() + KERNEL * predicted
    factor = BADLY if variation < LITTLE_VARIATION else 1.0
    return float((across / expected).max()) / factor


def of_signal(block: Tensor) -> Tensor:
    """The first coils that hold more than noise in k-space ``(coil, y, x)``: their numbers."""
    energy = block.abs().square().mean(dim=(1, 2))
    return torch.nonzero(energy > LEAST_SIGNAL * NOISE).flatten()[:MAX_COILS]


def coil_variation(block: Tensor) -> float:
    """How much what the coils see differs along x: 0 where they differ along y alone.

    The mean of 1 - ``|<a, b>|^2 / (|a| |b|)^2`` over all pairs of places in a row of the image, a
    and b what the coils receive there, weighted by ``(|a| |b|)^2``.

    Args:
        block: calibration block ``(coil, y, x)``.
    """
    ny, nx = (
        torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in block.shape[1:]
    )
    img = torch.fft.ifft2(block * ny[:, None] * nx).permute(1, 2, 0)  # (y, x, coil); any order
    together = (img.conj() @ img.mT).abs().square().sum()
    energy = img.abs().square().sum(dim=-1)
    return 1 - float(together / energy.sum(dim=1).square().sum())


def _rows_around(block: Tensor, reach: int) -> list[Tensor]:
    """The rows ``y - reach ... y + reach`` of every row y that has them, each ``(coil, y, x)``."""
    n = block.shape[1] - 2 * reach
    return [block[:, first : first + n] for first in range(2 * reach + 1)]


def prediction_errors(sources: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of every column that one kernel predicts, and the energy of what it does.

    Args:
        sources: neighbours of each sample, ``(source, y, x)``.
        target: the samples, ``(coil, y, x)``.

    Returns:
        Errors and energies, real ``(x,)``, over the error that noise makes.
    """
    known, wanted = sources.flatten(1), target.flatten(1)
    ridge = NOISE * len(target) * torch.eye(len(known), dtype=known.dtype)
    kernel = torch.linalg.solve(known @ known.mH + ridge, known @ wanted.mH).mH
    predicted = (kernel @ known).view(target.shape)
    noise = NOISE * (1 + kernel.abs().square().sum(dim=1).mean())  # of a sample and its sources
    parts = (target - predicted, predicted)
    error, energy = (part.abs().square().mean(dim=(0, 1)) / noise for part in parts)
    return error, energy


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


class _Kernel:
    """A kernel that predicts a line from others at fixed distances.

    Coils are combined to those that it predicts well, by lines it was not learnt on, each weighted
    by its error. Noise of the sources, which makes predictions too large, is subtracted.
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
        new = cls()
        new.strip, new.near = strip, near
        sources, targets = new._pairs(places)
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
        new.weights = (basis[:, good].mH @ white) / unseen[good].sqrt()[:, None]
        logs = new._factors(others, sources, targets)[0].log()
        new.usual = float(logs.real.median())
        new.spread = (float((logs.real - new.usual).abs().max()), float(logs.imag.abs().max()))
        new.kernel = torch.linalg.solve(gram, cross).mH
        return new

    def step(self, x: int) -> Step:
        """How column ``x`` differs from what is predicted."""
        factors, share = self._factors(self.kernel, *self._pairs([x]))
        log = complex(factors[0].log()) - self.usual
        limits = [max(LEAST_STEP, TIMES * spread) for spread in self.spread]
        size = max(abs(log.real) / limits[0], abs(log.imag) / limits[1])
        return Step(log, size, float(share[0]))

    def _pairs(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sources and targets of columns, ``(place, source, y)`` and ``(place, coil, y)``."""
        rows = _rows_around(self.strip, 2)
        sources = [torch.cat([row[..., x + d] for row in rows for d in self.near]) for x in places]
        return torch.stack(sources), torch.stack([rows[2][..., x] for x in places])

    def _factors(self, kernel: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Factors between targets and what is predicted, and the share of signal in that."""
        kernel, wanted = self.weights @ kernel, self.weights @ targets
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


def line_warnings(name: str, blocks: Sequence[Tensor]) -> list[NumericalWarning]:
    """W-LINES for the largest misfit, along x or y, of the slices of a scan."""
    found = [(line_misfit(block), "columns") for block in blocks]
    found += [(line_misfit(block.mT), "rows") for block in blocks]
    misfit, lines = max(found)
    if misfit < LEAST_MISFIT:
        return []
    text = (
        f"{name}: {lines} of k-space do not belong together: their neighbours predict one of them "
        f"with {misfit:.2g} times the squared error that is expected"
    )
    return [NumericalWarning("W-LINES", text)]
