r"""The ``kspace`` objective: denoise and de-alias in prewhitened multi-coil k-space.

Each step removes a random share of the sampled outer lines (M~ <= M) and adds noise to the rest, in
k-space, where the scanner's own noise is white:
:math:`y_t = y + \sqrt{\sigma_t^2 - \sigma_n^2}\,\eta`. With :math:`r = \sigma_n^2 / \sigma_t^2`,
:math:`K = F S D` and :math:`L = \min(\lambda(\sigma_t), 400)` the loss is

.. math::
   L \Big[ \sum_{i \in \tilde M} \frac{|(1 - r) K_i + r y_{t,i} - y_i|^2}{1 - r}
         + \sum_{i \in M \setminus \tilde M} w_i\, |K_i - y_i|^2 \Big],
   \qquad w_i = \min(1 / P(M_i = 1 \mid \tilde M_i = 0), 20).

The first term corrects for the noise of its target (Daras et al. 2024, arXiv 2404.10177, here for
k-space entries); both have the minimiser :math:`E[x \mid \tilde A^H y_t, \tilde A]`. P is estimated
over the data set, line by line.

Every ingredient can be left out for comparison: see the options, and the denoisers ``unguided`` and
``inconsistent``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from typing_extensions import override

from ..errors import ConfigError
from ..priors.denoisers import Denoiser
from ..priors.schedules import LogNormal
from ..rng import Streams
from ..runtime.config import check_number
from ..scan import Batch
from .base import (
    Loss,
    Objective,
    abs2,
    check_margin,
    check_shares,
    edm_weight,
    noise_like,
    per_pixel,
    thinned,
    unseen_weight,
)


@dataclass(frozen=True)
class Kspace(Objective):
    """Options of the ``kspace`` objective.

    Attributes:
        remove: smallest and largest share of the sampled outer lines that is removed.
        fresh_masks: draw M~ anew in every step; otherwise once for every mask.
        noise_domain: where noise is added: "kspace", or "image" as in the papers, where the noise
            of several coils is correlated.
        noise_correction: the first term as above; otherwise ``|K - y|^2``.
        weights: weigh the second term by w; otherwise by 1.
        law: of the noise level sigma_t.
        margin: sigma_t is at least this many sigma_n.
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
        check_margin(self.margin)
        check_number("max_weight", self.max_weight, above=0, capless=True)
        check_number("max_unseen", self.max_unseen, above=0, capless=True)
        if self.noise_domain not in ("kspace", "image"):
            raise ConfigError(f"noise_domain is kspace or image, got {self.noise_domain!r}")

    @property
    @override
    def needs_noise(self) -> bool:
        return self.noise_correction

    @property
    @override
    def sigma_min_over_noise(self) -> float:
        return self.margin

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        seen = thinned(batch, self.remove, rng, fresh=self.fresh_masks)  # M~
        unseen = batch.mask & ~seen
        y, sigma_n = batch.measured, batch.noise_std
        sigma_t = self.law.draw(self.margin * sigma_n, net.sigma_data, rng)
        added = (sigma_t.square() - sigma_n.square()).sqrt()[:, None, None, None]
        if self.noise_domain == "kspace":
            noise = noise_like(batch.ksp, rng)
        else:
            noise = batch.op.expand(noise_like(batch.maps[:, 0], rng))
        y_t = torch.where(seen, y + added * noise, 0)
        K = batch.op.expand(net(batch.op.with_mask(seen), y_t, sigma_t))

        r = (sigma_n / sigma_t).square()[:, None, None, None]
        r = r if self.noise_correction else torch.zeros_like(r)
        w = unseen_weight(batch, self.remove, self.max_unseen) if self.weights else 1.0
        L = edm_weight(sigma_t, net.sigma_data).clamp(max=self.max_weight)
        on_seen = per_pixel(abs2(torch.where(seen, (1 - r) * K + r * y_t - y, 0)) / (1 - r))
        on_unseen = per_pixel(w * abs2(torch.where(unseen, K - y, 0)))
        log = {"seen": (L * on_seen).mean(), "unseen": (L * on_unseen).mean()}
        loss = (L * (on_seen + on_unseen)).mean()
        return Loss(loss, {name: value.detach() for name, value in log.items()})
