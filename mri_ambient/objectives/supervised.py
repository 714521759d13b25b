r"""The ``supervised`` objective: ordinary EDM training on fully sampled scans, the upper bound.

:math:`\lambda(\sigma) \| S^H S (D - x) \|^2` with ``x = S^H F^H y`` (Karras et al. 2022,
arXiv 2206.00364). It exists to measure the others against.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator

from ..batch import Batch
from ..nn.precond import Denoiser
from ..noise import LogNormal
from ..rng import complex_normal
from .base import Loss, abs2, edm_weight


@dataclass(frozen=True)
class Supervised:
    """Options of the ``supervised`` objective.

    Attributes:
        law: of the noise level sigma.
    """

    name: ClassVar[str] = "supervised"
    wrapper: ClassVar[str] = "plain"
    mask_conditioned: ClassVar[bool] = False
    needs_full: ClassVar[bool] = True

    law: LogNormal = field(default_factory=LogNormal)

    def __call__(self, net: Denoiser, batch: Batch, rng: Generator) -> Loss:
        """The loss; ``rng`` draws the noise levels and the noise."""
        full = batch.op.with_mask(torch.ones_like(batch.mask))
        sigma = self.law.draw(torch.zeros(len(batch)), net.sigma_data, rng)
        sigma = sigma.to(batch.ksp.device)

        x = batch.op.adjoint(batch.ksp)
        noise = complex_normal((len(batch), *full.ishape), rng, device=x.device)
        D = net(full, full.expand(x + sigma[:, None, None] * noise), sigma)

        energy = abs2(full.support * (D - x)).mean(dim=(-2, -1))
        loss = (edm_weight(sigma, net.sigma_data) * energy).mean()
        return Loss(loss, {"residual": float(energy.mean().detach())})
