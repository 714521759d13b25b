"""Residue is told from weak samples that were measured, by the jumps of energy between places."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import simulated_scan
from torch import Tensor

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.errors import WRONG_SAMPLES
from mri_ambient.io import open_scan
from mri_ambient.io.views.residue import weak_places
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.rng import complex_normal, rng_for

SIZE = (96, 80)
LINES = MaskSpec("random", 4, 12).draw(SIZE, rng_for(0, "lines"))[0]
POISSON = MaskSpec("poisson", 4, 16).draw(SIZE, rng_for(0, "disc"))[0]
SINGLE = torch.rand(SIZE, generator=rng_for(0, "single")) < 0.25
SINGLE[36:60, 28:52] = True
MASKS = {"columns": LINES, "rows": LINES.T, "poisson": POISSON, "single": SINGLE}


@pytest.fixture(scope="module")
def ksp() -> Tensor:
    """Of a head, fully sampled, ``(coil, y, x)``."""
    config = SimulateConfig(size=SIZE, coils=6, full=True, noise=0.003)
    return simulated_scan("head without residue", config)[0].ksp[0]


def energy(ksp: Tensor) -> np.ndarray:
    """Summed over coils."""
    return ksp.abs().double().square().sum(dim=0).numpy()


def with_noise(ksp: Tensor, mask: Tensor, size: float) -> Tensor:
    """Noise, of a share of the rms of what was measured, where nothing was."""
    rms = ksp[:, mask].abs().square().mean().sqrt()
    noise = size * rms * complex_normal(tuple(ksp.shape), rng_for(1)) / 2**0.5
    return torch.where(mask, ksp, noise)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("coils", [1, 6])
@pytest.mark.parametrize("size", [1e-4, 1e-3])
def test_noise_where_nothing_was_measured_is_residue(ksp, kind, coils, size):
    ksp = ksp.mT if kind == "rows" else ksp
    mask = MASKS[kind]
    found = weak_places(energy(with_noise(ksp[:coils], mask, size)))
    assert found is not None and found.certain
    wrong = torch.from_numpy(found.residue) != ~mask
    assert int(wrong.sum()) <= (0 if coils > 1 or kind in ("columns", "rows") else 80)


@pytest.mark.parametrize("coils", [1, 6])
def test_residue_of_a_hundredth_is_found_in_lines(ksp, coils):
    found = weak_places(energy(with_noise(ksp[:coils], LINES, 0.01)))
    assert found is not None and np.array_equal(found.residue, ~LINES)


@pytest.mark.parametrize("kind", MASKS)
def test_weak_signal_is_not_certain(ksp, kind):
    ksp = ksp.mT if kind == "rows" else ksp
    found = weak_places(energy(torch.where(MASKS[kind], ksp, 0.01 * ksp)))
    assert found is not None and not found.certain
    assert found.ratio == pytest.approx(0.01, rel=0.5)


def changed(ksp: Tensor) -> dict[str, Tensor]:
    """Right scans of many kinds."""
    ny, nx = ksp.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    cut, halved = ksp.clone(), ksp.clone()
    cut[..., nx * 5 // 8 :] = 0
    halved[..., 1::2] *= 0.5
    scale = ksp.abs().max() / 2**11
    echoes = torch.exp(0.4 * torch.randn(nx, generator=rng_for(2)))
    hamming = torch.hamming_window(ny)[:, None] * torch.hamming_window(nx)
    return {
        "as it is": ksp,
        "one coil": ksp[:1],
        "Hamming filter": ksp * hamming,
        "Gaussian filter": ksp * torch.exp(-8 * (x.square() + y.square())),
        "12 bits": torch.view_as_complex(torch.view_as_real(ksp / scale).round()),
        "partial Fourier": cut,
        "elliptical": ksp * (x.square() + y.square() < 1),
        "padded": torch.nn.functional.pad(ksp, (16, 16, 20, 20)),
        "every other line halved": halved,
        "echoes": ksp * echoes,
        "off-centre": ksp.roll((5, -9), (-2, -1)),
        "columns": ksp * LINES,
        "samples": ksp * POISSON,
    }


def test_right_scans_have_no_residue(ksp):
    for name, own in changed(ksp).items():
        assert weak_places(energy(own)) is None, name


@pytest.mark.parametrize("noise", [0.001, 0.02])
def test_zeros_of_k_space_are_no_residue(noise):
    """Gratings, two objects, and boxes, whose k-space holds noise alone in many places."""
    y, x = torch.meshgrid(torch.arange(96) - 48, torch.arange(80) - 40, indexing="ij")
    objects = [(torch.arange(80) % p < p / 2) * (y.abs() < 38) for p in range(2, 11)]
    tubes = {at: (x - at).square() + y.square() < 64 for at in (-20, -8, 8, 20)}
    objects += [1.0 * tubes[-at] + sign * tubes[at] for at in (8, 20) for sign in (1, -1)]
    objects += [
        (x >= -w // 2) & (x < w - w // 2) & (y.abs() < h) for w in (8, 16, 20, 40) for h in (8, 19)
    ]
    for k, img in enumerate(objects):
        own = fft2c(img.to(torch.complex64))[None]
        own = own + noise * complex_normal((1, *SIZE), rng_for(k))
        assert weak_places(energy(own)) is None, k


@pytest.fixture
def scan(tmp_path):
    """A function that stores k-space in fastMRI layout and opens it."""

    def opened(ksp, **options):
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            file["kspace"] = ksp[None].numpy()
        return open_scan(tmp_path / "scan.h5", **options)

    return opened


def test_residue_is_left_out_and_weak_signal_is_named(ksp, scan, tmp_path):
    wrong = with_noise(ksp, SINGLE, 1e-3)
    with warns("W-NO-HEADER", "W-RESIDUE"):
        file = scan(wrong)
    assert np.array_equal(file.mask[0], SINGLE)
    assert np.array_equal(file[0].ksp[0], ksp * SINGLE)
    weak = torch.where(SINGLE, ksp, 0.01 * ksp)
    with warns("W-NO-HEADER", "W-WEAK-SAMPLES"):
        file = scan(weak)
    assert file.fully_sampled and np.array_equal(file[0].ksp[0], weak)
    assert "W-WEAK-SAMPLES" in WRONG_SAMPLES
    np.save(tmp_path / "mask.npy", SINGLE.numpy())
    with warns("W-NO-HEADER", "W-OUTSIDE-MASK"):
        assert np.array_equal(scan(weak, mask=tmp_path / "mask.npy").mask[0], SINGLE)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize("name", ["espirit_brain8", "alias_brain8", "poisson_brain8"])
def test_real_scans(real_scans, name):
    """They have no residue, and that of a thousandth is found."""
    own = open_scan(real_scans / f"{name}.h5")[0]
    assert weak_places(energy(own.ksp[0])) is None
    mask = own.mask[0]
    if not mask.all():
        found = weak_places(energy(with_noise(own.ksp[0], mask, 1e-3)))
        assert found is not None and found.certain
        assert np.array_equal(found.residue, ~mask)
