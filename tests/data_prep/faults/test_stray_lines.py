"""Lines of much more energy than those near them are found."""

from __future__ import annotations

import pytest
import torch
from memory_scan import MemoryScan, every, simulated_scan, smooth_heads
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.line_energies import sample_energies
from mri_ambient.data_prep.faults.stray_lines import stray_lines
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

CENTRE = 40
"""The column of k = 0."""


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    return smooth_heads()[0]


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("place", [0, 20, 79])
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_line_of_the_middle_at_another_place_is_found(ksp, rate, place):
    """Navigators that are not marked as such, for example."""
    measured = torch.from_numpy(every(rate, 1))
    measured[place] = True
    wrong = ksp.clone()
    wrong[..., place] = ksp[..., CENTRE]
    mask = measured.expand(ksp.shape[1:])
    assert list(stray_lines(sample_energies(wrong * mask), mask)) == [place]
    assert list(stray_lines(sample_energies((wrong * mask).mT), mask.mT)) == []
    assert stray_lines(sample_energies(ksp * mask), mask) == {}
    found = plan_preparation(MemoryScan((wrong * mask)[None], mask)).warnings
    assert f"columns [{place}]" in {one.code: one.text for one in found}["W-LINES"]


def test_masks_of_single_samples_and_slices_that_lack_lines_have_no_stray_lines(ksp):
    for name in "abcdefgh":
        config = SimulateConfig((64, 64), 4, acceleration=10, mask="poisson", calib=8)
        scan, _ = simulated_scan(name, config)
        mask = torch.from_numpy(scan.mask[0])
        assert (
            stray_lines(sample_energies(scan.ksp[0]), mask)
            == stray_lines(sample_energies(scan.ksp[0].mT), mask.mT)
            == {}
        )
    mask = torch.ones(ksp.shape[1:], dtype=torch.bool)
    lacking = ksp.clone()
    lacking[..., :30] = lacking[..., 50:] = 0
    lacking[..., 59] = ksp[..., 59]
    assert 59 not in stray_lines(sample_energies(lacking), mask)


def test_k_space_of_a_grating_has_no_stray_lines():
    for period in range(2, 10):
        grating = torch.ones(96, 80) * (torch.arange(80) % period < period / 2)
        grating = fft2c(grating + 0j)[None] + 0.01 * complex_normal((1, 96, 80), rng_for(period))
        for rate in (1, 2, 3):
            mask = torch.from_numpy(every(rate, 1)).expand(96, 80)
            assert stray_lines(sample_energies(grating * mask), mask) == {}
