"""Whether the masks of a data set sample enough of k-space to train a prior.

A prior is trained on measured samples only. Two things leave a part of k-space without supervision:
lines that no scan samples, and masks that are predictable. If the further-subsampled mask M~ shows
which lines were removed (the same few masks, or equispaced ones), the network learns these lines
only. Parallel imaging fills gaps as far as the coil maps allow: what remains is the null-space
fraction of the image. Scans of each matrix size and kind of mask are judged separately.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..errors import NumericalWarning, ScanFormatError
from ..rng import rng_for
from .masks import outer_samples
from .operators import SenseOp
from .patterns import Mask, is_line_mask, line_coverage, mask_kind
from .solve import conjugate_gradient

PRIOR_SCANS = 4
"""Weight of the mean over all lines in the density of one line, in scans."""

FEW_MASKS = 16
"""Fewer distinct masks than this are few."""

WEAK_EIGENVALUE = 0.01
"""Components of an image count as null space where ``A^H A`` has eigenvalues below this."""

MAX_NULL_SPACE = 0.25
"""Largest null-space fraction with which a prior can be trained."""


@dataclass(frozen=True)
class MaskFacts:
    """The mask ``(1, y, x)`` and acquired columns ``(x,)`` of one scan, both bool.

    ``read_op`` reads its coil maps; without it no null-space fraction is computed.
    """

    mask: Tensor
    acquired: Tensor
    read_op: Callable[[], SenseOp] | None = None


@dataclass(frozen=True)
class Coverage:
    """How the scans of one matrix size and kind of mask cover the outer lines (or outer samples).

    Attributes:
        shape: matrix ``(y, x)``.
        kind: "lines" or "samples".
        n_scans, n_masks: scans of this size and kind, and distinct masks among them.
        least, mean: share of the scans that sample the least sampled outer line, and the average.
        n_regular: scans whose outer lines are equispaced.
        n_outer, never: lines outside the calibration block; how many of them no scan samples.
        per_line: share of the scans that sample each line, ``x`` numbers; empty for samples.
        predictable: few masks occur again and again, or most are equispaced.
        gaps: what lacks supervision, in words.
        null_space_fraction: largest of some scans, over the share of k-space that scans cover; None
            where nothing lacks supervision, or coils are unknown.
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
    predictable: bool = False
    gaps: tuple[str, ...] = ()
    null_space_fraction: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures under the names that manifests and cards of priors store."""
        stored = {"predictable": "revealing", "gaps": "holes", "null_space_fraction": "left_open"}
        return {stored.get(name, name): value for name, value in asdict(self).items()}

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
        """Whether a prior can be trained: supervision and coils determine most of the image."""
        return self.null_space_fraction is None or self.null_space_fraction <= MAX_NULL_SPACE

    @property
    def advice(self) -> str:
        """What would help."""
        if self.predictable:
            return "vary the mask from scan to scan"
        return "add scans with other masks"

    @property
    def warnings(self) -> tuple[NumericalWarning, ...]:
        """W-COVERAGE where a part of k-space lacks supervision; none for a single scan."""
        if not self.gaps or self.n_scans == 1:
            return ()
        text = f"{self.n_scans} undersampled scans of {self.shape[0]}x{self.shape[1]}: "
        text += " and ".join(self.gaps)
        if self.null_space_fraction is not None:
            text += f"; null-space fraction {self.null_space_fraction:.1%}"
            allowed = f"at most {MAX_NULL_SPACE:.0%} is allowed"
            others = " for training, except with the objective equivariant"
            text += f" ({allowed})" if self.identifiable else f": {allowed}{others}"
        return (NumericalWarning("W-COVERAGE", text),)


def coverage(scans: Iterable[MaskFacts]) -> list[Coverage]:
    """Coverage figures, by matrix size and kind of mask."""
    return [_Group(*key, members).coverage() for key, members in sorted(_by_mask(scans).items())]


def sampling_densities(scans: Iterable[MaskFacts]) -> dict[tuple[tuple[int, int], str], Tensor]:
    """Probability that a scan samples a position, estimated over a data set, by size and kind.

    ``(1, 1, x)`` for masks of lines, ``(1, y, x)`` for 2-D masks. A share of few scans is coarse:
    it is shrunk towards the mean over all outer positions, which counts as :data:`PRIOR_SCANS` more
    scans; shares of single samples are first averaged over their neighbourhood.
    """
    return {key: _Group(*key, members).density() for key, members in _by_mask(scans).items()}


def null_space_fraction(op: SenseOp) -> float:
    """Share of an image that measurements do not determine: 0 if all of it is determined.

    The mean over the eigenvalues v of ``A^H A`` in the support of the coils of w / (v + w) with w =
    :data:`WEAK_EIGENVALUE`, which is 1 where v = 0 and nearly 0 where v is larger than w. It is
    estimated with one random image z as z^H (A^H A + w)^-1 w z / z^H z (Hutchinson 1990,
    doi:10.1080/03610919008812866).

    Args:
        op: coils, with the mask of all samples that have supervision.
    """
    support = op.support
    if not bool(support.any()):
        return 0.0
    parts = torch.randn((*support.shape, 2), generator=rng_for(0, "open share"))
    z = torch.view_as_complex(parts).to(op.maps.device) * support
    x = conjugate_gradient(lambda v: op.normal(v) + WEAK_EIGENVALUE * v, z, n_iter=30)
    inner = torch.vdot(z.flatten(), x.flatten()).real
    return float(WEAK_EIGENVALUE * inner / z.abs().square().sum())


def mask_group(mask: Mask) -> tuple[tuple[int, int], str]:
    """Matrix size ``(y, x)`` and kind, "lines" or "samples", that masks are grouped by."""
    return (mask.shape[-2], mask.shape[-1]), mask_kind(mask)


def is_equispaced(mask: Tensor) -> bool:
    """Whether a mask is lines that are equispaced, at least two apart, beside the calibration."""
    if not is_line_mask(mask):
        return False
    lines = line_coverage(outer_samples(mask)).nonzero()[:, 0].double()
    centre = mask.shape[-1] // 2
    steps = []
    for side in (lines[lines < centre], lines[lines >= centre]):
        if len(side) < 3:
            return False
        grid = torch.linspace(float(side[0]), float(side[-1]), len(side), dtype=torch.float64)
        if (side - grid).abs().max() >= 1:
            return False
        steps.append(float((side[-1] - side[0]) / (len(side) - 1)))
    return min(steps) >= 2 and abs(steps[0] - steps[1]) < 1


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _by_mask(scans: Iterable[MaskFacts]) -> dict[tuple[tuple[int, int], str], list[MaskFacts]]:
    groups = defaultdict(list)
    for scan in scans:
        groups[mask_group(scan.mask)].append(scan)
    return groups


class _Group:
    """The scans of one matrix size and kind of mask."""

    def __init__(self, shape: tuple[int, int], kind: str, scans: Sequence[MaskFacts]) -> None:
        self.shape, self.kind, self.scans = shape, kind, scans
        hits, ever = torch.zeros(()), torch.zeros(shape, dtype=torch.bool)
        acquired = calib = torch.zeros(1, dtype=torch.bool)
        masks: Counter[bytes] = Counter()
        for scan in scans:
            parts = [scan.mask[0], (scan.mask & ~outer_samples(scan.mask))[0], scan.acquired]
            ever = ever | parts[0]
            if kind == "lines":
                parts = [line_coverage(part) for part in parts]
            masks[parts[0].numpy().tobytes()] += 1
            hits, calib, acquired = hits + parts[0], calib | parts[1], acquired | parts[2]
        self.ever = ever
        self.share = hits.double() / len(scans)  # of the scans that sample each line or sample
        self.outer = acquired & ~calib
        self.n_masks = len(masks)
        self.n_regular = sum(is_equispaced(scan.mask) for scan in scans)
        self.mostly_equispaced = 2 * self.n_regular > len(scans)
        # The number of equally frequent masks that would repeat as often: (sum c)^2 / sum c^2.
        n_effective = len(scans) ** 2 / sum(n**2 for n in masks.values())
        self.few_masks = n_effective < FEW_MASKS
        repeated = self.few_masks and 2 * n_effective <= len(scans)
        self.predictable = repeated or self.mostly_equispaced

    def density(self) -> Tensor:
        share, outer, n_scans = self.share, self.outer, len(self.scans)
        mean = share[outer].mean() if bool(outer.any()) else share.mean()
        if self.kind == "samples":  # the mean over the outer positions of 7 x 7
            planes = torch.stack([share * outer, outer.double()])[:, None]
            sums = avg_pool2d(planes, 7, stride=1, padding=3)[:, 0]
            share = torch.where(outer, sums[0] / sums[1].clamp(min=1e-12), share)
        shrunk = (n_scans * share + PRIOR_SCANS * mean) / (n_scans + PRIOR_SCANS)
        density = torch.where(outer, shrunk, share).float()
        return density.view(1, 1, -1) if self.kind == "lines" else density[None]

    def coverage(self) -> Coverage:
        extent, lines = self.extent(), self.kind == "lines"
        outer = self.share[self.outer if lines else self.outer & extent]
        least, mean = (float(outer.min()), float(outer.mean())) if outer.numel() else (1.0, 1.0)
        never = int((outer == 0).sum())
        gaps = tuple(self.gaps(never)) if mean < 1 else ()
        return Coverage(
            shape=self.shape,
            kind=self.kind,
            n_scans=len(self.scans),
            n_masks=self.n_masks,
            least=least,
            mean=mean,
            n_regular=self.n_regular,
            n_outer=outer.numel(),
            never=never,
            per_line=tuple(self.share.tolist()) if lines else (),
            predictable=self.predictable,
            gaps=gaps,
            null_space_fraction=self.null_space_fraction(extent) if gaps else None,
        )

    def extent(self) -> Tensor:
        """The part of k-space that scans cover, ``(y, x)``: resolution ends beyond it.

        The rows that lines hold (not those that an asymmetric echo lacks); for 2-D masks the convex
        hull of the samples (without corners or an omitted side). All of k-space where that would be
        less than a third: such scans are undersampled, not of low resolution.
        """
        from skimage.morphology import convex_hull_image  # slow to import

        if self.kind == "lines":
            extent = self.ever.any(dim=-1, keepdim=True).expand(self.shape)
        else:
            extent = torch.from_numpy(convex_hull_image(self.ever.numpy()))  # type: ignore[no-untyped-call]
        return extent if float(extent.double().mean()) >= 1 / 3 else torch.ones_like(extent)

    def gaps(self, never: int) -> Iterator[str]:
        """What lacks supervision, in words."""
        n_masks = self.n_masks
        if never:
            yield f"{never} outer {self.kind} are never sampled"
        if n_masks < FEW_MASKS:
            yield f"only {_count(n_masks, 'distinct mask')} {'occurs' if n_masks == 1 else 'occur'}"
        elif self.mostly_equispaced:
            yield f"{self.n_regular} masks are equispaced, where a removed line leaves a gap"
        elif self.few_masks:
            yield f"most scans share a few of {n_masks} masks"

    def null_space_fraction(self, extent: Tensor) -> float | None:
        """The largest of three scans, relative to ``extent``."""
        fractions = []
        for scan in self.scans[:: max(1, len(self.scans) // 3)][:3]:
            if scan.read_op is None:
                continue
            try:
                op = scan.read_op()
            except ScanFormatError:  # reported when the scan itself is read
                continue
            supervised = scan.mask if self.predictable else self.ever
            within = extent & scan.acquired
            found = null_space_fraction(op.with_mask((supervised | ~within).expand_as(scan.mask)))
            fractions.append(min(found / max(float(within.double().mean()), 1e-9), 1.0))
        return max(fractions, default=None)
