"""Soft thresholding of orthogonal, zero-extended wavelet coefficients of complex images.

PyWavelets transforms on the CPU, where it is faster (tests/benchmarks/bench_classical.py), ptwt on
a GPU and for gradients. The coefficients equal those of ``sigpy.linop.Wavelet``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pywt
import torch
from torch import Tensor

from .fourier import center_crop, center_pad

ORTHOGONAL_WAVELETS = ("haar", *(f"db{n}" for n in range(2, 11)))
"""Wavelets whose shrinkage is a proximal map; ``dbN`` has N vanishing moments and 2 N taps."""


def shrink_wavelets(img: Tensor, threshold: Tensor, wavelet: str) -> Tensor:
    """The proximal map of ``threshold * ||W x||_1``: all levels are shrunk, phases kept.

    Args:
        img: complex ``(b, y, x)``; odd sizes are padded with a zero, as in sigpy.
        threshold: ``(b,)``.
        wavelet: one of :data:`ORTHOGONAL_WAVELETS`.
    """
    ny, nx = img.shape[-2:]
    even = (ny + ny % 2, nx + nx % 2)
    level = pywt.dwtn_max_level(even, wavelet)
    plain = img.device.type == "cpu" and not img.requires_grad
    shrink = shrink_by_pywt if plain else shrink_by_ptwt
    shrunk = shrink(center_pad(img, even), threshold[:, None, None], wavelet, level)
    return center_crop(shrunk, (ny, nx))


def _soft(coefficients: Tensor, threshold: Tensor) -> Tensor:
    """Magnitudes reduced by ``threshold``, at least 0; phases kept."""
    size = coefficients.abs()
    return coefficients * ((size - threshold).clamp(min=0) / size.clamp(min=1e-30))


def shrink_by_pywt(img: Tensor, threshold: Tensor, wavelet: str, level: int) -> Tensor:
    """Soft thresholding of ``level`` levels with PyWavelets; ``threshold`` is ``(b, 1, 1)``."""

    def shrink(coefficients: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return _soft(torch.from_numpy(coefficients), threshold).numpy()

    coarse, *details = pywt.wavedecn(
        img.numpy(force=True), wavelet, mode="zero", level=level, axes=(-2, -1)
    )
    shrunk = [{key: shrink(detail) for key, detail in level.items()} for level in details]
    back = pywt.waverecn([shrink(coarse), *shrunk], wavelet, mode="zero", axes=(-2, -1))
    return torch.from_numpy(back).to(img.dtype)


def shrink_by_ptwt(img: Tensor, threshold: Tensor, wavelet: str, level: int) -> Tensor:
    """The same with ptwt."""
    from ptwt.constants import WaveletDetailTuple2d
    from ptwt.conv_transform_2 import wavedec2, waverec2

    def shrink(coefficients: Tensor) -> Tensor:
        pair = coefficients.movedim(1, -1).contiguous()
        return torch.view_as_real(_soft(torch.view_as_complex(pair), threshold)).movedim(-1, 1)

    pair = torch.view_as_real(img).movedim(-1, 1)
    coarse, *details = wavedec2(pair, wavelet, mode="zero", level=level)
    shrunk = [WaveletDetailTuple2d(*map(shrink, level)) for level in details]
    back = waverec2((shrink(coarse), *shrunk), wavelet).movedim(1, -1).contiguous()
    return torch.view_as_complex(back)
