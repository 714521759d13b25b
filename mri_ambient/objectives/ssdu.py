r"""The ``ssdu`` objective: the k-space loss without diffusion noise.

Part of the sampled outer lines is hidden, the network reconstructs the image from the rest as it
was measured, and the hidden entries judge it (Yaman et al. 2020, doi:10.1002/mrm.28378):

.. math:: \frac{1}{s^2} \sum_{i \in M \setminus \tilde M} w_i\, |K_i - y_i|^2 .

The self-supervised one-step baseline everybody compares with. The prior knows no noise level but
the scanner's: one step is all it can take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..priors.denoisers import Denoiser
from ..rng import Streams
from ..scan import Batch
from .base import Loss, Objective, abs2, check_shares, per_pixel, thinned, unseen_weight

SMALLEST_LABEL = 0.002
"""Noise level told to the network where the scan has less, normalised units."""


@dataclass(frozen=True)
class Ssdu(Objective):
    """Options of the ``ssdu`` objective (module docstring for the mathematics).

    Attributes:
        remove: smallest and largest share of the sampled outer lines that is hidden.
        max_unseen: cap of the weight of hidden entries.
    """

    name: ClassVar[str] = "ssdu"
    wrapper: ClassVar[str] = "conditioned"
    mask_conditioned: ClassVar[bool] = True
    one_level: ClassVar[bool] = True

    remove: tuple[float, float] = (0.05, 0.4)
    max_unseen: float = 20.0

    def __post_init__(self) -> None:
        check_shares(self.remove)

    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        """The loss; see :meth:`Objective.__call__`."""
        seen = thinned(batch, self.remove, rng, fresh=True)
        y = torch.where(batch.mask, batch.ksp, 0)
        sigma = batch.noise_std.clamp(min=SMALLEST_LABEL)
        D = net(batch.op.with_mask(seen), torch.where(seen, y, 0), sigma)

        hidden = torch.where(batch.mask & ~seen, batch.op.expand(D) - y, 0)
        weight = unseen_weight(batch, self.remove, self.max_unseen)
        loss = (per_pixel(weight * abs2(hidden)) / net.sigma_data**2).mean()
        return Loss(loss, {"unseen": loss.detach()})
