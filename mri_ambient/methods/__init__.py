"""Methods: from measurement (and prior) to an image; one file per sampler, one for the baselines.

Public: ``METHODS`` and ``PRESETS`` by name; the classes; ``Method``, their signature.
"""

from .adps import Adps
from .aos import Aos
from .base import Method, OnStep, Sampler, StepInfo
from .baselines import Baseline, CgSense, L1Wavelet, ZeroFilled
from .dds import Dds
from .msm import Msm
from .presets import BASELINES, METHODS, PRESETS, Preset, default_method
from .prior_only import PriorOnly
from .pula import Pula

__all__ = [
    "BASELINES",
    "METHODS",
    "PRESETS",
    "Adps",
    "Aos",
    "Baseline",
    "CgSense",
    "Dds",
    "L1Wavelet",
    "Method",
    "Msm",
    "OnStep",
    "Preset",
    "PriorOnly",
    "Pula",
    "Sampler",
    "StepInfo",
    "ZeroFilled",
    "default_method",
]
