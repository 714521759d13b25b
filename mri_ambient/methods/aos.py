"""One step and data consistency: the posterior mean, as far as the prior gives it.

A mask-conditioned prior is evaluated once, with the scan's own mask and the measurement as it is:
``D = E[x | A^H y]`` at the scan's noise level (Aali et al. 2024, arXiv 2403.08728, call the one
step A-OS). It is then balanced against the measurement by the error that ``D`` has. As the network
ends in data consistency, D keeps most of the noise of the samples; so each of a few rounds takes
noise out of the image, in wavelets on a shifted grid (Coifman and Donoho 1995,
doi:10.1007/978-1-4612-2544-7_9), and then moves it towards the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from ..physics.map_sets import items_as_sets, sets_as_items
from ..physics.operators import SenseOp
from ..physics.wavelets import without_noise
from ..priors.prior import DenoiserSource
from ..rng import Streams
from ..scan import Batch
from .base import (
    Method,
    OnStep,
    StepInfo,
    check_cg,
    consistent,
    one_step,
    required,
)

SHIFTS = ((0, 0), (5, 3), (2, 6), (7, 1), (1, 4), (4, 7))
"""Of the wavelet grid, in pixels: one for each round."""


@dataclass(frozen=True)
class Aos(Method):
    """Ambient one-step reconstruction (module docstring for the mathematics).

    Attributes:
        final_dc: go on from the network's image with rounds of denoising and data consistency.
        n_cg: conjugate-gradient steps of each round.
    """

    name: ClassVar[str] = "aos"
    starts_in_one_step: ClassVar[bool] = True

    final_dc: bool = True
    n_cg: int = 2

    def __post_init__(self) -> None:
        check_cg(self.n_cg)

    @override
    def __call__(
        self,
        prior: DenoiserSource | None,
        batch: Batch,
        rng: Streams,
        on_step: OnStep | None = None,
    ) -> Tensor:
        prior = required(prior, self.name)
        op, ksp, noise_std = batch.op, batch.measured, batch.noise_std
        x = one_step(prior, op, ksp, noise_std=noise_std, rng=rng)
        if self.final_dc:
            x = self.settle(op, ksp, x, noise_std, prior.tau)
        if on_step is not None:
            sigma = float(noise_std.clamp(min=prior.sigma_min).max())
            on_step(StepInfo(0, 1, sigma, op, x, ksp))
        return x

    def settle(self, op: SenseOp, ksp: Tensor, x: Tensor, noise_std: Tensor, tau: float) -> Tensor:
        """An image after a round of denoising and data consistency for each of :data:`SHIFTS`."""
        data, support, of_sets = op.adjoint(ksp), op.support, noise_std.repeat_interleave(op.n_sets)
        for shift in SHIFTS:
            smooth = without_noise(sets_as_items(x, op.n_sets), of_sets, shift)
            x = items_as_sets(smooth, op.n_sets) * support
            x = consistent(op, data, x, noise_std=noise_std, tau=tau, n_iter=self.n_cg)
        return x
