"""Options written as text: shards, ranges, shares, NAME=VALUE; ConfigError for other texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from mri_ambient.errors import ConfigError

T = TypeVar("T")


def parse_shard(shard: str | None) -> tuple[int, int] | None:
    """``2/4`` as (2, 4)."""
    if shard is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard is i/N with 1 <= i <= N, e.g. 2/4; got {shard!r}")
    return int(match[1]), int(match[2])


def pick_shard(items: Sequence[T], shard: str | None) -> list[T]:
    """Every N-th item, starting with the i-th; see :func:`parse_shard`."""
    part = parse_shard(shard)
    return list(items) if part is None else list(items[part[0] - 1 :: part[1]])


def parse_list(text: str) -> list[str]:
    """``a,b`` as its entries."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def parse_range(name: str, text: str) -> float | tuple[float, float]:
    """``4`` as a number, ``3:7`` as a pair to draw from."""
    try:
        if ":" not in text:
            return float(text)
        low, high = text.split(":")
        return float(low), float(high)
    except ValueError as error:
        raise ConfigError(f"{name} is a number or LOW:HIGH, e.g. 4 or 3:7; got {text!r}") from error


def parse_shares(name: str, text: str) -> str | dict[str, float]:
    """``random`` as it is, ``random:0.8,poisson:0.2`` as shares."""
    if ":" not in text:
        return text
    pairs = [part.partition(":") for part in text.split(",")]
    try:
        return {kind.strip(): float(share) for kind, _, share in pairs}
    except ValueError as error:
        raise ConfigError(
            f"{name} is one kind or shares like random:0.8,poisson:0.2; got {text!r}"
        ) from error


def parse_map_sets(text: str) -> Literal["auto", 1, 2]:
    """``auto`` as it is, ``1`` and ``2`` as numbers."""
    choices: dict[str, Literal["auto", 1, 2]] = {"auto": "auto", "1": 1, "2": 2}
    if text not in choices:
        raise ConfigError(f"--map-sets is {', '.join(choices)}; got {text!r}")
    return choices[text]


def merge_options(flags: Mapping[str, Any], texts: Sequence[str] | None) -> dict[str, Any]:
    """Options given by flags (those that are not None) and by ``-O NAME=VALUE``, each once."""
    given = {name: value for name, value in flags.items() if value is not None}
    pairs = parse_pairs(texts)
    if both := sorted(set(given) & set(pairs)):
        raise ConfigError(f"-O {both[0]}=... has an option of its own, given too; give it once")
    return given | pairs


def parse_pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dictionary."""
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"an option is written NAME=VALUE; got {text!r}")
        pairs[name.strip()] = value.strip()
    return pairs
