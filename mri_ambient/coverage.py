"""Whether the masks of a data set let a prior learn everything.

A line that no mask holds is never supervised, and a handful of masks or equispaced ones give
themselves away: where the further-subsampled mask reveals the full one, only its lines are ever
supervised. Parallel imaging fills in as long as lines times coils make up for what is missing; one
coil fills in nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import is_line_mask, line_coverage, outer_samples

PRIOR_SCANS = 4
"""Weight of the mean over all lines in the density of one line, in scans."""

FEW_MASKS = 16
"""Fewer distinct masks than this are a handful."""

FILLED = 0.5
"""Share of the field of view that an object fills; below it, coils and lines are surely too few."""


@dataclass(frozen=True)
class MaskFacts:
    """What the coverage figures need of one scan.

    Attributes:
        mask: sampled positions, bool ``(1, y, x)``.
        acquired: bool ``(x,)``.
        n_coils: coils that were measured.
    """

    mask: Tensor
    acquired: Tensor
    n_coils: int


@dataclass(frozen=True)
class Coverage:
    """Coverage of the outer lines (of 2-D masks: outer samples) by scans of one matrix size.

    Attributes:
        shape: matrix ``(y, x)``.
        kind: "lines" or "samples".
        n_scans: scans of this size and kind.
        n_masks: distinct masks among them.
        least: share of the scans that sample the least covered outer line.
        mean: the same, averaged over outer lines.
        n_regular: scans whose outer lines are equispaced.
        n_outer: lines outside the calibration block.
        never: how many of them no scan samples.
        per_line: share of the scans that sample each line, ``x`` numbers; empty for samples.
        fewest_coils: of any of the scans.
    """

    shape: tuple[int, int]
    kind: str
    n_scans: int
    n_masks: int
    least: float
    mean: float
    n_regular: int
    n_outer: int
    never: int
    per_line: tuple[float, ...]
    fewest_coils: int

    @property
    def line(self) -> str:
        """The figures in one line."""
        return (
            f"{_count(self.n_scans, 'scan')} of {self.shape[0]}x{self.shape[1]}: "
            f"{_count(self.n_masks, 'distinct mask')}; outer {self.kind} are sampled by "
            f"{self.mean:.1%} of the scans on average, the rarest by {self.least:.1%}, "
            f"{self.never} by none"
        )

    @property
    def identifiable(self) -> bool:
        """Whether a prior can be learned at all, counted in outer lines.

        With C coils a supervised line gives C equations (Pruessmann et al. 1999: parallel imaging
        is at most C times faster). Supervised are the lines of any scan, or those of every single
        one where masks give themselves away. Unknown are as many lines as there are, less
        where the object leaves a part of the field of view empty, :data:`FILLED` of it at least; a
        single coil cannot tell where.
        """
        if not self.n_outer:
            return True
        supervised = self.mean if self.revealing else 1 - self.never / self.n_outer
        unknown = FILLED if self.fewest_coils > 1 else 1.0
        return supervised * self.fewest_coils > unknown - 1e-6

    @property
    def revealing(self) -> bool:
        """Whether M~ tells what M is: few masks occur, or most are equispaced.

        An equispaced mask has a gap where a line was removed.
        """
        return self.n_masks < FEW_MASKS or 2 * self.n_regular > self.n_scans

    @property
    def doubts(self) -> list[str]:
        """What a prior trained on these scans would suffer from, in words."""
        if self.n_scans == 1:  # a scan to look at, not to learn from
            return []
        holes = []
        if self.never:
            holes.append(f"{self.never} outer {self.kind} are never sampled")
        if self.n_masks < FEW_MASKS:
            holes.append(f"only {self.n_masks} distinct masks occur")
        elif self.revealing:
            holes.append(f"{self.n_regular} of them are equispaced, and lines removed leave gaps")
        if not holes or self.mean == 1:
            return []
        what = f"{self.n_scans} undersampled scans of {self.shape[0]}x{self.shape[1]}: "
        what += " and ".join(holes)
        if not self.identifiable:
            return [
                f"{what}; {_count(self.fewest_coils, 'coil')} cannot fill that in, and a prior "
                "trained on them will be wrong: vary the mask from scan to scan"
            ]
        return [f"{what}; parallel imaging fills in, but varying masks would be better"]


def coverage(scans: Iterable[MaskFacts]) -> list[Coverage]:
    """Coverage figures, by matrix size and kind of mask, as measured."""
    groups = sorted(_tallies(scans).items())
    return [tally.summary(shape, kind) for (shape, kind), tally in groups]


def sampling_densities(scans: Iterable[MaskFacts]) -> dict[tuple[tuple[int, int], str], Tensor]:
    """Chance that a scan samples a position, estimated over a data set, by matrix size and kind.

    A share of few scans is coarse: it is drawn towards the mean over all outer positions as if
    :data:`PRIOR_SCANS` more scans had shown that, and shares of single samples are averaged over
    their neighbourhood first.

    Returns:
        Real ``(1, 1, x)`` for masks of lines, ``(1, y, x)`` for 2-D masks.
    """
    return {key: tally.density(key[1]) for key, tally in _tallies(scans).items()}


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


class _Tally:
    """Adds up the masks of one group."""

    def __init__(self) -> None:
        self.masks: set[bytes] = set()
        self.n_scans = self.n_regular = self.fewest_coils = 0
        self.hits: Tensor = torch.zeros(())
        self.inner: Tensor = torch.zeros((), dtype=torch.bool)
        self.acquired: Tensor = torch.zeros((), dtype=torch.bool)

    def add(self, scan: MaskFacts, kind: str) -> None:
        outer = outer_samples(scan.mask)
        sampled, calib = scan.mask[0], (scan.mask & ~outer)[0]
        acquired = scan.acquired.expand_as(sampled)
        if kind == "lines":
            sampled, calib, acquired = (line_coverage(x) for x in (sampled, calib, acquired))
        self.masks.add(sampled.numpy().tobytes())
        self.hits = self.hits + sampled
        self.inner, self.acquired = self.inner | calib, self.acquired | acquired
        self.n_scans += 1
        self.n_regular += kind == "lines" and _is_regular(line_coverage(outer))
        self.fewest_coils = min(self.fewest_coils or scan.n_coils, scan.n_coils)

    def density(self, kind: str) -> Tensor:
        share = self.hits.double() / self.n_scans
        outer = self.acquired & ~self.inner
        mean = share[outer].mean() if bool(outer.any()) else share.mean()
        if kind == "samples":
            share = _smoothed(share, outer)
        drawn = (self.n_scans * share + PRIOR_SCANS * mean) / (self.n_scans + PRIOR_SCANS)
        density = torch.where(outer, drawn, share).float()
        return density.view(1, 1, -1) if kind == "lines" else density[None]

    def summary(self, shape: tuple[int, int], kind: str) -> Coverage:
        share = self.hits.double() / self.n_scans
        outer = share[self.acquired & ~self.inner]
        least, mean = (float(outer.min()), float(outer.mean())) if outer.numel() else (1.0, 1.0)
        return Coverage(
            shape=shape,
            kind=kind,
            n_scans=self.n_scans,
            n_masks=len(self.masks),
            least=least,
            mean=mean,
            n_regular=self.n_regular,
            n_outer=outer.numel(),
            never=int((outer == 0).sum()),
            per_line=tuple(share.tolist()) if kind == "lines" else (),
            fewest_coils=self.fewest_coils,
        )


def _tallies(scans: Iterable[MaskFacts]) -> dict[tuple[tuple[int, int], str], _Tally]:
    groups: dict[tuple[tuple[int, int], str], _Tally] = defaultdict(_Tally)
    for scan in scans:
        shape, kind = mask_group(scan.mask)
        groups[shape, kind].add(scan, kind)
    return groups


def mask_group(mask: Tensor) -> tuple[tuple[int, int], str]:
    """Matrix size ``(y, x)`` and kind, "lines" or "samples": what masks are compared within."""
    kind = "lines" if is_line_mask(mask) else "samples"
    return (mask.shape[-2], mask.shape[-1]), kind


def _is_regular(outer: Tensor) -> bool:
    """Whether the lines on both sides of the middle are equispaced, at least two apart."""
    lines = outer.nonzero()[:, 0]
    middle = len(outer) // 2
    sides = [side.double() for side in (lines[lines < middle], lines[lines >= middle])]
    if any(len(side) < 3 for side in sides):
        return False
    grids = [
        torch.linspace(float(side[0]), float(side[-1]), len(side), dtype=torch.float64)
        for side in sides
    ]
    steps = [float((side[-1] - side[0]) / (len(side) - 1)) for side in sides]
    off = max(float((side - grid).abs().max()) for side, grid in zip(sides, grids, strict=True))
    return min(steps) >= 2 and off < 1 and abs(steps[0] - steps[1]) < 1


def _smoothed(share: Tensor, outer: Tensor, width: int = 7) -> Tensor:
    """The mean over the outer positions of a square around each of them, others as they are."""
    planes = torch.stack([share * outer, outer.double()])[:, None]
    sums = torch.nn.functional.avg_pool2d(planes, width, stride=1, padding=width // 2)[:, 0]
    return torch.where(outer, sums[0] / sums[1].clamp(min=1e-12), share)
