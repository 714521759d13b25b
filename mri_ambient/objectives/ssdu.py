r"""The ``ssdu`` objective: the k-space loss without diffusion noise.

Part of the sampled outer lines is held out, the network reconstructs the image from the rest as it
was measured, and the loss is the misfit on the held-out entries (Yaman et al. 2020,
doi:10.1002/mrm.28378):

.. math:: \frac{1}{s^2} \sum_{i \in M \setminus \tilde M} w_i\, |K_i - y_i|^2 .

The usual self-supervised baseline. The prior is trained at the scanner's noise level only, so that
it serves for one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from ..priors.denoisers import Denoiser
from ..priors.schedules import MIN_SIGMA
from ..rng import Streams
from ..runtime.config import check_number
from ..scan import Batch
from .base import Loss, Objective, abs2, check_shares, per_pixel, thinned, unseen_weight


@dataclass(frozen=True)
class Ssdu(Objective):
    """Options of the ``ssdu`` objective.

    Attributes:
        remove: smallest and largest share of the sampled outer lines that is held out.
        max_unseen: cap of the weight of held-out entries.
    """

    name: ClassVar[str] = "ssdu"
    wrapper: ClassVar[str] = "conditioned"
    mask_conditioned: ClassVar[bool] = True
    one_level: ClassVar[bool] = True

    remove: tuple[float, float] = (0.05, 0.4)
    max_unseen: float = 20.0

    def __post_init__(self) -> None:
        check_shares(self.remove)
        check_number("max_unseen", self.max_unseen, above=0, capless=True)

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        seen = thinned(batch, self.remove, rng, fresh=True)  # M~
        y, sigma = batch.measured, batch.noise_std.clamp(min=MIN_SIGMA)
        K = batch.op.expand(net(batch.op.with_mask(seen), torch.where(seen, y, 0), sigma))

        held_out = torch.where(batch.mask & ~seen, K - y, 0)
        w = unseen_weight(batch, self.remove, self.max_unseen)
        loss = (per_pixel(w * abs2(held_out)) / net.sigma_data**2).mean()
        return Loss(loss, {"unseen": loss.detach()})
