"""Virtual coils of a whitened scan: those of signal, and how much they differ along an axis."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_COILS, MAX_COILS = 4, 8
"""Virtual coils of signal, the strongest, that are looked at: fewer do not predict lines."""

LEAST_SIDE = 12
"""Rows and columns without which nothing is said."""

NOISE = 2.0
"""Energy of the noise of a whitened sample."""

LEAST_SIGNAL = 3.0
"""Energy of a coil that counts, over that of the noise: one without signal predicts nothing."""

LEAST_VARIATION, LITTLE_VARIATION = 0.015, 0.05
"""Of coils along an axis: below the first, lines across it do not predict each other, as with most
arrays along the other axis (spines: 0.006 or less); below the second, they do so badly (slabs of 20
partitions: 0.03). It is 0.19 or more of coils around the object, 0.025 where lines were copied."""


def of_signal(block: Tensor) -> Tensor:
    """The first coils that hold more than noise in k-space ``(coil, y, x)``: their numbers."""
    energy = block.abs().square().mean(dim=(1, 2))
    return torch.nonzero(energy > LEAST_SIGNAL * NOISE).flatten()[:MAX_COILS]


def coil_variation(block: Tensor) -> float:
    """How much what the coils see differs along x: 0 where they differ along y alone.

    The mean of 1 - ``|<a, b>|^2 / (|a| |b|)^2`` over all pairs of places in a row of the image, a
    and b what the coils receive there, weighted by ``(|a| |b|)^2``.

    Args:
        block: calibration block ``(coil, y, x)``.
    """
    ny, nx = (
        torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in block.shape[1:]
    )
    img = torch.fft.ifft2(block * ny[:, None] * nx).permute(1, 2, 0)  # (y, x, coil); any order
    together = (img.conj() @ img.mT).abs().square().sum()
    energy = img.abs().square().sum(dim=-1)
    return 1 - float(together / energy.sum(dim=1).square().sum())


def rows_around(block: Tensor, reach: int) -> list[Tensor]:
    """The rows ``y - reach ... y + reach`` of every row y that has them, each ``(coil, y, x)``."""
    n = block.shape[1] - 2 * reach
    return [block[:, first : first + n] for first in range(2 * reach + 1)]
