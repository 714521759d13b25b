"""Whether the masks of a data set let a prior learn everything.

A line that no mask holds is never supervised, and a handful of masks give themselves away: where
the further-subsampled mask reveals the full one, only its lines are ever supervised. Parallel
imaging fills in for several coils; for one coil nothing does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import is_line_mask, line_coverage, outer_samples

FEW_MASKS = 16
"""Fewer distinct masks than this are a handful."""


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
        never: how many outer lines no scan samples.
        per_line: share of the scans that sample each line, ``x`` numbers; empty for samples.
        single_coil: how many of the scans have one coil.
    """

    shape: tuple[int, int]
    kind: str
    n_scans: int
    n_masks: int
    least: float
    mean: float
    never: int
    per_line: tuple[float, ...]
    single_coil: int

    @property
    def line(self) -> str:
        """The figures in one line."""
        return (
            f"{self.n_scans} scans of {self.shape[0]}x{self.shape[1]}: {self.n_masks} distinct "
            f"masks; outer {self.kind} are sampled by {self.mean:.1%} of the scans on average, the "
            f"rarest by {self.least:.1%}, {self.never} by none"
        )

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
        if not holes or self.mean == 1:
            return []
        what = f"{self.n_scans} undersampled scans of {self.shape[0]}x{self.shape[1]}: "
        what += " and ".join(holes)
        if self.single_coil:
            return [
                f"{what}; {self.single_coil} of them have a single coil, so nothing can fill in, "
                "and a prior trained on them will be wrong: vary the mask from scan to scan"
            ]
        return [f"{what}; parallel imaging fills in, but varying masks would be better"]


def coverage(scans: Iterable[MaskFacts]) -> list[Coverage]:
    """Coverage figures, by matrix size and kind of mask, as measured."""
    groups: dict[tuple[tuple[int, int], str], _Tally] = defaultdict(_Tally)
    for scan in scans:
        shape = (scan.mask.shape[-2], scan.mask.shape[-1])
        kind = "lines" if is_line_mask(scan.mask) else "samples"
        groups[shape, kind].add(scan, kind)
    return [tally.summary(shape, kind) for (shape, kind), tally in sorted(groups.items())]


class _Tally:
    """Adds up the masks of one group."""

    def __init__(self) -> None:
        self.masks: set[bytes] = set()
        self.n_scans = self.single_coil = 0
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
        self.single_coil += scan.n_coils == 1

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
            never=int((outer == 0).sum()),
            per_line=tuple(share.tolist()) if kind == "lines" else (),
            single_coil=self.single_coil,
        )
