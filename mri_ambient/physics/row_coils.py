"""Virtual coils of image rows, for measurements whose rows do not depend on each other.

Where whole lines along y are sampled, the rows of an image are measured one by one. Any unitary
mixture of the coils leaves the normal operator as it is, another one in every row. In that by its
singular vectors (as Zhang et al. 2013, doi:10.1002/mrm.23267, for compression) a row is seen by few
coils: their number depends on the coils in line with it, not on all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOST = 16
"""Largest share of a row's energy that is left out, in units of the rounding of its numbers. The
rounding of maps to 16 bits (:mod:`~mri_ambient.physics.coil_maps`) changes more."""

CACHE_BYTES = 2**19
"""Coil images that stay in the cache of a CPU from one factor of an operator to the next."""


def row_coils(maps: Tensor) -> tuple[Tensor, ...]:
    """Maps of some rows each, of as few virtual coils as one of these rows needs.

    What is left out is decided for every row of every item by itself.

    Args:
        maps: complex ``(..., coil, y, x)``.

    Returns:
        Complex ``(..., virtual coil, some y, x)``, from the first rows to the last. An image of
        their size has :data:`CACHE_BYTES` at most.
    """
    items = [_virtual_coils(item) for item in maps.reshape(-1, *maps.shape[-3:])]
    virtual = torch.stack(items).reshape(maps.shape)
    needs = virtual.any(dim=-1).sum(dim=-2).view(-1, maps.shape[-2]).amax(dim=0)
    n_coils = needs.clamp(min=1).tolist()
    n_bytes = virtual[..., :1, :1, :].numel() * virtual.element_size()
    n_rows = max(1, CACHE_BYTES // (n_bytes * max(n_coils)))
    starts = range(0, len(n_coils), n_rows)
    most = [max(n_coils[first : first + n_rows]) for first in starts]
    parts = zip(torch.split(virtual, n_rows, dim=-2), most, strict=True)
    return tuple(part[..., :n, :, :].contiguous() for part, n in parts)


def _virtual_coils(maps: Tensor) -> Tensor:
    """Of every row, the strongest first, ``(virtual coil, y, x)``; 0 where they are left out."""
    rows = maps.transpose(0, 1)
    energies, vectors = torch.linalg.eigh((rows @ rows.mH).nan_to_num())  # rising
    lost = energies.clamp(min=0).cumsum(dim=-1)
    left_out = lost <= LOST * torch.finfo(maps.dtype).eps * lost[:, -1:]
    kept = vectors.masked_fill_(left_out[:, None], 0).flip(-1)
    virtual: Tensor = kept.mH @ rows
    return virtual.transpose(0, 1)
