"""Arrays that hold images, hybrid data or spokes where Cartesian k-space is expected.

Along an axis of k-space most energy lies in a few samples, along an axis of an image it is spread
over the object; the Fourier transform turns one into the other. The spokes of radial and spiral
scans all pass through k = 0, where they hold the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ScanFormatError
from .sampling import Ksp

SPREAD, CONCENTRATED = 0.3, 0.08
"""Share of an axis over which energy is spread: of an image at least, of its k-space at most.

So have the k-space and the image of an object narrower than a twentieth of its field of view, if
there is hardly any noise."""

NOISE_QUANTILE = 0.1
"""Quantile of the energies along an axis, without zeros, that counts as noise."""

ALIKE = 0.9
"""Least share of their energy that values have in common which are all those of k = 0."""

LEAST_SIDE = 32
"""Of a matrix that is judged by its samples."""

Energy = NDArray[np.float64]


def magnitudes(ksp: Ksp) -> NDArray[np.float32]:
    """Magnitudes of the images of k-space ``(..., y, x)`` with k = 0 at ``n // 2``.

    Samples are judged by them; what is reconstructed is transformed in
    :mod:`~mri_ambient.physics.fourier`. The phases that are left out here have no magnitude.
    """
    return np.abs(np.fft.fftshift(np.fft.ifft2(ksp, norm="ortho"), axes=(-2, -1)))


def energy_of(ksp: NDArray[np.complexfloating[Any, Any]]) -> Energy:
    """Energy of samples ``(coil, y, x)``, summed over coils, ``(y, x)``."""
    energy = np.zeros(ksp.shape[1:])
    for coil in ksp:  # one after the other, for memory
        energy += np.square(coil.real, dtype=np.float64)
        energy += np.square(coil.imag, dtype=np.float64)
    return energy


def image_axes(slices: Sequence[Ksp], energies: Sequence[Energy]) -> tuple[int, ...]:
    """Which of the axes -2 and -1 of all slices ``(coil, y, x)`` are those of an image.

    Args:
        slices: of a scan.
        energies: of each, as :func:`energy_of` gives it.
    """
    pairs = list(zip(slices, energies, strict=True))
    return tuple(axis for axis in (-2, -1) if pairs and all(_is_image(*p, axis) for p in pairs))


def check_cartesian(path: Path, slices: Sequence[Ksp], energies: Sequence[Energy]) -> None:
    """Refuse the spokes of scans that are not Cartesian, if all slices ``(coil, y, x)`` hold such.

    ``energies`` are as of :func:`image_axes`.

    Raises:
        ScanFormatError: every row, or every column, passes through k = 0.
    """
    pairs = list(zip(slices, energies, strict=True))
    for axis, name in ((-2, "row"), (-1, "column")):
        if pairs and all(_are_spokes(*pair, axis) for pair in pairs):
            raise ScanFormatError(
                f"{path}: every {name} holds k = 0, like the spokes of a radial or spiral scan; "
                "wanted Cartesian k-space: grid it first. If it is Cartesian, the centre "
                "'header' (--centre header) takes it as it is"
            )


def _are_spokes(values: Ksp, energy: Energy, axis: int) -> bool:
    """Whether all values along an axis are the same somewhere in the middle of the other one."""
    if values.shape[axis] < LEAST_SIDE or _occupied(energy, axis) < SPREAD:
        return False
    lines = values.swapaxes(-1, axis).astype(np.complex128)  # (coil, other axis, axis)
    own = (np.abs(lines) ** 2).mean(axis=-1).sum(axis=0)
    common = (np.abs(lines.mean(axis=-1)) ** 2).sum(axis=0)
    # k = 0 itself need not be where most energy is: coils have phases.
    return bool((common > ALIKE * own)[own > own.max() / 20].any())


def _is_image(values: Ksp, energy: Energy, axis: int) -> bool:
    """Whether energy is spread along an axis, and concentrated along its Fourier transform."""
    if values.shape[axis] < LEAST_SIDE or _occupied(energy, axis) < SPREAD:
        return False
    # Neither the order of the samples nor their phases matter.
    return _occupied(energy_of(np.fft.fft(values, axis=axis, norm="ortho")), axis) <= CONCENTRATED


def _occupied(energy: Energy, axis: int) -> float:
    """Share of an axis over which energy ``(y, x)`` is spread.

    The number of samples that would hold it in equal parts, (sum p)^2 / sum p^2, over all samples;
    0 where nothing is above the noise.
    """
    profile = energy.sum(axis=-1 if axis == -2 else -2)
    profile = np.maximum(profile - np.quantile(profile[profile > 0], NOISE_QUANTILE), 0)
    n_equal = profile.sum() ** 2 / max(float((profile**2).sum()), 1e-300)
    return float(n_equal) / len(profile)
