from __future__ import annotations

import pytest

from mri_ambient.cli.parse import (
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
