"""Lines that do not belong together are found, and nothing is said of those that do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from codes import warns
from memory_scan import MemoryScan, smooth_heads, whitened_head
from torch import Tensor

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.faults.line_misfit import (
    LEAST_MISFIT,
    line_misfit,
    misfit_warnings,
    prediction_errors,
)
from mri_ambient.data_prep.faults.virtual_coils import (
    LEAST_VARIATION,
    LITTLE_VARIATION,
    coil_variation,
)
from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.errors import WRONG_SAMPLES
from mri_ambient.io import open_scan
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

CENTRE = 40
"""The column of k = 0."""

HEADS = smooth_heads()


def block(ksp: Tensor) -> Tensor:
    """Its calibration block."""
    return center_crop(ksp, (24, 24))


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    return HEADS[0]


def odd_lines_halved(ksp: Tensor) -> None:
    ksp[..., 1::2] *= 0.5


def four_shots(ksp: Tensor) -> None:
    """One of them of another phase."""
    ksp[..., 1::4] *= torch.polar(torch.tensor(1.0), torch.tensor(0.6))


def second_half_turned(ksp: Tensor) -> None:
    ksp[..., CENTRE + 2 :] *= torch.polar(torch.tensor(1.0), torch.tensor(1.0))


def copied_lines(ksp: Tensor) -> None:
    ksp[..., 1::2] = ksp[..., 0::2]


def lost_line(ksp: Tensor) -> None:
    ksp[..., CENTRE + 2] = 0


def interpolated_lines(ksp: Tensor) -> None:
    ksp[..., 1:-1:2] = (ksp[..., 0:-2:2] + ksp[..., 2::2]) / 2


def middle_of_another_gain(ksp: Tensor) -> None:
    ksp[..., CENTRE - 8 : CENTRE + 8] *= 3


def middle_of_another_scan(ksp: Tensor) -> None:
    ksp[..., CENTRE - 8 : CENTRE + 8] = HEADS[1, ..., CENTRE - 8 : CENTRE + 8]


def two_slices_summed(ksp: Tensor) -> None:
    ksp += HEADS[1] * (1 - 2 * (torch.arange(80) % 2))


FAULTS = (
    odd_lines_halved, four_shots, second_half_turned, copied_lines, lost_line, interpolated_lines,
    middle_of_another_gain, middle_of_another_scan, two_slices_summed,
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_lines_that_do_not_belong_together_are_found(ksp, fault: Callable[[Tensor], None]):
    damaged = ksp.clone()
    fault(damaged)
    assert line_misfit(block(damaged)) > LEAST_MISFIT
    for lines, each in (("columns", block(damaged)), ("rows", block(damaged).mT)):
        (warning,) = misfit_warnings("scan", [block(ksp), each])
        assert warning.code == "W-LINES" and lines in str(warning)


@pytest.mark.parametrize("coils", [4, 5, 6, 8, 12])
@pytest.mark.parametrize("noise", [0.0005, 0.005, 0.05])
def test_nothing_is_said_of_lines_that_belong_together(coils, noise):
    right = block(whitened_head(coils, noise))
    assert max(line_misfit(right), line_misfit(right.mT)) < LEAST_MISFIT / 2


def test_nothing_is_said_of_noise_that_is_larger_than_was_thought(ksp):
    """Nor of a filter along the readout, or of phases and places of the object."""
    y, x = torch.arange(96.0)[:, None], torch.arange(80.0)
    for right in (
        10 * ksp,
        ksp * torch.exp(-((y - 48) ** 2) / 800),
        ksp * torch.polar(torch.ones(96, 80), 2.0 * x + 1.0 * y),
    ):
        found = block(right)
        assert max(line_misfit(found), line_misfit(found.mT)) < LEAST_MISFIT / 2


def test_what_tells_nothing_is_not_believed(ksp):
    """Noise, three coils with signal, few lines, zeros."""
    damaged = ksp.clone()
    odd_lines_halved(damaged)
    noise = complex_normal((8, 24, 24), rng_for(0, "noise"))
    three = block(damaged).clone()
    three[3:] = noise[3:]
    few = block(damaged)[..., :11]
    found = [line_misfit(x) for x in (three, few, few.mT, 0 * three)]
    assert found == [0, 0, 0, 0]
    assert line_misfit(noise) == 0


def test_errors_are_in_units_of_the_noise():
    """Where sources hold nothing, and where they hold the same with noise of their own."""
    rng = rng_for(0, "errors")
    noise = complex_normal((3, 40, 50), rng)
    error, energy = prediction_errors(0 * noise, noise)
    assert error.mean() == pytest.approx(1, rel=0.05) and not energy.any()
    signal = 100 * complex_normal((1, 40, 50), rng)
    error, energy = prediction_errors(signal + noise[:2], signal + noise[2:])
    assert error.mean() == pytest.approx(1, rel=0.05)
    assert energy.mean() == pytest.approx(1e4 / 1.5, rel=0.1)  # noise of a sample and two halves


def test_the_preparation_warns_unless_the_phase_explains_it(ksp):
    weak, turned = ksp.clone(), ksp.clone()
    odd_lines_halved(weak)
    turned[..., 1::2] *= torch.polar(torch.tensor(1.0), torch.tensor(0.6))
    with warns("W-LINES", "W-MAP-SETS", "W-INTERPOLATED"):
        plan_preparation(MemoryScan(weak[None]))
    with warns("W-LINE-PHASE", "W-MAP-SETS"):
        plan_preparation(MemoryScan(turned[None]))


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize("name", ["espirit_brain8", "alias_brain8", "poisson_brain8"])
def test_nothing_is_said_of_real_scans(name, real_scans):
    preparation = plan_preparation(open_scan(real_scans / f"{name}.h5"))
    assert not WRONG_SAMPLES & {warning.code for warning in preparation.warnings}


@pytest.mark.parametrize("width", [4.0, 8.0, 14.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_coils_in_a_row_do_not_predict_lines_along_it(width, transposed):
    """A spine array: coils differ along one axis, so that lines across the other tell nothing."""
    y = torch.linspace(-1, 1, 96)[:, None].expand(96, 80)
    places = torch.linspace(-0.9, 0.9, 8)[:, None, None]
    maps = torch.exp(-width * (y - places).square())
    img = head_phantom((96, 80), rng_for(0, "spine"), 1)
    ksp = fft2c((img * maps).to(torch.complex64)) / 0.003
    ksp = ksp + complex_normal((8, 96, 80), rng_for(0, "spine noise"))
    seen = block(ksp.mT if transposed else ksp)
    assert misfit_warnings("scan", [seen]) == []
    across = seen.mT if transposed else seen
    assert coil_variation(across) < LEAST_VARIATION / 2
    assert coil_variation(block(HEADS[0])) > 3 * LITTLE_VARIATION
