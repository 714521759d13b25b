r"""Centred, orthonormal Fourier transforms over images; along one axis: axis_fourier.

What is reconstructed is transformed by these two modules only.

For ``n`` samples with the origin at ``c = n // 2`` (even and odd ``n`` alike),

.. math:: X_k = n^{-1/2} \sum_j x_j \exp(-2 \pi i (k - c)(j - c) / n).

Expanding the product turns both shifts into multiplications by a fixed phase around an ordinary
FFT, which saves the two memory-bound copies of ``fftshift`` and works for every ``n``.
"""

from functools import lru_cache

import torch
from torch import Tensor


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


def reverse(x: Tensor, dim: int) -> Tensor:
    """Mirror an axis about its centre, ``n // 2``.

    The same index reversal, ``i -> 2 (n // 2) - i`` modulo n, mirrors an image and its k-space:
    ``fft2c(reverse(x, d)) == reverse(fft2c(x), d)``, for odd and even n.
    """
    n = x.shape[dim]
    index = (2 * (n // 2) - torch.arange(n, device=x.device)) % n
    return x.index_select(dim, index)
