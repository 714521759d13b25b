"""Reconstructions without a learned prior: what every sampler is compared with.

Each method is a small frozen dataclass called as ``method(op, ksp, noise_std=...)``: a sampler
without prior and random state. Data are normalised, with maps of ``S^H S = 1`` in their support and
images of about unit size. Hence one regularisation weight serves all scans, and ``||A|| <= 1``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .errors import ConfigError
from .sense import SenseOp
from .solve import conjugate_gradient

ORTHOGONAL_WAVELETS = ("haar", *(f"db{n}" for n in range(2, 11)))
"""Wavelets whose shrinkage is a proximal map; ``dbN`` has N vanishing moments and 2 N taps."""


class Baseline(Protocol):
    """A way to an image that needs no prior; a frozen dataclass with its options."""

    name: ClassVar[str]

    def __call__(self, op: SenseOp, ksp: Tensor, *, noise_std: Tensor) -> Tensor:
        """Reconstruct a batch of slices.

        Args:
            op: how an image becomes this k-space; maps ``(b, coil, y, x)``.
            ksp: measured k-space ``(b, coil, y, x)``; ignored where it was not sampled.
            noise_std: sigma_n per real channel, ``(b,)``.

        Returns:
            Images, complex ``(b, y, x)`` in the units of ``ksp``, zero outside the support.
        """
        ...


@dataclass(frozen=True)
class ZeroFilled:
    """``A^H y``: positions that were not sampled count as zero."""

    name: ClassVar[str] = "zero-filled"

    def __call__(self, op: SenseOp, ksp: Tensor, *, noise_std: Tensor) -> Tensor:
        """See :class:`Baseline`; the noise level does not enter."""
        return op.adjoint(ksp)


@dataclass(frozen=True)
class CgSense:
    """``argmin_x ||A x - y||^2 + lam ||x||^2`` by conjugate gradients.

    References:
        Pruessmann et al. 2001, doi:10.1002/mrm.1241.

    Attributes:
        lam: weight of the image's energy. The default was chosen once on simulated validation
            scans (``tests/benchmarks/tune_baselines.py``).
        n_iter: iterations, each one forward and one adjoint.
    """

    name: ClassVar[str] = "cg-sense"

    lam: float = 0.01
    n_iter: int = 30

    def __post_init__(self) -> None:
        _check_options(self.name, self.lam, self.n_iter)

    def __call__(self, op: SenseOp, ksp: Tensor, *, noise_std: Tensor) -> Tensor:
        """See :class:`Baseline`; the noise level does not enter."""
        # A^H y lies in the support and A^H A stays there, so every iterate does.
        return conjugate_gradient(
            lambda x: op.normal(x) + self.lam * x, op.adjoint(ksp), n_iter=self.n_iter
        )


@dataclass(frozen=True)
class L1Wavelet:
    """``argmin_x 1/2 ||A x - y||^2 + lam ||W x||_1`` by accelerated proximal gradients (FISTA).

    W is sigpy's zero-extended orthogonal wavelet transform, all levels shrunk alike, so the result
    is that of ``sigpy.mri.app.L1WaveletRecon`` at the step length ``1 / ||A||^2 <= 1``.

    References:
        Lustig et al. 2007, doi:10.1002/mrm.21391; Beck and Teboulle 2009, doi:10.1137/080716542.

    Attributes:
        lam: weight of the wavelet coefficients. The default was chosen once on simulated
            validation scans (``tests/benchmarks/tune_baselines.py``).
        n_iter: iterations, each one forward, one adjoint and one shrinkage.
        wavelet: one of :data:`ORTHOGONAL_WAVELETS`.
    """

    name: ClassVar[str] = "l1-wavelet"

    lam: float = 0.003
    n_iter: int = 100
    wavelet: str = "db4"

    def __post_init__(self) -> None:
        _check_options(self.name, self.lam, self.n_iter)
        if self.wavelet not in ORTHOGONAL_WAVELETS:
            raise ConfigError(
                f"{self.name}: wavelet {self.wavelet!r} is unknown or not orthogonal; "
                f"choose from {list(ORTHOGONAL_WAVELETS)}"
            )

    def __call__(self, op: SenseOp, ksp: Tensor, *, noise_std: Tensor) -> Tensor:
        """See :class:`Baseline`; the noise level does not enter."""
        shrink = wavelet_shrinkage(op.ishape, self.lam, self.wavelet)
        b = op.adjoint(ksp)
        x = z = torch.zeros_like(b)
        t = 1.0
        for _ in range(self.n_iter):
            x_last, t_last = x, t
            x = shrink(z - (op.normal(z) - b))
            t = (1 + (1 + 4 * t * t) ** 0.5) / 2
            z = x + ((t_last - 1) / t) * (x - x_last)
        return x * op.support


def wavelet_shrinkage(
    shape: tuple[int, ...], threshold: float, wavelet: str
) -> Callable[[Tensor], Tensor]:
    """The proximal map of ``threshold * ||W x||_1`` for images ``(b, y, x)`` of one ``shape``.

    Coefficients lose ``threshold`` of their magnitude and keep their phase. It works on the CPU,
    image by image, wherever the tensors live.
    """
    import sigpy  # slow to import (numba), and only this method needs it

    transform = sigpy.linop.Wavelet(shape, wave_name=wavelet)
    prox = sigpy.prox.UnitaryTransform(sigpy.prox.L1Reg(transform.oshape, threshold), transform)

    def shrink(img: Tensor) -> Tensor:
        shrunk = [torch.from_numpy(prox(1, one.numpy(force=True))) for one in img]
        return torch.stack(shrunk).to(img)

    return shrink


def _check_options(method: str, lam: float, n_iter: int) -> None:
    if not 0 <= lam < float("inf"):
        raise ConfigError(f"{method}: lambda must be 0 or more and finite, got {lam}")
    if n_iter < 1:
        raise ConfigError(f"{method}: iterations must be at least 1, got {n_iter}")


BASELINES: dict[str, type[Baseline]] = {
    method.name: method for method in (ZeroFilled, CgSense, L1Wavelet)
}
