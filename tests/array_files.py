"""K-space of a head phantom, and files of other software that hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.io import open_scan
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

SHAPE = (5, 4, 56, 48)
"""Slices, coils, rows, columns."""


def phantom_ksp(shape: tuple[int, int, int, int] = SHAPE) -> NDArray[np.complex64]:
    """Noisy k-space ``(slice, coil, y, x)`` of different slices, coils around the head."""
    n_slices, n_coils, ny, nx = shape
    rng = rng_for(0, "arrays")
    img = head_phantom((ny, nx), rng, n_slices).reshape(n_slices, 1, ny, nx)
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    angle = 2 * torch.pi * torch.arange(n_coils)[:, None, None] / n_coils + 0.3
    far = (y - 1.2 * angle.sin()).square() + (x - 1.2 * angle.cos()).square()
    maps = torch.polar(torch.exp(-far), angle + y - 0.5 * x * angle)
    ksp = fft2c((img * maps).to(torch.complex64))
    return (ksp + 0.01 * complex_normal(tuple(ksp.shape), rng)).numpy()


def write_cfl(path: Path, dims: NDArray[np.complex64]) -> Path:
    """``dims`` with BART's dimensions first to last."""
    sizes = [*dims.shape, *[1] * (16 - dims.ndim)]
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, sizes))} \n# Command\n")
    dims.astype("<c8").ravel(order="F").tofile(path)
    return path


def write_mat73(path: Path, **variables: NDArray[Any]) -> Path:
    """As MATLAB does: axes reversed, complex numbers as {real, imag}, a header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            stored = np.ascontiguousarray(value.T)
            if np.iscomplexobj(stored):
                part = stored.real.dtype
                stored = stored.view([("real", part), ("imag", part)])
            file.create_dataset(name, data=stored, compression="gzip")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as raw:
        raw.write(header)
    return path


def assert_holds(path: Path, ksp: NDArray[np.complex64], **given: str) -> None:
    """A file has this k-space, ``(slice, coil, y, x)``."""
    file = open_scan(path, **given)
    assert file.shape == ksp.shape
    for index, wanted in enumerate(ksp):
        np.testing.assert_allclose(file.read_ksp(index), wanted, rtol=1e-6)
