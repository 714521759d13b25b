"""Ambient diffusion posterior sampling (A-DPS).

Aali et al. 2024, arXiv 2403.08728, algorithm 1: Euler steps of the probability-flow ODE of a prior
that sees one further-subsampled mask M~, each followed by a gradient step on the misfit of its
denoised image to *all* the measurements (Chung et al. 2023, arXiv 2209.14687).
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
from ..priors.prior import DenoiserSource
from ..priors.schedules import rho_schedule
from ..rng import complex_normals
from .base import OnStep, StepInfo, check_schedule, first_level


@dataclass(frozen=True)
class Adps:
    """A-DPS (module docstring for the source).

    The paper's weight ``l`` of the data term is 1 for its data and does not transfer. A good image
    leaves a residual ``||r||`` of about ``sigma_n sqrt(2 n)`` with n measured samples over all
    coils, and a gradient step on ``||r||^2`` is stable below 1, so

    ``l = step_size * max(sigma_n, 0.01) * sqrt(2 n)``:

    steps are short while the residual is large and reach ``step_size`` when it is down to noise.
    Without one it is 50 over the number of steps, at most 0.5: about the best of those tried with
    100 and with 500 steps (tests/benchmarks/bench_adps.py, bench_samplers.py).

    Attributes:
        n_steps: network evaluations per sample.
        step_size: weight of the data term, relative to noise and coils; None goes by the steps.
        sigma_max: first noise level, for data of standard deviation 0.5 per channel.
    """

    name: ClassVar[str] = "adps"
    stochastic: ClassVar[bool] = True
    needs_grad: ClassVar[bool] = True

    n_steps: int = 500
    step_size: float | None = None
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        check_schedule(self.n_steps, self.sigma_max)
        if self.step_size is not None and not 0 <= self.step_size < math.inf:
            raise ConfigError(f"step_size must be 0 or more and finite, got {self.step_size}")

    @property
    def n_evaluations(self) -> int:
        """Network evaluations per sample, each forwards and backwards."""
        return self.n_steps

    @property
    def draws_posterior(self) -> bool:
        """Biased by construction (docs/results/samplers.md)."""
        return False

    def __call__(
        self,
        prior: DenoiserSource,
        op: SenseOp,
        ksp: Tensor,
        *,
        noise_std: Tensor,
        rng: Sequence[Generator],
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Reconstruct; see :class:`~mri_ambient.methods.base.Sampler`."""
        denoiser = prior.denoiser(op, rng, further="training")
        highest = first_level(self.sigma_max, prior)
        sigmas = [*rho_schedule(self.n_steps, highest, prior.sigma_min).tolist(), 0.0]
        n_measured = op.mask.sum(dim=(-3, -2, -1)) * ksp.shape[-3]
        step_size = min(0.5, 50 / self.n_steps) if self.step_size is None else self.step_size
        step = step_size * noise_std.clamp(min=0.01) * (2 * n_measured).sqrt()

        shape = (op.ishape[-2], op.ishape[-1])
        noise = complex_normals(shape, rng, device=ksp.device, dtype=ksp.dtype)
        x: Tensor = sigmas[0] * op.support * noise
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            x = x.detach().requires_grad_()
            x0 = denoiser(op.expand(x), torch.full_like(noise_std, sigma))
            misfit = (ksp - op(x0)).abs().square().sum(dim=(-3, -2, -1))
            (grad,) = torch.autograd.grad(misfit.sum(), x)

            residual = misfit.detach().sqrt()
            direction = (x - x0) / sigma
            data_step = (step / residual.clamp(min=1e-12))[:, None, None] * grad
            x = (x + (sigma_next - sigma) * direction - data_step).detach()
            if on_step is not None:
                on_step(StepInfo(index=i, n_steps=self.n_steps, sigma=sigma, residual=residual))
        return x
