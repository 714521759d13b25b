"""How a denoiser is learned without clean images; one file per objective.

Public: ``OBJECTIVES`` by name and ``make_objective``; the classes; ``Objective`` and ``Loss``.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import unknown_name
from ..runtime.config import from_options
from .ambient import Ambient
from .base import Loss, Objective
from .consistency import Consistency
from .equivariant import Equivariant
from .gsure import Gsure
from .kspace import Kspace
from .ssdu import Ssdu
from .supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (Kspace, Ambient, Gsure, Consistency, Equivariant, Ssdu, Supervised)
}


def make_objective(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """An objective by name, with options as values or text: numbers, true or false, ``0.05,0.4``.

    Raises:
        ConfigError: there is no such objective or option, or a text cannot be read as its value.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    options = dict(options or {})
    if isinstance(options.get("base"), str):
        options["base"] = make_objective(options["base"])
    return from_options(OBJECTIVES[name], f"objective {name!r}", options)


__all__ = [
    "OBJECTIVES",
    "Ambient",
    "Consistency",
    "Equivariant",
    "Gsure",
    "Kspace",
    "Loss",
    "Objective",
    "Ssdu",
    "Supervised",
    "make_objective",
]
