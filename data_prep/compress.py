"""Coil compression: fewer virtual coils, by the SVD of the whitened volume.

Buehrer et al. 2007 (doi:10.1002/mrm.21237), Zhang et al. 2013 (doi:10.1002/mrm.23267). The
eigenvectors of the coil covariance are those of the SVD. Covariances of slices add up, so the
volume never has to be in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrepError
from ..scan import Scan
from .whiten import mix_coils


@dataclass(frozen=True)
class Compression:
    """How whitened coils become virtual coils.

    Attributes:
        rotation: unitary ``(coil, coil)``; row ``i`` makes virtual coil ``i``, strongest first.
        n_coils: how many virtual coils are kept.
        kept_energy: their share of the signal energy (noise subtracted), 0 to 1.
    """

    rotation: Tensor
    n_coils: int
    kept_energy: float


def plan_compression(
    cov: Tensor, n_samples: int, *, n_coils: int | None = None, energy: float | None = None
) -> Compression:
    """Choose virtual coils from the whitened coils' covariance.

    Args:
        cov: sum of k k^H over ``n_samples`` samples, whitened, ``(coil, coil)``.
        n_samples: number of samples; their noise (energy 2 each) is subtracted.
        n_coils: keep at most this many; all by default.
        energy: keep as few as hold this share of the signal energy, 0 to 1.

    Raises:
        PrepError: the covariance is not finite, or zero.
    """
    power = float(cov.diagonal().real.sum())
    if not 0 < power < math.inf or not bool(cov.isfinite().all()):
        raise PrepError(
            f"the whitened coils hold an energy of {power:.3g}, wanted a positive, finite one; "
            "the k-space is damaged, export the scan again"
        )
    values, vectors = torch.linalg.eigh(cov)
    values, vectors = values.flip(0), vectors.flip(1)
    signal = (values - 2.0 * n_samples).clamp_min(0)
    if float(signal.sum()) == 0:  # noise only
        signal = values
    share = signal.cumsum(0) / signal.sum()
    wanted = values.numel() if n_coils is None else min(n_coils, values.numel())
    if energy is not None:
        wanted = min(wanted, int((share < energy).sum()) + 1)
    # Eigenvectors have any phase; here the largest entry of each is real and positive.
    largest = vectors[vectors.abs().argmax(dim=0), torch.arange(vectors.shape[1])]
    vectors = vectors * (largest.conj() / largest.abs())
    return Compression(vectors.mH, wanted, float(share[wanted - 1]))


def compress_coils(scan: Scan, compression: Compression) -> Scan:
    """Turn whitened coils into virtual coils and keep the strongest.

    ``coil_transform`` keeps all rows, so that the units of the file can be restored
    (:mod:`mri_ambient.physics.units`).
    """
    rotation = compression.rotation
    before = scan.coil_transform
    if before is None:
        before = torch.eye(scan.n_coils, dtype=rotation.dtype)
    return scan.mapped(
        "compress",
        lambda ksp: mix_coils(ksp, rotation[: compression.n_coils]),
        coil_transform=rotation @ before.to(rotation.dtype),
    )
