"""Spikes in k-space."""

from __future__ import annotations

import pytest
import torch
from array_files import phantom_ksp
from codes import warns
from memory_scan import MemoryScan, noise_only

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.faults.spikes import find_spikes
from mri_ambient.io import open_scan
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import rng_for

SHAPE = (96, 80)


@pytest.fixture(scope="module")
def ksp() -> torch.Tensor:
    """Two slices of six coils."""
    return torch.from_numpy(phantom_ksp((2, 6, *SHAPE)))


MASKS = {
    "full": torch.ones(1, *SHAPE, dtype=torch.bool),
    "lines": MaskSpec("random", 4, 12).draw(SHAPE, rng_for(0, "lines")),
    "poisson": MaskSpec("poisson", 4, 16).draw(SHAPE, rng_for(0, "poisson")),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("coils", [slice(None), slice(2, 3)], ids=["all coils", "one coil"])
def test_spikes_are_found_and_nothing_else(kind, coils, ksp):
    mask = MASKS[kind]
    scan = (ksp[0] * mask).clone()
    assert not find_spikes(scan).any()
    outer = mask[0].clone()
    outer[:, 20:60] = False
    places = outer.nonzero()[5 :: int(outer.sum()) // 7]
    for y, x in places.tolist():
        spiked = scan.clone()
        spiked[coils, y, x] = 30.0  # a half of the largest sample
        assert find_spikes(spiked).nonzero().tolist() == [[y, x]]


def test_peaks_of_a_periodic_object_are_no_spikes():
    """A grid of bars has peaks far from k = 0, on both of its sides."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(80), indexing="ij")
    bars = (1 + torch.cos(2 * torch.pi * 30 * x / 80)) * ((y - 48).abs() < 40)
    grid = fft2c(bars.to(torch.complex64))[None] + 1e-3 * noise_only(1, SHAPE, torch.eye(1))
    assert grid.abs()[0, 48, 70] > 100 * grid.abs()[0, 48, 60]
    assert not find_spikes(grid).any()


@pytest.mark.parametrize("side", [0.5, 0.6, 0.8])
def test_straight_edges_of_a_phantom_are_no_spikes(side):
    """Their energy lies on the axes of k-space, of which a mask leaves one side in places."""
    shape = (160, 128)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    square = ((y.abs() < side) & (x.abs() < side)).to(torch.complex64)
    ksp = fft2c(square)[None] + 1e-2 * noise_only(1, shape, torch.eye(1))
    for seed in range(5):
        lines = MaskSpec("random", 3, 12).draw(shape, rng_for(seed, "lines"))
        assert not find_spikes(ksp * lines).any()


def test_noise_holds_no_spikes():
    for n_coils in (1, 8):
        assert not find_spikes(noise_only(n_coils, (320, 320), torch.eye(n_coils))).any()


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_real_scans_hold_no_spikes(real_scans):
    for path in real_scans.glob("*.h5"):
        file = open_scan(path)
        assert not any(find_spikes(scan.ksp[0]).any() for scan in file)


def test_they_are_removed_from_their_slices_alone(ksp):
    mask = MASKS["lines"]
    x = int(mask[0, 0].nonzero()[-1])
    spiked = (ksp * mask).clone()
    spiked[1, :, 20, x] = 30.0
    with warns("W-SPIKE"):
        plan = plan_preparation(MemoryScan(spiked, mask))
    clean = spiked.clone()
    clean[1, :, 20, x] = 0
    with warns():
        wanted = plan_preparation(MemoryScan(clean, mask))
    assert list(plan.spikes) == [1]
    assert (plan.scale, plan.noise.std) == (wanted.scale, wanted.noise.std)
    for index in range(2):
        found, right = (
            plan.apply(MemoryScan(spiked, mask)[index]),
            wanted.apply(MemoryScan(clean, mask)[index]),
        )
        assert torch.equal(found.ksp, right.ksp) and torch.equal(found.maps, right.maps)
