"""Samples that a scan and its calibration lines both hold, compared.

They are compared by their correlation ``|<a, b>| / (|a| |b|)`` over coils, places and up to three
slices, which one complex factor (gain and phase) between them does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...physics.crop import center_fit
from ...physics.patterns import calibration_block
from ..sampling import Ksp, Mask
from ..scan_file import ScanFile, zero_outside

EQUAL = 1e-5
"""Largest difference of samples that are the same, to the largest sample."""

NEAR, BEYOND = 12, 4
"""Samples about k = 0 that are compared, and beyond the nearest that both hold: farther out, there
is more noise."""

SHIFTS = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3))
"""Rows and columns by which lines are moved, to see whether they agree better: by its energy, k = 0
is found to a sample in the scan, and to one in the lines."""

LEAST_PLACES = 24
"""Fewest places of which a correlation tells something."""

MOVED = 0.9
"""Least correlation of lines that are moved by a shift."""

TURNED = 0.6
"""Least correlation of lines that count as mirrored, conjugated or exchanged."""

BETTER = 0.2
"""Least difference to the correlation of lines that are not moved."""

UNEXPLAINED = 0.7
"""Largest part of the energy that does not agree with lines as stored that may not agree with those
that are mirrored: it is 0.9 or more of lines stored as the scan, of any contrast and phase."""

FIELDS = 2.0 ** (np.arange(-28, 29) / 28)
"""Fields of view of the lines, in units of the scan's, that are tried."""

LEAST_CHANGE, SCALED, LEFT, AGREED = 0.05, 0.9, 0.3, 0.97
"""Least difference of a field of view that counts; least correlation of lines in another one;
largest part of the energy that does not agree with lines as stored that may not agree with them;
and correlation above which lines as stored agree."""

LEAST_LINES = 4
"""Fewest rows and columns whose samples tell a field of view."""

LEAST_EXCESS = 0.05
"""Share of the energy that alternate signs must explain, beyond rounding."""

WIDEST_GAP = 8
"""Samples about k = 0 that coil maps cannot fill in."""

TIMES_WIDER = 2.0
"""How much wider than R the gap about k = 0 must be; with equispaced lines, it is R - 1."""

MOST_ENERGY = 0.5
"""Largest share of the energy of calibration lines where a scan without its centre was measured."""

NOISE_SHARE = 0.05
"""Share of the measured samples, farthest from k = 0, that count as noise."""

LARGEST_ERROR = 0.1
"""Largest relative error of lines that agree, noise subtracted."""

LEAST_AGREEMENT = 0.8
"""Least correlation of lines that agree: with more noise, another phase is not recognised."""


@dataclass(frozen=True)
class Version:
    """Another way to store the same lines.

    Attributes:
        axes: along which of -2 (y) and -1 (x) they are mirrored, after y and x were exchanged.
        exchanged: whether y and x are exchanged.
        conjugated: whether samples are conjugated.
    """

    axes: tuple[int, ...] = ()
    exchanged: bool = False
    conjugated: bool = False

    def __str__(self) -> str:
        """What lines look like that have to be changed so."""
        along = " and ".join("yx"[axis] for axis in self.axes)
        found = [f"mirrored along {along}"] * bool(along) + ["conjugated"] * self.conjugated
        return ", ".join(found + ["stored with y and x exchanged"] * self.exchanged)

    def plane(self, window: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A square mask ``(2 m, 2 m)`` with k = 0 at m, changed; row and column 0 mean nothing."""
        return self._turn(window)

    def ksp(self, window: Ksp) -> Ksp:
        """Samples ``(..., 2 m, 2 m)`` in such a square, changed."""
        turned = self._turn(window)
        return turned.conj() if self.conjugated else turned

    def _turn(self, window: NDArray[Any]) -> NDArray[Any]:
        if self.exchanged:
            window = window.swapaxes(-1, -2)
        for axis in self.axes:
            window = np.roll(np.flip(window, axis), 1, axis)
        return window


AS_STORED = Version()
VERSIONS = tuple(
    Version(*choice)
    for choice in product(((), (-2,), (-1,), (-2, -1)), (False, True), (False, True))
)
"""All, :data:`AS_STORED` first."""


@dataclass(frozen=True)
class Overlap:
    """What a scan and its calibration lines both hold, in up to three slices.

    Attributes:
        gap: side of the largest empty rectangle about k = 0 of the scan, at most 64 samples.
        acceleration: R of the scan.
        own: samples of the scan, complex64 ``(coil, place)``.
        other: those of the lines.
        share: of the energy of the lines that lies where the scan was measured.
        noise: mean energy of the samples of the scan that are farthest from k = 0.
        scan: samples of the scan about k = 0, zero where not measured,
            ``(slice and coil, 2 m, 2 m)``.
        lines: those of the lines.
        hit: where the scan was measured, ``(2 m, 2 m)``.
        plane: where the lines were.
    """

    gap: int
    acceleration: float
    own: Ksp
    other: Ksp
    share: float
    noise: float
    scan: Ksp
    lines: Ksp
    hit: Mask
    plane: Mask

    @property
    def same(self) -> bool:
        """Whether the samples are the same, and not all zero."""
        if not self.own.any():
            return False
        return float(np.abs(self.own - self.other).max()) <= EQUAL * float(np.abs(self.own).max())

    @property
    def likeness(self) -> float:
        """Mean cosine of the angle between the coils' samples at a place, weighted by energy."""
        products = np.abs((self.own.conj() * self.other).sum(axis=0)).sum()
        norms = np.linalg.norm(self.own, axis=0) * np.linalg.norm(self.other, axis=0)
        return float(products / norms.sum())

    @property
    def lacks_centre(self) -> bool:
        """Whether k = 0 lies in a gap of the scan that no undersampling explains."""
        wide = self.gap >= max(WIDEST_GAP, TIMES_WIDER * self.acceleration)
        return wide and self.share <= MOST_ENERGY

    @property
    def shift(self) -> tuple[int, int]:
        """By how many rows and columns the lines must be moved; no shift where that is not sure."""
        found = self._correlations(AS_STORED)
        best = max(found, key=found.__getitem__)
        certain = found[best] >= max(MOVED, found[0, 0] + BETTER)
        return best if certain else (0, 0)

    @cached_property
    def half(self) -> tuple[bool | None, bool | None]:
        """Along which of y and x images of the lines lie half a field of view from the scan's.

        Their samples have then alternate signs. None along an axis of which the places that both
        hold do not tell: of every second line, all signs are the same.
        """
        n = self.lines.shape[-1]
        turns = np.ones(n, np.float32), np.where(np.arange(n) % 2, np.float32(-1), np.float32(1))
        found = np.zeros((2, 2))
        for y, x in product((0, 1), repeat=2):
            signs = turns[y][:, None] * turns[x]
            found[y, x] = max(self._correlations(AS_STORED, signs).values())
        return _surely(found.max(axis=1)), _surely(found.max(axis=0))

    @cached_property
    def version(self) -> tuple[Version, float, float]:
        """The version of the lines that agrees clearly best, its correlation, and that as stored.

        The lines as they are stored, where none agrees clearly better, and of a single coil: a
        head is nearly its own mirror image.
        """
        if len(self.own) == 1:
            return AS_STORED, 0.0, 0.0
        found = [max(self._correlations(version).values()) for version in VERSIONS]
        best = int(np.argmax(found))
        unlike = UNEXPLAINED * (1 - found[0] ** 2)
        certain = found[best] >= TURNED and 1 - found[best] ** 2 <= unlike
        return (VERSIONS[best] if certain else AS_STORED), found[best], found[0]

    @cached_property
    def fields(self) -> tuple[tuple[float, float], float, float]:
        """Fields of view ``(y, x)`` of the lines in units of the scan's, and two correlations.

        The correlations are those of lines of the fields of view that agree best, and of lines as
        they are stored, at the same places. Fields of view are 1 where none agrees clearly better.
        """
        pairs = [pair for f in FIELDS for pair in ((f, 1.0), (1.0, f), (f, f))]
        found = {pair: self._scaled(pair) for pair in pairs}
        best = max(found, key=found.__getitem__)
        scaled, stored = found[best]
        changes = max(abs(field - 1) for field in best) >= LEAST_CHANGE
        certain = scaled >= SCALED and stored <= AGREED
        certain = certain and 1 - scaled**2 <= LEFT * (1 - stored**2)
        return (best if changes and certain else (1.0, 1.0)), scaled, stored

    @cached_property
    def factor(self) -> complex:
        """By which the samples of the lines must be multiplied."""
        product, energies = self._product(), self._energies()
        return product / energies[1] if energies[1] else 0.0

    @property
    def agrees(self) -> bool:
        """Whether the lines are those of the scan but for a factor, and noise."""
        product, (own, other), noise = self._product(), self._energies(), self._noise()
        n_samples = int((self.hit & self.plane).sum()) * len(self.scan)
        if n_samples < LEAST_PLACES or not own * other:
            return False
        if abs(product) < LEAST_AGREEMENT * np.sqrt(own * other):
            return False
        error = own - abs(product) ** 2 / other - 2 * noise  # lines of as much noise
        return bool(error <= LARGEST_ERROR**2 * (own - noise))

    def _product(self) -> complex:
        return complex(np.vdot(self.lines, self.scan))

    def _energies(self) -> tuple[float, float]:
        both = self.hit & self.plane
        scan, lines = (_energy(window)[both].sum() for window in (self.scan, self.lines))
        return float(scan), float(lines)

    def _noise(self) -> float:
        return self.noise * float((self.hit & self.plane).sum()) * len(self.scan)

    def _scaled(self, fields: tuple[float, float]) -> tuple[float, float]:
        """Correlation of lines of other fields of view, and of those as stored; 0 of few lines."""
        n = self.plane.shape[-1]
        at = np.arange(n) - n // 2
        lines, there = self.lines, self.plane
        for axis, field in zip((-2, -1), fields, strict=True):
            measured = at[self.plane.any(axis=-3 - axis)]
            inside = (at * field >= measured.min()) & (at * field <= measured.max())
            there = there & (inside[:, None] if axis == -2 else inside)
            weights = np.sinc(np.subtract.outer(at * field, at)).astype(np.float32)
            lines = weights @ lines if axis == -2 else lines @ weights.T
        both = self.hit & there
        if min(both.any(axis=0).sum(), both.any(axis=1).sum()) < LEAST_LINES:
            return 0.0, 0.0
        own = self.scan[:, both]
        return _correlation(lines[:, both], own), _correlation(self.lines[:, both], own)

    def _correlations(
        self, version: Version, signs: NDArray[np.float32] | float = 1.0
    ) -> dict[tuple[int, int], float]:
        """Correlation of a version of the lines with the scan, by shift; 0 of too few places."""
        lines, plane = (
            version.ksp(self.lines) * np.asarray(signs, np.float32),
            version.plane(self.plane),
        )
        energy, own = _energy(lines), _energy(self.scan)
        found = {}
        for shift in SHIFTS:
            there = np.roll(plane, shift, (-2, -1))
            norms = own[there].sum() * np.roll(energy, shift, (-2, -1))[self.hit].sum()
            enough = (there & self.hit).sum() >= LEAST_PLACES and norms > 0
            product = np.vdot(np.roll(lines, shift, (-2, -1)), self.scan) if enough else 0.0
            found[shift] = float(abs(product) / np.sqrt(norms)) if enough else 0.0
        return found


def _surely(correlations: NDArray[np.float64]) -> bool | None:
    """Whether lines agree clearly better with alternate signs; None if neither way does."""
    second, best = np.sort(correlations)
    unlike = min(UNEXPLAINED * (1 - second**2), 1 - second**2 - LEAST_EXCESS)
    if best < TURNED or 1 - best**2 > unlike:
        return None
    return bool(correlations[1] > correlations[0])


def _correlation(a: Ksp, b: Ksp) -> float:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(abs(np.vdot(a, b)) / norms) if norms else 0.0


def _energy(window: Ksp) -> NDArray[np.float64]:
    energy: NDArray[np.float64] = np.square(np.abs(window), dtype=np.float64).sum(axis=0)
    return energy


def read_overlap(scan: ScanFile, read_lines: Callable[[int], Ksp], plane: Mask) -> Overlap | None:
    """Read up to three slices of both; None where they have no place in common.

    Args:
        scan: the scan.
        read_lines: reads a slice of the lines on the matrix of the scan, ``(coil, y, x)``.
        plane: where the lines were measured, bool ``(y, x)``.
    """
    mask, n = scan.mask[0], len(scan)
    both = mask & plane
    if not both.any():
        return None
    ny, nx = mask.shape
    rows, columns = np.abs(np.arange(ny) - ny // 2)[:, None], np.abs(np.arange(nx) - nx // 2)
    radius = max(NEAR, int(np.maximum(rows, columns)[both].min()) + BEYOND)
    square = 2 * (radius + 3), 2 * (radius + 3)  # wide enough for lines that are moved
    near = (rows <= radius) & (columns <= radius)
    distance = np.hypot(rows / ny, columns / nx)
    outer = mask & (distance >= np.quantile(distance[mask], 1 - NOISE_SHARE))
    own, other, windows, line_windows = [], [], [], []
    noises, energies = [], []
    for index in sorted({n // 4, n // 2, 3 * n // 4}):
        ksp, lines = scan.read_ksp(index), zero_outside(plane, read_lines(index))
        own.append(ksp[:, both])
        other.append(lines[:, both])
        noises.append(np.square(np.abs(ksp[:, outer])).mean())
        energies.append(np.square(np.abs(lines)).sum())
        windows.append(center_fit(zero_outside(mask & near, ksp), square))
        line_windows.append(center_fit(lines, square))
    inside = sum(float(np.square(np.abs(part)).sum()) for part in other)
    return Overlap(
        gap=min(calibration_block(~scan.mask, 64)),
        acceleration=scan.acceleration,
        own=np.concatenate(own, axis=1),
        other=np.concatenate(other, axis=1),
        share=inside / max(float(sum(energies)), np.finfo(float).tiny),
        noise=float(np.mean(noises)),
        scan=np.concatenate(windows),
        lines=np.concatenate(line_windows),
        hit=center_fit(mask & near, square),
        plane=center_fit(plane, square),
    )
