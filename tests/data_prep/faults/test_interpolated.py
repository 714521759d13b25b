"""K-space that was computed is told from k-space that was measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from memory_scan import MemoryScan, simulated_scan, whitened_head
from scipy.signal.windows import tukey
from skimage.transform import rotate
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.interpolated import (
    LEAST_SPREAD,
    interpolated_warnings,
    spread,
    whole_corners,
)
from mri_ambient.physics.fourier import fft2c, ifft2c
from mri_ambient.rng import complex_normal, rng_for

WHOLE = torch.ones(96, 80, dtype=torch.bool)


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    """Whitened k-space ``(coil, y, x)`` of a head."""
    return whitened_head(6, 0.01)


def under(ksp: Tensor) -> Tensor:
    """A third of its lines, and 16 in the middle."""
    kept = torch.zeros(ksp.shape[-1])
    kept[::3] = kept[32:48] = 1
    return ksp * kept


def cropped(ksp: Tensor) -> Tensor:
    return fft2c(ifft2c(under(ksp))[..., 8:-8, 6:-6])


def rotated(ksp: Tensor) -> Tensor:
    parts = torch.view_as_real(ifft2c(under(ksp)).resolve_conj()).movedim(-1, 0).numpy()
    turned = np.stack([[rotate(coil, 7) for coil in part] for part in parts])
    return fft2c(torch.complex(*torch.from_numpy(turned.astype(np.float32))))


def shaded(ksp: Tensor) -> Tensor:
    return fft2c(ifft2c(under(ksp)) * torch.linspace(0.3, 1.5, ksp.shape[-1]).square())


def spread_of(ksp: Tensor) -> float:
    return spread(whole_corners(ksp, torch.ones(ksp.shape[-2:], dtype=torch.bool)))


@pytest.mark.parametrize("computed", [cropped, rotated, shaded])
def test_images_that_were_undersampled_are_told(ksp, computed: Callable[[Tensor], Tensor]):
    found = spread_of(computed(ksp))
    assert found > LEAST_SPREAD
    (warning,) = interpolated_warnings("scan", [found])
    assert warning.code == "W-INTERPOLATED"


def test_the_energy_of_noise_has_a_spread_of_two():
    """Of a mean over 7 x 7 samples with it, a few percent less."""
    noise = complex_normal((8, 256, 256), rng_for(0, "noise"))
    assert spread_of(noise) == pytest.approx(2, rel=0.06)


@pytest.mark.parametrize("noise", [0.0005, 0.01])
def test_what_was_measured_is_not_told(ksp, noise):
    """Also filtered, cropped after all was measured, and of little noise."""
    config = SimulateConfig(size=(96, 80), coils=6, full=True, noise=noise)
    right = simulated_scan("right", config)[0].ksp[0]
    right = right / right[:, :20, :20].abs().square().mean().sqrt()
    y, x = (torch.hamming_window(n, periodic=False) for n in (96, 80))
    for measured in (right, right * y[:, None] * x, fft2c(ifft2c(right)[..., 8:-8, 6:-6])):
        assert spread_of(measured) < 2.2
    assert interpolated_warnings("scan", [spread_of(right)]) == []


@pytest.mark.parametrize("taper", [0.1, 0.2, 0.3])
def test_a_filter_that_ends_kspace_is_not_told(taper):
    noise = complex_normal((6, 192, 160), rng_for(0, "filtered"))
    y, x = (torch.from_numpy(tukey(n + 2, taper)[1:-1]).float() for n in (192, 160))
    for window in (y[:, None] * x, y[:, None] * torch.ones(160)):
        assert spread_of(noise * window) < 2.1


def test_lines_that_were_filled_in_have_other_noise(ksp):
    """Every other one, by a kernel that multiplies the energy of noise by 8."""
    filled = ksp.clone()
    filled[..., 1::2] = 2 * (ksp[..., 0::2] + ksp[..., 0::2].roll(-1, -1))
    assert spread_of(filled) > LEAST_SPREAD


def test_signal_tells_nothing_of_noise(ksp):
    """A grating has peaks far from k = 0."""
    grating = torch.zeros(96, 80)
    grating[::4, ::4] = 1
    peaks = fft2c(grating + 0j)
    assert spread_of(ksp + 10 * peaks) > LEAST_SPREAD
    assert spread_of(ksp + 1000 * peaks) == 0


def test_incomplete_and_small_kspace_is_not_judged(ksp):
    missing = WHOLE.clone()
    missing[:, 79] = False
    assert whole_corners(ksp, missing) is None
    assert whole_corners(ksp[..., :50, :50], WHOLE[:50, :50]) is None


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_preparation_names_them(ksp):
    for samples, told in ((ksp, False), (cropped(ksp), True)):
        found = plan_preparation(MemoryScan(samples[None])).warnings
        assert ("W-INTERPOLATED" in {warning.code for warning in found}) == told
