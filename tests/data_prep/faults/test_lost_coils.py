"""Coils that were lost in some slices are found; right ones never are."""

from __future__ import annotations

import pytest
import torch
from codes import warns
from memory_scan import MemoryScan, head
from torch import Tensor

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.faults.lost_coils import coil_energies, lost_coils
from mri_ambient.rng import complex_normal, rng_for

OPTIONS = {"slices": 5, "units": 1.0, "noise": 0.01}


@pytest.fixture(scope="module")
def scan() -> MemoryScan:
    return head(**OPTIONS)


def found(ksp: Tensor, scan: MemoryScan) -> dict[int, list[int]]:
    mask = torch.from_numpy(scan.mask[0])
    return lost_coils({index: coil_energies(one, mask) for index, one in enumerate(ksp)})


def silenced(scan: MemoryScan, slices: list[int], coil: int, std: float) -> Tensor:
    """With noise of this size in a coil of some slices; the scan's own has about 1."""
    ksp, mask = scan.ksp.clone(), torch.from_numpy(scan.mask[0])
    own = ksp[:, coil, :4][:, mask[:4]].abs().square().mean().sqrt()
    noise = complex_normal(tuple(mask.shape), rng_for(0, "lost"))
    for index in slices:
        ksp[index, coil] = std * own / 2**0.5 * noise * mask
    return ksp


@pytest.mark.parametrize("std", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("slices", [[1], [2, 3]])
def test_a_coil_without_signal_between_slices_of_much_signal_was_lost(scan, slices, std):
    assert found(silenced(scan, slices, 3, std), scan) == {3: slices}


def test_the_first_and_last_slices_are_not_judged(scan):
    for ends in ([0], [0, 1], [4]):
        assert found(silenced(scan, ends, 3, 0.0), scan) == {}


def test_slices_that_are_no_neighbours_are_not_compared(scan):
    """Slices of the left and of the right side alternate; coils are chosen for every slice."""
    sides = scan.ksp.clone()
    n = scan.shape[1] // 2
    for index in range(len(sides)):
        sides[index, n * (index % 2) : n * (index % 2 + 1)] = 0
    assert found(sides, scan) == {}
    chosen = scan.ksp.clone()
    for index in range(len(chosen)):
        chosen[index, [coil for coil in range(scan.shape[1]) if abs(coil - index) > 1]] = 0
    assert found(chosen, scan) == {}
    hole = scan.ksp.clone()
    ny, nx = hole.shape[-2:]
    hole[2, :, ny // 2 - 4 : ny // 2 + 4, nx // 2 - 4 : nx // 2 + 4] = 0
    assert found(hole, scan) == {}


def test_nothing_is_said_of_right_scans_dead_coils_and_slices_outside_of_the_object(scan):
    assert found(scan.ksp, scan) == {}
    assert found(silenced(scan, [0, 1, 2, 3, 4], 3, 0.0), scan) == {}
    assert found(silenced(scan, [0, 1, 2, 3, 4], 3, 1.0), scan) == {}
    air = scan.ksp.clone()
    for coil in range(scan.shape[1]):
        air[2, coil] = silenced(scan, [2], coil, 1.0)[2, coil]
    assert found(air, scan) == {}


@pytest.mark.parametrize("mask", ["random", "poisson"])
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_the_preparation_names_coils_and_slices(mask):
    scan = head(**OPTIONS, mask=mask)
    scan.ksp[1, 2] = 0
    warnings = {one.code: one.text for one in plan_preparation(scan).warnings}
    assert "coil 2 in slices [1]" in warnings["W-LOST-COIL"]
    with warns():
        plan_preparation(head(**OPTIONS, mask=mask))
