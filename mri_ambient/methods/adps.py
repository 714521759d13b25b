"""Ambient diffusion posterior sampling (A-DPS).

Aali et al. 2024, arXiv 2403.08728, algorithm 1: Euler steps of the probability-flow ODE of a prior
under one further-subsampled mask M~, each followed by a gradient step on the misfit of the denoised
image to *all* measurements (Chung et al. 2023, arXiv 2209.14687).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..runtime.config import check_number
from .base import FINAL_NOISE, Problem, Sampler


@dataclass(frozen=True)
class Adps(Sampler):
    """A-DPS (module docstring for the source).

    The paper's weight ``l`` of the data term is 1 for its data and does not transfer. A good image
    leaves a residual ``||r||`` of about ``sigma_n sqrt(2 n)`` with n measured samples over all
    coils, and a gradient step on ``||r||^2`` is stable below 1, so

    ``l = step_size * max(sigma_n, 0.01) * sqrt(2 n)``:

    steps are short while the residual is large and reach ``step_size`` when it is down to noise.
    The default ``step_size`` is 50 over the number of steps, at most 0.5: about the best of those
    tried with 100 and with 500 steps (tests/benchmarks/bench_adps.py, bench_samplers.py).

    Attributes:
        step_size: weight of the data term, relative to noise and coils; by default 50 / n_steps.
    """

    name: ClassVar[str] = "adps"
    needs_grad: ClassVar[bool] = True
    further: ClassVar[Literal["scan", "training"]] = "training"

    n_steps: int = 500
    step_size: float | None = None
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            check_number("step_size", self.step_size, 0)

    def begin(self, problem: Problem, sigma: float) -> Tensor:
        """Noise in the support."""
        x: Tensor = sigma * problem.op.support * problem.white(problem.op.ishape)
        return x

    def step(
        self, problem: Problem, state: Tensor, sigma: float, sigma_next: float
    ) -> tuple[Tensor, Tensor]:
        """An Euler step of the ODE and a gradient step on the misfit to all measurements."""
        op, ksp = problem.op, problem.ksp
        x = state.detach().requires_grad_()
        x0 = problem.denoise(op.expand(x), problem.level(sigma))
        misfit = (ksp - op(x0)).abs().square().sum(dim=(-3, -2, -1))
        (grad,) = torch.autograd.grad(misfit.sum(), x)

        residual = misfit.detach().sqrt()
        direction = (x - x0) / sigma
        n_measured = op.mask.sum(dim=(-3, -2, -1)) * ksp.shape[-3]
        step_size = min(0.5, 50 / self.n_steps) if self.step_size is None else self.step_size
        length = step_size * problem.noise_std.clamp(min=FINAL_NOISE) * (2 * n_measured).sqrt()
        data_step = (length / residual.clamp(min=1e-12))[:, None, None] * grad
        return (x + (sigma_next - sigma) * direction - data_step).detach(), x0.detach()

    def end(self, problem: Problem, state: Tensor, img: Tensor) -> Tensor:
        """See :meth:`Sampler.end`; the state after the last step."""
        return state
