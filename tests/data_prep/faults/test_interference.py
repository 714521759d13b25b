"""Zippers and constant offsets in k-space."""

from __future__ import annotations

import math

import pytest
import torch
from array_files import phantom_ksp
from codes import warns
from memory_scan import MemoryScan, head, noise_only

from mri_ambient.data_prep import PrepConfig, plan_preparation
from mri_ambient.data_prep.faults.interference import (
    Interference,
    find_interference,
    interference_of,
    middle_ratio,
    outer_lines,
)
from mri_ambient.io import open_scan
from mri_ambient.physics.axis_fourier import fftc
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import complex_normal, rng_for

SHAPE = (96, 80)
GAINS = torch.tensor([1, 0.5j, -0.3, 0.7, 0.2, 0.4j])[:, None, None]
MASKS = {
    "full": torch.ones(1, *SHAPE, dtype=torch.bool),
    "random": MaskSpec("random", 3, 14).draw(SHAPE, rng_for(0, "lines")),
    "equispaced": MaskSpec("equispaced", 2, 14).draw(SHAPE, rng_for(0, "lines")),
}


@pytest.fixture(scope="module")
def ksp() -> torch.Tensor:
    """Two slices of six coils."""
    return torch.from_numpy(phantom_ksp((2, 6, *SHAPE)))


def zipper(row: float, size: float = 1.0) -> torch.Tensor:
    """K-space ``(coil, y, x)`` of an image row of this size, with a random phase in every line."""
    n, c = SHAPE[0], SHAPE[0] // 2
    turns = -(row - c) * (torch.arange(n)[:, None] - c) / n + torch.rand(
        SHAPE[1], generator=rng_for(0, "phases")
    )
    return size * GAINS * torch.exp(2j * math.pi * turns) / math.sqrt(n)


def offset(size: float) -> torch.Tensor:
    """K-space ``(coil, y, x)`` of a point in the middle of the image."""
    return (size * GAINS / math.sqrt(SHAPE[0] * SHAPE[1])).expand(6, *SHAPE)


@pytest.mark.parametrize("kind", MASKS)
def test_they_are_found_and_nothing_else(kind, ksp):
    mask = MASKS[kind]
    scan = ksp[0] * mask
    assert find_interference(scan, mask) == Interference()
    for row in (4, 30, 48, 70):
        assert find_interference(scan + zipper(row) * mask, mask) == Interference((row,))
    assert find_interference(scan + zipper(20.5) * mask, mask) == Interference((20, 21))
    assert find_interference(scan + offset(1) * mask, mask) == Interference(offset=True)


@pytest.mark.parametrize("n_rows", [1, 8, 15, 16])
def test_nothing_is_said_of_few_rows(n_rows, ksp):
    assert find_interference(ksp[0, :, :n_rows], MASKS["full"][:, :n_rows]) == Interference()


def test_a_coil_of_little_gain_is_seen():
    """With its own share of the interference, a thousandth of the others' signal."""
    scan = torch.from_numpy(phantom_ksp((1, 6, *SHAPE)))[0]
    scan = scan * torch.tensor([1.0, 1, 1, 1, 1, 1e-3])[:, None, None]
    scan[5] += 1e-2 * zipper(30)[0]
    assert find_interference(scan, MASKS["full"]).rows == (30,)


def test_points_of_the_object_are_none():
    """Vessels: bright points in one row, and one in the middle row; wherever but in the middle."""
    noise = 0.01 * noise_only(6, SHAPE, torch.eye(6))
    for places in ([(30, 20)], [(60, 7), (60, 33)], [(48, 60)]):
        img = torch.zeros(SHAPE, dtype=torch.complex64)
        for place in places:
            img[place] = 30
        assert find_interference(fft2c(img * GAINS) + noise, MASKS["full"]) == Interference()


def test_noise_holds_none():
    for n_coils in (1, 8):
        for seed in range(5):
            noise = noise_only(n_coils, SHAPE, torch.eye(n_coils), seed)
            for mask in MASKS.values():
                assert find_interference(noise * mask, mask) == Interference()


def test_the_middle_is_compared_by_the_best_filter():
    """Of white noise the filter is flat: the ratio is that of images of the lines."""
    noise = noise_only(1, SHAPE, torch.eye(1)) + 0.2
    outer, lines = outer_lines(noise, MASKS["full"])
    assert lines.tolist()[:3] == [0, 1, 79] and outer.abs().square().mean() == pytest.approx(1)
    n_samples = outer[0].numel()
    expected = 0.2**2 * n_samples / 2  # energy over the mean of noise; the largest of 204 is 5.9
    assert expected / 10 < middle_ratio(outer, lines, SHAPE[1]) < expected / 3


def test_scans_say_so(ksp):
    mask = MASKS["random"]
    two = torch.stack([ksp[0], ksp[1] + zipper(30, 3) + offset(6)]) * mask
    with warns("W-INTERFERENCE", "W-INTERFERENCE"):
        plan = plan_preparation(MemoryScan(two, mask), PrepConfig(map_sets=1))
    zippers, offsets = (warning.text for warning in plan.warnings)
    assert "slices [1]" in zippers and "row 30" in zippers and "slices [1]" in offsets
    three = MemoryScan(two, mask)
    three.is_3d = True
    with warns():
        plan_preparation(three, PrepConfig(map_sets=1))


def test_rows_that_are_cut_off_do_not_count():
    """Of an oversampled readout, the rows of the final image."""
    clean = head(readout_oversampling=2, mask="equispaced", acceleration=2.0)
    ny, nx = clean.shape[2:]
    gains = complex_normal((8, 1), rng_for(0, "gains"))
    for row, final in ((10, None), (70, 38)):
        hybrid = torch.zeros(8, ny, nx, dtype=torch.complex64)
        hybrid[:, row] = gains * torch.exp(2j * math.pi * torch.rand(nx, generator=rng_for(1)))
        noisy = clean.ksp + 3 * float(clean.ksp.abs().max()) / 30 * fftc(hybrid, dim=-2)
        scan = MemoryScan((noisy * torch.from_numpy(clean.mask)), clean.mask, oversampling=2.0)
        with warns(*["W-INTERFERENCE"] * (final is not None)):
            plan = plan_preparation(scan, PrepConfig(map_sets=1))
        assert final is None or f"row {final} " in plan.warnings[0].text


def test_masks_without_whole_lines_are_left_alone(ksp):
    mask = MaskSpec("poisson", 3, 16).draw(SHAPE, rng_for(0, "poisson"))
    scan = MemoryScan((ksp + zipper(30, 5)) * mask, mask)
    assert interference_of(scan[0]) == {}


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_real_scans_hold_none(real_scans, tmp_path):
    """Nor where they are undersampled."""
    for path in real_scans.glob("*.h5"):
        scan = open_scan(path)[0]
        assert interference_of(scan) == {}
        for rate in (2, 4) if scan.mask.all() else ():
            mask = MaskSpec("random", rate, 20).draw(scan.shape, rng_for(0, path.name))
            assert find_interference(scan.ksp[0] * mask, mask) == Interference()
