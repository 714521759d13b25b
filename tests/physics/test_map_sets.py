"""Several sets of coil maps: what tells them apart, and what brings them together."""

from __future__ import annotations

import pytest
import torch
from helpers import random_maps, random_sense, random_sets

from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.map_sets import (
    combine_sets,
    first_set,
    items_as_sets,
    magnitude,
    repeat_sets,
    sets_as_items,
    split_sets,
    sum_sets,
)
from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.units import rss_weight
from mri_ambient.rng import complex_normal


@pytest.fixture
def op(rng):
    return random_sense((5, 6), 4, rng, torch.complex128, n_sets=2)


def test_orthonormal_sets_keep_images_and_white_noise(op, rng):
    x = complex_normal(op.ishape, rng, dtype=torch.complex128)
    torch.testing.assert_close(op.combine(op.expand(x)), x)


def test_the_sum_is_the_adjoint_of_repeating(rng):
    x, y = complex_normal((3, 8, 5), rng), complex_normal((3, 4, 5), rng)
    left = torch.vdot(sum_sets(x, 2).flatten(), y.flatten())
    torch.testing.assert_close(left, torch.vdot(x.flatten(), repeat_sets(y, 2).flatten()))
    assert sum_sets(x, 1) is x and repeat_sets(x, 1) is x  # one set is never copied


def test_items_are_sets_in_order(rng):
    x = complex_normal((3, 2, 8, 5), rng)
    alone = sets_as_items(x, 2)
    assert torch.equal(alone[2 * 1 + 1], x[1, :, 4:])
    assert torch.equal(items_as_sets(alone, 2), x)
    assert torch.equal(first_set(x, 2), split_sets(x, 2)[..., 0, :, :])


def test_the_combined_image_has_the_same_coil_images(rng):
    maps = random_sets(random_maps((4, 5, 6), rng), 2, rng)
    img = complex_normal((10, 6), rng)
    img[[0, 5]] = 0  # no signal in either set
    coil_img = ifft2c(SenseOp(maps, torch.ones(1, 5, 6, dtype=torch.bool), 2).expand(img))
    one, S = combine_sets(img, maps, 2)
    torch.testing.assert_close(S * one, coil_img)
    torch.testing.assert_close(magnitude(img, 2), coil_img.abs().square().sum(dim=0).sqrt())
    torch.testing.assert_close(one.abs(), magnitude(img, 2))
    angle = (one * (img[:5] + img[5:]).conj()).imag.abs()
    assert float(angle.max()) < 1e-5  # the phase of the sum


def test_the_exported_magnitude_is_the_rss_of_the_measured_coils(rng):
    # Compression drops coils, and the noise of the others is unequal and correlated.
    maps, transform = random_maps((3, 5, 6), rng), complex_normal((6, 6), rng)
    maps, img = random_sets(maps, 2, rng), complex_normal((10, 6), rng)
    virtual = (maps * img).reshape(3, 2, 5, 6).sum(dim=1)
    inverse = torch.linalg.inv(transform)[:, :3]
    measured = torch.einsum("cv,vyx->cyx", inverse, virtual)
    one, S = combine_sets(img, maps, 2)
    found = one.abs() * rss_weight(S, transform)
    torch.testing.assert_close(found, measured.abs().square().sum(dim=0).sqrt(), rtol=1e-4, atol=0)
