r"""The ``supervised`` objective: EDM training on images.

:math:`\lambda(\sigma) \| S^H S (D - x) \|^2` (Karras et al. 2022, arXiv 2206.00364). The images
are those of fully sampled scans, ``x = S^H F^H y``, an upper bound for the other objectives; or
reconstructions of undersampled scans: by L1-wavelet, which makes the L1-EDM prior of Aali et al.
2024 (arXiv 2403.08728), or samples of a posterior (``refit``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from typing_extensions import override

from ..priors.denoisers import Denoiser
from ..priors.schedules import LogNormal
from ..rng import Streams
from ..scan import Batch
from .base import Loss, Objective, abs2, edm_weight, noise_like, per_image_pixel

FULL = "full"
"""Targets that are the images of fully sampled scans themselves."""


@dataclass(frozen=True)
class Supervised(Objective):
    """Options of the ``supervised`` objective.

    Attributes:
        images: "full" for fully sampled scans, otherwise what reconstructs the images from
            undersampled ones: a method, or "posterior" for samples drawn by ``refit``.
        law: of the noise level sigma.
    """

    name: ClassVar[str] = "supervised"

    images: str = FULL
    law: LogNormal = field(default_factory=LogNormal)

    @property
    def needs_full(self) -> bool:
        """Unless the images are reconstructed."""
        return self.images == FULL

    @property
    @override
    def targets(self) -> str | None:
        return None if self.images == FULL else self.images

    @override
    def __call__(self, net: Denoiser, batch: Batch, rng: Streams) -> Loss:
        full = batch.op.with_mask(torch.ones_like(batch.mask))
        sigma = self.law.draw(torch.zeros_like(batch.noise_std), net.sigma_data, rng)
        x = batch.op.adjoint(batch.ksp) if batch.img is None else batch.img
        noise = noise_like(batch.maps[:, 0], rng)
        D = net(full, full.expand(x + sigma[:, None, None] * noise), sigma)

        energy = per_image_pixel(abs2(full.support * (D - x)), batch.n_sets)
        loss = (edm_weight(sigma, net.sigma_data) * energy).mean()
        return Loss(loss, {"residual": energy.mean().detach()})
