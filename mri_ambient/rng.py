"""Random streams that depend on what is computed, not on when or where."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Generator, Tensor

Streams = Sequence[Generator]
"""One generator per batch item: its numbers do not depend on the rest of the batch."""


def rng_for(seed: int, *keys: object) -> Generator:
    """A CPU generator seeded by sha256 of ``seed`` and ``keys`` (scan id, slice, sample, ...).

    The same arguments give the same stream everywhere, so that results do not depend on batch size,
    order or the number of devices.
    """
    text = "/".join(str(part) for part in (seed, *keys))
    digest = hashlib.sha256(text.encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def complex_normal(
    shape: tuple[int, ...],
    rng: Generator,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.complex64,
) -> Tensor:
    """White complex noise with standard deviation 1 **per real channel**.

    It is drawn on the generator's device (the CPU, for :func:`rng_for`) and then moved, so that a
    GPU gets the same numbers.
    """
    pair = torch.randn((*shape, 2), generator=rng, dtype=dtype.to_real(), device=rng.device)
    return torch.view_as_complex(pair).to(device)


def complex_normals(
    shape: tuple[int, ...],
    rng: Streams,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.complex64,
) -> Tensor:
    """White complex noise ``(b, *shape)``, item i from stream i; see :func:`complex_normal`."""
    source = rng[0].device
    pairs = torch.empty((len(rng), *shape, 2), dtype=dtype.to_real(), device=source)
    # One core cannot keep a GPU busy.
    for_gpu = source.type == "cpu" and torch.device(device).type != "cpu" and len(rng) > 1
    each = _threads().map if for_gpu else map
    for _ in each(_fill, pairs.unbind(), rng):
        pass
    return torch.view_as_complex(pairs).to(device)


def _fill(pairs: Tensor, rng: Generator) -> None:
    pairs.normal_(generator=rng)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1))


def uniforms(rng: Streams, dtype: torch.dtype = torch.float32) -> Tensor:
    """One uniform number from 0 to 1 per stream, ``(b,)``."""
    return torch.cat([torch.rand(1, generator=g, dtype=dtype) for g in rng])


def on_device(rng: Streams, device: torch.device) -> list[Generator]:
    """Streams that draw on a device, each seeded from one of ``rng``; on the CPU, ``rng`` itself.

    For training, where moving noise from the CPU takes longer than the network. The numbers then
    depend on the kind of device.
    """
    if device.type == "cpu":
        return list(rng)
    seeds = [int(torch.randint(2**62, (), generator=g)) for g in rng]
    return [Generator(device).manual_seed(seed) for seed in seeds]
