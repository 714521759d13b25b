"""Options written as text: shards, ranges, shares, NAME=VALUE; ConfigError for other texts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeVar

from mri_ambient.errors import ConfigError, unknown_name

T = TypeVar("T")


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for an empty word, a path to the working folder, and for ``help``."""
    if words[:1] == ["help"]:
        raise ConfigError(
            "there is no command 'help'; `mri-ambient -h` lists the commands, and `mri-ambient "
            "COMMAND -h` the options of one"
        )
    for before, word in pairwise(("", *words)):
        if not word or re.fullmatch(r"--[\w-]+=", word):
            raise ConfigError(
                f"nothing stands after {word or before!r} (a variable of the shell that is not "
                "set?); give a value, or . for the working folder"
            )


def parse_shard(shard: str | None) -> tuple[int, int] | None:
    """``2/4`` as (2, 4), ``auto`` and ``auto/4`` as the part of this task of a job array."""
    if shard is None:
        return None
    match = re.fullmatch(r"(auto|\d+)(?:/(\d+))?", shard)
    if match and match[1] == "auto":
        return array_part(os.environ, int(match[2]) if match[2] else None)
    if not (match and match[2]) or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard is i/N with 1 <= i <= N, e.g. 2/4, or auto; got {shard!r}")
    return int(match[1]), int(match[2])


ARRAYS = {
    "SLURM_ARRAY_TASK_ID": [f"SLURM_ARRAY_TASK_{name}" for name in ("MIN", "MAX", "STEP")],
    "SGE_TASK_ID": ["SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"],
    "PBS_ARRAY_INDEX": [],
    "PBS_ARRAYID": [],
}
"""Variables that hold the number of a task, and first, last and step of its array, if known."""


def array_part(environment: Mapping[str, str], n_parts: int | None = None) -> tuple[int, int]:
    """Which part of how many a task of a Slurm, SGE or PBS array is.

    With ``n_parts``, tasks are numbered from 1 to that; without, by first, last and step of the
    array, which PBS does not tell.

    Raises:
        ConfigError: this is no task of an array, or of one whose tasks cannot be counted.
    """
    name = next((name for name in ARRAYS if environment.get(name, "").isdigit()), None)
    if name is None:
        raise ConfigError(
            "--shard auto is for a task of a job array, but none of the variables "
            f"{', '.join(ARRAYS)} holds a number; give i/N"
        )
    numbers = [environment.get(key, "") for key in (name, *ARRAYS[name])]
    if n_parts is not None:
        numbers = [numbers[0], "1", str(n_parts), "1"]
    if len(numbers) < 4 or not all(text.isdigit() for text in numbers):
        raise ConfigError(
            f"{name} is {numbers[0]}, but of how many tasks is not known; number the tasks from 1 "
            "to N and give --shard auto/N"
        )
    task, first, last, step = map(int, numbers)
    tasks = range(first, last + 1, step or 1)
    n_told = environment.get("SLURM_ARRAY_TASK_COUNT") if n_parts is None else None
    if step == 0 or task not in tasks or (n_told or str(len(tasks))) != str(len(tasks)):
        raise ConfigError(
            f"{name} is {task}, wanted a task of an array from {first} to {last} in steps of "
            f"{step}; number the tasks from 1 to N and give --shard auto/N"
        )
    return tasks.index(task) + 1, len(tasks)


def pick_shard(items: Sequence[T], shard: str | None) -> list[T]:
    """Every N-th item, starting with the i-th; see :func:`parse_shard`."""
    part = parse_shard(shard)
    return list(items) if part is None else list(items[part[0] - 1 :: part[1]])


def check_device(name: str) -> None:
    """Raise ConfigError for what is no name of a device; whether it is there is found out later."""
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu|meta)(:\d+)?", name):
        raise ConfigError(f"--device is auto, cpu, cuda or cuda:i; got {name!r}")


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


def parse_shares(name: str, text: str, known: Sequence[str] = ()) -> str | dict[str, float]:
    """``random`` as it is, ``random:0.8,poisson:0.2`` as shares; of ``known`` kinds, if given."""
    pairs = [part.partition(":") for part in text.split(",")]
    try:
        shares = {kind.strip(): float(share) for kind, _, share in pairs} if ":" in text else {}
    except ValueError as error:
        raise ConfigError(
            f"{name} is one kind or shares like random:0.8,poisson:0.2; got {text!r}"
        ) from error
    for kind in shares or [text]:
        if known and kind not in known:
            raise unknown_name(name, kind, known)
    return shares or text


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
