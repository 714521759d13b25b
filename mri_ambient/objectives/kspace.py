r"""The ``kspace`` objective: denoise and de-alias in prewhitened multi-coil k-space.

Each step removes a fresh random share of the sampled outer lines (M~ <= M) and adds noise on what
is left, in k-space, where the scanner's own noise is white:
:math:`y_t = y + \sqrt{\sigma_t^2 - \sigma_n^2}\,\eta`. With :math:`r = \sigma_n^2 / \sigma_t^2`,
:math:`K = F S D` and :math:`L = \min(\lambda(\sigma_t), 400)` the loss is

.. math::
   L \Big[ \sum_{i \in \tilde M} \frac{|(1 - r) K_i + r y_{t,i} - y_i|^2}{1 - r}
         + \sum_{i \in M \setminus \tilde M} w_i\, |K_i - y_i|^2 \Big],
   \qquad w_i = \min(1 / P(M_i = 1 \mid \tilde M_i = 0), 20).

The first term knows that the target carries noise too (Daras et al. 2024, arXiv 2404.10177, here
on k-space entries); both have the minimiser :math:`E[x \mid \tilde A^H y_t, \tilde A]`. P is
estimated over the data set, line by line.

Every ingredient can be left out, to see what it is worth: see the options, and the denoisers
``unguided`` and ``inconsistent``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..priors.denoisers import Denoiser
from ..priors.schedules import LogNormal
from ..rng import Streams
from ..scan import Batch
from .base import (
    Loss,
    Objective,
    abs2,
    check_shares,
    edm_weight,
    noise_like,
    per_pixel,
    thinned,
    unseen_weight,
)


@dataclass(frozen=True)
class Kspace(Objective):
    """Options of the ``kspace`` objective (module docstring for the mathematics).

    Attributes:
        remove: smallest and largest share of the sampled outer lines that is removed.
        fresh_masks: draw M~ anew every step; otherwise once for every mask.
        noise_domain: where noise is added: "kspace", or "image" as in the papers, which makes it
            coloured on the samples of several coils.
        noise_correction: know that seen entries carry noise; otherwise their term is
            ``|K - y|^2``.
        weights: weigh unseen entries by 1 / P; otherwise all by 1.
        law: of the noise level sigma_t.
        margin: sigma_t is drawn to be at least this many sigma_n.
        max_weight: cap of lambda(sigma_t).
        max_unseen: cap of the weight of unseen entries.
    """

    name: ClassVar[str] = "kspace"
    wrapper: ClassVar[str] = "conditioned"
    mask_conditioned: ClassVar[bool] = True

    remove: tuple[float, float] = (0.05, 0.4)
    fresh_masks: bool = True
    noise_domain: Literal["kspace", "image"] = "kspace"
    noise_correction: bool = True
    weights: bool = True
    law: LogNormal = field(default_factory=LogNormal)
    margin: float = 1.2
    max_weight: float = 400.0
    max_unseen: float = 20.0

    def __post_init__(self) -> None:
        check_shares(self.remove)
        if self.margin <= 1:
            raise ConfigError(f"margin must be above 1, got {self.margin}")
        if self.noise_domain not in ("kspace", "image"):
            raise ConfigError(f"noise_domain is kspace or image, got {self.noise_domain!r}")

    @property
    def needs_noise(self) -> bool:
        """See :attr:`Objective.needs_noise`."""
        return self.noise_correction

    @property
    def nearest(self) -> float:
        """See :attr:`Objective.nearest`."""
        return self.margin

    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        """The loss; see :meth:`Objective.__call__`."""
        seen = thinned(batch, self.remove, rng, fresh=self.fresh_masks)
        sigma_n = batch.noise_std
        sigma = self.law.draw(self.margin * sigma_n.cpu(), net.sigma_data, rng).to(sigma_n.device)
        ratio = (sigma_n / sigma).square()[:, None, None, None]

        y = torch.where(batch.mask, batch.ksp, 0)
        extra = (sigma.square() - sigma_n.square()).sqrt()[:, None, None, None]
        y_t = torch.where(seen, y + extra * self._noise(batch, y, rng), 0)

        D = net(batch.op.with_mask(seen), y_t, sigma)
        K = batch.op.expand(D)

        if not self.noise_correction:
            ratio = torch.zeros_like(ratio)
        on_seen = torch.where(seen, (1 - ratio) * K + ratio * y_t - y, 0)
        on_unseen = torch.where(batch.mask & ~seen, K - y, 0)
        weight = unseen_weight(batch, self.remove, self.max_unseen) if self.weights else 1.0
        seen_term = per_pixel(abs2(on_seen) / (1 - ratio))
        unseen_term = per_pixel(weight * abs2(on_unseen))
        level = edm_weight(sigma, net.sigma_data).clamp(max=self.max_weight)
        loss = (level * (seen_term + unseen_term)).mean()
        return Loss(
            loss,
            {
                "seen": (level * seen_term).mean().detach(),
                "unseen": (level * unseen_term).mean().detach(),
            },
        )

    def _noise(self, batch: Batch, y: Tensor, rng: Streams) -> Tensor:
        """Noise of standard deviation 1 per channel, in k-space or seen through the coils."""
        if self.noise_domain == "kspace":
            return noise_like(y, rng)
        return batch.op.expand(noise_like(y[:, 0], rng))
