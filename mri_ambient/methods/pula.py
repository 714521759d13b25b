"""Preconditioned Langevin dynamics on exact likelihood times diffused prior.

Blumenthal, Holliber et al. 2025, arXiv 2512.05791. The state is an image x. At every noise level
sigma it moves by

    x <- x + P (gamma/2 g + sqrt(gamma) (A^H w1 / sigma_n + w2 / sigma)),
    g = A^H (y - A x) / sigma_n^2 + (D - x) / sigma^2,    P = (A^H A / sigma_n^2 + I / sigma^2)^-1,

with white w1, w2: drift along the preconditioned score of p(y|x) p_sigma(x), and noise of
covariance gamma P by perturbing the right-hand side, both in one conjugate-gradient solve. A finite
gamma makes samples too wide, by 1/(1 - gamma/4) where P is the posterior covariance and by less
elsewhere; with a small gamma they lag behind the falling noise levels, which is worse.

The denoiser is given z = F S x + (1 - F S S^H F^H) sigma noise, whose S^H F^H z is x and whose
noise is white over all coils: what every prior was trained on, masked or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..runtime.config import check_number
from .base import CG_PLAIN, STEP_NOISE, Problem, Sampler


@dataclass(frozen=True)
class Pula(Sampler):
    """Preconditioned Langevin dynamics: options beside those of :class:`Sampler`.

    Attributes:
        gamma: step length, at most 2.
    """

    name: ClassVar[str] = "pula"

    n_steps: int = 100
    gamma: float = 0.5
    n_cg: int | None = None
    start: str = "cg-sense"
    sigma_max: float = 1.0
    final_dc: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gamma", self.gamma, above=0, at_most=2)

    @property
    def draws_posterior(self) -> bool:
        """With enough steps of the default length, from a level at which the start is forgotten."""
        steps = self.gamma == Pula.gamma and self.n_steps >= Pula.n_steps
        solved = self.n_cg is None or self.n_cg >= CG_PLAIN
        return steps and solved and self.sigma_max >= Pula.sigma_max

    def begin(self, problem: Problem, sigma: float) -> Tensor:
        """The image it starts from."""
        return self.first_image(problem)

    def step(
        self, problem: Problem, state: Tensor, sigma: float, sigma_next: float
    ) -> tuple[Tensor, Tensor]:
        """One Langevin step at level ``sigma``."""
        x, op = state, problem.op
        sigma_n = problem.noise_std.clamp(min=STEP_NOISE)[:, None, None]
        noise = sigma * problem.white()
        z = op.expand(x - op.combine(noise)) + noise
        D = problem.denoise(z, problem.level(sigma))
        ridge = (sigma_n / sigma) ** 2
        drift = problem.data - op.normal(x) + ridge * (D - x)
        w1, w2 = problem.white(), op.support * problem.white(x.shape[1:])
        spread = sigma_n * (op.adjoint(w1) + sigma_n / sigma * w2)
        b = self.gamma / 2 * drift + math.sqrt(self.gamma) * spread
        x = x + self.solve(problem, ridge, b)
        return x, x
