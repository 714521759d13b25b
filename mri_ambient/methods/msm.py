"""Averages of a mask-conditioned prior over several random masks.

After Park et al. 2025 (measurement score-based diffusion, arXiv 2505.11853): at every noise level
the state is denoised under ``n_masks`` fresh masks of the training's kind. Each result counts where
its mask samples k-space; where no mask does, all count equally,

    K = sum_j w_j F S D_j / sum_j w_j,    w_j = M~_j, or 1 where no mask samples,    D = S^H F^H K.

Data step and re-noising are those of :mod:`~mri_ambient.methods.dds`. The masks do not depend
on the scan's, so y enters through the data step only; but no mask samples all of the state, and the
rest is estimated anew at every step (docs/results/samplers.md has the calibration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..physics.operators import SenseOp
from ..priors.prior import DenoiseFn, DenoiserSource
from ..rng import Streams
from ..runtime.config import check_number
from .dds import Dds


@dataclass(frozen=True)
class Msm(Dds):
    """Options of :class:`Dds`, and ``n_masks`` per level; a plain prior is evaluated once."""

    name: ClassVar[str] = "msm"

    n_masks: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("n_masks", self.n_masks, 1, whole=True)

    @property
    @override
    def n_evaluations(self) -> int:
        return self.n_steps * self.n_masks + self.starts_in_one_step

    def bind(self, prior: DenoiserSource, op: SenseOp, rng: Streams) -> DenoiseFn:
        """See :meth:`Sampler.bind`; the average over fresh masks."""

        def denoise(z: Tensor, sigma: Tensor) -> Tensor:
            total, weight = torch.zeros_like(z), torch.zeros_like(z.real[:, :1])
            everywhere = torch.zeros_like(z)
            for _ in range(self.n_masks):
                mask = prior.training_mask(op, rng)
                if mask is None:
                    return prior.denoiser(op, rng)(z, sigma)
                K = op.expand(prior.denoiser(op, rng, further=mask)(z, sigma))
                total, weight = total + K * mask, weight + mask
                everywhere = everywhere + K / self.n_masks
            return op.combine(torch.where(weight > 0, total / weight.clamp(min=1), everywhere))

        return denoise
