"""From denoiser, operator and k-space to an image; one file per sampler."""

from .adps import Adps
from .aos import Aos
from .base import OnStep, Sampler, StepInfo, data_consistency
from .dds import Dds
from .msm import Msm
from .prior_only import PriorOnly
from .pula import Pula

SAMPLERS: dict[str, type[Sampler]] = {
    sampler.name: sampler for sampler in (Aos, Dds, Msm, Pula, Adps)
}

__all__ = [
    "SAMPLERS",
    "Adps",
    "Aos",
    "Dds",
    "Msm",
    "OnStep",
    "PriorOnly",
    "Pula",
    "Sampler",
    "StepInfo",
    "data_consistency",
]
