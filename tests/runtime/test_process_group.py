"""Processes that share a run; whole runs of two processes are in tests/training."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import pytest
import torch
from helpers import PROCESSES
from torch import distributed

from mri_ambient.errors import ConfigError, MriAmbientError
from mri_ambient.runtime.process_group import ProcessGroup

CPU = torch.device("cpu")


def test_a_single_process_communicates_with_nobody():
    alone = ProcessGroup.current()
    assert (alone.rank, alone.size, alone.is_first) == (0, 1, True)
    assert alone.from_first(lambda: "made") == "made"
    assert alone.any(True, CPU) and not alone.any(False, CPU)
    tensor = torch.ones(3)
    alone.sum_([tensor])
    assert tensor.tolist() == [1, 1, 1]


def refuse():
    raise ConfigError("refused by process 0")


def work(rank, address):
    """What one of two processes does, and what it gets."""
    distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        group = ProcessGroup.current()
        a, b = torch.full((2, 2), float(rank + 1)), torch.arange(3.0) * (rank + 1)
        group.sum_([a, b])
        with pytest.raises(ConfigError) as refused:
            group.from_first(refuse)
        return {
            "group": (group.rank, group.size, group.is_first),
            "made": group.from_first(lambda: f"made by {rank}"),
            "refused": str(refused.value),
            "any": [group.any(flag, CPU) for flag in (False, rank == 1, True)],
            "sums": (a.tolist(), b.tolist()),
        }
    finally:
        distributed.destroy_process_group()


def test_two_processes_exchange_results_flags_and_sums(server, tmp_path):
    address = f"file://{tmp_path}/store"
    with ProcessPoolExecutor(2, mp_context=PROCESSES) as pool:
        found = list(pool.map(work, (0, 1), (address, address)))
    assert [one["group"] for one in found] == [(0, 2, True), (1, 2, False)]
    for one in found:
        assert one["made"] == "made by 0"
        assert one["refused"] == "refused by process 0"
        assert one["any"] == [False, True, True]
        assert one["sums"] == ([[3, 3], [3, 3]], [0, 3, 6])


@pytest.mark.parametrize(
    "communicate",
    [
        lambda group: group.any(True, CPU),
        lambda group: group.sum_([torch.ones(2)]),
        lambda group: group.from_first(lambda: 1),
    ],
)
def test_the_end_of_another_process_is_one_line(communicate, monkeypatch):
    def closed(*_, **__):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer\nlong trace")

    monkeypatch.setattr(distributed, "all_reduce", closed)
    monkeypatch.setattr(distributed, "broadcast_object_list", closed)
    with pytest.raises(MriAmbientError) as caught:
        communicate(ProcessGroup(0, 2))
    assert "Connection closed by peer" in str(caught.value)
    assert "\n" not in str(caught.value)
