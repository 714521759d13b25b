"""Memory of the process."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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


def peak_bytes(device: torch.device) -> int:
    """The most memory so far: of a GPU what was taken, otherwise that of this process."""
    if device.type == "cuda":
        from torch import cuda

        return cuda.max_memory_allocated(device)
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
