"""The readout of a 3-D scan in an array without header, along which slices are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import ScanFormatError, warn
from ..extent import FAR, extent
from ..image_space import Energy
from ..names import name_of

FEW = 3
"""Samples by which k = 0 may be off in any readout."""


def check_readout(path: Path, profile: Energy) -> None:
    """Refuse, or warn of, a readout that ends beside k = 0 (an asymmetric echo).

    Args:
        path: the scan, for messages.
        profile: energy along the readout, ``(n,)``; 0 where there are no samples.

    Raises:
        ScanFormatError: it was stored without its zeros, so that slices would be too near to each
            other.

    Warns:
        NumericalWarning: W-PARTIAL-READOUT: zeros take the place of samples, or may be missing.
    """
    n, at = len(profile), int(profile.argmax())
    sampled = np.flatnonzero(profile)
    before, behind = n // 2 - sampled[0], sampled[-1] - (n - 1) // 2
    if abs(int(before - behind)) > FAR * n:
        text = (
            f"readouts hold {len(sampled)} of {n} samples, and zeros take the place of the others"
        )
        warn("W-PARTIAL-READOUT", f"{name_of(path)}: {text}")
        return
    found = extent(profile, at)
    if found == "whole" or abs(at - n // 2) <= max(FAR * n, FEW):
        return
    n_zeros = 2 * max(at, n - at) - n
    place = "before" if at < n // 2 else "behind"
    remedy = f"add {n_zeros} zeros {place} the samples (numpy.pad), so that k = 0 is in the middle"
    text = f"k = 0 is at {at} of {n} along the readout y"
    if found == "cut":
        raise ScanFormatError(
            f"{path}: {text}, and samples beyond one end were not stored (an asymmetric echo); "
            f"{remedy}"
        )
    warn(
        "W-PARTIAL-READOUT",
        f"{name_of(path)}: {text}; if samples beyond one end were not stored (an asymmetric echo), "
        f"slices are too near to each other: {remedy}",
    )


def warn_of_images(path: Path, axes: Sequence[str]) -> None:
    """Say which names its axes should have if the samples along y are those of an image.

    Those of the k-space of an object that is thin along y look the same.

    Warns:
        NumericalWarning: W-EVEN-PARTITIONS.
    """
    names = ",".join({"z": "y", "y": "slice"}.get(name, name) for name in axes)
    warn(
        "W-EVEN-PARTITIONS",
        f"{name_of(path)}: energy is spread along y, the readout of a 3-D scan, as in an image or "
        f"in k-space of a thin object; slices lie along y then, and the axes are {names}",
    )
