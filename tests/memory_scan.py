"""Scans in memory: the interface of a file over tensors, and simulated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri_ambient.data_prep.simulation.images import Anatomy
from mri_ambient.data_prep.simulation.phantom import head_phantom, pixel_mm
from mri_ambient.data_prep.simulation.scan_model import ScanModel, SimulateConfig
from mri_ambient.io import Sampling, ScanFile
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.units import rss_weight
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Scan


class MemoryScan(ScanFile):
    """A raw scan whose k-space ``(slice, coil, y, x)`` is a tensor."""

    format = "memory"
    readout_oversampling = 1.0

    def __init__(
        self,
        ksp: Tensor,
        mask: Tensor | NDArray[np.bool_] | None = None,
        *,
        scan_id: str = "scan",
        oversampling: float = 1.0,
        acquired: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> None:
        ny, nx = ksp.shape[-2:]
        self.ksp, self.scan_id, self.path = ksp, scan_id, Path(f"{scan_id}.h5")
        self.shape, self.recon_shape = tuple(ksp.shape), (round(ny / oversampling), nx)
        self.readout_oversampling = oversampling
        self.noise = None if noise is None else noise.numpy()
        self.attributes, self.identifiers = {}, {}
        acquired = torch.ones(nx, dtype=torch.bool) if acquired is None else acquired
        whole = acquired.expand(1, ny, nx).clone()
        sampled = whole if mask is None else torch.as_tensor(mask) & whole
        self.sampling = Sampling(sampled.numpy(), acquired.numpy())

    def read_ksp(self, index: int) -> NDArray[np.complex64]:
        return self.ksp[index].clone().numpy()


def simulated_scan(
    name: str, config: SimulateConfig, *, scan_id: str | None = None
) -> tuple[MemoryScan, Tensor]:
    """A simulated head, and the true noise covariance E[n n^H] / 2 of its coils."""
    img = head_phantom(config.size, rng_for(config.seed, name), config.slices)
    anatomy = Anatomy(img / img.amax(), name, pixel_mm(config.size))
    model = ScanModel(anatomy, config, name)
    ksp = torch.stack([model.measure(index) for index in range(config.slices)])
    scan = MemoryScan(
        ksp, model.mask, scan_id=scan_id or name, oversampling=config.readout_oversampling
    )
    return scan, (config.units**2 * model.cov).to(torch.complex128)


def head(name: str = "a", **options: object) -> MemoryScan:
    """A simulated head of 64x64 with 8 unequal and correlated coils; other ``options`` win."""
    config = {"size": (64, 64), "coils": 8, "calib": 16, **options}
    return simulated_scan(name, SimulateConfig(**config), scan_id="scan")[0]


def noise_only(n_coils: int, shape: tuple[int, int], cov: Tensor, seed: int = 0) -> Tensor:
    """K-space of noise with covariance ``cov``, complex64 ``(coil, y, x)``."""
    white = complex_normal((n_coils, shape[0] * shape[1]), rng_for(seed, "noise only", *shape))
    chol = torch.linalg.cholesky(cov).to(torch.complex64)
    return (chol @ white).view(n_coils, *shape)


def random_cov(n_coils: int, seed: int = 0, std: float = 1.0) -> Tensor:
    """A noise covariance with unequal and correlated coils, complex128 ``(coil, coil)``."""
    rng = rng_for(seed, "covariance", n_coils)
    gain = torch.exp(0.5 * torch.randn(n_coils, generator=rng)).to(torch.complex128)
    mixed = complex_normal((n_coils, 4 * n_coils), rng, dtype=torch.complex128)
    correlated = mixed @ mixed.mH / mixed.shape[1]
    return std**2 * gain[:, None] * correlated * gain


def exported(scan: Scan) -> Tensor:
    """The adjoint of a prepared scan in the units of its source, ``(slice, y, x)``."""
    img = SenseOp(scan.maps, scan.mask).adjoint(scan.ksp)
    return img.abs() * scan.scale * rss_weight(scan.maps, scan.coil_transform)


def smooth_heads() -> Tensor:
    """Whitened k-space ``(slice, coil, y, x)`` of two heads within eight smooth coils."""
    rng = rng_for(0, "smooth coils")
    img = head_phantom((96, 80), rng, 2)[:, None]
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 80), indexing="ij")
    angle = 2 * torch.pi * torch.arange(8)[:, None, None] / 8
    far = (y - 1.15 * angle.sin()).square() + (x - 1.15 * angle.cos()).square()
    maps = torch.polar(torch.exp(-0.7 * far), angle + 0.5 * (y * angle.sin() - x * angle.cos()))
    return fft2c((img * maps).to(torch.complex64)) / 0.003 + complex_normal((2, 8, 96, 80), rng)


def whitened_head(coils: int, noise: float) -> Tensor:
    """Whitened k-space ``(coil, 96, 80)`` of a head within loops, fully sampled."""
    config = SimulateConfig(
        size=(96, 80), coils=coils, full=True, noise=noise, correlated_noise=False
    )
    scan, cov = simulated_scan(f"head {coils}", config)
    return scan.ksp[0] / cov.diagonal().real.sqrt().float().view(-1, 1, 1)


def every(rate: int, first: int) -> NDArray[np.bool_]:
    """Every so manyth of 80 columns, and the 20 in the middle, bool ``(x,)``."""
    measured = np.zeros(80, bool)
    measured[first::rate] = measured[30:50] = True
    return measured
