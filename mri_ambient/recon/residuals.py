"""What an image leaves of the measured samples: noise, or signal that contradicts the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from ..physics.units import energy, nonzero_along
from ..scan import Batch

INNER, RING = 3, (6, 12)
"""Rows around ky = 0 in which columns are looked at, and those that show their noise."""

NEAR = (3, 20)
"""Columns that are looked at, by their distance from k = 0: further out they hold little signal."""

TWICE, LEAST_COILS = 2.0, 4
"""How much of what these rows show is subtracted; chance, which few coils leave more to."""

CLEAR, CLEARLY = 10.0, 100.0
"""Least signal, over what these rows show, and over the noise."""


def residual_figures(batch: Batch, img: Tensor) -> dict[str, float]:
    """How an image of one slice fits the measured samples.

    Returns:
        ``data_residual``, the RMS of A x - y over them, in units of sigma_n per channel; 0 for a
        slice without coil sensitivity. ``line_residual``, see :func:`line_residual`.
    """
    residual = batch.op(img) - batch.measured
    n_coils = nonzero_along(batch.maps, -2).any(dim=-1).sum()
    n_samples = (batch.mask.sum() * n_coils).clamp(min=1)
    mean = energy(residual) / (2 * n_samples)
    return {
        "data_residual": float(mean.sqrt() / batch.noise_std),
        "line_residual": line_residual(batch, residual),
    }


def line_residual(batch: Batch, residual: Tensor) -> float:
    """Largest share of a column's energy around ky = 0 that an image of one slice leaves over.

    Noise is as large in rows further out, and is subtracted. What remains is signal that
    contradicts the other columns and the coil maps: columns of another place, gain, direction or
    object. Looked at are columns near k = 0, but not in its very middle, that are measured in all
    these rows; 0 if there are none, or too few coils.

    Args:
        batch: the slice.
        residual: A x - y, ``(1, coil, y, x)``.
    """
    ny, nx = residual.shape[-2:]
    rows, columns = (torch.arange(n, device=residual.device) - n // 2 for n in (ny, nx))
    inner, ring = abs(rows) <= INNER, (abs(rows) >= RING[0]) & (abs(rows) <= RING[1])
    near = (abs(columns) >= NEAR[0]) & (abs(columns) <= NEAR[1])
    near &= batch.mask[0, 0, inner | ring].all(dim=0)
    left, signal = (x.abs().square().sum(dim=(0, 1)) for x in (residual, batch.measured))
    known, shown = 2 * batch.noise_std**2 * residual.shape[1], left[ring].mean(dim=0)
    signal = signal[inner].mean(dim=0)
    shares = (left[inner].mean(dim=0) - TWICE * shown.maximum(known)) / signal
    shares = shares[near & (signal > CLEAR * shown) & (signal > CLEARLY * known)]
    enough = residual.shape[1] >= LEAST_COILS and len(shares) > 0
    return float(shares.amax().clamp(min=0)) if enough else 0.0
