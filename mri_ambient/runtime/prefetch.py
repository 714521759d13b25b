"""Read the next while the present is worked on."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items; a thread fetches each while the one before it is in use.

    What goes wrong is raised when its item's turn comes. Close it where not all items are wanted.

    Args:
        items: none of them is None.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = thread.submit(next, iterator, None)
        while (item := ahead.result()) is not None:
            ahead = thread.submit(next, iterator, None)
            yield item
