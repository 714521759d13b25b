r"""The ``gsure`` objective: denoise k-space whose missing entries hold nothing but noise.

The unknown is the multi-coil k-space k = F S x: sampling it is a diagonal projection, so the
generalised SURE of Kawar et al. 2023 (arXiv 2305.13128) needs no singular values. The state is
:math:`k_t = y + \sqrt{\sigma_t^2 - \sigma_n^2}\,\eta` on sampled entries and
:math:`\sigma_t\,\eta` elsewhere, the network is given :math:`S^H F^H k_t` and no mask, and

.. math::
   \sum_i W_i M_i |K_i - y_i|^2 + 2 \sigma_n^2 \sum_i W_i M_i\,
   \partial K_i / \partial k_{t,i}, \qquad W_i = 1 / P(M_i = 1),

is in expectation, but for a constant, the error :math:`\| F S (D - x) \|^2 = \| D - x \|^2`. The
divergence is taken along one random direction b with real and imaginary parts of +-1:
:math:`\mathrm{Re}\langle W M b, K(k_t + \epsilon M b) - K(k_t) \rangle / \epsilon`, two evaluations
and no second derivative. ``divergence = False`` uses
:math:`\sum_i W_i M_i |K_i - (y_i - r k_{t,i}) / (1 - r)|^2` with
:math:`r = \sigma_n^2 / \sigma_t^2` instead, which estimates the same with one.

The network is trained on states with holes and used on whole ones. That is exact only where
everything is sampled: in a toy with three coils the error grew by 1 % at sigma >= 0.3, and up to
doubled at 0.1. Priors trained this way are therefore used through masks like those of the training,
with noise elsewhere (``noise_filled``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from ..priors.denoisers import Denoiser
from ..priors.schedules import LogNormal
from ..rng import Streams, on_device
from ..scan import Batch
from .base import Loss, Objective, abs2, edm_weight, noise_like, per_pixel


@dataclass(frozen=True)
class Gsure(Objective):
    """Options of the ``gsure`` objective (module docstring for the mathematics).

    Attributes:
        divergence: estimate the divergence of the network; otherwise use the form without it.
        epsilon: length of the finite difference, relative to sigma_t.
        law: of the noise level sigma_t.
        margin: sigma_t is drawn to be at least this many sigma_n.
        max_weight: cap of lambda(sigma_t).
        max_inverse: cap of W.
    """

    name: ClassVar[str] = "gsure"
    noise_filled: ClassVar[bool] = True

    divergence: bool = True
    epsilon: float = 0.01
    law: LogNormal = field(default_factory=LogNormal)
    margin: float = 1.2
    max_weight: float = 400.0
    max_inverse: float = 20.0

    def __post_init__(self) -> None:
        if self.margin <= 1:
            raise ConfigError(f"margin must be above 1, got {self.margin}")
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon must be positive, got {self.epsilon}")

    @property
    def full_precision(self) -> bool:
        """Differences of two evaluations drown in the rounding of bfloat16."""
        return self.divergence

    @property
    def needs_noise(self) -> bool:
        """See :attr:`Objective.needs_noise`."""
        return True

    @property
    def nearest(self) -> float:
        """See :attr:`Objective.nearest`."""
        return self.margin

    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        """The loss; see :meth:`Objective.__call__`."""
        sigma_n = batch.noise_std
        sigma = self.law.draw(self.margin * sigma_n.cpu(), net.sigma_data, rng).to(sigma_n.device)
        wide, wide_n = (s[:, None, None, None] for s in (sigma, sigma_n))
        whole = batch.op.with_mask(torch.ones_like(batch.mask))

        y = torch.where(batch.mask, batch.ksp, 0)
        extra = torch.where(batch.mask, (wide.square() - wide_n.square()).sqrt(), wide)
        k_t = y + extra * noise_like(y, rng)

        def denoised(state: Tensor) -> Tensor:
            return batch.op.expand(net(whole, state, sigma))

        K = denoised(k_t)
        weight = torch.where(batch.mask, 1 / batch.density.clamp(min=1 / self.max_inverse), 0)
        if self.divergence:
            misfit = per_pixel(weight * abs2(K - y))
            probe = self._probe(y, rng) * batch.mask
            step = self.epsilon * wide
            change = (denoised(k_t + step * probe) - K) / step
            trace = per_pixel(weight * (probe.conj() * change).real)
            energy = misfit + 2 * sigma_n.square() * trace
        else:
            ratio = (wide_n / wide).square()
            energy = per_pixel(weight * abs2(K - (y - ratio * k_t) / (1 - ratio)))
        level = edm_weight(sigma, net.sigma_data).clamp(max=self.max_weight)
        return Loss((level * energy).mean(), {"residual": energy.mean().detach()})

    def _probe(self, y: Tensor, rng: Streams) -> Tensor:
        """A random direction whose real and imaginary parts are 1 or -1."""
        streams = on_device(rng, y.device)
        shape = (*y.shape[1:], 2)
        bits = [torch.randint(2, shape, generator=g, device=g.device) for g in streams]
        return torch.view_as_complex(2.0 * torch.stack(bits) - 1.0).to(y.dtype)
