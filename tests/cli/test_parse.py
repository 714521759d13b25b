from __future__ import annotations

import pytest

from mri_ambient.cli.parse import (
    ARRAYS,
    array_part,
    merge_options,
    parse_pairs,
    parse_range,
    parse_shard,
    parse_shares,
    pick_shard,
)
from mri_ambient.errors import ConfigError
from mri_ambient.runtime.config import parse_seconds


def test_times():
    assert [parse_seconds(text) for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]


@pytest.mark.parametrize("text", ["ten", "5d", "", "-3"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError):
        parse_seconds(text)


def test_shards_hold_every_item_once():
    items = [1, 2, 3, 4, 5]
    assert [pick_shard(items, f"{i}/2") for i in (1, 2)] == [[1, 3, 5], [2, 4]]
    assert pick_shard(items, None) == items


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "a/b", "1/2/3"])
def test_other_shards_are_refused(text):
    with pytest.raises(ConfigError):
        parse_shard(text)


def slurm(task: int, first: int, last: int, step: int = 1, **more: str) -> dict[str, str]:
    numbers = {"ID": task, "MIN": first, "MAX": last, "STEP": step, **more}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in numbers.items()}


def sge(task: int, first: int, last: int, step: int) -> dict[str, str]:
    numbers = {"ID": task, "FIRST": first, "LAST": last, "STEPSIZE": step}
    return {f"SGE_TASK_{name}": str(number) for name, number in numbers.items()}


@pytest.mark.parametrize(
    ("tasks", "n_parts"),
    [
        ([slurm(task, 0, 4) for task in range(5)], None),
        ([slurm(task, 3, 9, 2, COUNT="4") for task in (3, 5, 7, 9)], None),
        ([sge(task, 1, 10, 4) for task in (1, 5, 9)], None),
        ([slurm(task, task, task) for task in (1, 2)], 2),  # submitted one by one
        ([{"PBS_ARRAY_INDEX": "1"}, {"PBS_ARRAY_INDEX": "2"}], 2),
        ([{"PBS_ARRAYID": "1", "SGE_TASK_ID": "undefined"}], 1),
    ],
)
def test_the_tasks_of_an_array_do_every_part_once(tasks, n_parts):
    parts = [array_part(environment, n_parts) for environment in tasks]
    assert parts == [(i + 1, len(tasks)) for i in range(len(tasks))]


@pytest.mark.parametrize(
    ("environment", "n_parts"),
    [
        ({}, None),
        ({"SGE_TASK_ID": "undefined"}, 4),
        ({"PBS_ARRAY_INDEX": "2"}, None),
        ({"PBS_ARRAY_INDEX": "0"}, 4),
        (slurm(5, 1, 5), 4),
        (slurm(3, 1, 7, 1, COUNT="3"), None),  # 1, 3, 7
        ({"SLURM_ARRAY_TASK_ID": "2"}, None),
        (slurm(4, 3, 9, 2), None),  # there is none between 3 and 5
        (slurm(10, 3, 9, 2), None),
        (slurm(2, 3, 9), None),
        (slurm(3, 3, 9, 0), None),
        (sge(2, 1, 10, 4), None),
    ],
)
def test_other_arrays_are_refused(environment, n_parts):
    with pytest.raises(ConfigError, match="N"):
        array_part(environment, n_parts)


def test_the_part_of_this_task_comes_from_the_environment(monkeypatch):
    for name in ARRAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PBS_ARRAY_INDEX", "3")
    assert parse_shard("auto/4") == (3, 4)
    with pytest.raises(ConfigError):
        parse_shard("auto")


def test_ranges_and_shares():
    assert parse_range("--noise", "4") == 4.0
    assert parse_range("--noise", "3:7.5") == (3.0, 7.5)
    assert parse_shares("--mask-type", "random") == "random"
    assert parse_shares("--mask-type", "random:0.8, poisson:0.2") == {"random": 0.8, "poisson": 0.2}


@pytest.mark.parametrize("text", ["a:b", "1:2:3", ""])
def test_other_ranges_are_refused(text):
    with pytest.raises(ConfigError, match="--noise"):
        parse_range("--noise", text)


def test_other_shares_are_refused():
    with pytest.raises(ConfigError, match="--mask-type"):
        parse_shares("--mask-type", "random:x")


def test_options_come_from_flags_and_texts():
    flags = {"n_steps": 3, "lam": None}
    assert merge_options(flags, ["eta = 0.5"]) == {"n_steps": 3, "eta": "0.5"}
    assert merge_options(flags, None) == {"n_steps": 3}
    with pytest.raises(ConfigError, match="n_steps"):
        merge_options(flags, ["n_steps=4"])


@pytest.mark.parametrize("text", ["eta", "=3"])
def test_an_option_has_a_name_and_a_value(text):
    with pytest.raises(ConfigError):
        parse_pairs([text])
