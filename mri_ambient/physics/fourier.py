r"""Centred, orthonormal Fourier transforms; no other module shifts k-space.

For ``n`` samples with the origin at ``c = n // 2`` (even and odd ``n`` alike),

.. math:: X_k = n^{-1/2} \sum_j x_j \exp(-2 \pi i (k - c)(j - c) / n).

Expanding the product turns both shifts into multiplications by a fixed phase around an ordinary
FFT, which saves the two memory-bound copies of ``fftshift`` and works for every ``n``.
"""

from functools import lru_cache
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

Images = TypeVar("Images", Tensor, NDArray[Any])


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # a cached tensor must also work with gradients
def _phases(
    shape: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Phases before and after the FFT over the last two axes, each ``(y, x)``."""
    before, after = [], []
    for n in shape:
        c = n // 2
        # Reduced modulo n in integers, the phase is exact for any length of the axis.
        turns = (torch.arange(n) * c) % n
        before.append(_turn(turns, n))
        after.append(_turn(turns - (c * c) % n, n))
    grids = [torch.outer(*pair) for pair in (before, after)]
    if all(n % 2 == 0 for n in shape):
        # A checkerboard of +-1: a real factor is cheaper, and exact.
        grids = [grid.real.round() for grid in grids]
        dtype = dtype.to_real()
    else:
        dtype = dtype.to_complex()
    return grids[0].to(device, dtype), grids[1].to(device, dtype)


def _turn(turns: Tensor, n: int) -> Tensor:
    """exp(2 pi i turns / n), in double precision."""
    angle = 2 * torch.pi * turns.double() / n
    return torch.polar(torch.ones_like(angle), angle)


def decentre(img: Tensor) -> Tensor:
    """An image ``(..., y, x)`` times the phase with which uncentred FFTs replace centred ones.

    ``fft2c(x)`` is a unit phase times ``fft2(decentre(x))``, which cancels in the normal operator.
    """
    before, _ = _phases((img.shape[-2], img.shape[-1]), img.device, img.dtype)
    return img * before


def fft2c(img: Tensor) -> Tensor:
    """Image to k-space, centred and orthonormal, over the last two axes ``(..., y, x)``."""
    before, after = _phases((img.shape[-2], img.shape[-1]), img.device, img.dtype)
    out: Tensor = torch.fft.fft2(img * before, norm="ortho")
    return out.mul_(after)


def ifft2c(ksp: Tensor) -> Tensor:
    """K-space to image, centred and orthonormal, over the last two axes ``(..., y, x)``."""
    before, after = _phases((ksp.shape[-2], ksp.shape[-1]), ksp.device, ksp.dtype)
    out: Tensor = torch.fft.ifft2(ksp * after.conj(), norm="ortho")
    return out.mul_(before.conj())


def decentred_to_centred(ksp: Tensor) -> Tensor:
    """K-space of a centred image for :func:`ifft2c`, from k-space for FFTs without shifts.

    The inverse FFT of ``ksp`` ``(..., y, x)`` is the image, in the middle of the field of view,
    but for its phase; k = 0 is at ``n // 2`` here and there.
    """
    _, after = _phases((ksp.shape[-2], ksp.shape[-1]), ksp.device, ksp.dtype)
    return ksp * after


def half_field_phase(n: int) -> Tensor:
    """Factors of k-space ``(n,)`` that move an image back by ``n // 2`` pixels; +-1 for even n."""
    phase = _turn((torch.arange(n) - n // 2) * (n // 2) % n, n)
    return phase.real.round().float() if n % 2 == 0 else phase.to(torch.complex64)


def fftc(x: Tensor, dim: int) -> Tensor:
    """Centred, orthonormal transform to k-space along one axis."""
    shifted = torch.fft.fft(torch.fft.ifftshift(x, dim=dim), dim=dim, norm="ortho")
    out: Tensor = torch.fft.fftshift(shifted, dim=dim)
    return out


def ifftc(x: Tensor, dim: int) -> Tensor:
    """Centred, orthonormal transform to the image domain along one axis."""
    shifted = torch.fft.ifft(torch.fft.ifftshift(x, dim=dim), dim=dim, norm="ortho")
    out: Tensor = torch.fft.fftshift(shifted, dim=dim)
    return out


def reverse(x: Tensor, dim: int) -> Tensor:
    """Mirror an axis about its centre, ``n // 2``.

    The same index reversal, ``i -> 2 (n // 2) - i`` modulo n, mirrors an image and its k-space:
    ``fft2c(reverse(x, d)) == reverse(fft2c(x), d)``, for odd and even n.
    """
    n = x.shape[dim]
    index = (2 * (n // 2) - torch.arange(n, device=x.device)) % n
    return x.index_select(dim, index)


def center_crop(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """The centre of an image or k-space ``(..., y, x)``; pixel ``n // 2`` stays in the middle."""
    (ny, nx), (cy, cx) = x.shape[-2:], shape
    return _window(x, shape, ny // 2 - cy // 2, nx // 2 - cx // 2)


def image_crop(img: Images, shape: tuple[int, int]) -> Images:
    """The middle of images ``(..., y, x)``, a tensor or an array, as fastMRI cuts its targets.

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


def center_pad(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Surround an image or k-space ``(..., y, x)`` with zeros; inverse of :func:`center_crop`."""
    (ny, nx), (py, px) = x.shape[-2:], shape
    if py < ny or px < nx:
        raise ValueError(f"cannot pad {(ny, nx)} to the smaller {shape}")
    top, left = py // 2 - ny // 2, px // 2 - nx // 2
    return torch.nn.functional.pad(x, (left, px - nx - left, top, py - ny - top))


def center_fit(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """K-space ``(..., y, x)`` on another matrix of the same field of view: cut or padded."""
    ny, nx = (min(n, m) for n, m in zip(x.shape[-2:], shape, strict=True))
    return center_pad(center_crop(x, (ny, nx)), shape)
