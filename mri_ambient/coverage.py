"""Whether the masks of a data set let a prior learn everything.

A line that no mask holds is never supervised, and a handful of masks or equispaced ones give
themselves away: where the further-subsampled mask reveals the full one, only its lines are ever
supervised. Parallel imaging fills in what the coils allow, which their maps tell; one coil fills in
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from skimage.morphology import convex_hull_image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, avg_pool2d

from .errors import ScanFormatError
from .masks import is_line_mask, line_coverage, outer_samples
from .rng import rng_for
from .sense import SenseOp
from .solve import conjugate_gradient

PRIOR_SCANS = 4
"""Weight of the mean over all lines in the density of one line, in scans."""

FEW_MASKS = 16
"""Fewer distinct masks than this are a handful."""

WEAK = 0.01
"""Parts of an image that measurements see with less than this share of their energy are open."""

OPEN = 0.25
"""A prior cannot be learned where more than this share of an image is open."""

N_PROBED = 3
"""Scans whose coils are asked what they fill in."""

ALIKE = 1.25
"""Matrices whose sides differ by no more than this factor are learned from together."""


@dataclass(frozen=True)
class MaskFacts:
    """What the coverage figures need of one scan.

    Attributes:
        mask: sampled positions, bool ``(1, y, x)``.
        acquired: bool ``(x,)``.
        read_op: reads its coils, with any mask; without it nothing is said about what they fill in.
    """

    mask: Tensor
    acquired: Tensor
    read_op: Callable[[], SenseOp] | None = None


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
        revealing: whether M~ tells what M is: few masks occur again and again, or most are
            equispaced (an equispaced mask has a gap where a line was removed). Few scans with a
            mask each are few scans above all.
        left_open: largest :func:`open_share` of some of the scans, given what is ever supervised
            here and in groups of nearly this size; None where that is everything, or coils are
            unknown.
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
    revealing: bool = False
    left_open: float | None = None

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
        """Whether a prior can be learned at all: what is supervised and the coils tell enough.

        Supervised are the samples of any scan, or those of every single one where masks give
        themselves away.
        """
        return self.left_open is None or self.left_open <= OPEN

    @property
    def advice(self) -> str:
        """What would help."""
        return "vary the mask from scan to scan" if self.revealing else "add scans with other masks"

    @property
    def doubts(self) -> list[str]:
        """What a prior trained on these scans would suffer from, in words."""
        holes = self.holes
        if not holes or self.n_scans == 1:  # a scan to look at, not to learn from
            return []
        what = f"{self.n_scans} undersampled scans of {self.shape[0]}x{self.shape[1]}: "
        what += " and ".join(holes)
        if self.left_open is None:
            return [what]
        if not self.identifiable:
            return [
                f"{what}; the coils leave {self.left_open:.0%} of an image open, and a prior "
                f"trained on them will be wrong: {self.advice}"
            ]
        return [
            f"{what}; parallel imaging fills in all but {self.left_open:.0%} of an image, but it "
            f"would be better to {self.advice}"
        ]

    @property
    def holes(self) -> list[str]:
        """What is not supervised, in words."""
        holes = []
        if self.never:
            holes.append(f"{self.never} outer {self.kind} are never sampled")
        if self.n_masks < FEW_MASKS:
            holes.append(f"only {self.n_masks} distinct masks occur")
        elif 2 * self.n_regular > self.n_scans:
            holes.append(f"{self.n_regular} of them are equispaced, and lines removed leave gaps")
        return holes if self.mean < 1 else []


def coverage(scans: Iterable[MaskFacts]) -> list[Coverage]:
    """Coverage figures, by matrix size and kind of mask, as measured."""
    tallies = _tallies(scans)
    return [
        tally.summary(shape, kind, _alike(tallies, shape, kind))
        for (shape, kind), tally in sorted(tallies.items())
    ]


def sampling_densities(scans: Iterable[MaskFacts]) -> dict[tuple[tuple[int, int], str], Tensor]:
    """Chance that a scan samples a position, estimated over a data set, by matrix size and kind.

    A share of few scans is coarse: it is drawn towards the mean over all outer positions as if
    :data:`PRIOR_SCANS` more scans had shown that, and shares of single samples are averaged over
    their neighbourhood first.

    Returns:
        Real ``(1, 1, x)`` for masks of lines, ``(1, y, x)`` for 2-D masks.
    """
    return {key: tally.density(key[1]) for key, tally in _tallies(scans).items()}


def open_share(op: SenseOp, *, n_iter: int = 30) -> float:
    """Share of an image that measurements leave open: 0 is all determined.

    The mean over the eigenvalues v of ``A^H A`` in the support of the coils of w / (v + w) with
    w = :data:`WEAK`, which is one where v = 0 and nearly zero where v is larger than w: estimated
    with one random image z as z^H (A^H A + w)^-1 w z / z^H z (Hutchinson 1990,
    doi:10.1080/03610919008812866).

    Args:
        op: coils and what is supervised, ``(..., coil, y, x)``.
        n_iter: conjugate gradient iterations.
    """
    support = op.support
    if not bool(support.any()):
        return 0.0
    parts = torch.randn((*support.shape, 2), generator=rng_for(0, "open share"))
    z = torch.view_as_complex(parts).to(op.maps.device) * support
    x = conjugate_gradient(lambda v: op.normal(v) + WEAK * v, z, n_iter=n_iter)
    return float(WEAK * torch.vdot(z.flatten(), x.flatten()).real / z.abs().square().sum())


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


class _Tally:
    """Adds up the masks of one group."""

    def __init__(self) -> None:
        self.masks: set[bytes] = set()
        self.scans: list[MaskFacts] = []
        self.n_regular = 0
        self.hits: Tensor = torch.zeros(())
        self.ever: Tensor = torch.zeros((), dtype=torch.bool)
        self.inner: Tensor = torch.zeros((), dtype=torch.bool)
        self.acquired: Tensor = torch.zeros((), dtype=torch.bool)

    def add(self, scan: MaskFacts, kind: str) -> None:
        outer = outer_samples(scan.mask)
        sampled, calib = scan.mask[0], (scan.mask & ~outer)[0]
        acquired = scan.acquired.expand_as(sampled)
        if kind == "lines":
            sampled, calib, acquired = (line_coverage(x) for x in (sampled, calib, acquired))
        self.ever = self.ever | scan.mask[0]
        self.masks.add(sampled.numpy().tobytes())
        self.hits = self.hits + sampled
        self.inner, self.acquired = self.inner | calib, self.acquired | acquired
        self.scans.append(scan)
        self.n_regular += kind == "lines" and _is_regular(line_coverage(outer))

    def outer(self, kind: str) -> Tensor:
        """Positions outside the calibration block that a scan could have sampled."""
        outer = self.acquired & ~self.inner
        return outer if kind == "lines" else outer & _reach(self.ever, kind)

    def density(self, kind: str) -> Tensor:
        n_scans = len(self.scans)
        share = self.hits.double() / n_scans
        outer = self.outer(kind)
        mean = share[outer].mean() if bool(outer.any()) else share.mean()
        if kind == "samples":
            share = _smoothed(share, outer)
        drawn = (n_scans * share + PRIOR_SCANS * mean) / (n_scans + PRIOR_SCANS)
        density = torch.where(outer, drawn, share).float()
        return density.view(1, 1, -1) if kind == "lines" else density[None]

    def summary(self, shape: tuple[int, int], kind: str, alike: list[_Tally]) -> Coverage:
        """The figures.

        Args:
            shape: its matrix.
            kind: "lines" or "samples".
            alike: this group and those of nearly its size.
        """
        share = self.hits.double() / len(self.scans)
        outer = share[self.outer(kind)]
        least, mean = (float(outer.min()), float(outer.mean())) if outer.numel() else (1.0, 1.0)
        found = Coverage(
            shape=shape,
            kind=kind,
            n_scans=len(self.scans),
            n_masks=len(self.masks),
            least=least,
            mean=mean,
            n_regular=self.n_regular,
            n_outer=outer.numel(),
            never=int((outer == 0).sum()),
            per_line=tuple(share.tolist()) if kind == "lines" else (),
            revealing=_are_revealing(alike),
        )
        if not found.holes:
            return found
        ever = torch.stack([_resized(other.ever, shape) for other in alike]).any(dim=0)
        return replace(found, left_open=self._left_open(ever, kind, found.revealing))

    def _left_open(self, ever: Tensor, kind: str, revealing: bool) -> float | None:
        shares = []
        beyond = ~_reach(ever, kind)
        for scan in self.scans[:: max(1, len(self.scans) // N_PROBED)][:N_PROBED]:
            try:
                op = None if scan.read_op is None else scan.read_op()
            except ScanFormatError:  # named when its turn comes
                continue
            if op is not None:
                seen = scan.mask if revealing else ever
                seen = seen | beyond | ~scan.acquired
                shares.append(open_share(op.with_mask(seen.expand_as(scan.mask))))
        return max(shares, default=None)


def _are_revealing(tallies: Sequence[_Tally]) -> bool:
    n_scans = sum(len(tally.scans) for tally in tallies)
    n_masks = sum(len(tally.masks) for tally in tallies)
    n_regular = sum(tally.n_regular for tally in tallies)
    return (n_masks < FEW_MASKS and 2 * n_masks <= n_scans) or 2 * n_regular > n_scans


def _alike(
    tallies: Mapping[tuple[tuple[int, int], str], _Tally], shape: tuple[int, int], kind: str
) -> list[_Tally]:
    """The groups of this kind and nearly this size, itself among them."""

    def near(other: tuple[int, int]) -> bool:
        pairs = zip(shape, other, strict=True)
        return all(max(a, b) <= ALIKE * min(a, b) for a, b in pairs)

    return [tally for (other, of), tally in tallies.items() if of == kind and near(other)]


def _reach(ever: Tensor, kind: str) -> Tensor:
    """Where scans go at all, ``(y, x)``: what they all lack beyond is resolution, not aliased.

    Whole lines lack rows (an asymmetric echo), other masks what lies outside the convex hull of
    their samples (corners, a part of the plane).
    """
    if kind == "lines":
        return ever.any(dim=-1, keepdim=True).expand_as(ever)
    hull = convex_hull_image(ever.numpy())  # type: ignore[no-untyped-call]
    return torch.from_numpy(hull)


def _resized(plane: Tensor, shape: tuple[int, int]) -> Tensor:
    """Which positions of another matrix size were sampled, nearly."""
    return adaptive_max_pool2d(plane[None].float(), shape)[0].bool()


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


def is_regular(mask: Tensor) -> bool:
    """Whether a mask of lines is equispaced outside its calibration block."""
    return is_line_mask(mask) and _is_regular(line_coverage(outer_samples(mask)))


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
    sums = avg_pool2d(planes, width, stride=1, padding=width // 2)[:, 0]
    return torch.where(outer, sums[0] / sums[1].clamp(min=1e-12), share)
