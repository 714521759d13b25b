"""Noise levels: the schedule of a sampler, and the distribution for training a prior.

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
from ..runtime.config import check_number

MIN_SIGMA = 0.002
"""Smallest noise level any prior is trained at, normalised units."""

EDM_SIGMA_DATA = 0.5

EDM_RHO = 7.0
"""How much closer the levels of a schedule are where they are low."""

EDM_HIGHEST = 80.0
"""The level from which EDM draws images, for data of standard deviation 0.5."""


def rho_schedule(n: int, sigma_max: float, sigma_min: float) -> Tensor:
    """``n`` noise levels from ``sigma_max`` down to ``sigma_min``, both included (EDM eq. 5).

    Returns:
        float64 ``(n,)``, strictly falling.

    Raises:
        ConfigError: fewer than two levels, or ``sigma_max`` is not above ``sigma_min``.
    """
    if n < 2:
        raise ConfigError(f"a noise schedule needs at least 2 levels, got {n}")
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(
            "noise levels must fall from sigma_max to sigma_min > 0, got "
            f"sigma_max {sigma_max} and sigma_min {sigma_min}"
        )
    steps = torch.linspace(0, 1, n, dtype=torch.float64)
    high, low = sigma_max ** (1 / EDM_RHO), sigma_min ** (1 / EDM_RHO)
    levels: Tensor = (high + steps * (low - high)) ** EDM_RHO
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

    def __post_init__(self) -> None:
        check_number("mean", self.mean)
        check_number("std", self.std, above=0)

    @property
    def highest(self) -> float:
        """The level that one draw in 4300 exceeds, for data of standard deviation 0.5."""
        return math.exp(self.mean + 3.5 * self.std)

    def draw(self, at_least: Tensor, sigma_data: float, rng: Streams) -> Tensor:
        """One sigma per item, from the part of the distribution above ``at_least`` ``(b,)``.

        Drawn on the CPU, where the streams are, and returned on the device of ``at_least``.
        """
        bound = at_least.cpu()
        center = self.mean + torch.log(torch.tensor(sigma_data / EDM_SIGMA_DATA).double())
        lowest = (bound.double().log() - center) / self.std
        tail = 0.5 * torch.special.erfc(lowest / 2**0.5)
        u = uniforms(rng, torch.float64)
        # By the upper tail, not by its complement, which is 1 to all digits far from the centre.
        normal = -torch.special.ndtri((u * tail).clamp(min=1e-300))
        sigma = torch.maximum((center + self.std * normal).exp().float(), bound.float())
        return sigma.to(at_least.device)
