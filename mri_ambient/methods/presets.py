"""The methods that images are reconstructed by, by name: samplers and baselines, and presets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from typing_extensions import TypeIs

from ..errors import ConfigError
from ..priors.prior import DenoiserSource, Prior
from ..runtime.config import parse_option
from . import SAMPLERS, Aos, Dds, Sampler
from .baselines import BASELINES, Baseline

METHODS: dict[str, type[Sampler] | type[Baseline]] = {**SAMPLERS, **BASELINES}
"""Everything ``reconstruct --method`` takes."""


@dataclass(frozen=True)
class Sampling:
    """A method with its options, and how many samples are drawn."""

    method: Sampler | Baseline
    n_samples: int


SAMPLINGS: dict[str, Sampling] = {
    "fast": Sampling(Aos(), 1),
    "balanced": Sampling(Dds(n_steps=10), 4),
    "quality": Sampling(Dds(n_steps=50), 8),
}
"""What ``--preset`` takes; docs/results/samplers.md has the figures. With a mask-conditioned prior,
``fast`` gives the best image and the others add a spread; ``fast`` is for such priors alone."""


def default_method(prior: DenoiserSource) -> str:
    """What a prior is asked by unless told otherwise: one step, if it knows masks.

    Of a prior that knows none, one step takes the zero-filled image for a noisy one.
    """
    return Aos.name if prior.knows_masks else Dds.name


def check_levels(prior: DenoiserSource | None, method: str) -> None:
    """Refuse to walk down noise levels a prior never saw.

    Raises:
        ConfigError: the prior knows a single level.
    """
    if isinstance(prior, Prior) and prior.facts.one_level:
        raise ConfigError(
            f"method {method!r} takes many steps, but the prior (objective "
            f"{prior.facts.objective!r}) saw no noise but the scanner's: all it can do is "
            "reconstruct with method aos"
        )


def is_sampler(method: Sampler | Baseline) -> TypeIs[Sampler]:
    """Whether a method asks a prior."""
    return hasattr(method, "needs_grad")


def is_stochastic(method: Sampler | Baseline) -> bool:
    """Whether samples of a method differ."""
    return is_sampler(method) and method.stochastic


def with_options(
    method: type[Sampler] | type[Baseline], given: dict[str, Any]
) -> Sampler | Baseline:
    """A method with the options that were given (not None) and its own defaults.

    Args:
        method: the method.
        given: values, or the text of values.

    Raises:
        ConfigError: an option this method does not have, or text that is no value of its kind.
    """
    options = {name: value for name, value in given.items() if value is not None}
    known = {field.name: field.default for field in fields(method)}  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(
            f"method {method.name!r} has no option {', '.join(unknown)}; it has {sorted(known)}"
        )
    for name, value in options.items():
        if isinstance(value, str) and not isinstance(known[name], str):
            options[name] = parse_option(name, value, known[name])
    return method(**options)
