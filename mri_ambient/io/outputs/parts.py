"""What the files of viewers hold of a reconstruction: parts, their names, windows and words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reconstruction import ReconstructionFile

SUFFIXES = {"mag": "", "phase": "_part-phase", "std": "_desc-std"}
"""How files of a part are named after the stem."""

KINDS = {
    "mag": ("Magnitude", "arbitrary"),
    "phase": ("Phase", "rad"),
    "std": ("Standard deviation of the magnitude", "arbitrary"),
}
"""What a part is, and its unit as BIDS writes it."""

NOT_FOR_DIAGNOSIS = "research only, not for diagnosis"
"""Stands in every file of a viewer's format."""


def white_level(images: Iterable[NDArray[np.floating[Any]]]) -> float:
    """What is shown white of magnitudes ``(y, x)``: 2.5 times the median of the object.

    The object is what exceeds half the mean. Fat beside a coil may be much brighter than that and
    is shown white; it does not make the rest dark. White is exceeded by 0.5 % of the pixels at
    least. Of each image, some 16384 pixels are looked at.
    """
    seen = np.concatenate([img.ravel()[:: max(1, img.size // 16384)].copy() for img in images])
    object_ = seen[seen > 0.5 * seen.mean()]
    if not object_.size:
        return 1.0
    return float(min(2.5 * np.median(object_), np.quantile(seen, 0.995))) or 1.0


def made_by(result: ReconstructionFile) -> str:
    """Method and acceleration of a result, as far as they are known."""
    method, rate = result.attributes.get("method", ""), result.attributes.get("acceleration")
    return f"{method}, R = {float(str(rate)):.2f}" if rate is not None else str(method)
