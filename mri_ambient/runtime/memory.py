"""Memory of the process."""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
"""Parameters of mallopt(3), from malloc.h of glibc."""

MOST_KEPT = 2**30
"""Bytes of freed memory that stay with the process."""


def keep_freed_memory() -> None:
    """Large arrays use freed memory again, instead of new pages that the kernel fills with zeros.

    Changes nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(ARENA_MAX, 1)  # others return their memory
        mallopt(MMAP_THRESHOLD, MOST_KEPT)
        mallopt(TRIM_THRESHOLD, MOST_KEPT)
        mallopt(TOP_PAD, 2**26)
