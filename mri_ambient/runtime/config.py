"""Options as text: read from a command line, written as TOML for people to read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import atomic_path


def to_toml(values: dict[str, Any], section: str = "") -> str:
    """Nested dictionaries of numbers, strings, lists and None (left out) as TOML."""
    lines, tables = [], []
    for key, value in values.items():
        if isinstance(value, dict):
            name = f"{section}.{key}" if section else key
            tables.append(f"\n[{name}]\n{to_toml(value, name)}")
        elif value is not None:
            # JSON writes strings, numbers, booleans and lists just as TOML does.
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + tables)


def parse_option(name: str, text: str, default: object) -> object:
    """``text`` as a value of the kind that ``default`` is; None stands for a number, whole or not.

    Raises:
        ConfigError: it is none.
    """
    try:
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
        raise ConfigError(f"option {name} is {wanted}, got {text!r}") from error


def parse_seconds(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1.5h`` in seconds.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise ConfigError(f"a time is written like 90s, 10m or 1.5h; got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def write_toml(path: Path, values: dict[str, Any]) -> None:
    """Write a TOML file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_toml(values), encoding="utf-8")
