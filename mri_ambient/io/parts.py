"""What the files of viewers hold of a reconstruction: parts, their names, windows and words."""

from __future__ import annotations

from collections.abc import Iterable

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


def white_level(images: Iterable[NDArray[np.float32]]) -> float:
    """What is shown white of magnitudes: exceeded by 0.5 % of the pixels, at most a million seen.

    Few bright pixels, as of fat beside a coil, do not decide it.
    """
    seen = [img.ravel()[:: max(1, img.size // 16384)] for img in images]
    return float(np.quantile(np.concatenate(seen), 0.995)) or 1.0


def in_words(result: ReconstructionFile) -> str:
    """Method and acceleration of a result."""
    method, rate = result.attributes.get("method"), result.attributes.get("acceleration")
    known = [str(method)] if method else []
    return " ".join([*known, *([f"R={float(str(rate)):.2f}"] if rate else [])])
