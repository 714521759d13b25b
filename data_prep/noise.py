r"""How noisy the coils are: the covariance :math:`\Psi = E[n n^H] / 2` of a volume.

Half of the complex covariance, so that whitening with it leaves a standard deviation of 1 per
*real channel*. It is given by the user, measured from noise-only samples in the file, or estimated
from the scan (:mod:`~mri_ambient.data_prep.noise_estimator`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrepError

PIECE_BYTES = 2**20
"""Size of the pieces that are converted to double precision."""


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of the measured coils, in the units of the file.

    Attributes:
        cov: E[n n^H] / 2, complex128 ``(coil, coil)``.
        source: "given", "noise-scan", or a source of
            :mod:`~mri_ambient.data_prep.noise_estimator`.
        n_samples: complex samples per coil it rests on; 0 if it was given.
    """

    cov: Tensor
    source: str
    n_samples: int

    @property
    def std(self) -> float:
        """Root mean square over coils of the standard deviation per real channel."""
        return float(self.cov.diagonal().real.mean().sqrt())


def noise_covariance(sums: Tensor, n_samples: float) -> Tensor:
    """E[n n^H] / 2 from ``sums`` = sum of n n^H, shrunk to its diagonal where samples are few.

    The weight C / (C + n) of the diagonal target keeps the matrix well conditioned for any number
    of samples (compare Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4) and vanishes for
    many. A coil that received nothing gets 1e-6 of the mean power, so that whitening exists.
    """
    cov = sums / (2 * n_samples)
    cov = (cov + cov.mH) / 2
    power = cov.diagonal().real
    target = torch.diag(power.clamp_min(1e-6 * float(power.mean())).to(cov.dtype))
    weight = cov.shape[0] / (cov.shape[0] + n_samples)
    return (1 - weight) * cov + weight * target


def outer_products(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Sum of a b^H over samples ``(..., coil, sample)``, ``(..., coil, coil)``; b is a by default.

    In double precision, in which no product of finite single-precision numbers overflows; in pieces
    of :data:`PIECE_BYTES`.
    """
    b = a if b is None else b
    size = max(1, PIECE_BYTES // (16 * max(1, a.shape[:-1].numel())))
    sums = a.new_zeros((*a.shape[:-1], b.shape[-2]), dtype=torch.complex128)
    for x, y in zip(torch.split(a, size, dim=-1), torch.split(b, size, dim=-1), strict=True):
        sums += x.to(torch.complex128) @ y.to(torch.complex128).mH
    return sums


def from_noise_scan(noise: Tensor) -> NoiseEstimate:
    """Noise from noise-only samples, complex ``(coil, sample)``.

    Raises:
        PrepError: all of them are zero.
    """
    if not bool(noise.any()):
        raise PrepError(
            "the noise scan holds only zeros, wanted samples received without a signal; give "
            "noise_std (--noise-std), the noise per real channel, or leave the noise scan out of "
            "the file"
        )
    n_samples = noise.shape[-1]
    cov = noise_covariance(outer_products(noise), n_samples)
    return NoiseEstimate(cov, "noise-scan", n_samples)


def from_user(noise_std: float, n_coils: int) -> NoiseEstimate:
    """Equally noisy, uncorrelated coils of standard deviation ``noise_std`` per real channel."""
    return NoiseEstimate(noise_std**2 * torch.eye(n_coils, dtype=torch.complex128), "given", 0)
