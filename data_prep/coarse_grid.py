"""A coarse grid over an image, for what is smooth in space, and interpolation between its nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm


@dataclass(frozen=True)
class CoarseGrid:
    """Nodes every ``steps`` pixels from the first pixel on, the last ones behind the last pixel.

    Attributes:
        shape: pixels ``(y, x)``.
        steps: pixels from one node to the next, ``(y, x)``.
        device: of the tensors.
    """

    shape: tuple[int, int]
    steps: tuple[int, int]
    device: torch.device

    @property
    def n_nodes(self) -> tuple[int, int]:
        """Number of nodes ``(y, x)``."""
        y, x = (-(-n // step) + 1 for n, step in zip(self.shape, self.steps, strict=True))
        return y, x

    @property
    def nodes(self) -> Tensor:
        """Places of the nodes in pixels, rows ``y`` and ``x``, ``(2, node)``."""
        axes = [step * self._count(n) for n, step in zip(self.n_nodes, self.steps, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)

    def interpolate(self, values: Tensor) -> Tensor:
        """Pixels ``(..., y, x)`` from values at the nodes, linearly."""
        if values.is_complex():
            return torch.complex(self.interpolate(values.real), self.interpolate(values.imag))
        along_y, along_x = (self._hats(axis).to(values.dtype) for axis in (0, 1))
        return along_y @ values @ along_x.T

    def in_cells(self, cells: Tensor) -> Tensor:
        """Pixels ``(y, x)`` of cells of which a statement holds, and all pixels that are nodes."""
        (ny, nx), (step_y, step_x) = self.shape, self.steps
        pixels = cells.repeat_interleave(step_y, 0).repeat_interleave(step_x, 1)[:ny, :nx].clone()
        pixels[::step_y, ::step_x] = True
        return pixels

    def _hats(self, axis: int) -> Tensor:
        """Weights of the nodes, ``(pixel, node)``."""
        places = self._count(self.shape[axis]) / self.steps[axis]
        return (1 - (places[:, None] - self._count(self.n_nodes[axis])).abs()).clamp(min=0)

    def _count(self, n: int) -> Tensor:
        return torch.arange(n, device=self.device)


def over_corners(pick: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Tensor:
    """The least or the largest of the four corners of every cell, ``(..., y - 1, x - 1)``."""
    rows = pick(values[..., 1:, :], values[..., :-1, :])
    return pick(rows[..., 1:], rows[..., :-1])


def steepness(vectors: Tensor) -> Tensor:
    """The largest distance between neighbouring corners of a cell, for ``(n, y, x)`` at nodes."""
    along_y = vector_norm(vectors[:, 1:] - vectors[:, :-1], dim=0)
    along_x = vector_norm(vectors[..., 1:] - vectors[..., :-1], dim=0)
    return torch.maximum(
        torch.maximum(along_y[:, 1:], along_y[:, :-1]), torch.maximum(along_x[1:], along_x[:-1])
    )
