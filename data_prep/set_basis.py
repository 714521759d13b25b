"""A smooth basis for two sets of coil maps.

Where two places of the object share a pixel, ESPIRiT gives the plane that their sensitivities span;
any orthonormal basis of it describes the same measurements, and the eigenvectors jump and turn from
pixel to pixel. Here the first map continues that of the surrounding pixels, where there is only
one: on a coarse grid it is averaged over its neighbours and projected onto the plane, again and
again, from the edge inwards. The second map is orthogonal to it. Images of both sets then look like
the object, which a network or a wavelet transform expects.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..physics.map_sets import split_sets

STRIDE = 4
"""Pixels of the coarse grid are this far apart."""

N_ITER = 50
"""Iterations, each of which goes one coarse pixel further: 200 pixels."""


def smooth_basis(maps: Tensor) -> Tensor:
    """Two sets of orthonormal maps ``(slice, coil, set*y, x)`` that span the same, smooth in space.

    The first set is unchanged where there is no second.
    """
    return torch.stack([_smooth_slice(one) for one in maps])


def _smooth_slice(maps: Tensor) -> Tensor:
    first, second = split_sets(maps, 2).unbind(dim=1)
    if not bool((second != 0).any()):
        return maps
    coarse = first[..., ::STRIDE, ::STRIDE], second[..., ::STRIDE, ::STRIDE]
    known = (coarse[0] != 0).any(dim=0) & ~(coarse[1] != 0).any(dim=0)
    guess = coarse[0] * known
    for _ in range(N_ITER):
        a, b = _coordinates(_channels(avg_pool2d(_planes(guess), 3, 1, 1)), *coarse)
        guess = torch.where(known, coarse[0], a * coarse[0] + b * coarse[1])
    size = (first.shape[-2], first.shape[-1])
    wanted = _channels(interpolate(_planes(guess)[None], size, mode="bilinear")[0])
    a, b = _coordinates(wanted, first, second)
    both = (second != 0).any(dim=0) & (a.abs() + b.abs() > 0)
    other = a.conj() * second - b.conj() * first
    other = other * other[:1].sgn().conj()  # real and positive in the strongest virtual coil
    smooth = torch.where(both, a * first + b * second, first), torch.where(both, other, second)
    return torch.cat(smooth, dim=-2)


def _coordinates(v: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The projection of ``v`` ``(coil, y, x)`` onto the plane of two maps, scaled to length 1."""
    a, b = ((s.conj() * v).sum(dim=0) for s in (first, second))
    size = (a.abs().square() + b.abs().square()).sqrt().clamp(min=1e-12)
    return a / size, b / size


def _planes(x: Tensor) -> Tensor:
    """Complex ``(coil, y, x)`` as real ``(2 coil, y, x)``."""
    return torch.cat([x.real, x.imag])


def _channels(x: Tensor) -> Tensor:
    """Inverse of :func:`_planes`."""
    return torch.complex(*x.chunk(2))
