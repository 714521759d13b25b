"""One step and data consistency: the posterior mean as far as the prior knows it.

A mask-conditioned prior is asked once, with the scan's own mask and the measurement as it is:
``D = E[x | A^H y]`` at the scan's noise level (Aali et al. 2024, arXiv 2403.08728, call the one
step A-OS). The result is then balanced against the measurement by the error that ``D`` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from ..physics.operators import SenseOp
from ..priors.prior import DenoiserSource
from .base import FINAL_CG, OnStep, StepInfo, check_cg, data_consistency, one_step


@dataclass(frozen=True)
class Aos:
    """Ambient one-step reconstruction (module docstring for the mathematics).

    Attributes:
        final_dc: end with a data-consistency solve.
        n_cg: its conjugate-gradient steps.
    """

    name: ClassVar[str] = "aos"
    stochastic: ClassVar[bool] = False
    needs_grad: ClassVar[bool] = False

    final_dc: bool = True
    n_cg: int = FINAL_CG

    def __post_init__(self) -> None:
        check_cg(self.n_cg)

    @property
    def n_evaluations(self) -> int:
        """Network evaluations per sample."""
        return 1

    @property
    def draws_posterior(self) -> bool:
        """It gives one image, an estimate of the posterior mean."""
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
        x = one_step(prior, op, ksp, noise_std=noise_std, rng=rng)
        if self.final_dc:
            x = data_consistency(op, ksp, x, noise_std=noise_std, tau=prior.tau, n_iter=self.n_cg)
        if on_step is not None:
            residual = (op(x) - ksp).abs().square().sum(dim=(-3, -2, -1)).sqrt()
            sigma = float(noise_std.clamp(min=prior.sigma_min).max())
            on_step(StepInfo(index=0, n_steps=1, sigma=sigma, residual=residual))
        return x
