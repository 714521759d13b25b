"""A line in the middle that holds no signal is found."""

from __future__ import annotations

import pytest
import torch
from memory_scan import MemoryScan, every, smooth_heads
from torch import Tensor

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.faults.line_energies import sample_energies
from mri_ambient.data_prep.faults.missed_line import missed_line
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

CENTRE = 40
"""The column of k = 0."""


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    return smooth_heads()[0]


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("place", [CENTRE, CENTRE + 3])
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_line_that_the_receiver_missed_is_found(ksp, rate, place):
    """It holds noise alone."""
    mask = torch.from_numpy(every(rate, 1)).expand(ksp.shape[1:])
    wrong = ksp.clone()
    wrong[..., place] = 0.02 * complex_normal(tuple(ksp.shape[:2]), rng_for(0, "missed"))
    assert missed_line(sample_energies(wrong * mask), mask) == place
    assert missed_line(sample_energies((wrong * mask).mT), mask.mT) is None
    assert missed_line(sample_energies(ksp * mask), mask) is None
    found = plan_preparation(MemoryScan((wrong * mask)[None], mask)).warnings
    assert any(one.code == "W-LINES" and f"columns [{place}]" in one.text for one in found)


def test_k_space_of_two_objects_or_of_a_box_misses_no_line():
    y, x = torch.meshgrid(torch.arange(96) - 48, torch.arange(80) - 40, indexing="ij")
    tubes = [1.0 * ((x - at).square() + y.square() < 64) for at in (-20, 20)]
    objects = [
        tubes[0] + tubes[1],
        tubes[0] - tubes[1],
        *((x.abs() < width) * (y.abs() < 30) for width in (4, 10, 13, 20, 39)),
    ]
    mask = torch.ones(96, 80, dtype=torch.bool)
    for k, img in enumerate(objects):
        noise = 0.001 * complex_normal((1, 96, 80), rng_for(k))
        ksp = fft2c(img + 0j)[None] + noise
        assert (
            missed_line(sample_energies(ksp), mask)
            is missed_line(sample_energies(ksp.mT), mask.mT)
            is None
        )
