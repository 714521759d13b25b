"""Scans whose k = 0, field of view or zeros are not where everything else takes them to be.

A head of ellipses with coils around it is measured; what is corrected must give the images of the
scan that was stored right, and a scan that is right must be left alone.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from codes import warns
from torch import Tensor

from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.io import FastmriFile, ScanFile, build_header, open_scan
from mri_ambient.physics.fourier import fft2c, half_field_phase, ifft2c
from mri_ambient.physics.masks import MaskSpec, calibration_block
from mri_ambient.rng import complex_normal, rng_for

SHAPE = (2, 4, 96, 80)
NOISE = 0.01


def head(centre: tuple[float, float] = (0, 0), size: float = 1.0) -> Tensor:
    """A skull, a brain and two ventricles, real ``(y, x)``; the field of view is from -1 to 1."""
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, SHAPE[2]) - centre[0],
        torch.linspace(-1, 1, SHAPE[3]) - centre[1],
        indexing="ij",
    )

    def ellipse(a: float, b: float, cy: float = 0, cx: float = 0) -> Tensor:
        return (((y / size - cy) / a) ** 2 + ((x / size - cx) / b) ** 2 < 1).float()

    ventricles = ellipse(0.25, 0.08, -0.05, -0.14) + ellipse(0.25, 0.08, -0.05, 0.14)
    return ellipse(0.85, 0.78) - 0.5 * ellipse(0.75, 0.68) + 0.35 * ellipse(0.7, 0.6) - 0.3 * ventricles


def measured(
    img: Tensor | None = None, phase: Tensor | float = 0.0, n_coils: int = 4, noise: float = NOISE
) -> Tensor:
    """Noisy k-space ``(slice, coil, y, x)`` of an image in coils around it."""
    img = head() if img is None else img
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE[2:]), indexing="ij")
    angle = (2 * torch.pi * torch.arange(n_coils) / n_coils)[:, None, None]
    far = (y - 1.2 * angle.sin()) ** 2 + (x - 1.2 * angle.cos()) ** 2
    coils = torch.polar(torch.exp(-0.8 * far), angle + angle.cos() * x)
    slices = torch.stack([img, 0.9 * img])[:, None]
    ksp = fft2c(torch.polar(slices, torch.as_tensor(phase) + 0.6 * y + 0.9 * x**2) * coils)
    return ksp + noise * complex_normal(tuple(ksp.shape), rng_for(0, "centre"))


LINES = MaskSpec("random", acceleration=3, calib=16).draw(SHAPE[2:], rng_for(0, "lines"))


@pytest.fixture
def write(tmp_path: Path):
    """A function that stores k-space, in fastMRI layout, and gives the path."""

    def stored(ksp: Tensor, **datasets: object) -> Path:
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = ksp.numpy()
            for name, value in datasets.items():
                file[name] = value
        return path

    return stored


def magnitude(file: ScanFile) -> Tensor:
    return ifft2c(file[:].ksp).abs()


def difference(file: ScanFile, right: Tensor) -> float:
    """Of the coil images of a file from those of k-space, relative."""
    want = ifft2c(right).abs()
    return float((magnitude(file) - want).norm() / want.norm())


SLOPES = [torch.linspace(-1, 1, n) for n in SHAPE[2:]]
RIGHT = {
    "control": measured() * LINES,
    "fully sampled": measured(),
    "a sample off": measured().roll((1, -1), dims=(-2, -1)),
    "noise": complex_normal(SHAPE, rng_for(0, "noise")),
    "low SNR": measured(noise=0.5) * LINES,
    "one coil": measured(n_coils=1) * LINES,
    "strong phase": measured(phase=8 * SLOPES[0][:, None] ** 2 + 6 * SLOPES[1] ** 3) * LINES,
    "phase ramp": measured(phase=4 * SLOPES[0][:, None]) * LINES,
    "banding": measured(phase=torch.pi * (torch.sin(7 * SLOPES[1]) > 0)) * LINES,
    "off-centre by a quarter": measured(head((0.5, 0), 0.5)) * LINES,
    "off-centre by more": measured(head((0.6, -0.6), 0.35)) * LINES,
    "at the border": measured(head((0, 0.75), 0.6)) * LINES,
    "two legs": measured(head((0, 0.55), 0.5) + head((0, -0.55), 0.5)) * LINES,
    "small": measured(head(size=0.2)),
    "larger than the field of view": measured(head(size=1.3)) * LINES,
    "partial Fourier 5/8": measured() * (torch.arange(80) >= 30),
    "partial echo 5/8": measured() * (torch.arange(96) >= 36)[:, None],
    "Poisson": measured() * MaskSpec("poisson", 5, 16).draw(SHAPE[2:], rng_for(0, "disc")),
    "Gaussian": measured() * MaskSpec("gaussian", 4, 12).draw(SHAPE[2:], rng_for(0, "lines")),
    "no noise": measured(noise=0),
    "a spike": measured().index_put(
        (torch.arange(2), torch.tensor([1]), torch.tensor([20]), torch.tensor([70])),
        torch.tensor([300 + 200j]),
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_scan_that_is_right_is_left_as_it_is(write, case):
    with warns("W-NO-HEADER"):
        file = open_scan(write(RIGHT[case]))
    assert isinstance(file, FastmriFile)
    assert torch.equal(file[:].ksp, RIGHT[case])


@pytest.mark.parametrize("dy", [-48, -17, -3, -2, 5, 8, 30])
@pytest.mark.parametrize("dx", [-40, -9, 3, 0])
def test_k_space_that_was_shifted_is_moved_back(write, dy, dx):
    right = RIGHT["control"]
    path = write(right.roll((dy, dx), dims=(-2, -1)))
    with warns("W-CENTRE", "W-NO-HEADER"):
        file = open_scan(path)
    assert torch.equal(file[:].ksp, right)
    assert torch.equal(file.mask, LINES)
    assert file.steps == ("read", f"centre {-dy:+d},{-dx:+d}")
    assert calibration_block(file.mask) == (24, 16)
