"""Images of a page: grey values in one window, as data that the page itself holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from ...physics.fourier import center_crop

MOST_LOSSLESS = 24_000_000
"""Pixels of a page up to which images are stored without loss, in about 0.75 bytes each."""

JPEG_QUALITY = 90
"""Of larger pages, whose images take a third of that."""

SAMPLES_OF_WINDOW = 1_000_000
"""About so many pixels of a volume decide its window."""

SIGNAL = 0.1
"""Pixels above this share of the brightest are signal."""

ABOVE_MEDIAN = 2.5
"""White is at most this many times the median of the signal, however bright fat is."""

MASK_COLORS = {
    "not sampled": (24, 26, 31),
    "never acquired": (96, 100, 110),
    "sampled": (240, 240, 240),
    "calibration block": (72, 149, 239),
}
"""Of a picture of a mask."""


def white_of(images: Iterable[NDArray[Any]], n_pixels: int) -> float:
    """The value that is shown white in magnitude images ``(y, x)`` of ``n_pixels`` together.

    The 99.5th percentile of the signal, unless that is far above its median; 1 without signal.
    """
    step = max(1, n_pixels // SAMPLES_OF_WINDOW)
    values = np.concatenate([np.asarray(img).ravel()[::step] for img in images])
    signal = values[values > SIGNAL * np.quantile(values, 0.99)]
    if signal.size == 0:
        return float(values.max()) or 1.0
    return float(min(np.quantile(signal, 0.995), ABOVE_MEDIAN * np.median(signal)))


def grey_levels(img: ArrayLike, white: float) -> NDArray[np.uint8]:
    """An image in 8 bit: 0 is black and ``white`` and above is 255."""
    levels = np.clip(np.asarray(img, np.float64) / white, 0, 1) * 255
    return np.asarray(np.rint(levels), np.uint8)


def data_uri(levels: NDArray[np.uint8], *, lossless: bool = True) -> str:
    """Grey levels ``(y, x)`` or colours ``(y, x, 3)`` as the address of an image."""
    out = io.BytesIO()
    if lossless:
        Image.fromarray(levels).save(out, "PNG", optimize=True)
    else:
        Image.fromarray(levels).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def colors(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels in the colours of a standard deviation, ``(y, x, 3)``; black stays nearly so."""
    table = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    return np.asarray(table[levels], np.uint8)


def draw_mask(mask: Tensor, acquired: Tensor, block: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask ``(1, y, x)``, a pixel a sample, in :data:`MASK_COLORS`, ``(y, x, 3)``.

    Args:
        mask: sampled positions.
        acquired: columns that the scanner acquires, ``(x,)``.
        block: sides ``(y, x)`` of the calibration block.
    """
    in_block = torch.zeros_like(mask[0])
    center_crop(in_block, block).fill_(True)
    picture = np.empty((*mask.shape[1:], 3), np.uint8)
    picture[:] = MASK_COLORS["not sampled"]
    picture[:, ~acquired.numpy()] = MASK_COLORS["never acquired"]
    picture[mask[0].numpy()] = MASK_COLORS["sampled"]
    picture[in_block.numpy()] = MASK_COLORS["calibration block"]
    return picture
