"""An object wider than the field of view, with everything about it known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mri_ambient.data_prep.preparation import orthonormal
from mri_ambient.physics.fourier import fft2c
from mri_ambient.rng import complex_normal


@dataclass(frozen=True)
class Folded:
    """What a scanner measures of the object.

    Attributes:
        ksp: fully sampled, complex ``(coil, y, x)``.
        inside, outside: sensitivities at the place of a pixel, and at the one that folds onto it
            (0 where nothing does), ``(coil, y, x)``.
    """

    ksp: Tensor
    inside: Tensor
    outside: Tensor

    @property
    def folds(self) -> Tensor:
        """The pixels where two places meet, bool ``(y, x)``."""
        return (self.outside != 0).any(dim=0)

    @property
    def maps(self) -> Tensor:
        """Two orthonormal sets that span what both places have, ``(coil, 2*y, x)``."""
        first, second = orthonormal([self.inside[None], self.outside[None]])
        return torch.cat([first, second], dim=-2)[0]


MARGIN = 16
"""Pixels beyond the left and the right edge of the field of view that an object may reach."""


def folded(
    shape: tuple[int, int], width: int, rng: Generator, *, n_coils: int = 8, noise: float = 0.0
) -> Folded:
    """A textured slab, ``width`` pixels wide, as far beyond the left edge as beyond the right.

    ``noise`` is the standard deviation per real channel of k-space.
    """
    ny, nx = shape
    y, x = torch.arange(ny)[:, None] - ny // 2, torch.arange(nx + 2 * MARGIN) - nx // 2 - MARGIN
    S = _sensitivities(y / ny, x / nx, n_coils)
    texture = 1 + 0.3 * torch.sin(0.9 * x) * torch.cos(0.7 * y)
    img = texture * (y.abs() < 0.35 * ny) * (x >= -width // 2) * (x < width // 2)
    coil_img, S = S * img, S * (img > 0)
    inside, outside = _parts(S, nx)
    here, there = _parts(coil_img, nx)
    ksp = fft2c(here + there)
    ksp = ksp + noise * complex_normal(tuple(ksp.shape), rng)
    return Folded(ksp, inside, outside)


def _sensitivities(y: Tensor, x: Tensor, n_coils: int) -> Tensor:
    """Coils on a circle around the field of view, whose position is -1/2 to 1/2."""
    coils = []
    for a in torch.arange(n_coils) * 2 * torch.pi / n_coils:
        distance = (y - 0.7 * a.sin()).square() + (x - 0.9 * a.cos()).square()
        coils.append(torch.polar(torch.exp(-4 * distance), a + 1.5 * (a.cos() * y - a.sin() * x)))
    return torch.stack(coils)


def _parts(wide: Tensor, nx: int) -> tuple[Tensor, Tensor]:
    """What lies in the field of view, and what folds into it from both sides."""
    outside = torch.zeros_like(wide[..., :nx])
    outside[..., nx - MARGIN :] = wide[..., :MARGIN]
    outside[..., :MARGIN] = wide[..., MARGIN + nx :]
    return wide[..., MARGIN : MARGIN + nx], outside
