"""Reconstructions without a learned prior, which every sampler is compared with.

Data are normalised: images are of about unit size.

By default a regularisation weight is a fixed multiple of the scan's noise, chosen once on simulated
validation scans (``tests/benchmarks/tune_baselines.py``): for noise from 0.01 to 0.07 the best
weight is about proportional to it, and the best single weight for all scans gives 0.6 dB (CG-SENSE)
and 0.9 dB (L1-wavelet) less on average. Numbers of iterations come from the same script.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ConfigError
from ..physics.map_sets import items_as_sets, sets_as_items
from ..physics.operators import SenseOp
from ..physics.solve import conjugate_gradient
from ..physics.wavelets import ORTHOGONAL_WAVELETS, shrink_wavelets
from ..priors.prior import DenoiserSource
from ..rng import Streams
from ..runtime.config import check_number
from ..scan import Batch
from .base import BASELINE_NOISE, Method, OnStep


class Baseline(Method):
    """A method that needs no prior and no random numbers."""

    needs_prior = False

    @abstractmethod
    def solve(self, op: SenseOp, ksp: Tensor, noise_std: Tensor) -> Tensor:
        """The image.

        Args:
            op: how an image becomes this k-space; maps ``(b, coil, y, x)``.
            ksp: measured k-space ``(b, coil, y, x)``, zero where it was not sampled.
            noise_std: sigma_n per real channel, ``(b,)``.
        """

    @override
    def __call__(
        self,
        prior: DenoiserSource | None,
        batch: Batch,
        rng: Streams,
        on_step: OnStep | None = None,
    ) -> Tensor:
        return self.solve(batch.op, batch.measured, batch.noise_std)


@dataclass(frozen=True)
class ZeroFilled(Baseline):
    """``A^H y``: positions that were not sampled count as zero."""

    name: ClassVar[str] = "zero-filled"

    @override
    def solve(self, op: SenseOp, ksp: Tensor, noise_std: Tensor) -> Tensor:
        return op.adjoint(ksp)


@dataclass(frozen=True)
class CgSense(Baseline):
    """``argmin_x ||A x - y||^2 + lam ||x||^2`` by conjugate gradients.

    References:
        Pruessmann et al. 2001, doi:10.1002/mrm.1241.

    Attributes:
        lam: weight of the image's energy, normalised units; by default ``sigma_n``.
        n_iter: iterations, each one forward and one adjoint; 30 end within 0.3 % of the limit.
    """

    name: ClassVar[str] = "cg-sense"
    lam_per_noise: ClassVar[float] = 1.0

    lam: float | None = None
    n_iter: int = 30

    def __post_init__(self) -> None:
        _check_options(self.name, self.lam, self.n_iter)

    @override
    def solve(self, op: SenseOp, ksp: Tensor, noise_std: Tensor) -> Tensor:
        lam = _weights(self.lam, self.lam_per_noise, noise_std)[:, None, None]
        # A^H y lies in the support and A^H A stays there, so every iterate does.
        return conjugate_gradient(
            lambda x: op.normal(x) + lam * x, op.adjoint(ksp), n_iter=self.n_iter
        )


@dataclass(frozen=True)
class L1Wavelet(Baseline):
    """``argmin_x 1/2 ||A x - y||^2 + lam ||W x||_1`` by accelerated proximal gradients (FISTA).

    W is sigpy's zero-extended orthogonal wavelet transform, all levels shrunk alike, so the result
    is that of ``sigpy.mri.app.L1WaveletRecon`` with step length 1.

    References:
        Lustig et al. 2007, doi:10.1002/mrm.21391; Beck and Teboulle 2009, doi:10.1137/080716542.

    Attributes:
        lam: weight of the wavelet coefficients, normalised units; by default ``0.3 sigma_n``.
        n_iter: iterations, each one forward, one adjoint and one shrinkage; 200 end within 1.5 %
            (0.02 dB) of the limit, 100 within 5 % (0.1 dB).
        wavelet: one of :data:`ORTHOGONAL_WAVELETS`.
    """

    name: ClassVar[str] = "l1-wavelet"
    lam_per_noise: ClassVar[float] = 0.3

    lam: float | None = None
    n_iter: int = 200
    wavelet: str = "db4"

    def __post_init__(self) -> None:
        _check_options(self.name, self.lam, self.n_iter)
        if self.wavelet not in ORTHOGONAL_WAVELETS:
            raise ConfigError(
                f"{self.name}: wavelet {self.wavelet!r} is unknown or not orthogonal; "
                f"choose from {list(ORTHOGONAL_WAVELETS)}"
            )

    @override
    def solve(self, op: SenseOp, ksp: Tensor, noise_std: Tensor) -> Tensor:
        lam = _weights(self.lam, self.lam_per_noise, noise_std).repeat_interleave(op.n_sets)
        b = op.adjoint(ksp)
        x = z = torch.zeros_like(b)
        t = 1.0
        for _ in range(self.n_iter):
            x_last, t_last = x, t
            step = sets_as_items(z - (op.normal(z) - b), op.n_sets)
            x = items_as_sets(shrink_wavelets(step, lam, self.wavelet), op.n_sets)
            t = (1 + (1 + 4 * t * t) ** 0.5) / 2
            z = x + ((t_last - 1) / t) * (x - x_last)
        return x * op.support


def _weights(lam: float | None, lam_per_noise: float, noise_std: Tensor) -> Tensor:
    """The regularisation weight of every batch item, ``(b,)``."""
    if lam is None:
        return lam_per_noise * noise_std.clamp(min=BASELINE_NOISE)
    return torch.full_like(noise_std, lam)


def _check_options(method: str, lam: float | None, n_iter: int) -> None:
    if lam is not None:
        check_number(f"{method}: lambda", lam, 0)
    check_number(f"{method}: iterations", n_iter, 1, whole=True)
