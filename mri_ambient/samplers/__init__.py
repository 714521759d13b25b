"""From denoiser, operator and k-space to an image; one file per sampler."""

from .adps import Adps
from .aos import Aos
from .base import Sampler, StepInfo, data_consistency
from .dds import Dds
from .prior_only import PriorOnly

SAMPLERS: dict[str, type[Sampler]] = {sampler.name: sampler for sampler in (Aos, Dds, Adps)}

__all__ = ["SAMPLERS", "Adps", "Aos", "Dds", "PriorOnly", "Sampler", "StepInfo", "data_consistency"]
