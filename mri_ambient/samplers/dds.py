"""Decomposed diffusion sampling: a few conjugate-gradient steps towards the data at every level.

Chung et al. 2024, arXiv 2303.05754, here with the state in multi-coil k-space, z = F S x + sigma
noise. At every noise level the denoised image D is balanced against the measurement by the error it
has there,

    x0 = argmin ||A x - y||^2 / sigma_n^2 + ||x - D||^2 / tau^2,
    tau^2 = sigma^2 s^2 / (sigma^2 + s^2),

and the state moves towards K0 = F S x0, along the noise that is in it and some that is fresh:

    z <- K0 + sigma_next (sqrt(1 - c^2) (z - K0) / sigma + c noise),
    c = eta sqrt(1 - sigma_next^2 / sigma^2).

The direction (z - K0) is that *after* the data step; with the one before it, as published, samples
have several times the error they should have. No gradient flows through the network.

With a prior that sees the whole state (supervised, refit) this draws from the posterior, but for
the steps being finite, which makes samples somewhat narrow (tests/test_samplers.py compares with
the closed form). A mask-conditioned prior is asked through the scan's own mask and gives estimates
with a spread: it has seen y before the data step shows it again.
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
from ..noise import EDM_SIGMA_DATA, rho_schedule
from ..prior import DenoiserSource
from ..rng import complex_normals
from ..sense import SenseOp
from ..solve import conjugate_gradient
from .base import OnStep, StepInfo

LEAST_NOISE = 1e-3
"""Noise per real channel, normalised units, below which a scan counts as having this much."""


@dataclass(frozen=True)
class Dds:
    """Options of decomposed diffusion sampling (module docstring for source and mathematics).

    Attributes:
        n_steps: network evaluations per sample.
        eta: share of fresh noise, 0 (deterministic from the first noise on) to 1 (ancestral).
        n_cg: conjugate-gradient steps of the data step.
        sigma_max: first noise level, for data of standard deviation 0.5 per channel.
    """

    name: ClassVar[str] = "dds"
    stochastic: ClassVar[bool] = True
    needs_grad: ClassVar[bool] = False

    n_steps: int = 50
    eta: float = 0.5
    n_cg: int = 5
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        if self.n_steps < 2:
            raise ConfigError(f"n_steps must be at least 2, got {self.n_steps}")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must be from 0 to 1, got {self.eta}")
        if self.n_cg < 1:
            raise ConfigError(f"n_cg must be at least 1, got {self.n_cg}")
        if not 0 < self.sigma_max < math.inf:
            raise ConfigError(f"sigma_max must be positive and finite, got {self.sigma_max}")

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
        """Reconstruct; see :class:`~mri_ambient.samplers.base.Sampler`."""
        denoiser = prior.denoiser(op, rng, further="scan")
        s = prior.sigma_data
        sigma_max = max(self.sigma_max * s / EDM_SIGMA_DATA, 2 * prior.sigma_min)
        sigmas = [*rho_schedule(self.n_steps, sigma_max, prior.sigma_min).tolist(), 0.0]
        shape = tuple(ksp.shape[1:])

        def white() -> Tensor:
            return complex_normals(shape, rng, device=ksp.device, dtype=ksp.dtype)

        data = op.adjoint(ksp)
        var_n = noise_std.clamp(min=LEAST_NOISE).square()[:, None, None]
        z: Tensor = sigmas[0] * white()
        x0 = torch.zeros_like(data)
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D = denoiser(z, torch.full_like(noise_std, sigma))
            ridge = var_n * (1 / sigma**2 + 1 / s**2)
            x0 = conjugate_gradient(
                lambda v, ridge=ridge: op.normal(v) + ridge * v,  # type: ignore[misc]
                data + ridge * D,
                n_iter=self.n_cg,
                x0=D,
            )
            K0 = op.expand(x0)
            fresh = self.eta * (1 - (sigma_next / sigma) ** 2) ** 0.5
            noise = (1 - fresh**2) ** 0.5 * (z - K0) / sigma + fresh * white()
            z = K0 + sigma_next * noise
            if on_step is not None:
                residual = (op(x0) - ksp).abs().square().sum(dim=(-3, -2, -1)).sqrt()
                on_step(StepInfo(index=i, n_steps=self.n_steps, sigma=sigma, residual=residual))
        return x0
