"""Noise levels: the schedule a sampler descends and the law a prior is trained under.

sigma is always per real channel, in normalised image units. EDM's numbers (Karras et al. 2022,
arXiv 2206.00364) assume data of standard deviation 0.5 and scale here with ``sigma_data``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..rng import Streams, uniforms

EDM_SIGMA_DATA = 0.5

EDM_HIGHEST = 80.0
"""From where EDM draws images, for data of standard deviation 0.5."""


def rho_schedule(n: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Tensor:
    """``n`` noise levels from ``sigma_max`` down to ``sigma_min``, both included (EDM eq. 5).

    Returns:
        float64 ``(n,)``, strictly falling.

    Raises:
        ConfigError: fewer than two levels or a range that does not fall.
    """
    if n < 2:
        raise ConfigError(f"a noise schedule needs at least 2 levels, got {n}")
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(
            f"noise must fall from sigma_max to sigma_min > 0: {sigma_max} {sigma_min}"
        )
    steps = torch.linspace(0, 1, n, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels: Tensor = (high + steps * (low - high)) ** rho
    return levels


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma / scale) ~ N(mean, std^2), with scale = sigma_data / 0.5 (EDM, table 1).

    Attributes:
        mean: of the natural logarithm, for data of standard deviation 0.5.
        std: of the natural logarithm.
    """

    mean: float = -1.2
    std: float = 1.2

    @property
    def highest(self) -> float:
        """The level, for data of standard deviation 0.5, that one draw in 4300 exceeds."""
        return math.exp(self.mean + 3.5 * self.std)

    def draw(self, at_least: Tensor, sigma_data: float, rng: Streams) -> Tensor:
        """One sigma per item, redrawn until it is at least ``at_least`` ``(b,)``.

        Redrawing is done in closed form: a uniform draw over what is left of the distribution.
        """
        center = self.mean + torch.log(torch.tensor(sigma_data / EDM_SIGMA_DATA).double())
        lowest = (at_least.double().log() - center) / self.std
        tail = 0.5 * torch.special.erfc(lowest / 2**0.5)
        u = uniforms(rng, torch.float64)
        # The upper tail in terms of ndtri of its complement keeps digits far from the centre.
        normal = -torch.special.ndtri((u * tail).clamp(min=1e-300))
        return torch.maximum((center + self.std * normal).exp().float(), at_least.float())
