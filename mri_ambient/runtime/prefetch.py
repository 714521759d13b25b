"""Reading ahead: the next item is read while the current one is used."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items, none None; a thread reads each one while the item before it is in use.

    An error is raised in place of its item. Close the generator if not all items are wanted.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(next, iterator, None)
        while (item := ahead.result()) is not None:
            ahead = thread.submit(next, iterator, None)
            yield item


class BatchReader(Iterator[T]):
    """Batches ``batches[first]``, ...: one is read ahead by a thread, more by worker processes.

    With no ``workers`` the thread reads and decodes; ``pinned`` batches are in page-locked memory,
    for a GPU. :attr:`waited` counts the seconds spent waiting for batches.
    """

    def __init__(self, batches: Dataset[T], first: int, *, workers: int, pinned: bool) -> None:
        self._loader: DataLoader[T] = DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, sys.maxsize),
            num_workers=workers,
            pin_memory=pinned,
            multiprocessing_context="forkserver" if workers else None,
        )
        self.waited = 0.0

    def __enter__(self) -> Self:
        self._ready: Generator[T, None, None] = prefetch(self._loader)
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.close()

    def __next__(self) -> T:
        started = time.perf_counter()
        batch = next(self._ready)
        self.waited += time.perf_counter() - started
        return batch
