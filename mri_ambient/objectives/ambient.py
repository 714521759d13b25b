r"""The ``ambient`` objective, as the A-DPS paper trains its prior.

With :math:`x_t = x + \sigma n` in the image domain, the network is given
:math:`\tilde A^H \tilde A x_t` and M~ and its prediction is compared with the measurement through
the given operator A (Daras et al. 2023, arXiv 2305.19256; Aali et al. 2024, arXiv 2403.08728):

.. math:: \lambda(\sigma) \, \| A^H A D - A^H y \|^2 .

Only y is needed, no clean image: on M~ the measurement *is* :math:`\tilde A x`.

This ignores the noise of the measurement, which is then learned, and added to sigma.
``noise_correction`` uses :math:`\| (A^H A - R G) D + R u - A^H y \|^2` instead, with u the input,
:math:`G = \tilde A^H \tilde A` and :math:`R = \sigma_n^2 (\sigma_n^2 I + \sigma^2 G)^{-1}`. It has
the right minimiser for every sigma.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..physics.masks import subsample_further, training_fraction
from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from ..priors.denoisers import Denoiser
from ..priors.schedules import LogNormal
from ..rng import Streams
from ..runtime.config import check_number
from ..scan import Batch
from .base import Loss, Objective, abs2, edm_weight, noise_like, per_image_pixel


@dataclass(frozen=True)
class Ambient(Objective):
    """Options of the ``ambient`` objective.

    Attributes:
        law: of the noise level sigma.
        thin: remove outer lines from acceleration R to R + 1, anew in every step; False keeps M~ =
            M, for fully sampled data only.
        noise_correction: correct for the noise of the measurement.
        n_cg: conjugate-gradient steps of the correction.
        margin: sigma is at least this many sigma_n; 0 as in the paper.
    """

    name: ClassVar[str] = "ambient"
    mask_conditioned: ClassVar[bool] = True

    law: LogNormal = field(default_factory=LogNormal)
    thin: bool = True
    noise_correction: bool = False
    n_cg: int = 8
    margin: float = 0.0

    def __post_init__(self) -> None:
        check_number("margin", self.margin, 0)
        check_number("n_cg", self.n_cg, 1, whole=True)

    @property
    @override
    def needs_noise(self) -> bool:
        return self.noise_correction

    @property
    def sigma_min_over_noise(self) -> float:
        """See :class:`Objective`; smaller levels are drawn, but sigma_n adds to them."""
        return max(self.margin, super().sigma_min_over_noise)

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        op = batch.op
        op_further = op.with_mask(self._thin(batch, rng))
        sigma = self.law.draw(self.margin * batch.noise_std, net.sigma_data, rng)
        noise = noise_like(batch.maps[:, 0], rng)
        z = batch.measured + op.expand(sigma[:, None, None] * noise)
        D = net(op_further, z, sigma)

        residual = op.normal(D) - op.adjoint(batch.ksp)
        if self.noise_correction:
            residual = residual + self._correction(op_further, z, D, sigma, batch.noise_std)
        energy = per_image_pixel(abs2(residual), batch.n_sets)
        loss = (edm_weight(sigma, net.sigma_data) * energy).mean()
        return Loss(loss, {"residual": energy.mean().detach()})

    def _thin(self, batch: Batch, rng: Streams) -> Tensor:
        if not self.thin:
            return batch.mask
        items = zip(batch.mask.cpu(), batch.acquired.cpu(), rng, strict=True)
        masks = [subsample_further(m, training_fraction(m, a), g) for m, a, g in items]
        return torch.stack(masks).to(batch.mask.device)

    def _correction(
        self, op: SenseOp, z: Tensor, D: Tensor, sigma: Tensor, sigma_n: Tensor
    ) -> Tensor:
        """``R (u - G D)``."""
        var, var_n = (v.square()[:, None, None] for v in (sigma, sigma_n))
        b = op.adjoint(z) - op.normal(D)
        return conjugate_gradient(
            lambda v: v + var / var_n.clamp(min=1e-12) * op.normal(v), b, n_iter=self.n_cg
        )
