"""One step and data consistency: the posterior mean, as far as the prior gives it.

A mask-conditioned prior is evaluated once, with the scan's own mask and the measurement as it is:
``D = E[x | A^H y]`` at the scan's noise level (Aali et al. 2024, arXiv 2403.08728, call the one
step A-OS). D ends in data consistency within the network and keeps most of the noise of the
samples, which shrinkage of its wavelet coefficients takes out. The result is then balanced against
the measurement by the error that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..physics.map_sets import items_as_sets, sets_as_items
from ..physics.wavelets import without_noise
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
        shrink: take noise out of the network's image.
        final_dc: end with a data-consistency solve.
        n_cg: its conjugate-gradient steps.
    """

    name: ClassVar[str] = "aos"
    starts_in_one_step: ClassVar[bool] = True

    shrink: bool = True
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
        if self.shrink:
            alone, level = sets_as_items(x, op.n_sets), noise_std.repeat_interleave(op.n_sets)
            x = items_as_sets(without_noise(alone, level), op.n_sets) * op.support
        if self.final_dc:
            x = data_consistency(op, ksp, x, noise_std=noise_std, tau=prior.tau, n_iter=self.n_cg)
        if on_step is not None:
            sigma = float(noise_std.clamp(min=prior.sigma_min).max())
            on_step(StepInfo(0, 1, sigma, op, x, ksp))
        return x
