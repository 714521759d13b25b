"""Energy of the samples and of the columns of a slice, which several detectors look at."""

from __future__ import annotations

import torch
from torch import Tensor

from ...physics.patterns import is_line_mask


def sample_energies(ksp: Tensor) -> Tensor:
    """Energy of every sample of a slice ``(coil, y, x)``, over its coils, float64 ``(y, x)``."""
    power = torch.zeros(ksp.shape[1:], dtype=torch.float64, device=ksp.device)
    for coil in ksp:  # all together would take several times the memory of the slice
        power += coil.abs().square()
    return power


def line_energies(power: Tensor, mask: Tensor) -> tuple[Tensor, list[int]]:
    """Mean energy of the columns without their largest sample ``(x,)``, and which are measured.

    None of masks of single samples.
    """
    if not is_line_mask(mask):
        return torch.zeros(mask.shape[1]), []
    counts = mask.sum(dim=0)
    energy = (power.sum(dim=0) - power.amax(dim=0)) / counts.clamp_min(1)
    return energy, torch.nonzero(counts).flatten().tolist()
