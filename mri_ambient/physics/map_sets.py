"""Several sets of coil maps: soft SENSE, for an object larger than the field of view.

Two places of such an object share a pixel, and each has its own coil sensitivities. With an image
and coil maps for each (Uecker et al. 2014, doi:10.1002/mrm.24751) the coil images are

    c = sum_m S_m x_m,    S_m^H S_n = 0 for m != n,    S_m^H S_m = 1 or 0.

The images of the sets lie one below the other in one array ``(..., set*y, x)``, and so do the maps,
``(..., coil, set*y, x)``. Norms, inner products and solves over the last two axes are therefore
those of all sets together, and one set is an ordinary image. Only what follows tells sets apart.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sum_sets(coil_img: Tensor, n_sets: int) -> Tensor:
    """The sum over sets, ``(..., set*y, x)`` to ``(..., y, x)``."""
    return coil_img if n_sets == 1 else split_sets(coil_img, n_sets).sum(dim=-3)


def repeat_sets(coil_img: Tensor, n_sets: int) -> Tensor:
    """The same for every set, ``(..., y, x)`` to ``(..., set*y, x)``; adjoint of the sum."""
    return coil_img if n_sets == 1 else torch.cat([coil_img] * n_sets, dim=-2)


def split_sets(x: Tensor, n_sets: int) -> Tensor:
    """With an axis for the sets, ``(..., set*y, x)`` to ``(..., set, y, x)``."""
    return x.reshape(*x.shape[:-2], n_sets, x.shape[-2] // n_sets, x.shape[-1])


def first_set(x: Tensor, n_sets: int) -> Tensor:
    """A view of the first set, ``(..., set*y, x)`` to ``(..., y, x)``."""
    return x[..., : x.shape[-2] // n_sets, :]


def sets_as_items(x: Tensor, n_sets: int) -> Tensor:
    """Every set as a batch item of its own, ``(b, ..., set*y, x)`` to ``(b*set, ..., y, x)``."""
    return split_sets(x, n_sets).movedim(-3, 1).flatten(0, 1)


def items_as_sets(x: Tensor, n_sets: int) -> Tensor:
    """Inverse of :func:`sets_as_items`."""
    apart = x.reshape(len(x) // n_sets, n_sets, *x.shape[1:])
    return apart.movedim(1, -3).flatten(-3, -2)


def magnitude(img: Tensor, n_sets: int) -> Tensor:
    """Root sum of squares over sets, real ``(..., y, x)``: that over coils, since ``S^H S = 1``."""
    return img.abs() if n_sets == 1 else split_sets(img.abs(), n_sets).square().sum(dim=-3).sqrt()


def combine_sets(img: Tensor, maps: Tensor, n_sets: int) -> tuple[Tensor, Tensor]:
    """One image and one set of maps with the same coil images, ``S x = sum_m S_m x_m``.

    The image has the :func:`magnitude` of all sets and the phase of their sum. One set is returned
    as it is.

    Args:
        img: complex ``(..., set*y, x)``.
        maps: complex ``(..., coil, set*y, x)``.
        n_sets: number of sets.
    """
    if n_sets == 1:
        return img, maps
    total, size = split_sets(img, n_sets).sum(dim=-3), magnitude(img, n_sets)
    phase = torch.where(total == 0, 1, torch.sgn(total))
    coil_img = sum_sets(maps * img.unsqueeze(-3), n_sets)
    turn = phase.conj() / size.clamp(min=torch.finfo(size.dtype).tiny)
    return size * phase, coil_img * turn.unsqueeze(-3)
