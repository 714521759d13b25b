"""The middle of images and k-space: cut out, surrounded with zeros, or exchanged with the border.

Nothing here imports torch before it is given a tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Images = TypeVar("Images", "Tensor", NDArray[Any])


def center_crop(x: Images, shape: tuple[int, int]) -> Images:
    """The centre of images or k-space ``(..., y, x)``; pixel ``n // 2`` stays in the middle."""
    (ny, nx), (cy, cx) = x.shape[-2:], shape
    return _window(x, shape, ny // 2 - cy // 2, nx // 2 - cx // 2)


def image_crop(img: Images, shape: tuple[int, int]) -> Images:
    """The middle of images ``(..., y, x)``, as fastMRI cuts its targets.

    A border of odd total width is thinner at the start, whereas :func:`center_crop`, which keeps
    pixel ``n // 2`` in the middle, starts one pixel later.
    """
    (ny, nx), (cy, cx) = img.shape[-2:], shape
    return _window(img, shape, (ny - cy) // 2, (nx - cx) // 2)


def _window(x: Images, shape: tuple[int, int], top: int, left: int) -> Images:
    (ny, nx), (cy, cx) = x.shape[-2:], shape
    if cy > ny or cx > nx:
        raise ValueError(f"cannot crop {(ny, nx)} to the larger {shape}")
    return x[..., top : top + cy, left : left + cx]


def center_pad(x: Images, shape: tuple[int, int]) -> Images:
    """Surround images or k-space ``(..., y, x)`` with zeros; inverse of :func:`center_crop`."""
    (ny, nx), (py, px) = x.shape[-2:], shape
    if py < ny or px < nx:
        raise ValueError(f"cannot pad {(ny, nx)} to the smaller {shape}")
    top, left = py // 2 - ny // 2, px // 2 - nx // 2
    return pad(x, ((top, py - ny - top), (left, px - nx - left)))


def pad(x: Images, margins: tuple[tuple[int, int], tuple[int, int]]) -> Images:
    """Images or k-space ``(..., y, x)`` with zeros before and after its rows and columns."""
    if isinstance(x, np.ndarray):
        return np.pad(x, ((0, 0),) * (x.ndim - 2) + margins)
    from torch.nn.functional import pad as pad_tensor  # for tensors alone: torch is slow to import

    (top, bottom), (left, right) = margins
    return pad_tensor(x, (left, right, top, bottom))


def center_fit(x: Images, shape: tuple[int, int]) -> Images:
    """K-space ``(..., y, x)`` on another matrix of the same field of view: cut or padded."""
    ny, nx = (min(n, m) for n, m in zip(x.shape[-2:], shape, strict=True))
    return center_pad(center_crop(x, (ny, nx)), shape)
