"""Slices of one size, stacked: what an objective is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from .fourier import reverse
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

    def augmented(self, rng: Generator) -> Batch:
        """The same measurements of mirrored, conjugated, phase-turned objects, drawn per slice.

        Exact for any coils and mask: nothing is interpolated and nothing new is measured. The
        object is mirrored along y and along x and its complex conjugate taken with probability 1/2
        each, and turned by a uniform phase.
        """
        n = len(self)
        flip_y, flip_x, conjugate = torch.rand(3, n, generator=rng) < 0.5
        turn = torch.polar(torch.ones(n), 2 * torch.pi * torch.rand(n, generator=rng))
        ksp, maps, mask, acquired = self.ksp, self.maps, self.mask, self.acquired
        # Conjugating an object and its coils conjugates k-space and mirrors both of its axes.
        maps = _where(conjugate, maps.conj(), maps)
        ksp = _where(conjugate, ksp.conj(), ksp)
        for flips, dim in ((flip_y, -2), (flip_x, -1)):
            maps = _where(flips, reverse(maps, dim), maps)
            ksp, mask = (_where(flips ^ conjugate, reverse(t, dim), t) for t in (ksp, mask))
        acquired = _where(flip_x ^ conjugate, reverse(acquired, -1), acquired)
        ksp = ksp * turn.to(ksp.device)[:, None, None, None]
        return Batch(ksp, maps, mask, acquired, self.noise_std)

    @classmethod
    def of(cls, scans: Sequence[Scan]) -> Batch:
        """Stack the slices of prepared scans of one matrix size; coil counts may differ.

        Raises:
            ValueError: a scan is not prepared, or the sizes differ.
        """
        n_coils = max(scan.n_coils for scan in scans)
        parts = [_padded(scan, n_coils) for scan in scans]
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _where(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose per slice."""
    return torch.where(flags.view(-1, *[1] * (no.ndim - 1)).to(no.device), yes, no)


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
