"""Slices of very different noise, as where each was scaled by itself."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import NumericalWarning, PrepError
from ...io import ScanFile
from ..noise_estimator import SHOWN, NoiseEstimator

UNEQUAL = 3.0
"""Ratio between the noise of two slices above which to warn."""


def noise_of_slice(file: ScanFile, ksp: Tensor) -> float | None:
    """The noise of a slice ``(coil, y, x)`` alone; None unless image rows or corners show it."""
    if len(file) == 1:
        return None
    estimator = NoiseEstimator.of(file)
    estimator.add(ksp)
    try:
        found = estimator.estimate()
    except PrepError:  # no noise at all
        return None
    return found.std if found.source in SHOWN else None


def unequal_noise_warnings(name: str, noise: Mapping[int, float | None]) -> list[NumericalWarning]:
    """W-NOISE-SLICES for slices of very different noise."""
    shown = ((index, std) for index, std in noise.items() if std is not None)
    order = sorted(shown, key=lambda item: item[1])
    if not order or order[-1][1] <= UNEQUAL * order[0][1]:
        return []
    (quiet, least), (loud, most) = order[0], order[-1]
    text = (
        f"{name}: slice {loud} has {most / least:.2g} times the noise of "
        f"slice {quiet}, as if each slice was scaled by itself; one noise level is used for all"
    )
    return [NumericalWarning("W-NOISE-SLICES", text)]
