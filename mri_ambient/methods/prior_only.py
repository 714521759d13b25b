"""Images the prior believes in, with no measurement.

The fixed-mask sampler of Ambient Diffusion (Daras et al. 2023, arXiv 2305.19256, section 4): one
training-type M~ per image, and deterministic steps towards what the denoiser sees through it. With
reconstruction guidance (same section), every step also moves the state against the gradient of

    w ||D(z; M~) - D(z; M~')||^2,

M~' a fresh mask: towards states of which all masks tell the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..errors import ConfigError
from ..physics.operators import SenseOp
from ..priors.prior import DenoiseFn, DenoiserSource
from ..priors.schedules import EDM_HIGHEST, rho_schedule
from ..rng import complex_normals
from .base import OnStep, StepInfo, check_schedule, first_level


@dataclass(frozen=True)
class PriorOnly:
    """Draw images from a prior (module docstring for the source).

    Attributes:
        n_steps: noise levels: one network evaluation each, three with guidance.
        sigma_max: first noise level, for data of standard deviation 0.5 per channel.
        guidance: the weight w of reconstruction guidance; 0 leaves it out.
    """

    name: ClassVar[str] = "prior-only"

    n_steps: int = 40
    sigma_max: float = 80.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        check_schedule(self.n_steps, self.sigma_max)
        if not 0 <= self.guidance < math.inf:
            raise ConfigError(f"guidance must be 0 or more and finite, got {self.guidance}")

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

        Raises:
            ConfigError: guidance by a prior that knows no masks.
        """
        everything = torch.ones(1, 1, *maps.shape[-2:], dtype=torch.bool, device=maps.device)
        op = SenseOp(maps, everything)
        denoiser = prior.denoiser(op, rng, further="training")
        highest = first_level(self.sigma_max, prior, most=EDM_HIGHEST)
        sigmas = [*rho_schedule(self.n_steps, highest, prior.sigma_min).tolist(), 0.0]

        shape = (maps.shape[-3], maps.shape[-2], maps.shape[-1])
        z = sigmas[0] * complex_normals(shape, rng, device=maps.device)
        x0 = op.combine(z)
        with torch.no_grad():
            for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
                level = torch.full((len(rng),), sigma, device=maps.device)
                push = torch.zeros_like(z)
                if self.guidance:
                    push = self.guidance * _disagreement(prior, op, denoiser, z, level, rng)
                x0 = denoiser(z, level)
                K0 = op.expand(x0)
                z = K0 + sigma_next / sigma * (z - K0) - push
                if on_step is not None:
                    change = (z - K0).abs().square().sum(dim=(-3, -2, -1)).sqrt()
                    on_step(StepInfo(index=i, n_steps=self.n_steps, sigma=sigma, residual=change))
        return x0


@torch.enable_grad()
def _disagreement(
    prior: DenoiserSource,
    op: SenseOp,
    denoiser: DenoiseFn,
    z: Tensor,
    level: Tensor,
    rng: Sequence[Generator],
) -> Tensor:
    """Gradient of ||D(z; M~) - D(z; M~')||^2 over fresh M~' with respect to z."""
    mask = prior.training_mask(op, rng)
    if mask is None:
        raise ConfigError("guidance compares what masks show, and this prior knows no masks")
    z = z.detach().requires_grad_()
    difference = denoiser(z, level) - prior.denoiser(op, rng, further=mask)(z, level)
    (grad,) = torch.autograd.grad(difference.abs().square().sum(), z)
    return grad
