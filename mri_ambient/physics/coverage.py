"""Whether the masks of a data set let a prior learn everything.

A line that no mask holds is never supervised, and a handful of masks or equispaced ones give
themselves away: where the further-subsampled mask reveals the full one, only its lines are ever
supervised. Parallel imaging fills in what the coils allow, which their maps tell; one coil fills in
nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from skimage.morphology import convex_hull_image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..errors import ScanFormatError
from ..rng import rng_for
from .masks import is_line_mask, line_coverage, mask_kind, outer_samples
from .operators import SenseOp
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

LEAST_REACH = 1 / 3
"""Scans that all stay within less of the plane than this are not cut by shutter or echo."""


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
        holes: what is not supervised, here and in groups of nearly this size, in words.
        left_open: largest :func:`open_share` of some of the scans, given what is ever supervised
            there, of the part of the plane that scans reach; None where that is everything, or
            coils are unknown.
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
    holes: tuple[str, ...] = ()
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
        if not self.holes or self.n_scans == 1:  # a scan to look at, not to learn from
            return []
        what = f"{self.n_scans} undersampled scans of {self.shape[0]}x{self.shape[1]}: "
        what += " and ".join(self.holes)
        if self.left_open is None:
            return [what]
        if not self.identifiable:
            return [
                f"{what}; the coils leave {self.left_open:.0%} of an image open, and a prior "
                f"trained on them will be wrong: {self.advice}"
            ]
        return [
            f"{what}; samples and coils together leave only {self.left_open:.0%} of an image open, "
            f"but it would be better to {self.advice}"
        ]


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
        self.masks: Counter[bytes] = Counter()
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
        self.masks[sampled.numpy().tobytes()] += 1
        self.hits = self.hits + sampled
        self.inner, self.acquired = self.inner | calib, self.acquired | acquired
        self.scans.append(scan)
        self.n_regular += kind == "lines" and _is_regular(line_coverage(outer))

    def density(self, kind: str) -> Tensor:
        n_scans = len(self.scans)
        share = self.hits.double() / n_scans
        outer = self.acquired & ~self.inner
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
        ever = torch.stack([_resized(other.ever, shape, kind) for other in alike]).any(dim=0)
        reach = _reach(ever, kind)
        wanted = self.acquired & ~self.inner
        if kind == "samples":
            wanted = wanted & reach
        outer = share[wanted]
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
        seen = line_coverage(ever) if kind == "lines" else ever
        n_never = int((wanted & ~seen).sum())
        holes = tuple(_holes(alike, kind, n_never)) if mean < 1 else ()
        if not holes:
            return found
        left_open = self._left_open(ever, reach, found.revealing)
        return replace(found, holes=holes, left_open=left_open)

    def _left_open(self, ever: Tensor, reach: Tensor, revealing: bool) -> float | None:
        shares = []
        for scan in self.scans[:: max(1, len(self.scans) // N_PROBED)][:N_PROBED]:
            try:
                op = None if scan.read_op is None else scan.read_op()
            except ScanFormatError:  # named when its turn comes
                continue
            if op is not None:
                seen = scan.mask if revealing else ever
                missed = reach & scan.acquired
                found = open_share(op.with_mask((seen | ~missed).expand_as(scan.mask)))
                shares.append(min(found / max(float(missed.double().mean()), 1e-9), 1.0))
        return max(shares, default=None)


def _n_masks(tallies: Sequence[_Tally]) -> float:
    """Number of equally frequent masks that would repeat as often: (sum c)^2 / sum c^2."""
    counts = [float(n) for tally in tallies for n in tally.masks.values()]
    return sum(counts) ** 2 / sum(n**2 for n in counts)


def _n_regular(tallies: Sequence[_Tally]) -> int:
    return sum(tally.n_regular for tally in tallies)


def _n_scans(tallies: Sequence[_Tally]) -> int:
    return sum(len(tally.scans) for tally in tallies)


def _are_revealing(tallies: Sequence[_Tally]) -> bool:
    n_scans, n_masks = _n_scans(tallies), _n_masks(tallies)
    repeated = n_masks < FEW_MASKS and 2 * n_masks <= n_scans
    return repeated or 2 * _n_regular(tallies) > n_scans


def _holes(tallies: Sequence[_Tally], kind: str, n_never: int) -> Iterator[str]:
    """What is not supervised, in words."""
    if n_never:
        yield f"{n_never} outer {kind} are never sampled"
    n_masks = sum(len(tally.masks) for tally in tallies)
    if n_masks < FEW_MASKS:
        yield f"only {_count(n_masks, 'distinct mask')} {'occurs' if n_masks == 1 else 'occur'}"
    elif 2 * _n_regular(tallies) > _n_scans(tallies):
        yield f"{_n_regular(tallies)} of them are equispaced, and lines removed leave gaps"
    elif _n_masks(tallies) < FEW_MASKS:
        yield f"most of them share a few of {n_masks} masks"


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
    their samples (corners, a part of the plane). All of the plane where that would be little.
    """
    if kind == "lines":
        reach = ever.any(dim=-1, keepdim=True).expand_as(ever)
    else:
        hull = convex_hull_image(ever.numpy())  # type: ignore[no-untyped-call]
        reach = torch.from_numpy(hull)
    return reach if float(reach.double().mean()) >= LEAST_REACH else torch.ones_like(reach)


def _resized(plane: Tensor, shape: tuple[int, int], kind: str) -> Tensor:
    """The nearest positions of another matrix size, one for each that was sampled."""
    if kind == "lines":  # which hold all rows that were read
        rows = plane.any(dim=-1)[None, None].float()
        rows = interpolate(rows, shape[0], mode="nearest-exact")[0, 0].bool()
        return rows[:, None] & _moved(plane.any(dim=-2), shape[1])
    return _moved(_moved(plane, shape[1]).mT, shape[0]).mT


def _moved(plane: Tensor, size: int) -> Tensor:
    """``(..., n)`` to ``(..., size)``, k = 0 to k = 0."""
    n = plane.shape[-1]
    place = (torch.arange(n) - n // 2) * (size / n)
    index = (place.round().long() + size // 2).clamp(0, size - 1)
    moved = torch.zeros(*plane.shape[:-1], size).index_add_(-1, index, plane.float())
    return moved > 0


def _tallies(scans: Iterable[MaskFacts]) -> dict[tuple[tuple[int, int], str], _Tally]:
    groups: dict[tuple[tuple[int, int], str], _Tally] = defaultdict(_Tally)
    for scan in scans:
        shape, kind = mask_group(scan.mask)
        groups[shape, kind].add(scan, kind)
    return groups


def mask_group(mask: Tensor) -> tuple[tuple[int, int], str]:
    """Matrix size ``(y, x)`` and kind, "lines" or "samples": what masks are compared within."""
    return (mask.shape[-2], mask.shape[-1]), mask_kind(mask)


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
