"""Images the prior believes in, with no measurement.

The fixed-mask sampler of Ambient Diffusion (Daras et al. 2023, arXiv 2305.19256, section 4): one
training-type M~ per image, and deterministic steps towards what the denoiser sees through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..errors import ConfigError
from ..noise import EDM_SIGMA_DATA, rho_schedule
from ..prior import DenoiserSource
from ..rng import complex_normals
from ..sense import SenseOp
from .base import OnStep, StepInfo


@dataclass(frozen=True)
class PriorOnly:
    """Draw images from a prior (module docstring for the source).

    Attributes:
        n_steps: network evaluations per image.
        sigma_max: first noise level, for data of standard deviation 0.5 per channel.
    """

    name: ClassVar[str] = "prior-only"

    n_steps: int = 40
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if self.n_steps < 2:
            raise ConfigError(f"n_steps must be at least 2, got {self.n_steps}")

    def __call__(
        self,
        prior: DenoiserSource,
        maps: Tensor,
        *,
        rng: Sequence[Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw one image per generator.

        Args:
            prior: what images look like.
            maps: coil maps ``(b, coil, y, x)``; ones of a single coil for plain images.
            rng: one generator per image.
            on_step: told about every step.

        Returns:
            Images, complex ``(b, y, x)``, normalised units.
        """
        everything = torch.ones(1, 1, *maps.shape[-2:], dtype=torch.bool, device=maps.device)
        op = SenseOp(maps, everything)
        denoiser = prior.denoiser(op, rng, further="training")
        sigma_max = self.sigma_max * prior.sigma_data / EDM_SIGMA_DATA
        sigmas = [*rho_schedule(self.n_steps, sigma_max, prior.sigma_min).tolist(), 0.0]

        shape = (maps.shape[-3], maps.shape[-2], maps.shape[-1])
        z = sigmas[0] * complex_normals(shape, rng, device=maps.device)
        x0 = op.combine(z)
        with torch.no_grad():
            for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
                x0 = denoiser(z, torch.full((len(rng),), sigma, device=maps.device))
                K0 = op.expand(x0)
                z = K0 + sigma_next / sigma * (z - K0)
                if on_step is not None:
                    change = (z - K0).abs().square().sum(dim=(-3, -2, -1)).sqrt()
                    on_step(StepInfo(index=i, n_steps=self.n_steps, sigma=sigma, residual=change))
        return x0
