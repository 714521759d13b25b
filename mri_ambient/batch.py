"""Slices of one size, stacked: what an objective is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .scan import Scan
from .sense import SenseOp


@dataclass(frozen=True)
class Batch:
    """Measurements of several slices, normalised.

    Attributes:
        ksp: complex ``(b, coil, y, x)``. Entries where ``mask`` is False are never read.
        maps: ``(b, coil, y, x)``; scans with fewer coils are filled up with zero maps.
        mask: bool ``(b, 1, y, x)``.
        acquired: bool ``(b, x)``, False for columns the scanner never acquires.
        noise_std: sigma_n per real channel, ``(b,)``.
    """

    ksp: Tensor
    maps: Tensor
    mask: Tensor
    acquired: Tensor
    noise_std: Tensor

    @property
    def op(self) -> SenseOp:
        """``A = M F S`` of the measurement."""
        return SenseOp(self.maps, self.mask)

    def __len__(self) -> int:
        return self.ksp.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        moved = (getattr(self, f.name).to(device, non_blocking=True) for f in fields(self))
        return Batch(*moved)

    @classmethod
    def of(cls, scans: Sequence[Scan]) -> Batch:
        """Stack the slices of prepared scans of one matrix size; coil counts may differ.

        Raises:
            ValueError: a scan is not prepared, or the sizes differ.
        """
        n_coils = max(scan.n_coils for scan in scans)
        parts = [_padded(scan, n_coils) for scan in scans]
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _padded(scan: Scan, n_coils: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if scan.maps is None or scan.noise_std is None:
        raise ValueError(f"{scan.scan_id}: not prepared; maps and noise_std are needed")
    n, coils, ny, nx = scan.ksp.shape
    acquired = torch.ones(nx, dtype=torch.bool) if scan.acquired is None else scan.acquired
    zeros = scan.ksp.new_zeros(n, n_coils - coils, ny, nx)
    return (
        torch.cat([scan.ksp, zeros], dim=1),
        torch.cat([scan.maps, zeros], dim=1),
        scan.mask.expand(n, 1, ny, nx),
        acquired.expand(n, nx),
        torch.full((n,), float(scan.noise_std)),
    )
