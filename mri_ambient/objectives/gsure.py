r"""The ``gsure`` objective: denoise k-space whose missing entries are filled with noise.

The unknown is the multi-coil k-space k = F S x: sampling it is a diagonal projection, so the
generalised SURE of Kawar et al. 2023 (arXiv 2305.13128) needs no singular values. The state is
:math:`k_t = y + \sqrt{\sigma_t^2 - \sigma_n^2}\,\eta` on sampled entries and
:math:`\sigma_t\,\eta` elsewhere, the network is given :math:`S^H F^H k_t` but no mask, and

.. math::
   \sum_i W_i M_i |K_i - y_i|^2 + 2 \sigma_n^2 \sum_i W_i M_i\,
   \partial K_i / \partial k_{t,i}, \qquad W_i = 1 / P(M_i = 1),

equals the error :math:`\| F S (D - x) \|^2 = \| D - x \|^2` in expectation, but for a constant. The
divergence is taken along one random direction b with real and imaginary parts of +-1:
:math:`\mathrm{Re}\langle W M b, K(k_t + \epsilon M b) - K(k_t) \rangle / \epsilon`, two evaluations
and no second derivative. ``divergence = False`` uses
:math:`\sum_i W_i M_i |K_i - (y_i - r k_{t,i}) / (1 - r)|^2` with
:math:`r = \sigma_n^2 / \sigma_t^2` instead, which estimates the same with one.

For states without missing entries the network is exact only if the training scans are fully
sampled: in a toy problem with three coils the error grew by 1 % at sigma >= 0.3, and up to doubled
at 0.1. These priors are therefore used under masks like those of the training, with noise elsewhere
(``noise_filled``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..priors.denoisers import Denoiser
from ..priors.schedules import LogNormal
from ..rng import Streams, on_device
from ..runtime.config import check_number
from ..scan import Batch
from .base import Loss, Objective, abs2, check_margin, edm_weight, noise_like, per_pixel


@dataclass(frozen=True)
class Gsure(Objective):
    """Options of the ``gsure`` objective.

    Attributes:
        divergence: use the form with the divergence; otherwise the one without.
        epsilon: length of the finite difference, relative to sigma_t.
        law: of the noise level sigma_t.
        margin: sigma_t is at least this many sigma_n.
        max_weight: cap of lambda(sigma_t).
        max_inverse: cap of W.
    """

    name: ClassVar[str] = "gsure"
    noise_filled: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = True

    divergence: bool = True
    epsilon: float = 0.01
    law: LogNormal = field(default_factory=LogNormal)
    margin: float = 1.2
    max_weight: float = 400.0
    max_inverse: float = 20.0

    def __post_init__(self) -> None:
        check_margin(self.margin)
        check_number("epsilon", self.epsilon, above=0)
        check_number("max_weight", self.max_weight, above=0, capless=True)
        check_number("max_inverse", self.max_inverse, above=0, capless=True)

    @property
    def full_precision(self) -> bool:
        """A difference of two evaluations is smaller than the rounding of bfloat16."""
        return self.divergence

    @property
    @override
    def sigma_min_over_noise(self) -> float:
        return self.margin

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        y, sigma_n = batch.measured, batch.noise_std
        sigma = self.law.draw(self.margin * sigma_n, net.sigma_data, rng)
        sigma_t, sigma_y = (s[:, None, None, None] for s in (sigma, sigma_n))
        added = torch.where(batch.mask, (sigma_t.square() - sigma_y.square()).sqrt(), sigma_t)
        k_t = y + added * noise_like(y, rng)
        whole = batch.op.with_mask(torch.ones_like(batch.mask))

        def denoised(state: Tensor) -> Tensor:
            return batch.op.expand(net(whole, state, sigma))

        K = denoised(k_t)
        W = torch.where(batch.mask, 1 / batch.density.clamp(min=1 / self.max_inverse), 0)
        if self.divergence:
            b = self._probe(y, rng) * batch.mask
            step = self.epsilon * sigma_t
            change = (denoised(k_t + step * b) - K) / step
            trace = per_pixel(W * (b.conj() * change).real)
            energy = per_pixel(W * abs2(K - y)) + 2 * sigma_n.square() * trace
        else:
            r = (sigma_y / sigma_t).square()
            energy = per_pixel(W * abs2(K - (y - r * k_t) / (1 - r)))
        L = edm_weight(sigma, net.sigma_data).clamp(max=self.max_weight)
        return Loss((L * energy).mean(), {"residual": energy.mean().detach()})

    def _probe(self, y: Tensor, rng: Streams) -> Tensor:
        """A random direction whose real and imaginary parts are 1 or -1."""
        streams = on_device(rng, y.device)
        shape = (*y.shape[1:], 2)
        bits = [torch.randint(2, shape, generator=g, device=g.device) for g in streams]
        return torch.view_as_complex(2.0 * torch.stack(bits) - 1.0).to(y.dtype)
