"""Data read ahead: the next item is fetched while the present one is in use."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Self, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def one_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items; a thread fetches each while the one before it is in use.

    An error is raised when its item's turn comes. Close it if not all items are wanted.

    Args:
        items: none of them is None.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(next, iterator, None)
        while (item := ahead.result()) is not None:
            ahead = thread.submit(next, iterator, None)
            yield item


class BatchReader(Iterator[T], Generic[T]):
    """Endless batches by number, one read ahead by a thread, more by worker processes.

    Args:
        batches: item n is batch n.
        first: number of the first batch.
        workers: processes that read and decode; with 0 the thread does.
        pinned: hand batches over in page-locked memory, for a GPU.

    Attributes:
        waited: seconds spent waiting for a batch.
    """

    def __init__(self, batches: Dataset[T], first: int, *, workers: int, pinned: bool) -> None:
        self.loader: DataLoader[T] = DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, sys.maxsize),
            num_workers=workers,
            pin_memory=pinned,
            multiprocessing_context="forkserver" if workers else None,
        )
        self.waited = 0.0

    def __enter__(self) -> Self:
        self.ready: Generator[T, None, None] = one_ahead(self.loader)
        return self

    def __exit__(self, *_: object) -> None:
        self.ready.close()

    def __next__(self) -> T:
        started = time.perf_counter()
        batch = next(self.ready)
        self.waited += time.perf_counter() - started
        return batch
