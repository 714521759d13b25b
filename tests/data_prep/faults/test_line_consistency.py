"""Lines that do not belong together are found, and nothing is said of those that do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import MemoryScan, simulated_scan, smooth_heads
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.line_consistency import (
    LEAST_MISFIT,
    LEAST_VARIATION,
    LITTLE_VARIATION,
    coil_variation,
    line_misfit,
    line_steps,
    line_warnings,
    missed_line,
    prediction_errors,
    sample_energies,
    step_warnings,
    stray_lines,
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


def simulated(coils: int, noise: float) -> Tensor:
    """Whitened k-space ``(coil, y, x)`` of a head within loops, fully sampled."""
    config = SimulateConfig(
        size=(96, 80), coils=coils, full=True, noise=noise, correlated_noise=False
    )
    scan, cov = simulated_scan(f"head {coils}", config)
    return scan.ksp[0] / cov.diagonal().real.sqrt().float().view(-1, 1, 1)


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
        (warning,) = line_warnings("scan", [block(ksp), each])
        assert warning.code == "W-LINES" and lines in str(warning)


@pytest.mark.parametrize("coils", [4, 5, 6, 8, 12])
@pytest.mark.parametrize("noise", [0.0005, 0.005, 0.05])
def test_nothing_is_said_of_lines_that_belong_together(coils, noise):
    right = block(simulated(coils, noise))
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


def under(rate: int, first: int) -> np.ndarray:
    """Every so manyth column, and 20 in the middle."""
    measured = np.zeros(80, bool)
    measured[first::rate] = measured[CENTRE - 10 : CENTRE + 10] = True
    return measured


def steps(ksp: Tensor, measured: np.ndarray) -> list[str]:
    found = line_steps(ksp[:, 24:72] * torch.from_numpy(measured), measured, 20)
    return [str(warning) for warning in step_warnings("scan", [found], 80)]


@pytest.mark.parametrize(("rate", "first"), [(2, 0), (3, 2), (4, 2), (6, 5)])
@pytest.mark.parametrize(("gain", "phase"), [(3.0, 0.0), (0.5, 0.0), (1.0, 1.0)])
def test_calibration_lines_of_another_gain_or_phase_are_found(ksp, rate, first, gain, phase):
    measured, other = under(rate, first), ksp.clone()
    assert steps(ksp, measured) == []
    factor = torch.polar(torch.tensor(gain), torch.tensor(phase))
    other[..., CENTRE - 10 : CENTRE + 10] *= factor
    assert line_misfit(other[:, 36:60, CENTRE - 10 : CENTRE + 10]) < LEAST_MISFIT / 2
    (text,) = steps(other, measured)
    assert "W-LINES" in text and (f"{-phase:+.1f} rad" in text) == (phase != 0)


def test_lines_on_both_sides_of_another_gain_are_told_together(ksp):
    other = ksp.clone()
    other[..., CENTRE - 10 : CENTRE + 10] *= 2
    (text,) = steps(other, under(1, 0))
    assert "those outside of columns 30 to 49 have 0.49 times the amplitude" in text
    (text,) = steps(torch.where(torch.arange(80) < 51, ksp, 2 * ksp), under(1, 0))
    assert "column 51 has 2 times the amplitude" in text
    assert steps(torch.where(torch.arange(80) < 60, ksp, 2 * ksp), under(1, 0)) == []  # too far out


@pytest.mark.parametrize(
    ("std", "rate", "filtered"), [(8, 2, False), (12, 1, False), (20, 1, True)]
)
def test_noise_that_is_larger_than_was_thought_is_no_step(ksp, std, rate, filtered):
    x = torch.arange(80) - CENTRE
    window = 0.54 + 0.46 * torch.cos(math.pi * x / 40) if filtered else torch.ones(80)
    noise = std * complex_normal(ksp.shape, rng_for(3, "noise"))
    assert steps((ksp + noise) * window, under(rate, 0)) == []


def test_steps_of_few_slices_are_not_believed(ksp):
    other = ksp.clone()
    other[..., CENTRE - 10 : CENTRE + 10] *= 3
    wrong, right = (line_steps(x[:, 24:72], under(1, 0), 20) for x in (other, ksp))
    assert step_warnings("scan", [wrong, wrong, right], 80)
    assert step_warnings("scan", [wrong, right, right], 80) == []


@pytest.mark.parametrize("noise", [0.0005, 0.02])
def test_no_step_is_seen_in_lines_that_belong_together(noise):
    right = simulated(8, noise)
    assert not any(steps(right, under(rate, 1)) for rate in (1, 2, 3, 4))
    assert line_steps(right[:3, 24:72], under(2, 1), 20) == {}
    assert line_steps(complex_normal((8, 48, 80), rng_for(0, "noise")), under(2, 1), 20) == {}


def test_the_preparation_warns_of_calibration_lines_of_another_gain(ksp):
    measured = under(4, 3)
    other = ksp * torch.from_numpy(measured)
    other[..., CENTRE - 10 : CENTRE + 10] *= 3
    scan = MemoryScan(other[None], torch.from_numpy(measured))
    with warns("W-LINES"):
        plan_preparation(scan)


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("place", [0, 20, 79])
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_line_of_the_middle_at_another_place_is_found(ksp, rate, place):
    """Navigators that are not marked as such, for example."""
    measured = torch.from_numpy(under(rate, 1))
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
            mask = torch.from_numpy(under(rate, 1)).expand(96, 80)
            assert stray_lines(sample_energies(grating * mask), mask) == {}


@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("place", [CENTRE, CENTRE + 3])
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_line_that_the_receiver_missed_is_found(ksp, rate, place):
    """It holds noise alone."""
    mask = torch.from_numpy(under(rate, 1)).expand(ksp.shape[1:])
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
    assert line_warnings("scan", [seen]) == []
    across = seen.mT if transposed else seen
    assert coil_variation(across) < LEAST_VARIATION / 2
    assert coil_variation(block(HEADS[0])) > 3 * LITTLE_VARIATION
