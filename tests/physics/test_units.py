"""Images in the units of the file."""

from __future__ import annotations

import pytest
import torch
from helpers import random_maps

from mri_ambient.physics.units import energy, nonzero_along, rss_weight
from mri_ambient.rng import complex_normal, rng_for


@pytest.mark.parametrize("dim", [None, (), (-3,), (-2,), (-3, -1), (-3, -2, -1)])
def test_energies_are_sums_of_squared_magnitudes(dim):
    x = complex_normal((2, 3, 4, 6), rng_for(0), dtype=torch.complex128)
    squares = x.abs().square()
    want = squares if dim == () else squares.sum(dim=dim)
    torch.testing.assert_close(energy(x, dim), want)


@pytest.mark.parametrize("dim", [(-2,), (-3,), (-4, -3), (-4, -2)])
def test_zeros_are_told_from_small_numbers(dim):
    x = torch.zeros(2, 3, 4, 6, dtype=torch.complex64)
    x[1, 2, 3, 5], x[0, 0, 1, 2], x[1, 1, 1, 1] = 1e-30j, -1e-30, -2
    want = x != 0
    for axis in dim:
        want = want.any(dim=axis)
    assert torch.equal(nonzero_along(x, *dim), want)


def test_the_weight_is_the_rss_of_the_measured_coils_maps():
    # W mixes 5 coils, 3 virtual ones are kept: by hand, pixel by pixel.
    W = complex_normal((5, 5), rng_for(0), dtype=torch.complex128)
    maps = random_maps((2, 3, 4, 6), rng_for(1), torch.complex128)
    virtual = torch.cat([maps, torch.zeros_like(maps[:, :2])], dim=1)
    measured = torch.linalg.solve(W, virtual.flatten(-2)).view_as(virtual)
    want = measured.abs().square().sum(dim=1).sqrt()
    torch.testing.assert_close(rss_weight(maps, W), want)


def test_without_a_transform_the_weight_is_the_support():
    maps = random_maps((3, 4, 6), rng_for(1), torch.complex128)
    maps[..., :2] = 0
    want = torch.ones(4, 6, dtype=torch.float64)
    want[..., :2] = 0
    torch.testing.assert_close(rss_weight(maps, None), want)
    torch.testing.assert_close(rss_weight(maps, torch.eye(3)), want)


def test_a_transform_without_its_dropped_rows_is_refused():
    maps = random_maps((3, 4, 6), rng_for(1))
    for transform in (torch.zeros(3, 5), torch.eye(2)):
        with pytest.raises(ValueError) as refused:
            rss_weight(maps, transform)
        assert str(tuple(transform.shape)) in str(refused.value)
