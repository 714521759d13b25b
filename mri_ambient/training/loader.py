"""Batches of training data, read while the network trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch.utils.data import DataLoader

from ..runtime.prefetch import one_ahead
from .dataset import Dataset, Draw


@dataclass(frozen=True)
class Numbered(torch.utils.data.Dataset[Draw]):
    """Batch n as item n: what worker processes are given."""

    dataset: Dataset
    size: int
    seed: int
    rank: int
    world: int

    def __getitem__(self, n: int) -> Draw:
        return self.dataset.batch(n, self.size, self.seed, rank=self.rank, world=self.world)


class Loader(Iterator[Draw]):
    """Batches from a number on, one read ahead by a thread, more by worker processes.

    Args:
        batches: what to read.
        first: number of the first batch.
        workers: processes that read and decode; 0 leaves it to the thread.
        pinned: hand batches over in page-locked memory, for a GPU.

    Attributes:
        waited: seconds that the next batch was waited for.
    """

    def __init__(self, batches: Numbered, first: int, *, workers: int, pinned: bool) -> None:
        self.loader: DataLoader[Draw] = DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, sys.maxsize),
            num_workers=workers,
            pin_memory=pinned,
            multiprocessing_context="forkserver" if workers else None,
        )
        self.waited = 0.0

    def __enter__(self) -> Self:
        self.ready: Generator[Draw, None, None] = one_ahead(self.loader)
        return self

    def __exit__(self, *_: object) -> None:
        self.ready.close()

    def __next__(self) -> Draw:
        started = time.perf_counter()
        draw = next(self.ready)
        self.waited += time.perf_counter() - started
        return draw
