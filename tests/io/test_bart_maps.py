"""Coil maps that BART made, given with its k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mri_ambient.data_prep import plan_preparation
from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.io import Undersampled, open_scan
from mri_ambient.physics.fourier import fft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.rng import complex_normal

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

SHAPE = (2, 4, 32, 28)


def write(path: Path, values: torch.Tensor) -> Path:
    """``(slice, coil, y, x)`` in BART's order."""
    n_slices, n_coils, ny, nx = values.shape
    sizes = [ny, nx, 1, n_coils, *[1] * 9, n_slices, 1, 1]
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n")
    path.write_bytes(values.permute(0, 1, 3, 2).contiguous().numpy().tobytes())
    return path


@pytest.fixture
def scan(tmp_path, rng):
    """Smooth maps, an image with sharp edges, noise; maps of sum over coils |S|^2 = 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 28), indexing="ij")
    places = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    maps = torch.stack(
        [
            torch.polar(torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 2), a * x + b * y)
            for a, b in places
        ]
    )
    maps = (maps / maps.abs().square().sum(dim=0).sqrt()).expand(SHAPE).contiguous()
    img = ((y**2 + x**2 < 0.6) + 0.5 * (x > 0.2) * (y**2 + x**2 < 0.6)).float()
    ksp = fft2c(maps * img) + 0.002 * complex_normal(SHAPE, rng)
    return write(tmp_path / "k.cfl", ksp), write(tmp_path / "m.cfl", maps), maps, img


def test_the_maps_are_used_as_they_are(scan):
    ksp, path, maps, _ = scan
    file = open_scan(ksp, maps=path)
    preparation = plan_preparation(file)
    prepared = preparation.apply(file[1])
    assert "given-maps" in prepared.steps and "espirit" not in prepared.steps
    assert prepared.given_maps is None
    # Whitening mixes the coils, so that S is compared through what it predicts.
    seen = torch.einsum("vc,scyx->svyx", prepared.coil_transform.to(maps.dtype), maps[1:])
    size = seen.abs().square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(prepared.maps, seen / size, atol=1e-4, rtol=0)


def test_an_undersampled_scan_is_reconstructed_with_them(scan):
    ksp, path, _, img = scan
    full = open_scan(ksp, maps=path)
    file = Undersampled(full, MaskSpec("random", 1.6, 12), 0)
    found = reconstruct(file, Recipe("cg-sense")).magnitude[0]
    assert np.linalg.norm(found - img.numpy()) < 0.06 * np.linalg.norm(img.numpy())


def test_other_maps_are_another_scan(scan, tmp_path):
    ksp, path, maps, _ = scan
    others = write(tmp_path / "others.cfl", maps.flip(0) * 1j)
    hashes = {open_scan(ksp, maps=m).sha256 for m in (None, path, others)}
    assert len(hashes) == 3


def test_maps_that_do_not_fit_are_refused(scan, tmp_path):
    ksp, path, maps, _ = scan
    few = write(tmp_path / "few.cfl", maps[:, :3].contiguous())
    for wrong in (few, tmp_path / "gone.cfl"):
        with pytest.raises(ScanFormatError):
            open_scan(ksp, maps=wrong)
    (tmp_path / "a.npy").write_bytes(b"")
    np.save(tmp_path / "a.npy", maps.numpy())
    with pytest.raises(ConfigError):
        open_scan(tmp_path / "a.npy", maps=path)
