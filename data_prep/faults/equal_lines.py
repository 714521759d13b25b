"""Lines that were stored twice: with noise, no two lines are equal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import NumericalWarning


def equal_lines(ksp: Tensor) -> tuple[int, ...]:
    """Columns of k-space ``(coil, y, x)`` that equal the next one, counted from k = 0."""
    same = (ksp[..., 1:] == ksp[..., :-1]).all(dim=(0, 1)) & ksp[..., 1:].any(dim=1).any(dim=0)
    return tuple(int(x) - ksp.shape[-1] // 2 for x in torch.nonzero(same).flatten())


def equal_warnings(
    name: str, found: Mapping[int, tuple[int, ...]], axis: str
) -> list[NumericalWarning]:
    """W-LINES where slices hold lines along an axis ("columns" or "rows") twice."""
    slices = [index for index, lines in found.items() if lines]
    if not slices:
        return []
    places = ", ".join(f"{line:+d}" for line in sorted(set().union(*found.values())))
    text = (
        f"{name}: {axis} {places} from k = 0 are exactly the next ones in slices {slices}: they "
        "were stored twice, or filled in"
    )
    return [NumericalWarning("W-LINES", text)]
