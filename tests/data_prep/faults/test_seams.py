"""Lines that do not follow each other are found, and nothing is said of those that do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from memory_scan import MemoryScan, simulated_scan, smooth_heads, whitened_head
from torch import Tensor

from mri_ambient.data_prep import PrepConfig, SimulateConfig, plan_preparation
from mri_ambient.data_prep.faults.equal_lines import equal_lines
from mri_ambient.data_prep.faults.seams import (
    LEAST_SIZE,
    TURNED,
    coils_differ,
    largest_seam,
    seam_warnings,
)
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal, rng_for

HEADS = smooth_heads()

CENTRE = 40
"""The column of k = 0 of the heads."""


def lost(ksp: Tensor, place: int, dim: int = -1) -> Tensor:
    """Without the line so many from k = 0; those behind it stand one place off."""
    n = ksp.shape[dim]
    at = n // 2 + place
    kept = [i for i in range(n) if i != at] + [n - 1]
    return ksp.index_select(dim, torch.tensor(kept))


def doubled(ksp: Tensor, place: int) -> Tensor:
    """A line is stored twice; those behind it stand one place off."""
    n = ksp.shape[-1]
    return ksp[..., [i - (i > n // 2 + place) for i in range(n)]]


def turned(ksp: Tensor, place: int) -> Tensor:
    """From a line on, samples are of the other sign."""
    return ksp * (1 - 2 * (torch.arange(ksp.shape[-1]) >= CENTRE + place))


@pytest.mark.parametrize(
    ("fault", "place"),
    [(lost, 2), (lost, 5), (lost, 20), (turned, 0), (turned, 2), (turned, 20)],
)
def test_the_place_of_a_seam_is_found(fault: Callable[[Tensor, int], Tensor], place):
    """A line lost at k = 0 has a size of 1.8 here, of coils that are as smooth as these."""
    seam = largest_seam(fault(HEADS[0], place)[:, 24:72])
    assert seam.certain and (seam.turned < TURNED) == (fault is turned)
    assert abs(seam.line - place) <= 1
    (warning,) = seam_warnings("scan", [None, seam], "columns")
    assert warning.code == "W-LINES"


@pytest.mark.parametrize("measured", ["block", "all"])
def test_the_calibration_block_of_an_undersampled_scan_tells(measured):
    sampled = torch.ones(80, dtype=torch.bool)
    if measured == "block":
        sampled[:30], sampled[50:] = False, False
        sampled[::4] = True
    for ksp, least, most in ((HEADS[0], 0, LEAST_SIZE), (lost(HEADS[0], 2), LEAST_SIZE, 1e9)):
        assert least <= largest_seam((ksp * sampled)[:, 24:72], sampled).size < most


@pytest.mark.parametrize("coils", [4, 6, 12])
@pytest.mark.parametrize("noise", [0.0005, 0.005, 0.05])
def test_nothing_is_said_of_lines_that_follow_each_other(coils, noise):
    """Nor where a filter weakens the ends of k-space."""
    ksp = whitened_head(coils, noise)
    for right in (ksp, ksp * torch.hamming_window(80, periodic=False)):
        for lines in (right[:, 24:72], right[..., 16:64].mT):
            seam = largest_seam(lines)
            assert seam is None or seam.size < LEAST_SIZE
            assert seam_warnings("scan", [seam], "columns") == []


@pytest.mark.parametrize("size", [0.9, 1.0])
def test_an_object_that_ends_at_the_edges_has_no_seam(size):
    """Its line of k = 0 is not predicted, whatever is done to the others."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 3 * n) for n in (96, 80)), indexing="ij")
    angles = 2 * torch.pi * torch.arange(8)[:, None, None] / 8
    far = (y - 1.2 * angles.sin()).square() + (x - 1.2 * angles.cos()).square()
    box = (y.abs() < size) & (x.abs() < 0.6)
    coils = torch.exp(-0.8 * far + 1j * (angles + angles.cos() * x + 0.6 * y))
    ksp = center_crop(fft2c((box * coils).to(torch.complex64)), (96, 80)) * 100
    seam = largest_seam((ksp + complex_normal(ksp.shape, rng_for(0, "box")))[..., 28:52].mT)
    assert seam.size > LEAST_SIZE and not seam.certain
    assert seam_warnings("scan", [seam], "rows") == []


def test_what_tells_nothing_is_not_believed():
    """Noise, three coils with signal, few lines, short lines."""
    broken = lost(HEADS[0], 0)
    noise = complex_normal(broken.shape, rng_for(0, "noise"))
    three = torch.cat([broken[:3], noise[3:]])
    for ksp in (noise, three, broken[..., 35:46], broken[:, 44:55]):
        assert largest_seam(ksp) is None


def test_coils_that_do_not_differ_along_an_axis_tell_nothing_along_it():
    """Coils in a row: each sees the same of all columns."""
    y = torch.linspace(-1, 1, 24)[:, None]
    row = torch.stack([torch.exp(-3 * (y - a).square()) for a in torch.linspace(-1, 1, 6)])
    img = complex_normal((24, 24), rng_for(0, "object")) * row * 100
    block = torch.fft.fft2(img.to(torch.complex64))
    assert not coils_differ([block])
    assert coils_differ([block.mT])


def test_equal_lines_are_counted_from_the_middle():
    assert equal_lines(HEADS[0]) == ()
    assert equal_lines(doubled(HEADS[0], 3)) == (3,)
    assert equal_lines(0 * HEADS[0]) == ()


FULL = SimulateConfig(size=(96, 80), coils=8, full=True, noise=0.005)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (partial(lost, place=1), "columns"),
        (partial(lost, place=12, dim=-2), "rows"),
        (partial(doubled, place=0), "stored twice"),
    ],
)
def test_a_preparation_names_them(fault: Callable[[Tensor], Tensor], text):
    scan, _ = simulated_scan("head", FULL)
    for ksp, told in ((scan.ksp, []), (fault(scan.ksp), [text])):
        found = plan_preparation(MemoryScan(ksp)).warnings
        texts = [str(warning) for warning in found if warning.code == "W-LINES"]
        assert len(texts) == len(told)
        assert all(word in line for word, line in zip(told, texts, strict=True))


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_calibration_block_may_be_wide():
    scan, _ = simulated_scan("wide", FULL)
    plan = plan_preparation(MemoryScan(scan.ksp), PrepConfig(calib_width=64))
    assert "W-LINES" not in {warning.code for warning in plan.warnings}
