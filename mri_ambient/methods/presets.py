"""Methods by name, presets, and options given as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import unknown_name
from ..priors.prior import DenoiserSource
from ..runtime.config import from_options
from .adps import Adps
from .aos import Aos
from .base import Method
from .baselines import CgSense, L1Wavelet, ZeroFilled
from .dds import Dds
from .msm import Msm
from .pula import Pula

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Aos, Dds, Msm, Pula, Adps, ZeroFilled, CgSense, L1Wavelet)
}
"""Everything ``reconstruct --method`` takes."""

BASELINES = {name: method for name, method in METHODS.items() if not method.needs_prior}
"""Those without a prior."""


@dataclass(frozen=True)
class Preset:
    """A method with its options, and how many samples are drawn."""

    method: Method
    n_samples: int


PRESETS: dict[str, Preset] = {
    "fast": Preset(Aos(), 1),
    "balanced": Preset(Dds(n_steps=10), 4),
    "quality": Preset(Dds(n_steps=50), 8),
}
"""What ``--preset`` takes; docs/results/samplers.md has the figures. With a mask-conditioned prior
``fast`` gives the best image and the others add a standard deviation; ``fast`` is for such priors
only."""


def default_method(prior: DenoiserSource) -> str:
    """The default method for a prior: one step if it is mask-conditioned, else ``dds``.

    In one step, a plain prior would treat the aliasing of the zero-filled image as noise.
    """
    return Aos.name if prior.mask_conditioned else Dds.name


def method_with_options(name: str, given: Mapping[str, Any]) -> Method:
    """A method with the given options and its own defaults.

    Args:
        name: a key of :data:`METHODS`.
        given: values, or the text of values; those that are None keep their default.

    Raises:
        ConfigError: there is no such method or option, or a text cannot be read as its value.
    """
    if name not in METHODS:
        raise unknown_name("method", name, (*METHODS, *PRESETS))
    return from_options(METHODS[name], f"method {name!r}", given)
