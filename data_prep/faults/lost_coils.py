"""Coils that were lost in some slices of a volume: cables and preamplifiers fail for a while.

Sensitivities are smooth, so that a coil of much signal in the slices on both sides has some in
between. Where it holds nothing, or noise alone, the image is too dark near this coil, and so is the
RSS.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ...errors import NumericalWarning
from ...physics.crop import center_crop
from .noise_coils import MIDDLE, SILENT

STRONG = 100.0
"""Energy in the middle of k-space, over that of the outermost rows, of a coil of much signal."""

ALIKE = 2.0
"""Ratio of energies of the other coils to those in the slices on both sides, or its inverse, at
most. Outside of the object, and where coils are chosen for every slice, they differ by more; so do
slices that are no neighbours in space."""

FEWEST = 64
"""Samples of the outermost rows without which only coils that hold nothing are found."""


def coil_energies(ksp: Tensor, mask: Tensor) -> Tensor:
    """Mean energy of every coil in the middle and in the outermost rows of a slice, ``(2, coil)``.

    Args:
        ksp: of the slice, ``(coil, y, x)``, zero where it was not sampled.
        mask: sampled positions, bool ``(y, x)``.
    """
    ny, nx = mask.shape
    size, edge = (min(MIDDLE, ny), min(MIDDLE, nx)), ny // 8
    outer = torch.cat([torch.arange(edge), torch.arange(ny - edge, ny)])
    parts = (center_crop(ksp, size), ksp[:, outer])
    counts = (int(center_crop(mask, size).sum()), int(mask[outer].sum()))
    middle, ends = (x.abs().square().sum(dim=(-2, -1), dtype=torch.float64) for x in parts)
    return torch.stack(
        [middle / max(counts[0], 1), ends / counts[1] if counts[1] >= FEWEST else 0 * ends]
    )


def lost_coils(energies: Mapping[int, Tensor]) -> dict[int, list[int]]:
    """Slices in which coils were lost, by the number of the coil; of slices that are not empty."""
    slices = sorted(energies)
    middle, outer = torch.stack([energies[index] for index in slices], dim=1)
    silent = middle <= SILENT * outer
    strong = ~silent & (middle > STRONG * outer)
    found: dict[int, list[int]] = {}
    for coil in torch.nonzero(silent.any(dim=0)).flatten().tolist():
        heard = torch.nonzero(~silent[:, coil]).flatten().tolist()
        for before, after in pairwise(heard):
            if strong[before, coil] and strong[after, coil]:
                gap = [
                    k for k in range(before + 1, after) if _alike(middle, silent, before, k, after)
                ]
                found.setdefault(coil, []).extend(slices[k] for k in gap)
    return {coil: where for coil, where in found.items() if where}


def _alike(middle: Tensor, silent: Tensor, before: int, k: int, after: int) -> bool:
    """Whether most coils hold signal in three slices, all of like energies ``(slice, coil)``."""
    others = ~silent[[before, k, after]].any(dim=0)
    ratio = middle[k, others].square() / (middle[before, others] * middle[after, others])
    least = ALIKE**-2
    most = 2 * int(others.sum()) >= len(others) - 1 > 0
    return most and bool(((ratio > least) & (ratio < 1 / least)).all())


def lost_coil_warnings(name: str, energies: Mapping[int, Tensor]) -> list[NumericalWarning]:
    """W-LOST-COIL, by the energies of the slices."""
    found = lost_coils(energies)
    if not found:
        return []
    places = "; ".join(f"coil {coil} in slices {where}" for coil, where in found.items())
    text = (
        f"{name}: coils were lost in a part of the slices, where they hold nothing or noise alone: "
        f"{places} (counted from 0)"
    )
    return [NumericalWarning("W-LOST-COIL", text)]
