r"""The ``consistency`` objective: another objective, and a penalty for noise levels below sigma_n.

Measurements with noise sigma_n hold no information about noise levels below it. There the denoiser
is made consistent with itself: its mean over a model rollout is its value before (Daras et al.
2023, arXiv 2302.09057; 2024, arXiv 2404.10177). From a state z' of level
:math:`\sigma' \le \sigma_n`, reached from above sigma_n by a rollout of the model, two independent
rollouts lead to :math:`\sigma'' < \sigma'`, on the entries of M~ in k-space:

.. math::
   z'' = K + \frac{\sigma''^2}{\sigma'^2} (z' - K)
         + \sigma'' \sqrt{1 - \sigma''^2 / \sigma'^2}\,\eta, \qquad K = F S D(z').

The penalty is :math:`\mathrm{Re} \langle D(z''_1) - D(z'), D(z''_2) - D(z') \rangle`, the unbiased
square of the mean deviation; the square of one rollout would be biased. No gradient flows through a
rollout, only through the three denoised images.

With ``ambient`` as the base, noise is added in the image, as in that objective. It ignores the
measured noise, which is right far above sigma_n only: it is trained from :data:`FAR_ABOVE` sigma_n
on, and the penalty covers the levels below.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ConfigError
from ..physics.operators import SenseOp
from ..priors.denoisers import Denoiser
from ..priors.schedules import MIN_SIGMA
from ..rng import Streams, uniforms
from ..runtime.config import check_number
from ..scan import Batch
from .ambient import Ambient
from .base import (
    Extended,
    Loss,
    check_margin,
    edm_weight,
    noise_like,
    per_image_pixel,
    thinned,
)
from .kspace import Kspace

FAR_ABOVE = 3.3
"""Where ``ambient`` begins, in sigma_n: the measured noise has 9 % of the variance there."""


@dataclass(frozen=True)
class Consistency(Extended):
    """Options of the ``consistency`` objective.

    Attributes:
        base: the objective for noise levels above that of the scan.
        weight: of the penalty; 0 leaves it out.
        margin: rollouts start at this many sigma_n (times :data:`FAR_ABOVE` for ambient).
        max_weight: cap of lambda(sigma').
    """

    name: ClassVar[str] = "consistency"

    base: Kspace | Ambient = field(default_factory=Kspace)
    weight: float = 1.0
    margin: float = 1.5
    max_weight: float = 400.0

    def __post_init__(self) -> None:
        if not isinstance(self.base, Kspace | Ambient):
            raise ConfigError(f"base is kspace or ambient, got {self.base.name!r}")
        check_number("weight", self.weight, 0)
        check_number("max_weight", self.max_weight, above=0, capless=True)
        check_margin(self.margin)

    @property
    @override
    def below_noise(self) -> bool:
        return self.weight > 0

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        if self.weight == 0:
            return self.base(net, batch, rng)
        base = self._above(net, batch, rng)
        penalty = self.penalty(net, batch, rng)
        log = {**base.log, "consistency": penalty.detach()}
        return Loss(base.backward + self.weight * penalty, log)

    @property
    def _above(self) -> Kspace | Ambient:
        """The base, at the noise levels where it is right."""
        if isinstance(self.base, Kspace):
            return self.base
        return replace(self.base, margin=max(self.base.margin, FAR_ABOVE))

    def penalty(self, net: Denoiser, batch: Batch, rng: Streams) -> Tensor:
        """The penalty of the module docstring, averaged over the batch."""
        kspace = isinstance(self.base, Kspace)
        remove = self.base.remove if isinstance(self.base, Kspace) else Kspace.remove
        op = batch.op.with_mask(thinned(batch, remove, rng, fresh=True))
        limit = batch.noise_std * (1.0 if kspace else self._above.margin)
        start, high, low = self._levels(limit, rng)

        y = torch.where(op.mask, batch.ksp, 0)
        known = batch.noise_std.square() if kspace else 0.0
        added = (start.square() - known).clamp(min=0).sqrt()[:, None, None, None]

        def noise() -> Tensor:
            return noise_like(y, rng) if kspace else op.expand(noise_like(op.maps[:, 0], rng))

        with torch.no_grad():
            z = torch.where(op.mask, y + added * noise(), 0)
            z = _rollout(op, z, net(op, z, start), start, high, noise())
        D = net(op, z, high)
        deviations = []
        for _ in range(2):
            further = _rollout(op, z, D.detach(), high, low, noise())
            deviations.append(net(op, further, low) - D)
        product = per_image_pixel((deviations[0].conj() * deviations[1]).real, batch.n_sets)
        L = edm_weight(high, net.sigma_data).clamp(max=self.max_weight)
        return (L * product).mean()

    def _levels(self, limit: Tensor, rng: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """Where rollouts start, and two levels below ``limit``, uniform in the logarithm.

        Both levels are :data:`MIN_SIGMA` for scans without noise.
        """
        start = (self.margin * limit).clamp(min=self.margin * MIN_SIGMA)
        first, second = (uniforms(rng).to(limit.device) for _ in range(2))
        span = (limit.clamp(min=MIN_SIGMA) / MIN_SIGMA).log()
        high = MIN_SIGMA * (span * first).exp()
        low = MIN_SIGMA * (span * first * second).exp()
        return start, high, low


def _rollout(
    op: SenseOp, z: Tensor, D: Tensor, sigma: Tensor, lower: Tensor, noise: Tensor
) -> Tensor:
    """A state of level ``lower`` given one of level ``sigma``, its denoised image and noise."""
    keep = (lower / sigma).square()[:, None, None, None]
    K = op.expand(D)
    fresh = lower[:, None, None, None] * (1 - keep).clamp(min=0).sqrt()
    further: Tensor = torch.where(op.mask, K + keep * (z - K) + fresh * noise, 0)
    return further
