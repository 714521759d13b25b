"""One scale for every volume: prepared images have values of about 1.

The scale is the 99th percentile of the RSS image of the calibration block, zero-padded to the full
matrix: a low-resolution image that every undersampled scan has, in the units of its full
reconstruction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..physics.crop import center_pad
from ..physics.fourier import ifft2c
from ..physics.units import energy
from ..scan import Scan


def calibration_image(calib: Tensor, shape: tuple[int, int]) -> Tensor:
    """RSS image ``(..., y, x)`` of the calibration block ``(..., coil, cy, cx)``, zero-padded."""
    return energy(ifft2c(center_pad(calib, shape)), dim=(-3,)).sqrt()


class RunningPercentile:
    """The 99th percentile of ``n_values`` values in all, of which only those above it are kept.

    Linear interpolation between order statistics, as numpy's default.
    """

    def __init__(self, n_values: int) -> None:
        self.rank = (n_values - 1) * 99 / 100
        self.n_top = n_values - math.floor(self.rank)
        self.top = torch.empty(0)

    def add(self, values: Tensor) -> None:
        """Add values of any shape."""
        pool = torch.cat([self.top, values.flatten()])
        self.top = pool.topk(min(self.n_top, pool.numel())).values

    def value(self) -> float:
        """The percentile, once all values have been added."""
        below, above = self.top[-1], self.top[max(self.n_top - 2, 0)]
        return float(below + (self.rank % 1) * (above - below))


def normalise(scan: Scan, scale: float) -> Scan:
    """Divide k-space and noise by ``scale``, which multiplies ``scan.scale``."""
    noise_std = None if scan.noise_std is None else scan.noise_std / scale
    return scan.mapped(
        "normalise", lambda ksp: ksp / scale, scale=scan.scale * scale, noise_std=noise_std
    )
