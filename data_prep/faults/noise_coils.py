"""Coils that receive noise alone, and much more of it than the others: broken preamplifiers.

Their coil maps are noise, which an image in the units of the file would show as strong as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import NumericalWarning
from ...physics.crop import center_crop
from ..noise import NoiseEstimate

LOUD = 5.0
"""Noise, over the median of the coils that hold signal, from which a coil is left out."""

SILENT = 1.5
"""Energy in the middle of k-space, over that of noise, below which a coil holds noise alone. The
mean of 64 samples of noise exceeds it in one of 4600."""

MIDDLE = 8
"""Rows and columns of the middle of k-space."""

DEAD = 1e-6
"""Noise power of a coil that was left out, over the mean of the others, so that it can be whitened;
as of coils that received nothing."""


def noise_coils(cov: Tensor, blocks: Sequence[Tensor]) -> tuple[int, ...]:
    """Indices of the coils that hold loud noise alone; none if all coils do.

    Args:
        cov: of the noise, E[n n^H] / 2, ``(coil, coil)``.
        blocks: calibration blocks ``(coil, cy, cx)`` of the measured coils.
    """
    power = cov.diagonal().real
    sides = [min(MIDDLE, n) for n in blocks[0].shape[-2:]]
    middles = [center_crop(block, (sides[0], sides[1])) for block in blocks]
    energy = torch.stack([x.abs().square().mean(dim=(-2, -1)) for x in middles]).mean(dim=0)
    silent = energy < SILENT * 2 * power
    if bool(silent.all()):
        return ()
    loud = power > LOUD**2 * power[~silent].median()
    return tuple(torch.nonzero(silent & loud).flatten().tolist())


def without_coils(ksp: Tensor, coils: Sequence[int]) -> Tensor:
    """K-space ``(..., coil, y, x)`` with zeros in some coils."""
    kept = ksp.clone()
    kept[..., list(coils), :, :] = 0
    return kept


def as_dead(noise: NoiseEstimate, coils: Sequence[int]) -> NoiseEstimate:
    """The noise where some coils received nothing."""
    cov, chosen = noise.cov.clone(), list(coils)
    cov[chosen], cov[:, chosen] = 0, 0
    n_others = len(cov) - len(chosen)
    cov[chosen, chosen] = DEAD * cov.diagonal().sum() / n_others
    return replace(noise, cov=cov)


def noise_coil_warnings(name: str, coils: Sequence[int]) -> list[NumericalWarning]:
    """W-NOISE-COIL for coils that are left out."""
    if not coils:
        return []
    text = (
        f"{name}: coils {list(coils)} (counted from 0) hold noise alone, more than "
        f"{LOUD:g} times that of the others, and are left out"
    )
    return [NumericalWarning("W-NOISE-COIL", text)]
