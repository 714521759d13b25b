"""Where k = 0 is in a matrix, and whether images are half a field of view off, by the samples.

The energy of the coils is largest at k = 0, where a phase ramp moves it by a sample or two. Of an
image half a field of view off, the head lies in the corners: energy runs on across the border of
the field of view, and there is none in the middle. An object that is only off-centre, or several
objects, leave a gap at the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...physics.crop import center_pad
from ..formats.named_axes import PEAKED, SMALLEST_SIDE, peak
from ..image_space import Energy
from ..sampling import Ksp

LEAST_SHIFT = 2
"""Samples by which k = 0 must be off to be moved; nearer, a phase ramp does the same."""

LEAST_GAIN = 4.0
"""How many times more energy there must be at k = 0 than in the middle of the matrix."""

BAND = 2
"""Samples on both sides of the peak over which energy along the other axis is added."""

MIDDLE, BORDER = 0.1, 0.25
"""Largest share of energy in the middle of images half a field of view off, and least across the
border, of the largest along the axis."""

NEXT_TO_BORDER = 0.7
"""Least angle, in half turns, of the circular mean of images half a field of view off."""

LEAST_LIKENESS = 0.7
"""Of what coils see on both sides of the border: 0.98 of heads half a field of view off, and 0.4 or
less of two legs that touch it."""

ONE_SIDED = 0.1
"""Least size of a circular mean that tells where an object is."""

WIDTH = 48
"""Samples around k = 0 of which images are made."""


@dataclass(frozen=True)
class Peak:
    """The place with the most energy.

    Attributes:
        place: its row and column.
        gains: how many times more energy there is than at ``n // 2``, along each axis.
        paired: along which axes there is as much energy on the other side of ``n // 2``.
    """

    place: tuple[int, int]
    gains: tuple[float, float]
    paired: tuple[bool, bool]

    def shift(self, axis: int, n: int) -> int:
        """Samples from ``n // 2`` to the place along an axis; 0 where that is not certain."""
        shift = self.place[axis] - n // 2
        certain = self.gains[axis] >= LEAST_GAIN and not self.paired[axis]
        return shift if certain and abs(shift) >= LEAST_SHIFT else 0


def find_peak(energy: Energy) -> Peak | None:
    """The peak of energy ``(y, x)``; None where it is spread evenly, as noise is.

    K-space counts as periodic. A spike in a sample or two is no peak.
    """
    if min(energy.shape) < SMALLEST_SIDE:
        return None
    coarse = np.unravel_index(int(_without_spikes(energy).argmax()), energy.shape)
    place, gains, paired = [], [], []
    for axis in (0, 1):
        profile = _along(energy, axis, int(coarse[1 - axis]))
        if peak(profile) < PEAKED:
            return None
        n, at = len(profile), int(coarse[axis])
        near = (at + np.arange(-BAND, BAND + 1)) % n
        at = int(near[profile[near].argmax()])
        place.append(at)
        gains.append(float(profile[at] / max(profile[n // 2], 1e-9 * profile[at])))
        other = (2 * (n // 2) - at) % n
        apart = abs((other - at + n // 2) % n - n // 2)  # of an odd axis, the corner is beside it
        paired.append(apart > 2 * BAND and bool(profile[other] > profile[at] / LEAST_GAIN))
    return Peak((place[0], place[1]), (gains[0], gains[1]), (paired[0], paired[1]))


def _without_spikes(energy: Energy) -> Energy:
    """Energy, at most the largest of the eight neighbours."""
    rows = np.maximum(np.roll(energy, 1, 0), np.roll(energy, -1, 0))
    three = np.maximum(rows, energy)
    sides = np.maximum(np.roll(three, 1, 1), np.roll(three, -1, 1))
    calm: Energy = np.minimum(energy, np.maximum(rows, sides))
    return calm


def _along(energy: Energy, axis: int, across: int) -> Energy:
    """Smoothed energy along an axis, of a band about a place of the other one."""
    band = (across + np.arange(-BAND, BAND + 1)) % energy.shape[1 - axis]
    profile = energy.take(band, axis=1 - axis).sum(axis=1 - axis)
    smooth: Energy = 2 * profile + np.roll(profile, 1) + np.roll(profile, -1)
    return smooth


def half_off(ksp: Ksp) -> tuple[bool, bool]:
    """Along which axes images are half a field of view off.

    Args:
        ksp: fully sampled k-space around k = 0, ``(coil, y, x)``.
    """
    window = [np.hanning(n + 2)[1:-1].astype(np.float32) for n in ksp.shape[-2:]]
    low = ksp * window[0][:, None] * window[1]
    y, x = images_half_off((np.abs(_images(low)) ** 2).sum(axis=0))
    if not (y or x):
        return False, False
    fine = _images(center_pad(low, (max(WIDTH, low.shape[1]), max(WIDTH, low.shape[2]))))
    return y and _runs_on(fine, -2), x and _runs_on(fine, -1)


def _images(ksp: Ksp) -> Ksp:
    return np.fft.fftshift(np.fft.ifft2(ksp), axes=(-2, -1)).astype(np.complex64)


def _runs_on(images: Ksp, axis: int) -> bool:
    """Whether one object lies across the border: its coils see both sides of it alike.

    Two objects that touch the border, as legs do, are seen by other coils. A single coil does not
    tell.
    """
    if len(images) == 1:
        return True
    a, b = (images.take(at, axis=axis) for at in (1, -2))  # (coil, place)
    products = np.abs((a.conj() * b).sum(axis=0)).sum()
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return bool(products > LEAST_LIKENESS * norms.sum())


def images_half_off(energy: Energy) -> tuple[bool, bool]:
    """The same by the energy of images ``(y, x)``.

    If it is certain along one axis, a head that leaves no gap along the other is judged by where
    most of it is.
    """
    profiles = energy.sum(axis=1), energy.sum(axis=0)
    certain = [_is_half_off(profile) for profile in profiles]
    if not any(certain):
        return False, False
    y, x = (off or _is_likely(p) for off, p in zip(certain, profiles, strict=True))
    return y, x


def _is_half_off(profile: Energy) -> bool:
    """Whether energy along an axis runs on across the border, with none in the middle."""
    n = len(profile)
    if n < SMALLEST_SIDE // 2:
        return False
    middle = profile[n // 2 - n // 16 : n // 2 + n // 16 + 1].max()
    border = min(profile[0], profile[-1])
    return bool(
        abs(np.angle(_circular_mean(profile))) > NEXT_TO_BORDER * np.pi
        and middle < MIDDLE * profile.max()
        and border > BORDER * profile.max()
    )


def _is_likely(profile: Energy) -> bool:
    """Whether most energy along an axis is near the border, and more of it than in the middle."""
    n, mean = len(profile), _circular_mean(profile)
    turned = np.roll(profile, n // 2)
    middle, border = (p[n // 2 - n // 16 : n // 2 + n // 16 + 1].mean() for p in (profile, turned))
    near = abs(np.angle(mean)) > NEXT_TO_BORDER * np.pi
    return bool(near and abs(mean) > ONE_SIDED and middle < border)


def _circular_mean(profile: Energy) -> complex:
    """Mean of exp(i angle) with the angle 0 in the middle of the axis and pi at its border."""
    n = len(profile)
    turns = np.exp(2j * np.pi * (np.arange(n) - n // 2) / n)
    return complex((profile * turns).sum() / max(profile.sum(), np.finfo(float).tiny))
