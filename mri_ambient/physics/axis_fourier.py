"""Centred, orthonormal Fourier transforms along one axis, of tensors and of arrays.

The convention is that of :mod:`~mri_ambient.physics.fourier`. Nothing here imports torch before it
is given a tensor. Single precision stays single; both libraries agree up to its rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Samples = TypeVar("Samples", "Tensor", NDArray[Any])


def fftc(x: Samples, dim: int) -> Samples:
    """Image to k-space along one axis."""
    fft = _library_of(x)
    out: Samples = fft.fftshift(fft.fft(fft.ifftshift(x, dim), None, dim, "ortho"), dim)
    return out


def ifftc(x: Samples, dim: int) -> Samples:
    """K-space to image along one axis."""
    fft = _library_of(x)
    out: Samples = fft.fftshift(fft.ifft(fft.ifftshift(x, dim), None, dim, "ortho"), dim)
    return out


def half_field_phase(n: int) -> NDArray[np.float32] | NDArray[np.complex64]:
    """Factors of k-space ``(n,)`` that move an image back by ``n // 2`` pixels; +-1 for even n.

    They also turn k-space for FFTs without shifts, k = 0 at ``n // 2``, into that of a centred
    image, but for its phase.
    """
    turns = (np.arange(n) - n // 2) * (n // 2) % n
    phase = np.asarray(np.exp(2j * np.pi * turns / n))
    return phase.real.round().astype(np.float32) if n % 2 == 0 else phase.astype(np.complex64)


def _library_of(x: Tensor | NDArray[Any]) -> Any:  # noqa: ANN401 -- a module
    """The transforms of numpy or of torch, which have the same names and order of arguments."""
    if isinstance(x, np.ndarray):
        return np.fft
    from torch import fft  # for tensors alone: torch is slow to import

    return fft
