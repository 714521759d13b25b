"""The phase between odd and even lines is measured, and is zero where there is none."""

from __future__ import annotations

import pytest
import torch
from codes import warns
from memory_scan import simulated_scan

from mri_ambient.data_prep import PrepConfig, SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.line_phase import backwards, line_phase, line_phase_warnings
from mri_ambient.io import ArrayFile
from mri_ambient.physics.crop import center_crop
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Scan

CONFIG = SimulateConfig(size=(48, 40), coils=5, acceleration=2.0, calib=16, noise=0.01)


@pytest.fixture(scope="module")
def ksp() -> torch.Tensor:
    """K-space ``(coil, y, x)`` of a head."""
    return simulated_scan("head", CONFIG)[0][0].ksp[0]


def turned(ksp: torch.Tensor, phase: float) -> torch.Tensor:
    return ksp * torch.polar(torch.ones(40), phase * (torch.arange(40) % 2))


@pytest.mark.parametrize("phase", [-1.0, -0.3, 0.15, 0.6])
def test_a_planted_phase_is_measured(ksp, phase):
    block = center_crop(turned(ksp, phase), (24, 16))
    assert line_phase(block) == pytest.approx(phase, abs=0.03)
    assert abs(line_phase(block.mT)) < 0.05
    (warning,) = line_phase_warnings("scan", [block.mT])
    assert warning.code == "W-LINE-PHASE"


def test_no_phase_is_found_where_there_is_none(ksp):
    block = center_crop(ksp, (24, 16))
    assert abs(line_phase(block)) < 0.05
    assert line_phase_warnings("scan", [block, 0 * block]) == []


def test_what_tells_nothing_is_not_believed(ksp):
    """Noise, one coil, few lines."""
    block = center_crop(turned(ksp, 0.5), (24, 16))
    noise = complex_normal((5, 24, 16), rng_for(0, "noise"))
    few = block[..., :10]
    assert [line_phase(x) for x in (noise, block[:1], few, 0 * block)] == [0, 0, 0, 0]


def test_the_preparation_warns(ksp):
    scan = Scan.from_numpy(turned(ksp, 0.4)[None].numpy())
    with warns("W-LINE-PHASE", "W-MAP-SETS"):
        plan_preparation(ArrayFile(scan))


def every_other_backwards(ksp: torch.Tensor, first: int = 0) -> torch.Tensor:
    """From row ``first`` on: 0 turns round the middle of the matrix, 1 round k = 0."""
    ksp = ksp.clone()
    ksp[..., first:, 1::2] = ksp[..., first:, 1::2].flip(-2)
    return ksp


@pytest.mark.parametrize(("n_coils", "first"), [(2, 0), (5, 0), (5, 1)])
def test_lines_that_are_stored_backwards_are_found(ksp, n_coils, first):
    right = center_crop(ksp, (24, 16))[:n_coils]
    wrong = center_crop(every_other_backwards(ksp, first), (24, 16))[:n_coils]
    assert backwards(wrong) and not backwards(wrong.mT)
    assert not backwards(right) and not backwards(right.mT)
    noise = complex_normal((5, 24, 16), rng_for(0, "noise"))
    told_nothing = (noise, wrong[:1], wrong[..., :10], 0 * wrong)
    assert not any(map(backwards, told_nothing))


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_the_preparation_warns_of_lines_stored_backwards(ksp, axis):
    raw = every_other_backwards(ksp) if axis == "columns" else every_other_backwards(ksp.mT).mT
    scan = Scan.from_numpy(raw[None].numpy())
    with warns("W-LINES"):
        plan = plan_preparation(ArrayFile(scan), PrepConfig(map_sets=1))
    assert axis in plan.warnings[0].text
