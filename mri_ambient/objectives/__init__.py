"""How a denoiser is learned without clean images; one file per objective.

Public: ``OBJECTIVES`` by name and ``make_objective``; the classes; ``Objective`` and ``Loss``.
"""

from collections.abc import Mapping
from dataclasses import fields

from ..errors import ConfigError
from ..priors.schedules import LogNormal
from ..runtime.config import parse_option
from .ambient import Ambient
from .base import Loss, Objective
from .consistency import Consistency
from .gsure import Gsure
from .kspace import Kspace
from .ssdu import Ssdu
from .supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (Kspace, Ambient, Gsure, Consistency, Ssdu, Supervised)
}


def make_objective(name: str, options: Mapping[str, str] | None = None) -> Objective:
    """An objective by name, with options as text: numbers, true or false, names, ``0.05,0.4``.

    Raises:
        ConfigError: there is no such objective or option, or a text cannot be read as its value.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective {name!r} is unknown; choose from {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES[name]
    defaults = kind()
    known = {field.name: getattr(defaults, field.name) for field in fields(kind)}
    values = {}
    for option, text in (options or {}).items():
        if option not in known or isinstance(known[option], LogNormal):
            plain = [key for key, value in known.items() if not isinstance(value, LogNormal)]
            raise ConfigError(
                f"objective {name!r} has no option {option!r}; it has {', '.join(plain)}"
            )
        default = known[option]
        nested = isinstance(default, Objective)
        values[option] = make_objective(text) if nested else parse_option(option, text, default)
    return kind(**values)


__all__ = [
    "OBJECTIVES",
    "Ambient",
    "Consistency",
    "Gsure",
    "Kspace",
    "Loss",
    "Objective",
    "Ssdu",
    "Supervised",
    "make_objective",
]
