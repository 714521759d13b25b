"""Linear operators: a forward map with its adjoint, and the SENSE operator of multi-coil MRI."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .fourier import decentre, fft2c, ifft2c
from .map_sets import repeat_sets, split_sets, sum_sets
from .row_coils import row_coils
from .units import nonzero_along


class LinearOperator(ABC):
    """A linear map between complex tensors; leading axes are batch.

    Attributes:
        ishape: trailing shape of the input of :meth:`forward`.
        oshape: trailing shape of its output.
    """

    ishape: tuple[int, ...]
    oshape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x``, from ``(..., *ishape)`` to ``(..., *oshape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``, from ``(..., *oshape)`` to ``(..., *ishape)``."""

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``; an operator may override it by something faster."""
        return self.adjoint(self.forward(x))

    def __call__(self, x: Tensor) -> Tensor:
        """``A x``."""
        return self.forward(x)

    @property
    def H(self) -> LinearOperator:  # noqa: N802 -- the field's name for the adjoint
        """The adjoint operator; ``op.H.H is op``."""
        return _Adjoint(self)


class _Adjoint(LinearOperator):
    """The adjoint: forward and adjoint map exchanged."""

    def __init__(self, op: LinearOperator) -> None:
        self.op, self.ishape, self.oshape = op, op.oshape, op.ishape

    def forward(self, x: Tensor) -> Tensor:
        return self.op.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.forward(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        return self.op


class SenseOp(LinearOperator):
    """Mask x Fourier x coil maps (Pruessmann et al. 1999, doi:10.1002/(SICI)1522-2594(199911)42:5).

    ``maps`` satisfy sum_c |S_c|^2 = 1 inside their support and are 0 outside, so the adjoint of a
    fully sampled acquisition is the SENSE-combined image and ``S^H S`` is the support. With several
    sets of maps (:mod:`~mri_ambient.physics.map_sets`), images ``(..., y, x)`` are those of all
    sets, one below the other: ``(..., set*y, x)``.

    Attributes:
        maps: coil sensitivities, complex ``(..., coil, y, x)``, dimensionless; of several sets
            ``(..., coil, set*y, x)``.
        mask: sampled k-space positions, bool, broadcastable to ``(..., 1, y, x)``.
        n_sets: number of sets of maps.
    """

    def __init__(self, maps: Tensor, mask: Tensor, n_sets: int = 1) -> None:
        if maps.ndim < 3 or not maps.is_complex():
            found = f"{maps.dtype} {tuple(maps.shape)}"
            raise ValueError(f"maps must be complex (..., coil, y, x), got {found}")
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {mask.dtype}")
        n_coils, n_rows, nx = maps.shape[-3:]
        if n_rows % n_sets:
            raise ValueError(f"maps of {n_rows} rows do not hold {n_sets} sets")
        wanted = (*maps.shape[:-3], 1, n_rows // n_sets, nx)
        pairs = zip(reversed(mask.shape), reversed(wanted), strict=False)
        if mask.ndim < 2 or any(have not in (1, want) for have, want in pairs):
            raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to {wanted}")
        self.maps, self.mask, self.n_sets = maps, mask, n_sets
        self._coils = _Coils(maps, n_sets)
        self.ishape, self.oshape = (n_rows, nx), (n_coils, n_rows // n_sets, nx)

    def __repr__(self) -> str:
        return f"<SenseOp maps {tuple(self.maps.shape)}, mask {tuple(self.mask.shape)}>"

    def forward(self, x: Tensor) -> Tensor:
        """Image ``(..., y, x)`` to k-space ``(..., coil, y, x)``, zero where not sampled."""
        return self.expand(x) * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        """K-space to image; values of ``y`` that were not sampled are ignored."""
        return self.combine(torch.where(self.mask, y, 0))

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x`` with a single pair of transforms and no shifts; differentiable in ``x``.

        If whole lines are sampled, the transforms along y cancel and are left out; on a CPU, rows
        are then computed with virtual coils of their own (:func:`.row_coils`), unless there are
        several sets.
        """
        axes = self._transformed_axes
        apart = -2 not in axes and self.n_sets == 1 and not self.maps.is_cuda
        maps = self._coils.of_rows if apart else (self._coils.decentred,)
        return _normal(x, maps, self._weight, (axes, self.n_sets))

    @cached_property
    @torch.inference_mode(mode=False)  # a cached tensor must also work with gradients
    def _weight(self) -> Tensor:
        """Factors of real and imaginary parts that mask k-space and conjugate it, ``(..., 2)``.

        A single row if whole lines are sampled.
        """
        mask = self.mask if -2 in self._transformed_axes else self.mask[..., :1, :]
        mask = mask.to(self.maps.dtype.to_real())
        return torch.stack([mask, -mask], dim=-1)

    @cached_property
    def _transformed_axes(self) -> tuple[int, ...]:
        """The axes along which the mask varies, at least the last."""
        mask = self.mask
        lines = mask.shape[-2] == 1 or bool((mask == mask[..., :1, :]).all())
        return (-1,) if lines else (-2, -1)

    def expand(self, x: Tensor) -> Tensor:
        """``F S x``: the full multi-coil k-space of an image, ``(..., coil, y, x)``."""
        return fft2c(sum_sets(self.maps * x.unsqueeze(-3), self.n_sets))

    def combine(self, ksp: Tensor) -> Tensor:
        """``S^H F^H k``: the coil-combined image of a full k-space, ``(..., y, x)``."""
        # Computed as its conjugate: conjugate maps would be a copy.
        coil_img = repeat_sets(ifft2c(ksp), self.n_sets).conj_physical_()
        combined: Tensor = coil_img.mul_(self.maps).sum(dim=-3).conj_physical()
        return combined

    @property
    def support(self) -> Tensor:
        """Where any coil map is not 0, bool ``(..., y, x)``."""
        return self._coils.support

    def with_mask(self, mask: Tensor) -> SenseOp:
        """The same coils with another mask."""
        op = SenseOp(self.maps, mask, self.n_sets)
        op._coils = self._coils
        return op

    def to(self, device: torch.device | str) -> SenseOp:
        """The operator on another device."""
        return SenseOp(self.maps.to(device), self.mask.to(device), self.n_sets)


class _Coils:
    """What follows from coil maps alone, whatever the mask; computed when it is first needed."""

    def __init__(self, maps: Tensor, n_sets: int) -> None:
        self.maps, self.n_sets = maps, n_sets

    @cached_property
    @torch.inference_mode(mode=False)
    def decentred(self) -> Tensor:
        return decentre(split_sets(self.maps, self.n_sets)).flatten(-3, -2)

    @cached_property
    @torch.inference_mode(mode=False)
    def of_rows(self) -> tuple[Tensor, ...]:
        return row_coils(decentre(self.maps))

    @cached_property
    @torch.inference_mode(mode=False)
    def support(self) -> Tensor:
        return nonzero_along(self.maps, -3)


Settings = tuple[tuple[int, ...], int]
"""Axes of the transform, and number of sets."""


def _normal(x: Tensor, maps: tuple[Tensor, ...], weight: Tensor, settings: Settings) -> Tensor:
    out: Tensor = _Normal.apply(x, maps, weight, settings)  # type: ignore[no-untyped-call]
    return out


class _Normal(torch.autograd.Function):
    """``S^H F^H M F S x``, Hermitian and therefore its own gradient, in little memory.

    Memory traffic costs as much as the transforms. Automatic differentiation would keep a new set
    of coil images for each factor; here they are changed in place. ``maps`` are those of some rows
    each.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- the context of torch has no public type
        x: Tensor,
        maps: tuple[Tensor, ...],
        weight: Tensor,
        settings: Settings,
    ) -> Tensor:
        ctx.maps, ctx.weight, ctx.settings, ctx.shape = maps, weight, settings, x.shape
        parts = zip(torch.split(x, [part.shape[-2] for part in maps], -2), maps, strict=True)
        return torch.cat([_product(*part, weight, settings) for part in parts], dim=-2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (grad,) = grads
        full = _normal(grad, ctx.maps, ctx.weight, ctx.settings)
        return full.sum_to_size(ctx.shape), None, None, None


def _product(x: Tensor, maps: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """``S^H F^H M F S x``, for all rows of an image or some.

    Computed as the conjugate of ``S^T F^T (M F S x)*``: conjugate maps would be a copy.
    """
    axes, n_sets = settings
    ksp: Tensor = torch.fft.fftn(sum_sets(maps * x.unsqueeze(-3), n_sets), dim=axes)
    parts = torch.view_as_real(ksp)
    seen = parts.mul_(weight) if weight.ndim <= parts.ndim else parts * weight  # several masks
    coil_img: Tensor = torch.fft.fftn(torch.view_as_complex(seen), dim=axes, norm="forward")
    return repeat_sets(coil_img, n_sets).mul_(maps).sum(dim=-3).conj_physical()
