r"""The ``kspace`` objective: denoise and de-alias in prewhitened multi-coil k-space.

Each step removes a fresh random share of the sampled outer lines (M~ <= M) and adds noise on what
is left, in k-space, where the scanner's own noise is white:
:math:`y_t = y + \sqrt{\sigma_t^2 - \sigma_n^2}\,\eta`. With :math:`r = \sigma_n^2 / \sigma_t^2`,
:math:`K = F S D` and :math:`L = \min(\lambda(\sigma_t), 400)` the loss is

.. math::
   L \Big[ \sum_{i \in \tilde M} \frac{|(1 - r) K_i + r y_{t,i} - y_i|^2}{1 - r}
         + \sum_{i \in M \setminus \tilde M} w\, |K_i - y_i|^2 \Big],
   \qquad w = \min(1 / P(M_i = 1 \mid \tilde M_i = 0), 20).

The first term knows that the target carries noise too (Daras et al. 2024, arXiv 2404.10177, here
on k-space entries); both have the minimiser :math:`E[x \mid \tilde A^H y_t, \tilde A]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..batch import Batch
from ..errors import ConfigError
from ..masks import subsample_further, unseen_probability
from ..nn.precond import Denoiser
from ..noise import LogNormal
from ..rng import complex_normal
from .base import Loss, abs2, edm_weight, per_pixel


@dataclass(frozen=True)
class Kspace:
    """Options of the ``kspace`` objective (module docstring for the mathematics).

    Attributes:
        remove: smallest and largest share of the sampled outer lines that is removed.
        law: of the noise level sigma_t.
        margin: sigma_t is drawn to be at least this many sigma_n.
        max_weight: cap of lambda(sigma_t).
        max_unseen: cap of the weight of unseen entries.
    """

    name: ClassVar[str] = "kspace"
    wrapper: ClassVar[str] = "conditioned"
    mask_conditioned: ClassVar[bool] = True
    needs_full: ClassVar[bool] = False

    remove: tuple[float, float] = (0.05, 0.4)
    law: LogNormal = field(default_factory=LogNormal)
    margin: float = 1.2
    max_weight: float = 400.0
    max_unseen: float = 20.0

    def __post_init__(self) -> None:
        low, high = self.remove
        if not 0 < low <= high < 1:
            raise ConfigError(f"remove must be two shares between 0 and 1, got {self.remove}")
        if self.margin <= 1:
            raise ConfigError(f"margin must be above 1, got {self.margin}")

    def __call__(self, net: Denoiser, batch: Batch, rng: Generator) -> Loss:
        """The loss; ``rng`` draws the masks, the noise levels and the noise."""
        seen, weight = self._thin(batch, rng)
        sigma_n = batch.noise_std
        sigma = self.law.draw(self.margin * sigma_n.cpu(), net.sigma_data, rng).to(sigma_n.device)
        ratio = (sigma_n / sigma).square()[:, None, None, None]

        y = torch.where(batch.mask, batch.ksp, 0)
        noise = complex_normal(tuple(y.shape), rng, device=y.device)
        extra = (sigma.square() - sigma_n.square()).sqrt()[:, None, None, None]
        y_t = torch.where(seen, y + extra * noise, 0)

        D = net(batch.op.with_mask(seen), y_t, sigma)
        K = batch.op.expand(D)

        unseen = batch.mask & ~seen
        on_seen = torch.where(seen, (1 - ratio) * K + ratio * y_t - y, 0)
        on_unseen = torch.where(unseen, K - y, 0)
        seen_term = per_pixel(abs2(on_seen) / (1 - ratio))
        unseen_term = per_pixel(abs2(on_unseen))
        level = edm_weight(sigma, net.sigma_data).clamp(max=self.max_weight)
        loss = (level * (seen_term + weight * unseen_term)).mean()
        return Loss(
            loss,
            {
                "seen": float((level * seen_term).mean().detach()),
                "unseen": float((level * weight * unseen_term).mean().detach()),
            },
        )

    def _thin(self, batch: Batch, rng: Generator) -> tuple[Tensor, Tensor]:
        """M~ ``(b, 1, y, x)`` and the weight of unseen entries ``(b,)``, fresh every step."""
        low, high = self.remove
        seen, weights = [], []
        for mask, acquired in zip(batch.mask.cpu(), batch.acquired.cpu(), strict=True):
            fraction = low + (high - low) * float(torch.rand((), generator=rng))
            seen.append(subsample_further(mask, fraction, rng))
            chance = unseen_probability(mask, (low + high) / 2, acquired)
            weights.append(min(1 / max(chance, 1e-6), self.max_unseen))
        device = batch.ksp.device
        return torch.stack(seen).to(device), torch.tensor(weights).to(device)
