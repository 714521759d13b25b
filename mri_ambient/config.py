"""Options as TOML text, for people to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .atomic import atomic_path


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


def write_toml(path: Path, values: dict[str, Any]) -> None:
    """Write a TOML file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_toml(values))
