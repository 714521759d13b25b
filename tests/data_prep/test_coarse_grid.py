"""Interpolation between the nodes of a coarse grid."""

from __future__ import annotations

import pytest
import torch

from mri_ambient.data_prep.coarse_grid import CoarseGrid, over_corners, steepness

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(12, 9), (13, 7), (5, 1)])
@pytest.mark.parametrize("steps", [(4, 3), (1, 1), (5, 20)])
def test_a_plane_is_interpolated_exactly(shape: tuple[int, int], steps: tuple[int, int]) -> None:
    grid = CoarseGrid(shape, steps, CPU)
    y, x = grid.nodes
    assert (int(y.max()) >= shape[0], int(x.max()) >= shape[1]) == (True, True)
    at_nodes = torch.complex(2.0 * y - 3.0 * x, 0.5 * x + 1).view(grid.n_nodes)
    found = grid.interpolate(at_nodes)
    y, x = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    torch.testing.assert_close(found, torch.complex(2.0 * y - 3.0 * x, 0.5 * x + 1))


def test_pixels_belong_to_the_cell_before_the_next_nodes() -> None:
    grid = CoarseGrid((5, 7), (2, 3), CPU)
    cells = torch.zeros(3, 3, dtype=torch.bool)
    cells[1, 2] = True
    wanted = torch.zeros(5, 7, dtype=torch.bool)
    wanted[2:4, 6:] = True
    wanted[::2, ::3] = True  # the nodes
    assert torch.equal(grid.in_cells(cells), wanted)


def test_corners_and_edges_of_cells() -> None:
    values = torch.tensor([[0.0, 1.0, 5.0], [2.0, 3.0, 4.0]])
    assert over_corners(torch.minimum, values).tolist() == [[0.0, 1.0]]
    assert over_corners(torch.maximum, values).tolist() == [[3.0, 5.0]]
    assert steepness(torch.stack([values, 0 * values])).tolist() == [[2.0, 4.0]]
