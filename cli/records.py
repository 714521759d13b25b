"""Options that belong together, as one record: a frozen dataclass with an option for each field.

A command takes the record as one parameter::

    @takes_records
    def run(inputs: opt.Inputs, reading: Reading, quiet: opt.Quiet = False) -> None: ...

Its command line is that of a function with the fields in place of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class Without:
    """Fields of a record that a command has no options for; they keep their defaults.

    Example:
        ``reading: Annotated[Reading, Without("maps")]``
    """

    def __init__(self, *names: str) -> None:
        self.names = names


def takes_records(run: Callable[..., None]) -> Callable[..., None]:
    """The command whose parameters that are records become an option for each field."""
    hints = get_type_hints(run, include_extras=True)
    kinds = {name: kind for name, hint in hints.items() if (kind := _kind_of(hint)) is not None}
    options: dict[str, list[Parameter]] = {}
    for name, parameter in signature(run).parameters.items():
        own = parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
        options[name] = _options_of(hints[name], kinds[name]) if name in kinds else [own]

    @wraps(run)
    def command(**given: Any) -> None:  # noqa: ANN401 -- values of options
        records = {
            name: kind(**{option.name: given.pop(option.name) for option in options[name]})
            for name, kind in kinds.items()
        }
        run(**given, **records)

    flat = [option for of_one in options.values() for option in of_one]
    # What typer looks at.
    command.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in flat}
    return command


def _kind_of(hint: Any) -> type | None:  # noqa: ANN401 -- any type
    """The record that a parameter is; None where it is a single option."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def _options_of(hint: Any, kind: type) -> list[Parameter]:  # noqa: ANN401 -- any type
    """An option for each field of a record, but for those that the hint leaves out."""
    hints = get_type_hints(kind, include_extras=True)
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    left_out = {name for mark in marks if isinstance(mark, Without) for name in mark.names}
    return [
        Parameter(f.name, Parameter.KEYWORD_ONLY, annotation=hints[f.name], default=f.default)
        for f in fields(kind)
        if f.name not in left_out
    ]
