"""Coil maps as 16-bit integers, for files and for transfers to a GPU.

Sensitivities are at most 1 in magnitude and are known far less precisely than 2e-5, the error of 16
bits per component, which take half the bytes of single precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 2**15 - 1
"""Integer that stands for 1."""


def pack_maps(maps: Tensor) -> Tensor:
    """Complex maps ``(..., coil, y, x)`` as int16 ``(..., coil, y, x, 2)``: Re and Im."""
    return (torch.view_as_real(maps) * STEPS).round().to(torch.int16)


def unpack_maps(packed: Tensor) -> Tensor:
    """Packed maps as complex64.

    Zero stays zero, sum_c |S_c|^2 stays 1 within 2e-5 (RMS), and unpacked maps that are packed
    again return bit-identical.
    """
    return torch.view_as_complex(packed.to(torch.float32) / STEPS)
