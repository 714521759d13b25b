"""Calibration lines of another gain or phase than those outside of their block are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import MemoryScan, every, smooth_heads, whitened_head
from torch import Tensor

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.faults.line_misfit import LEAST_MISFIT, line_misfit
from mri_ambient.data_prep.faults.line_steps import line_steps, step_warnings
from mri_ambient.rng import complex_normal, rng_for

CENTRE = 40
"""The column of k = 0."""


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    return smooth_heads()[0]


def steps(ksp: Tensor, measured: np.ndarray) -> list[str]:
    found = line_steps(ksp[:, 24:72] * torch.from_numpy(measured), measured, 20)
    return [str(warning) for warning in step_warnings("scan", [found], 80)]


@pytest.mark.parametrize(("rate", "first"), [(2, 0), (3, 2), (4, 2), (6, 5)])
@pytest.mark.parametrize(("gain", "phase"), [(3.0, 0.0), (0.5, 0.0), (1.0, 1.0)])
def test_calibration_lines_of_another_gain_or_phase_are_found(ksp, rate, first, gain, phase):
    measured, other = every(rate, first), ksp.clone()
    assert steps(ksp, measured) == []
    factor = torch.polar(torch.tensor(gain), torch.tensor(phase))
    other[..., CENTRE - 10 : CENTRE + 10] *= factor
    assert line_misfit(other[:, 36:60, CENTRE - 10 : CENTRE + 10]) < LEAST_MISFIT / 2
    (text,) = steps(other, measured)
    assert "W-LINES" in text and (f"{-phase:+.1f} rad" in text) == (phase != 0)


def test_lines_on_both_sides_of_another_gain_are_told_together(ksp):
    other = ksp.clone()
    other[..., CENTRE - 10 : CENTRE + 10] *= 2
    (text,) = steps(other, every(1, 0))
    assert "those outside of columns 30 to 49 have 0.49 times the amplitude" in text
    (text,) = steps(torch.where(torch.arange(80) < 51, ksp, 2 * ksp), every(1, 0))
    assert "column 51 has 2 times the amplitude" in text
    assert steps(torch.where(torch.arange(80) < 60, ksp, 2 * ksp), every(1, 0)) == []  # too far out


@pytest.mark.parametrize(
    ("std", "rate", "filtered"), [(8, 2, False), (12, 1, False), (20, 1, True)]
)
def test_noise_that_is_larger_than_was_thought_is_no_step(ksp, std, rate, filtered):
    x = torch.arange(80) - CENTRE
    window = 0.54 + 0.46 * torch.cos(math.pi * x / 40) if filtered else torch.ones(80)
    noise = std * complex_normal(ksp.shape, rng_for(3, "noise"))
    assert steps((ksp + noise) * window, every(rate, 0)) == []


def test_steps_of_few_slices_are_not_believed(ksp):
    other = ksp.clone()
    other[..., CENTRE - 10 : CENTRE + 10] *= 3
    wrong, right = (line_steps(x[:, 24:72], every(1, 0), 20) for x in (other, ksp))
    assert step_warnings("scan", [wrong, wrong, right], 80)
    assert step_warnings("scan", [wrong, right, right], 80) == []


@pytest.mark.parametrize("noise", [0.0005, 0.02])
def test_no_step_is_seen_in_lines_that_belong_together(noise):
    right = whitened_head(8, noise)
    assert not any(steps(right, every(rate, 1)) for rate in (1, 2, 3, 4))
    assert line_steps(right[:3, 24:72], every(2, 1), 20) == {}
    assert line_steps(complex_normal((8, 48, 80), rng_for(0, "noise")), every(2, 1), 20) == {}


def test_the_preparation_warns_of_calibration_lines_of_another_gain(ksp):
    measured = every(4, 3)
    other = ksp * torch.from_numpy(measured)
    other[..., CENTRE - 10 : CENTRE + 10] *= 3
    scan = MemoryScan(other[None], torch.from_numpy(measured))
    with warns("W-LINES"):
        plan_preparation(scan)
