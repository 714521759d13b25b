"""Images of a page: grey values in one window, as data that the page itself holds."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ...physics.crop import center_crop

MOST_LOSSLESS = 16_000_000
"""Bytes of images up to which a page has them without loss; otherwise about a third of that."""

JPEG_QUALITY = 90
"""Of images with loss."""

MASK_COLORS = {
    "not sampled": (24, 26, 31),
    "never acquired": (96, 100, 110),
    "sampled": (240, 240, 240),
    "calibration block": (72, 149, 239),
}
"""Of a picture of a mask."""


def grey_levels(img: ArrayLike, white: float) -> NDArray[np.uint8]:
    """An image in 8 bit: 0 is black and ``white`` and above is 255."""
    levels = np.clip(np.asarray(img, np.float64) / white, 0, 1) * 255
    return np.asarray(np.rint(levels), np.uint8)


def data_uri(levels: NDArray[np.uint8], *, lossless: bool = True, in_colors: bool = False) -> str:
    """An image as the address of itself.

    Args:
        levels: grey levels ``(y, x)``, or red, green and blue ``(y, x, 3)``.
        lossless: whether nothing is lost by compression.
        in_colors: show grey levels in colours, dark to bright.
    """
    picture, out = Image.fromarray(levels), io.BytesIO()
    if in_colors:
        import matplotlib  # slow to import

        colors = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
        picture.putpalette(colors.tobytes())
    if lossless:
        picture.save(out, "PNG", optimize=True)
    else:
        picture = picture.convert("RGB") if in_colors else picture
        picture.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def draw_mask(
    mask: NDArray[np.bool_], acquired: NDArray[np.bool_], block: tuple[int, int]
) -> NDArray[np.uint8]:
    """A mask ``(1, y, x)``, a pixel a sample, in :data:`MASK_COLORS`, ``(y, x, 3)``.

    Args:
        mask: sampled positions.
        acquired: columns that the scanner acquires, ``(x,)``.
        block: sides ``(y, x)`` of the calibration block.
    """
    in_block = np.zeros_like(mask[0])
    center_crop(in_block, block)[:] = True
    picture = np.empty((*mask.shape[1:], 3), np.uint8)
    picture[:] = MASK_COLORS["not sampled"]
    picture[:, ~acquired] = MASK_COLORS["never acquired"]
    picture[mask[0]] = MASK_COLORS["sampled"]
    picture[in_block] = MASK_COLORS["calibration block"]
    return picture
