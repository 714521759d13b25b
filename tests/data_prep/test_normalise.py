"""The scale of a volume, and the percentile it streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory_scan import MemoryScan

from mri_ambient.data_prep.normalise import RunningPercentile, calibration_image, normalise
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for


@given(
    chunks=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    seed=st.integers(0, 10**6),
)
def test_a_streamed_percentile_is_that_of_all_values(chunks, seed):
    parts = [torch.rand(n, generator=rng_for(seed, i)) for i, n in enumerate(chunks)]
    running = RunningPercentile(sum(chunks))
    for part in parts:
        running.add(part)
    want = np.percentile(torch.cat(parts).numpy(), 99)
    assert running.value() == pytest.approx(want, rel=1e-5)


def test_a_percentile_holds_the_top_values_only():
    running = RunningPercentile(10_000)
    for start in range(0, 10_000, 100):
        running.add(torch.arange(start, start + 100).float())
    assert running.top.numel() == 101


def test_the_calibration_image_has_the_brightness_of_the_image():
    # An object that 24 lines resolve: padded to the matrix, they show it as bright as it is;
    # a small transform of the block alone would be 64 / 24 times off.
    y, x = torch.meshgrid(torch.arange(64) - 32, torch.arange(64) - 32, indexing="ij")
    img = torch.exp(-(y.square() + x.square()) / (2 * 8.0**2))
    calib = center_crop(fft2c(img.to(torch.complex64))[None], (24, 24))
    low = calibration_image(calib, (64, 64))
    torch.testing.assert_close(low, img, rtol=0, atol=1e-3)


def test_the_calibration_image_is_a_root_sum_of_squares():
    calib = complex_normal((3, 8, 8), rng_for(0))
    both = torch.cat([calib, calib])
    torch.testing.assert_close(
        calibration_image(both, (16, 12)), 2**0.5 * calibration_image(calib, (16, 12))
    )


def test_scales_multiply():
    scan = MemoryScan(complex_normal((1, 2, 4, 4), rng_for(0)))[0].with_step("x", noise_std=1.0)
    twice = normalise(normalise(scan, 5.0), 2.0)
    assert twice.scale == 10.0
    assert twice.noise_std == pytest.approx(0.1)
    torch.testing.assert_close(twice.ksp * twice.scale, scan.ksp)
