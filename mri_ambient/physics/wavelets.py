"""Shrinkage of orthogonal, zero-extended wavelet coefficients of complex images.

PyWavelets transforms on the CPU, where it is faster (tests/benchmarks/bench_classical.py), ptwt on
a GPU and for gradients. The coefficients equal those of ``sigpy.linop.Wavelet``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pywt
import torch
from torch import Tensor

from .crop import center_crop, center_pad
from .units import energy

ORTHOGONAL_WAVELETS = ("haar", *(f"db{n}" for n in range(2, 11)))
"""Wavelets whose shrinkage is a proximal map; ``dbN`` has N vanishing moments and 2 N taps."""

RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
"""Median magnitude of complex noise of standard deviation 1 per real channel."""

Rule = Callable[[Tensor, Tensor], Tensor]
"""Coefficients and threshold to shrunk coefficients."""


def soft(coefficients: Tensor, threshold: Tensor) -> Tensor:
    """Magnitudes reduced by ``threshold``, at least 0; phases kept."""
    size = coefficients.abs()
    return coefficients * ((size - threshold).clamp(min=0) / size.clamp(min=1e-30))


def garrote(coefficients: Tensor, threshold: Tensor) -> Tensor:
    """``d (1 - t^2 / |d|^2)``, at least 0 (Gao 1998, doi:10.1080/10618600.1998.10474789).

    Large coefficients keep their size, of which soft thresholding takes ``t``.
    """
    least = threshold.square().clamp(min=1e-30)
    return coefficients * (1 - least / torch.maximum(energy(coefficients, ()), least))


def without_noise(img: Tensor, noise_std: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Images with less noise: their db2 coefficients shrunk by the :func:`garrote`.

    The threshold is twice the noise per real channel: that which is given, or that which the image
    has in its finest detail (:func:`noise_of`), whichever is less.

    Args:
        img: complex ``(b, y, x)``.
        noise_std: per real channel, ``(b,)``.
        shift: of the wavelet grid, in pixels ``(y, x)``.
    """
    threshold, axes = 2 * torch.minimum(noise_std, noise_of(img)), (-2, -1)
    shrunk = shrink_wavelets(img.roll(shift, axes), threshold, "db2", garrote)
    return shrunk.roll((-shift[0], -shift[1]), axes)


def noise_of(img: Tensor) -> Tensor:
    """Noise per real channel ``(b,)``, from the median of the finest diagonal detail where not 0.

    Edges hardly change a median (Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425). Detail
    that k-space samples do not reach makes it too small.

    Args:
        img: complex ``(b, y, x)``.
    """
    rows = img[..., 1:, :] - img[..., :-1, :]
    detail = energy(rows[..., 1:] - rows[..., :-1], ()).flatten(1)
    median = torch.where(detail > 0, detail, math.nan).nanmedian(dim=-1).values
    return median.nan_to_num(nan=0.0).sqrt() / (2 * RAYLEIGH_MEDIAN)


def shrink_wavelets(img: Tensor, threshold: Tensor, wavelet: str, rule: Rule = soft) -> Tensor:
    """All levels shrunk, phases kept; by default the proximal map of ``threshold * ||W x||_1``.

    Args:
        img: complex ``(b, y, x)``; odd sizes are padded with a zero, as in sigpy.
        threshold: ``(b,)``.
        wavelet: one of :data:`ORTHOGONAL_WAVELETS`.
        rule: how coefficients are shrunk, :func:`soft` or :func:`garrote`.
    """
    ny, nx = img.shape[-2:]
    even = (ny + ny % 2, nx + nx % 2)
    level = pywt.dwtn_max_level(even, wavelet)
    plain = img.device.type == "cpu" and not img.requires_grad
    shrink = shrink_by_pywt if plain else shrink_by_ptwt
    shrunk = shrink(center_pad(img, even), threshold[:, None, None], wavelet, level, rule)
    return center_crop(shrunk, (ny, nx))


def shrink_by_pywt(img: Tensor, threshold: Tensor, wavelet: str, level: int, rule: Rule) -> Tensor:
    """Shrinkage of ``level`` levels with PyWavelets; ``threshold`` is ``(b, 1, 1)``."""

    def shrink(coefficients: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return rule(torch.from_numpy(coefficients), threshold).numpy()

    coarse, *details = pywt.wavedecn(
        img.numpy(force=True), wavelet, mode="zero", level=level, axes=(-2, -1)
    )
    shrunk = [{key: shrink(detail) for key, detail in level.items()} for level in details]
    back = pywt.waverecn([shrink(coarse), *shrunk], wavelet, mode="zero", axes=(-2, -1))
    return torch.from_numpy(back).to(img.dtype)


def shrink_by_ptwt(img: Tensor, threshold: Tensor, wavelet: str, level: int, rule: Rule) -> Tensor:
    """The same with ptwt."""
    from ptwt.constants import WaveletDetailTuple2d
    from ptwt.conv_transform_2 import wavedec2, waverec2

    def shrink(coefficients: Tensor) -> Tensor:
        pair = coefficients.movedim(1, -1).contiguous()
        return torch.view_as_real(rule(torch.view_as_complex(pair), threshold)).movedim(-1, 1)

    pair = torch.view_as_real(img).movedim(-1, 1)
    coarse, *details = wavedec2(pair, wavelet, mode="zero", level=level)
    shrunk = [WaveletDetailTuple2d(*map(shrink, level)) for level in details]
    back = waverec2((shrink(coarse), *shrunk), wavelet).movedim(1, -1).contiguous()
    return torch.view_as_complex(back)
