"""Small files in the layouts the readers take, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from mri_ambient.io import build_header
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.rng import complex_normal, rng_for

WriteScan = Callable[..., Path]

KNEE = (2, 3, 64, 46)
"""A fastMRI knee, ten times smaller: slices, coils, oversampled rows, columns."""
KNEE_PADDING = (3, 43)


@pytest.fixture
def knee_ksp(rng: Generator) -> Tensor:
    """K-space of a knee, complex ``(slice, coil, y, x)``, zero in columns never acquired."""
    ksp = complex_normal(KNEE, rng)
    ksp[..., : KNEE_PADDING[0]] = 0
    ksp[..., KNEE_PADDING[1] :] = 0
    return ksp


@pytest.fixture
def knee_header() -> str:
    return build_header(
        encoded_shape=KNEE[-2:],
        recon_shape=(32, 32),
        encoded_fov_mm=(280.0, 201.25),
        recon_fov_mm=(140.0, 140.0),
        slice_mm=4.5,
        n_slices=KNEE[0],
        n_coils=KNEE[1],
        padding=KNEE_PADDING,
    )


@pytest.fixture
def write_scan(tmp_path: Path) -> WriteScan:
    """A function that writes datasets and attributes as they are, and gives the path."""

    def write(name: str = "scan.h5", attrs: dict[str, Any] | None = None, **datasets: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for key, value in datasets.items():
                if value is not None:
                    file[key] = value.numpy() if isinstance(value, Tensor) else value
            file.attrs.update(attrs or {})
        return path

    return write


@pytest.fixture
def knee(write_scan: WriteScan, knee_ksp: Tensor, knee_header: str) -> Path:
    """A fully sampled fastMRI training file."""
    rss = ifft2c(knee_ksp).abs().square().sum(dim=1).sqrt()
    target = center_crop(rss, (32, 32))
    return write_scan(
        "file1000001.h5",
        kspace=knee_ksp,
        ismrmrd_header=knee_header,
        reconstruction_rss=target,
        attrs={
            "acquisition": "CORPD_FBK",
            "max": float(target.max()),
            "norm": float(np.linalg.norm(target)),
            "patient_id": "ab" * 32,
        },
    )


@pytest.fixture
def knee_lines() -> Tensor:
    """The mask of a fastMRI test file: every third column and eight in the middle, bool ``(x,)``.

    Like fastMRI's own masks it does not stop where acquisition does.
    """
    lines = torch.arange(KNEE[-1]) % 3 == 0
    lines[19:27] = True
    return lines


@pytest.fixture
def knee_test(
    write_scan: WriteScan, knee_ksp: Tensor, knee_header: str, knee_lines: Tensor
) -> Path:
    """An undersampled fastMRI test file."""
    return write_scan(
        "file1000002.h5",
        kspace=knee_ksp * knee_lines,
        ismrmrd_header=knee_header,
        mask=knee_lines,
        attrs={"acquisition": "CORPD_FBK", "acceleration": 4, "num_low_frequency": 8},
    )


@pytest.fixture
def small_ksp() -> Tensor:
    """K-space without any zero, complex ``(2, 3, 12, 10)``."""
    return complex_normal((2, 3, 12, 10), rng_for(0, "small"))
