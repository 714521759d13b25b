"""Decomposed diffusion sampling: denoise, move towards the data, add noise again.

Chung et al. 2024, arXiv 2303.05754, here in multi-coil k-space: z = F S x + sigma noise. At every
noise level the denoised image D is balanced against the measurement by the error it has there,

    x0 = argmin ||A x - y||^2 / sigma_n^2 + ||x - D||^2 / tau^2,
    tau^2 = sigma^2 s^2 / (sigma^2 + s^2),

and the state moves towards K0 = F S x0, along the noise that is in it and some that is fresh:

    z <- K0 + sigma_next (sqrt(1 - c^2) (z - K0) / sigma + c noise).

The share c of fresh noise is ``eta sqrt(1 - sigma_next^2 / sigma^2)`` as in DDIM (Song et al.
2021, arXiv 2010.02502), or ``sqrt(eta)`` at every level as in DiffPIR (Zhu et al. 2023, arXiv
2305.08995). The direction (z - K0) is that *after* the data step; with the one before it, as
published, samples have several times the error they should have. No gradient flows through the
network.

With a plain prior (supervised, refit) this draws from the posterior but for two approximations.
Steps are finite, which makes samples narrow (few steps: far too narrow). And the data step takes
the error of D to be tau^2 in every direction, which is exact for images of white pixels; otherwise
the mean is biased by a tenth to a third of a posterior standard deviation
(docs/results/samplers.md; tests/methods/test_posterior.py compares with the closed form). A
mask-conditioned prior is evaluated under the scan's own mask and gives estimates with a spread, not
posterior samples: y enters twice, through the prior and through the data step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import ConfigError
from ..runtime.config import check_number
from .base import CG_PLAIN, STEP_NOISE, Problem, Sampler

ENOUGH_STEPS = 40
"""With this many steps the samples of an exact plain prior have nine tenths of the posterior's
variance, with 10 six tenths (docs/results/samplers.md)."""

RENOISE = ("ddim", "diffpir")
"""Ways to choose the share of fresh noise."""


@dataclass(frozen=True)
class Dds(Sampler):
    """Decomposed diffusion sampling: options beside those of :class:`Sampler`.

    Attributes:
        eta: share of fresh noise, 0 (deterministic from the first noise on) to 1 (ancestral).
        renoise: how the share of fresh noise follows from ``eta``: "ddim" or "diffpir".
    """

    name: ClassVar[str] = "dds"

    n_steps: int = 50
    eta: float = 0.5
    n_cg: int | None = None
    start: str = "noise"
    sigma_max: float | None = None
    renoise: str = "ddim"
    final_dc: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0, at_most=1)
        if self.renoise not in RENOISE:
            raise ConfigError(f"renoise must be one of {', '.join(RENOISE)}, got {self.renoise!r}")

    @property
    def draws_posterior(self) -> bool:
        """From noise through all levels, little fresh noise, enough steps, converged solves."""
        all_levels = self.start == "noise" and self.sigma_max is None
        little_noise = self.renoise == "ddim" and self.eta <= Dds.eta
        converged = self.n_cg is None or self.n_cg >= CG_PLAIN
        return all_levels and little_noise and converged and self.n_steps >= ENOUGH_STEPS

    def begin(self, problem: Problem, sigma: float) -> Tensor:
        """Noise, on top of the image it starts from."""
        x0 = self.first_image(problem)
        z: Tensor = sigma * problem.white()
        return z if self.start == "noise" else z + problem.op.expand(x0)

    def step(
        self, problem: Problem, state: Tensor, sigma: float, sigma_next: float
    ) -> tuple[Tensor, Tensor]:
        """Denoise, move towards the data, add noise again."""
        z, op, s = state, problem.op, problem.prior.sigma_data
        var_n = problem.noise_std.clamp(min=STEP_NOISE).square()[:, None, None]
        D = problem.denoise(z, problem.level(sigma))
        ridge = var_n * (1 / sigma**2 + 1 / s**2)
        x0 = self.solve(problem, ridge, problem.data + ridge * D, x0=D)
        K0 = op.expand(x0)
        if self.renoise == "diffpir":
            c = math.sqrt(self.eta)
        else:
            c = self.eta * math.sqrt(1 - (sigma_next / sigma) ** 2)
        noise = math.sqrt(1 - c**2) * (z - K0) / sigma + c * problem.white()
        return K0 + sigma_next * noise, x0
