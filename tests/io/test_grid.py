"""Turned images stay where they are; letters name their edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mri_ambient.io import Geometry, Grid
from mri_ambient.io.grid import Turn

TURNS = [Turn(*flags) for flags in itertools.product((False, True), repeat=3)]


def grid(shape=(3, 6, 9)) -> Grid:
    """Of an oblique volume."""
    directions = (0, 0.6, 0.8), (1, 0, 0), (0, -0.8, 0.6)
    positions = [np.array([10.0, -20.0, 30.0]) + 5 * i * np.array(directions[2]) for i in range(3)]
    return Grid(shape, (2.0, 1.5, 4.0), Geometry.of_vectors(*directions, positions))


def places(grid: Grid) -> np.ndarray:
    """World coordinates of every pixel, ``(slice, y, x, 3)``."""
    slices, y, x = np.indices(grid.shape)
    return np.stack([x, y, slices], axis=-1) @ grid.affine()[:3, :3].T + grid.affine()[:3, 3]


@pytest.mark.parametrize("turn", TURNS, ids=str)
@pytest.mark.parametrize("shape", [(3, 6, 9), (3, 8, 4)])
def test_every_pixel_of_a_turned_image_keeps_its_place(turn, shape):
    before = places(grid(shape))
    want = np.stack([turn(before[..., axis]) for axis in range(3)], axis=-1)
    turned = grid(shape).turned(turn)
    assert turned.shape == want.shape[:3]
    assert turned.voxel_mm == ((1.5, 2.0, 4.0) if turn.transpose else (2.0, 1.5, 4.0))
    np.testing.assert_allclose(places(turned), want, atol=1e-9)


def test_slices_in_reverse_order_keep_their_places():
    np.testing.assert_allclose(places(grid().reversed_slices()), places(grid())[::-1], atol=1e-9)


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_whatever_was_turned_is_shown_the_same_way(turn):
    turned = grid().turned(turn)
    shown = turned.turned(turned.display_turn())
    np.testing.assert_allclose(shown.geometry.directions[:2], [(0, -0.6, -0.8), (1, 0, 0)])
    assert shown.letters() == ("R", "L", "SP", "IA")


def test_images_without_a_place_stay_as_they_are():
    for unplaced in (Grid((3, 6, 9), (2.0, 1.5, 4.0)), Grid((3, 6, 9), None, grid().geometry)):
        assert unplaced.affine() is None
        assert not unplaced.is_placed and "none" in unplaced.orientation_source
        assert unplaced.display_turn() == Turn() and unplaced.letters() is None
