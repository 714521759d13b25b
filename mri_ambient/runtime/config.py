"""Options as text: parsed from a command line, written as TOML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from ..errors import ConfigError
from .files import atomic_path

T = TypeVar("T")


def parse_option(name: str, text: str, default: object) -> object:
    """``text`` as a value of the type of ``default`` (None: a number), or ConfigError."""
    try:
        if is_dataclass(default):
            raise ValueError("has no text")
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(float(part) for part in text.split(","))
        if default is None:
            return int(text) if text.lstrip("+-").isdigit() else float(text)
        return type(default)(text)  # type: ignore[call-arg]
    except (KeyError, ValueError) as error:
        example = "a number" if default is None else f"something like {default}"
        wanted = "true or false" if isinstance(default, bool) else example
        raise ConfigError(f"option {name} must be {wanted}, got {text!r}") from error


def from_options(kind: type[T], name: str, given: Mapping[str, Any]) -> T:
    """A dataclass of options, made with values or texts of values.

    Args:
        kind: the dataclass; all its fields have defaults.
        name: what messages call it.
        given: by option; None stands for the default.

    Raises:
        ConfigError: there is no such option, or a text cannot be read as its value.
    """
    defaults = {field.name: getattr(kind(), field.name) for field in fields(kind)}  # type: ignore[arg-type]
    options = {option: value for option, value in given.items() if value is not None}
    for option, value in options.items():
        if option not in defaults:
            raise ConfigError(f"{name} has no option {option!r}; it has {', '.join(defaults)}")
        if isinstance(value, str):
            options[option] = parse_option(option, value, defaults[option])
        elif not _has_type_of(value, defaults[option]):
            raise ConfigError(
                f"option {option} must be something like {defaults[option]}, got {value!r}"
            )
    return kind(**options)


def _has_type_of(value: object, default: object) -> bool:
    """Whether a value can stand for a default; any number for a float."""
    if isinstance(default, bool) or isinstance(value, bool):
        return default is None or isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, Integral if isinstance(default, int) else Real)
    return default is None or is_dataclass(default) or isinstance(value, (type(default), list))


def check_number(
    name: str,
    value: object,
    at_least: float = -math.inf,
    *,
    above: float = -math.inf,
    at_most: float = math.inf,
    whole: bool = False,
    capless: bool = False,
) -> None:
    """Raise ConfigError unless an option is a finite number in these limits.

    Args:
        name: of the option.
        value: of the option.
        at_least: the smallest value, or
        above: what is smaller than all.
        at_most: the largest value.
        whole: whether only whole numbers are.
        capless: whether infinity is one too.
    """
    kind = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ConfigError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    finite = capless or math.isfinite(number)
    if not (finite and at_least <= number <= at_most and number > above):
        limits = [
            f"at least {at_least:g}" if at_least > -math.inf else "",
            f"above {above:g}" if above > -math.inf else "",
            f"at most {at_most:g}" if at_most < math.inf else "" if capless else "finite",
        ]
        raise ConfigError(f"{name} must be {' and '.join(filter(None, limits))}, got {value}")


def parse_seconds(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1.5h`` in seconds.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise ConfigError(f"a time is written like 90s, 10m or 1.5h; got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_until(text: str) -> tuple[int | None, float | None]:
    """``80`` as (80, None) steps, ``90s`` as (None, 90) seconds, ``auto`` as neither.

    Raises:
        ConfigError: it is none of these, or zero.
    """
    if text == "auto":
        return None, None
    if text.isdecimal() and int(text) > 0:
        return int(text), None
    with suppress(ConfigError):
        if text.strip().endswith(("s", "m", "h")) and (seconds := parse_seconds(text)):
            return None, seconds
    raise ConfigError(f"adapt until auto, a time such as 90s, or a number of steps; got {text!r}")


def time_text(seconds: float) -> str:
    """A time for people: ``0.3 s``, ``90 s``, ``10 min`` or ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def to_toml(values: dict[str, Any]) -> str:
    """Nested dictionaries as TOML; TOML has no None, so these entries are left out."""
    return tomli_w.dumps(_without_none(values))


def write_toml(path: Path, values: dict[str, Any]) -> None:
    """Write a TOML file, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_toml(values), encoding="utf-8")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }
