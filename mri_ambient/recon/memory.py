"""How much memory a reconstruction takes, and how many images fit at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from ..priors.denoisers import Denoiser
from ..runtime.device import out_of_memory

WORKING_PLANES = 14
"""Planes of the finest level that an evaluation holds at once beside its skip connections, in
units of that level's width. (These numbers: tests/test_memory.py.)"""

KEPT_PLANES = 9
"""Planes of its width that a residual block keeps for its gradients."""

COIL_PLANES = 7
"""Coil images that a step of a sampler holds at once: state, target, noise, maps, transforms."""

SHARE = 0.7
"""Share of the free memory that is planned with."""

MOST = 64
"""More images at once gain nothing."""

CPU_PIXELS = 2**16
"""On a CPU, more pixels at once gain nothing."""


UNKNOWN_FREE = 4 * 2**30
"""Free memory that is planned with on a CPU where the system does not tell it."""


def bytes_per_image(
    net: Denoiser | None,
    shape: tuple[int, int],
    n_coils: int,
    *,
    needs_grad: bool = False,
    n_evaluations: int = 1,
) -> int:
    """Memory one image takes while a sampler (or, without a network, a baseline) works on it.

    Args:
        net: the denoiser; None for a baseline.
        shape: matrix ``(y, x)``.
        n_coils: virtual coils.
        needs_grad: whether gradients flow through the network.
        n_evaluations: how many evaluations these gradients flow through at once.
    """
    pixels = shape[0] * shape[1]
    n_bytes = 8 * COIL_PLANES * (n_coils + 1) * pixels
    if net is None:
        return n_bytes
    spec = net.spec
    width = sum(w / 4**level for level, w in enumerate(spec.channels)) * spec.blocks
    planes = WORKING_PLANES * spec.channels[0] + width
    if needs_grad:
        # On the way up, blocks have about 1.5 times the width.
        planes += KEPT_PLANES * 2.5 * width * net.n_passes * n_evaluations
    return int(n_bytes + 4 * planes * pixels)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        # What torch keeps for the next tensor is free, though the driver counts it as taken.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        try:
            return int(torch.cuda.mem_get_info(device)[0] + kept)
        except RuntimeError as error:
            if out_of_memory(error):  # there is not even room to ask
                return 0
            raise
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, kib = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(kib.split()[0])
    return UNKNOWN_FREE


def images_at_once(n_bytes: int, shape: tuple[int, int], device: torch.device) -> int:
    """How many images of ``n_bytes`` each are best worked on together."""
    fit = int(SHARE * free_bytes(device) / n_bytes)
    useful = MOST if device.type == "cuda" else CPU_PIXELS // (shape[0] * shape[1])
    return max(1, min(fit, useful))
