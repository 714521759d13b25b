"""Making coil noise white: decorrelated, with standard deviation 1 per real channel."""

import torch
from torch import Tensor

from ..errors import PrepError
from ..scan import Scan
from .noise import NoiseEstimate


def whitening_matrix(cov: Tensor) -> Tensor:
    """``L^{-1}``, complex128, of a noise covariance E[n n^H] / 2 = ``L L^H``, ``(coil, coil)``.

    Raises:
        PrepError: it is not positive definite, or the inverse exceeds single precision.
    """
    chol, failed = torch.linalg.cholesky_ex(cov.to(torch.complex128))
    eye = torch.eye(cov.shape[-1], dtype=torch.complex128, device=cov.device)
    inverse: Tensor = torch.linalg.solve_triangular(chol, eye, upper=False)
    if failed or not bool(inverse.to(torch.complex64).isfinite().all()):
        power = cov.diagonal().real
        raise PrepError(
            f"the noise of the coils, of variance {power.min():.3g} to {power.max():.3g}, has no "
            "positive definite covariance and cannot be made white; give noise_std (--noise-std), "
            "the noise per real channel, or export the scan again"
        )
    return inverse


def mix_coils(ksp: Tensor, matrix: Tensor) -> Tensor:
    """Apply ``matrix`` ``(virtual coil, coil)`` to the coils of ``ksp`` ``(..., coil, y, x)``."""
    mixed = matrix.to(ksp.device, ksp.dtype) @ ksp.flatten(-2)
    return mixed.reshape(*mixed.shape[:-1], *ksp.shape[-2:])


def whiten(scan: Scan, noise: NoiseEstimate) -> Scan:
    """Whiten the coils: the noise of every real channel becomes 1."""
    matrix = whitening_matrix(noise.cov)
    return scan.mapped(
        "whiten",
        lambda ksp: mix_coils(ksp, matrix),
        coil_transform=matrix,
        noise=None,
        noise_std=1.0,
        noise_source=noise.source,
    )
