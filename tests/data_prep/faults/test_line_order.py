"""Lines in the order of their acquisition are found, and nothing is said of lines in place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from memory_scan import MemoryScan, simulated_scan
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.line_energies import sample_energies
from mri_ambient.data_prep.faults.line_order import middles
from mri_ambient.errors import WRONG_SAMPLES, collected
from mri_ambient.io import open_scan
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

SIZE = (96, 80)


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    """Of a head, fully sampled, ``(coil, y, x)``."""
    config = SimulateConfig(size=SIZE, coils=6, full=True, noise=0.005)
    return simulated_scan("head in place", config)[0].ksp[0]


def interleaved(ksp: Tensor, m: int) -> Tensor:
    """Columns 0, m, 2 m, ..., 1, m + 1, ..., as they were acquired."""
    return ksp[..., np.concatenate([np.arange(first, ksp.shape[-1], m) for first in range(m)])]


def found(ksp: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The middles along x and y."""
    mask = torch.ones(ksp.shape[1:], dtype=torch.bool)
    power = sample_energies(ksp)
    return middles(ksp, power, mask), middles(ksp.mT, power.mT, mask.mT)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_interleaves_are_found(ksp, m):
    places, rows = found(interleaved(ksp, m))
    assert np.abs(np.diff(places) - 80 / m).max() <= 2 and len(places) == m
    assert rows == ()
    assert found(interleaved(ksp, m).mT) == ((), places)
    assert found(ksp) == ((), ())


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_the_preparation_warns_of_the_order_alone(ksp, axis):
    wrong = interleaved(ksp, 2) if axis == "columns" else interleaved(ksp.mT, 2).mT
    with collected():
        warnings = plan_preparation(MemoryScan(wrong[None])).warnings
    (text,) = (one.text for one in warnings if one.code == "W-LINES")
    assert "occurs 2 times" in text and f"at {axis} [" in text


@pytest.mark.parametrize("coils", [1, 6])
@pytest.mark.parametrize("noise", [0, 0.02])
def test_objects_with_several_peaks_are_in_place(coils, noise):
    """Gratings, tags of a cosine with and without its mean, and two objects of one or two signs."""
    y, x = torch.meshgrid(torch.arange(96) - 48, torch.arange(80) - 40, indexing="ij")
    angle = 2 * math.pi * torch.arange(coils)[:, None, None] / coils
    far = (x - 40 * angle.cos()).square() + (y - 48 * angle.sin()).square()
    maps = torch.polar(torch.exp(-far / 2500.0), angle.expand(far.shape))
    body = ((x / 34.0).square() + (y / 40.0).square() < 1) * (1 + 0.5 * (x / 7).cos())
    tubes = [1.0 * ((x - at).square() + y.square() < 64) for at in (-20, 20)]
    objects = [body * (torch.arange(80) % period < period / 2) for period in range(2, 10)]
    objects += [
        body * (mean + torch.cos(2 * math.pi * x / period + 0.3))
        for period in (2.67, 3, 4, 4.05, 5, 8)
        for mean in (0, 0.1, 1)
    ]
    objects += [tubes[0] + tubes[1], tubes[0] - tubes[1], 0 * body]
    for k, img in enumerate(objects):
        own = fft2c((img * maps).to(torch.complex64))
        assert found(own + noise * complex_normal((coils, *SIZE), rng_for(k))) == ((), ())


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_real_scan_is_found_once_its_lines_are_interleaved(real_scans):
    for name in ("espirit_brain8", "alias_brain8"):
        own = open_scan(real_scans / f"{name}.h5")[0].ksp[0]
        assert found(own) == ((), ())
        for m in (2, 4):
            assert len(found(interleaved(own, m))[0]) == m
            warnings = plan_preparation(MemoryScan(interleaved(own, m)[None])).warnings
            assert "W-LINES" in WRONG_SAMPLES & {one.code for one in warnings}
