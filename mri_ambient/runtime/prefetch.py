"""Threads that read the next item while the current one is used, or compute several at once."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import NoReturn, Self, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

S = TypeVar("S")
T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items, none None; a thread reads each one while the item before it is in use.

    An error is raised in place of its item, and warnings are collected where this one's are. Close
    the generator if not all items are wanted.
    """
    following = partial(copy_context().run, next, iter(items), None)
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(following)
        while (item := ahead.result()) is not None:
            ahead = thread.submit(following)
            yield item


def in_order(
    function: Callable[[S], T],
    items: Iterable[S],
    n_at_once: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[T, None, None]:
    """``function(item)`` of all items, in their order; up to ``n_at_once`` are computed at once.

    Each is computed by a thread with its share of torch's own threads: independent items keep more
    cores busy than the threads inside of an operation do. An error is raised in place of its
    result. Close the generator if not all results are wanted: it calls ``stop``, and waits for what
    is being computed.
    """
    if n_at_once == 1:
        yield from map(function, items)
        return
    n_threads = torch.get_num_threads()
    share = (max(1, n_threads // n_at_once),)
    threads = ThreadPoolExecutor(n_at_once, initializer=torch.set_num_threads, initargs=share)
    running: deque[Future[T]] = deque()
    try:
        for call in _calls(function, items):
            running.append(threads.submit(call))
            if len(running) > n_at_once:  # one waits, so that no thread does
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        stop()
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # of threads that are made later


def _calls(function: Callable[[S], T], items: Iterable[S]) -> Iterator[Callable[[], T]]:
    """Calls of the function; where reading an item fails, one that raises its error."""
    try:
        for item in items:
            yield partial(function, item)
    except Exception as error:  # noqa: BLE001 -- raised in its turn, after the results before it
        yield partial(_fail, error)


def _fail(error: Exception) -> NoReturn:
    raise error


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
