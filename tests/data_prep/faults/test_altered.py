"""Samples that were clipped or filled in are found; right ones never are."""

from __future__ import annotations

import pytest
import torch
from memory_scan import MemoryScan, head, simulated_scan
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.altered import Altered, altered, altered_warnings
from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.io import open_scan
from mri_ambient.physics.fourier import fft2c, reverse
from mri_ambient.rng import rng_for

RIGHT = Altered(0, 0.0)


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    return head(full=True, noise=0.005).ksp[0]


def clipped_parts(ksp: Tensor) -> Tensor:
    """Real and imaginary parts, at a fifth of the largest."""
    parts = torch.view_as_real(ksp)
    top = 0.2 * float(parts.abs().max())
    return torch.view_as_complex(parts.clamp(-top, top))


def clipped_magnitude(ksp: Tensor) -> Tensor:
    return ksp * (0.2 * ksp.abs().max() / ksp.abs()).clamp_max(1)


def half_filled_in(ksp: Tensor, first: int = 24) -> Tensor:
    """Columns before the first that was measured from those on the other side."""
    turned = reverse(reverse(ksp, -2), -1).conj()
    return torch.where(torch.arange(ksp.shape[-1]) < first, turned, ksp)


@pytest.mark.parametrize("clip", [clipped_parts, clipped_magnitude])
def test_clipped_samples_are_found(ksp, clip):
    found = altered(clip(ksp))
    assert found.n_clipped >= 6 and found.conjugates < 0.01


@pytest.mark.parametrize("share", [0.05, 0.01, 0.001])
def test_many_clipped_samples_are_found(ksp, share):
    parts = torch.view_as_real(ksp)
    limit = share * parts.abs().max()
    clipped = torch.view_as_complex(parts.clamp(-limit, limit).contiguous())
    assert altered(clipped).n_clipped > 50
    assert altered(torch.ones_like(ksp)).n_clipped == 0


def clipped_at(ksp: Tensor, rank: int, coils: slice) -> Tensor:
    """Real and imaginary parts of some coils, at the one of this rank."""
    parts = torch.view_as_real(ksp).clone()
    top = float(parts[coils].abs().flatten().sort(descending=True).values[rank - 1])
    parts[coils] = parts[coils].clamp(-top, top)
    return torch.view_as_complex(parts)


@pytest.mark.parametrize("coils", [slice(2, 3), slice(None)], ids=["one coil", "all coils"])
def test_a_few_clipped_samples_are_found(ksp, coils):
    """Three are no chance; of two nothing is said."""
    assert [altered(clipped_at(ksp, rank, coils)).n_clipped for rank in (1, 2, 3, 5)] == [
        0,
        0,
        3,
        5,
    ]


def test_few_samples_that_rounding_or_symmetry_makes_equal_were_not_clipped(ksp):
    """Three of 8000 levels may be chance, five are not; k-space of real images is symmetric."""
    rounded = torch.view_as_complex((8000 * torch.view_as_real(ksp / ksp.abs().max())).round())
    coil = slice(0, 1)
    assert altered(clipped_at(rounded, 3, coil)).n_clipped == 0
    assert altered(clipped_at(rounded, 5, coil)).n_clipped >= 5
    img = head_phantom((64, 64), rng_for(0, "real"), 1)
    halves = fft2c(img + 0j)
    halves[..., 32, 32] = 0  # the largest are pairs on both sides of k = 0
    assert altered(torch.cat([halves, halves])).n_clipped == 0


@pytest.mark.parametrize("first", [8, 24, 32])
def test_samples_that_were_filled_in_are_found(ksp, first):
    found = altered(half_filled_in(ksp, first))
    assert found.n_clipped == 0
    assert found.conjugates == pytest.approx(2 * (first - 1) / 63, abs=0.05)
    assert [one.code for one in altered_warnings("scan", {0: found})] == ["W-CONJUGATE"]


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_the_preparation_warns_of_both(ksp):
    slices = torch.stack([half_filled_in(ksp), clipped_parts(ksp), ksp])
    found = {one.code: one.text for one in plan_preparation(MemoryScan(slices)).warnings}
    assert "slices [0]" in found["W-CONJUGATE"] and "slices [1]" in found["W-CLIPPED"]


def test_images_without_phase_were_not_filled_in():
    ksp = fft2c(head_phantom((64, 64), rng_for(0, "real"), 1) + 0j)
    assert altered(ksp).conjugates > 0.999
    assert altered_warnings("scan", {0: altered(ksp)}) == []


def test_smooth_objects_without_noise_were_not_filled_in():
    y, x = (torch.linspace(-3, 3, 64)[:, None], torch.linspace(-3, 3, 64))
    smooth = torch.exp(-(y.square() + x.square()))
    phases = torch.tensor([0.0, 0.0, 0.3, 0.7, 1.1, 1.5, 1.9, 2.3])
    coils = fft2c(smooth * torch.polar(torch.ones(8), phases)[:, None, None])
    assert altered_warnings("scan", {0: altered(coils)}) == []
    assert altered_warnings("scan", {0: altered(coils[:1])}) == []


@pytest.mark.parametrize("options", [{}, {"mask": "poisson"}, {"coils": 1}, {"noise": 0.0001}])
def test_nothing_is_said_of_right_scans(options):
    config = SimulateConfig((64, 64), **{"coils": 6, "calib": 16, **options})
    ksp = simulated_scan("right", config)[0].ksp[0]
    assert altered(ksp) == RIGHT
    rounded = torch.view_as_real(ksp / ksp.abs().max())
    assert altered(torch.view_as_complex((1000 * rounded).round())).n_clipped == 0
    assert altered(torch.view_as_complex((1000 * rounded).round())).conjugates < 0.02
    noise = torch.randn(2, 64, 64, 2, generator=torch.Generator().manual_seed(0))
    assert altered(torch.view_as_complex(noise.round())).n_clipped == 0
    assert altered(torch.zeros(2, 8, 8, dtype=torch.complex64)) == RIGHT


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_nothing_is_said_of_real_scans(real_scans):
    for name in ("espirit_brain8", "alias_brain8", "poisson_brain8"):
        found = altered(open_scan(real_scans / f"{name}.h5")[0].ksp[0])
        assert found.n_clipped == 0 and found.conjugates < 0.01
