"""What an image leaves of the measured samples, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from memory_scan import head
from torch import Tensor

from mri_ambient.io import open_scan
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.recon.residuals import line_residual
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

N = 64
FULL = head("b", full=True, noise=0.003).ksp
LINES = MaskSpec("random", 1.6, 16).draw((N, N), rng_for(0, "lines"))[0, 0]
BLOCK = abs(torch.arange(N) - N // 2 + 0.5) < 8
"""Columns of the calibration lines."""


def right(ksp: Tensor) -> Tensor:
    return ksp


def calibration_off(ksp: Tensor) -> Tensor:
    """By a column."""
    return torch.where(BLOCK, ksp.roll(1, -1), ksp)


def others_backwards(ksp: Tensor) -> Tensor:
    """Columns of the other side of k = 0, but for the calibration lines."""
    return torch.where(BLOCK, ksp, ksp.flip(-1).roll(1, -1))


def filtered(ksp: Tensor) -> Tensor:
    window = torch.hamming_window(N, periodic=False)
    return ksp * window * window[:, None]


def noisy(ksp: Tensor) -> Tensor:
    std = 0.01 * ksp.abs().max()
    return ksp + std * complex_normal(tuple(ksp.shape), rng_for(0, "noise"))


WRONG = [calibration_off, others_backwards]


@pytest.mark.parametrize("fault", [right, filtered, noisy, *WRONG])
def test_lines_that_contradict_the_image_are_warned_of(fault: Callable[[Tensor], Tensor]):
    ksp = (fault(FULL) * LINES).numpy()
    rec = reconstruct(ksp, Recipe(), Runtime("cpu"))
    (check,) = rec.report["checks"]
    codes = [warning["code"] for warning in rec.warnings]
    assert ("W-LINES" in codes) == (fault in WRONG)
    if fault in WRONG:
        assert check["line_residual"] > 0.05
    else:
        assert check["line_residual"] < 0.004


@pytest.mark.parametrize("method", ["zero-filled", "cg-sense"])
def test_methods_that_need_not_fit_the_samples_say_nothing(method):
    rec = reconstruct((FULL * LINES).numpy(), Recipe(method), Runtime("cpu"))
    assert "W-LINES" not in [warning["code"] for warning in rec.warnings]


def test_the_residual_of_lines_is_what_noise_does_not_explain():
    rng = rng_for(0, "residual")
    noise = complex_normal((1, 4, N, N), rng)
    ksp = noise.clone()
    ksp[..., 28:37, :] += 100
    batch = Batch(
        ksp, ksp, torch.ones(1, 1, N, N) > 0, torch.ones(1, N) > 0, torch.ones(1), ksp.real
    )
    assert line_residual(batch, noise) == 0
    wrong = noise.clone()
    wrong[..., 28:37, 40] += 30
    assert line_residual(batch, wrong) == pytest.approx(0.09, rel=0.1)
    masked = batch.mask.clone()
    masked[..., 40] = False
    assert (
        line_residual(Batch(ksp, ksp, masked, batch.acquired, batch.noise_std, ksp.real), wrong)
        == 0
    )


@pytest.mark.parametrize("name", ["espirit_brain8", "alias_brain8"])
def test_nothing_is_said_of_real_scans(name, real_scans):
    ksp = open_scan(real_scans / f"{name}.h5")[0].ksp.numpy()
    for seed, rate in enumerate((2, 4)):
        mask = MaskSpec("random", rate, 20).draw(ksp.shape[-2:], rng_for(seed, "real"))[0, 0]
        rec = reconstruct(np.where(mask.numpy(), ksp, 0), Recipe(), Runtime("cpu"))
        assert "W-LINES" not in [warning["code"] for warning in rec.warnings]
        assert rec.report["checks"][0]["line_residual"] < 0.002
