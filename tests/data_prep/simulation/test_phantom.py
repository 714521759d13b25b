from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mri_ambient.data_prep.simulation.phantom import (
    CONTRASTS,
    SLICE_MM,
    STACK_MM,
    TISSUES,
    head_phantom,
    pixel_mm,
    slice_mm,
)
from mri_ambient.rng import rng_for


def head(seed: int, shape: tuple[int, int] = (96, 96), n_slices: int = 1) -> Tensor:
    return head_phantom(shape, rng_for(seed, "phantom"), n_slices)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_the_same_random_state_draws_the_same_head():
    assert torch.equal(head(3), head(3))


@pytest.mark.parametrize(("shape", "n_slices"), [((96, 96), 1), ((80, 97), 2), ((64, 48), 1)])
def test_a_head_is_a_magnitude_with_maximum_one(shape, n_slices):
    img = head(0, shape, n_slices)
    assert img.shape == (n_slices, *shape)
    assert img.dtype == torch.float32
    assert img.isfinite().all()
    assert img.min() >= 0
    assert img.max() == 1


def test_the_corners_are_air_and_the_middle_is_not():
    for seed in range(12):
        img = head(seed)[0]
        corners = torch.stack([img[:8, :8], img[:8, -8:], img[-8:, :8], img[-8:, -8:]])
        assert corners.max() < 1e-4
        assert img[40:56, 40:56].mean() > 0.05


def test_heads_differ():
    # Flat discs of one size would correlate to nearly 1; brains have folds of their own.
    inside = torch.stack([head(seed)[0, 24:72, 30:66].flatten() for seed in range(16)])
    alike = torch.corrcoef(inside).fill_diagonal_(0).abs()
    assert alike.max() < 0.95
    assert alike.mean() < 0.5


def test_a_finer_matrix_shows_the_same_head():
    for seed in range(4):
        coarse, fine = head(seed, (96, 96)), head(seed, (192, 192))
        # Both grids hold the middle at n // 2, so every second pixel lies at the same place.
        assert correlation(coarse, fine[:, ::2, ::2]) > 0.97


def test_a_dark_skull_lies_between_skin_and_brain():
    for seed in range(12):
        img = head(seed, (128, 128))[0]
        for angle in torch.arange(0, 2 * torch.pi, torch.pi / 6):
            r = torch.arange(63, 0, -0.5)
            ray = img[(64 + r * angle.sin()).long(), (64 + r * angle.cos()).long()]
            skin = int(torch.nonzero(ray > 0.2)[0])
            bone = skin + int(ray[skin : skin + 20].argmin())
            assert ray[bone] < 0.5 * ray[skin:bone].max(), f"seed {seed}, angle {angle:.1f}"
            assert ray[bone : bone + 30].max() > 1.5 * ray[bone]


def test_neighbouring_slices_cut_the_same_anatomy():
    for seed in range(4):
        volume = head(seed, n_slices=6)
        near = [correlation(a, b) for a, b in pairwise(volume)]
        assert min(near) > 0.8
        assert correlation(volume[0], volume[-1]) < min(near)


def test_a_tall_stack_stays_in_the_head():
    volume = head(0, (48, 48), n_slices=40)
    assert (volume.amax(dim=(-2, -1)) > 0.3).all()


def test_pixel_and_slice_sizes():
    assert pixel_mm((111, 200)) == 2.0
    assert pixel_mm((400, 93)) == 2.0
    assert slice_mm(1) == SLICE_MM
    assert 40 * slice_mm(40) == pytest.approx(STACK_MM)


def test_every_contrast_has_every_tissue_and_bone_is_darkest():
    for signals in CONTRASTS.values():
        table = dict(zip(TISSUES, signals, strict=True))
        assert max(signals) <= 1
        assert table["bone"] == min(signals)
