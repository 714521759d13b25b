"""Faults of scanners: the image is right nevertheless, or a warning tells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from array_files import phantom_ksp
from numpy.typing import NDArray

from mri_ambient.data_prep.faults.noise_coils import noise_coils
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

FULL = phantom_ksp((1, 6, 64, 64))
LINES = MaskSpec("equispaced", 2, 20).draw((64, 64), rng_for(0, "lines"))[0, 0].numpy()
COIL = 2
OTHERS = [coil for coil in range(6) if coil != COIL]

Ksp = NDArray[np.complex64]


def whole(ksp: Ksp) -> None:
    """No fault."""


def dead(ksp: Ksp) -> None:
    ksp[:, COIL] = 0


def noise_only(ksp: Ksp, std: float = 0.3) -> None:
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((2, *ksp[:, COIL].shape))
    ksp[:, COIL] = std * (parts[0] + 1j * parts[1]) * (np.abs(ksp[:, OTHERS]).max(axis=1) > 0)


def loud_noise_only(ksp: Ksp) -> None:
    """A quarter of the sample at k = 0."""
    noise_only(ksp, std=3)


def loud(ksp: Ksp) -> None:
    ksp[:, COIL] *= 100


def spike(ksp: Ksp) -> None:
    """Sixteen times as large as the sample at k = 0."""
    ksp[0, 1, 20, np.flatnonzero(LINES)[3]] = 60


def spike_in_all_coils(ksp: Ksp) -> None:
    """Of random phases."""
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, ksp.shape[1])
    ksp[0, :, 45, np.flatnonzero(LINES)[-4]] = 40 * np.exp(1j * phases)


def ghost(ksp: Ksp) -> None:
    """Every other line has another phase."""
    ksp[..., 1::2] *= np.exp(0.5j)


def uneven(ksp: Ksp) -> None:
    """Every other line is half as strong: interleaved echoes."""
    ksp[..., 1::2] *= 0.5


def clipped(ksp: Ksp) -> None:
    """By the receiver."""
    parts = ksp.view(np.float32)
    np.clip(parts, -0.2 * parts.max(), 0.2 * parts.max(), out=parts)


def rebuilt(fault: Callable[[Ksp], None]) -> tuple[NDArray[np.float32], set[str]]:
    """Image of undersampled k-space with a fault, and the codes of the warnings about it."""
    ksp = FULL * LINES
    fault(ksp)
    rec = reconstruct(ksp, Recipe("cg-sense"), Runtime("cpu"))
    return rec.magnitude, {warning["code"] for warning in rec.warnings}


def error(img: NDArray[np.float32], full: Ksp) -> float:
    """NRMSE to the RSS of fully sampled k-space."""
    rss = ifft2c(torch.from_numpy(full)).abs().square().sum(dim=1).sqrt().numpy()
    return float(np.linalg.norm(img - rss) / np.linalg.norm(rss))


@pytest.fixture(scope="module")
def usual() -> float:
    """The error without a fault."""
    return error(rebuilt(whole)[0], FULL)


FAULTS = {
    dead: None, noise_only: "W-NOISE-COIL", loud_noise_only: "W-NOISE-COIL", spike: "W-SPIKE",
    spike_in_all_coils: "W-SPIKE", loud: None,
}  # fmt: skip
"""And the warnings about them."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_coil_or_a_spike_leaves_the_image_right(fault, usual):
    img, codes = rebuilt(fault)
    full = FULL.copy()
    if fault is loud:
        loud(full)  # its RSS is that of the loud coil
    elif fault in (dead, noise_only, loud_noise_only):
        dead(full)
    assert error(img, full) < 1.25 * usual
    assert codes == {FAULTS[fault]} - {None}


@pytest.mark.parametrize("fault", [loud_noise_only, spike, spike_in_all_coils])
def test_an_image_is_scored_against_what_is_right(fault):
    """Not against an RSS with spikes, or with the noise of a coil that holds nothing else."""
    scores = []
    for each in (whole, fault):
        ksp = FULL.copy()
        each(ksp)
        scores.append(reconstruct(ksp, Recipe("cg-sense"), Runtime("cpu")).metrics["psnr"])
    assert scores[1] == pytest.approx(scores[0], abs=0.5)


def test_coils_are_left_out_for_loud_noise_alone():
    """Not for noise like that of the others, for weak signal, or if there is no other coil."""
    rng = rng_for(0, "blocks")
    noise = complex_normal((5, 12, 12), rng)
    std = torch.tensor([1.0, 1, 1, 30, 1])
    cov = torch.diag(std.square()).to(torch.complex128)
    block = std[:, None, None] * noise
    block[:3, 4:8, 4:8] += torch.tensor([100.0, 20, 5])[:, None, None]
    assert noise_coils(cov, [block]) == (3,)
    assert noise_coils(cov[3:, 3:], [block[3:]]) == ()
    block[3, 4:8, 4:8] += 100
    assert noise_coils(cov, [block]) == ()


@pytest.mark.parametrize(
    ("fault", "code"), [(ghost, "W-LINE-PHASE"), (uneven, "W-LINES"), (clipped, "W-CLIPPED")]
)
def test_lines_that_disagree_are_warned_of_and_nothing_is_scored_against_them(fault, code, usual):
    img, codes = rebuilt(fault)
    assert error(img, FULL) > 1.5 * usual
    assert codes == {"W-MAP-SETS", code}
    full = FULL.copy()
    fault(full)
    recipe = Recipe("cg-sense", retrospective=MaskSpec("random", 2, 16))
    rec = reconstruct(full, recipe, Runtime("cpu"))
    assert rec.metrics is None  # the ghost of the image of all samples would be called right
    assert {code, "W-NOT-SCORED"} < {warning["code"] for warning in rec.warnings}


def test_half_of_k_space_is_no_reference():
    """The RSS of partial Fourier is blurred, and not what an image is scored against."""
    parts = {columns: np.where(np.arange(64) >= columns, FULL, 0) for columns in (2, 16)}
    recs = {n: reconstruct(ksp, Recipe("cg-sense"), Runtime("cpu")) for n, ksp in parts.items()}
    assert [n for n, rec in recs.items() if rec.metrics is None] == [16]
    recipe = Recipe("cg-sense", retrospective=MaskSpec("random", 2, 16))
    rec = reconstruct(parts[16], recipe, Runtime("cpu"))
    assert rec.metrics is None and "W-NOT-SCORED" in {one["code"] for one in rec.warnings}
