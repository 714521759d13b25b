"""Images drawn from the prior alone, without a measurement.

The fixed-mask sampler of Ambient Diffusion (Daras et al. 2023, arXiv 2305.19256, section 4): one M~
per image, drawn as in training, and deterministic steps towards the image denoised under it. With
reconstruction guidance (same section), every step also moves the state against the gradient of

    w ||D(z; M~) - D(z; M~')||^2

with a fresh mask M~': towards states that give the same image under all masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ConfigError
from ..priors.schedules import EDM_HIGHEST
from ..runtime.config import check_number
from .base import Problem, Sampler


@dataclass(frozen=True)
class PriorOnly(Sampler):
    """Draw images from a prior (module docstring for the source).

    Attributes:
        guidance: the weight w of reconstruction guidance, which takes two more network evaluations
            a step; 0 leaves it out.
    """

    name: ClassVar[str] = "prior-only"
    further: ClassVar[Literal["scan", "training"]] = "training"
    most: ClassVar[float | None] = EDM_HIGHEST

    n_steps: int = 40
    sigma_max: float = 80.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guidance", self.guidance, 0)

    @property
    @override
    def n_evaluations(self) -> int:
        return self.n_steps * (3 if self.guidance else 1)

    def begin(self, problem: Problem, sigma: float) -> Tensor:
        """Noise in k-space."""
        return sigma * problem.white()

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Tensor, sigma: float, sigma_next: float
    ) -> tuple[Tensor, Tensor]:
        """Towards the denoised image, and towards agreement between masks."""
        z, push = state, torch.zeros_like(state)
        if self.guidance:
            push = self.guidance * _disagreement(problem, z, problem.level(sigma))
        x0 = problem.denoise(z, problem.level(sigma))
        K0 = problem.op.expand(x0)
        return K0 + sigma_next / sigma * (z - K0) - push, x0


@torch.enable_grad()
def _disagreement(problem: Problem, z: Tensor, level: Tensor) -> Tensor:
    """Gradient of ||D(z; M~) - D(z; M~')||^2 over fresh M~' with respect to z.

    Raises:
        ConfigError: the prior is not mask-conditioned.
    """
    prior, op, rng = problem.prior, problem.op, problem.rng
    mask = prior.training_mask(op, rng)
    if mask is None:
        raise ConfigError("guidance compares masks, and this prior is not mask-conditioned")
    z = z.detach().requires_grad_()
    difference = problem.denoise(z, level) - prior.denoiser(op, rng, further=mask)(z, level)
    (grad,) = torch.autograd.grad(difference.abs().square().sum(), z)
    return grad
