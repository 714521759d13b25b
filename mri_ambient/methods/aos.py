"""One step and data consistency: the posterior mean, as far as the prior gives it.

A mask-conditioned prior is evaluated once, with the scan's own mask and the measurement as it is:
``D = E[x | A^H y]`` at the scan's noise level (Aali et al. 2024, arXiv 2403.08728, call the one
step A-OS). The result is then balanced against the measurement by the error that ``D`` has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..priors.prior import DenoiserSource
from ..rng import Streams
from ..scan import Batch
from .base import (
    FINAL_CG,
    Method,
    OnStep,
    StepInfo,
    check_cg,
    data_consistency,
    one_step,
    required,
)


@dataclass(frozen=True)
class Aos(Method):
    """Ambient one-step reconstruction (module docstring for the mathematics).

    Attributes:
        final_dc: end with a data-consistency solve.
        n_cg: its conjugate-gradient steps.
    """

    name: ClassVar[str] = "aos"
    starts_in_one_step: ClassVar[bool] = True

    final_dc: bool = True
    n_cg: int = FINAL_CG

    def __post_init__(self) -> None:
        check_cg(self.n_cg)

    def __call__(
        self,
        prior: DenoiserSource | None,
        batch: Batch,
        rng: Streams,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """See :meth:`Method.__call__`."""
        prior = required(prior, self.name)
        op, ksp, noise_std = batch.op, batch.measured, batch.noise_std
        x = one_step(prior, op, ksp, noise_std=noise_std, rng=rng)
        if self.final_dc:
            x = data_consistency(op, ksp, x, noise_std=noise_std, tau=prior.tau, n_iter=self.n_cg)
        if on_step is not None:
            sigma = float(noise_std.clamp(min=prior.sigma_min).max())
            on_step(StepInfo(0, 1, sigma, op, x, ksp))
        return x
