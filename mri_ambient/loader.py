"""Batches of training data, read while the network trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from .data import Dataset, Draw


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


class Loader:
    """Batches from a number on, one read ahead by a thread, more by worker processes.

    Args:
        batches: what to read.
        first: number of the first batch.
        workers: processes that read and decode; 0 leaves it to the thread.
        pinned: hand batches over in page-locked memory, for a GPU.
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
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.waited = 0.0

    def __enter__(self) -> Iterator[Draw]:
        return self._ahead()

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(wait=True, cancel_futures=True)

    def _ahead(self) -> Iterator[Draw]:
        batches = iter(self.loader)
        ahead = self.thread.submit(next, batches)
        while True:
            started = time.perf_counter()
            ready = ahead.result()
            self.waited += time.perf_counter() - started
            ahead = self.thread.submit(next, batches)
            yield ready
