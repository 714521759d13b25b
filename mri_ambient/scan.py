"""The two records everything exchanges: what was measured, and what is handed over."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .masks import achieved_acceleration

UPPER_BOUND = "outer-samples (upper bound)"
"""The source of a noise estimate that signal is in as well."""


@dataclass(frozen=True)
class Scan:
    """Slices of one measured volume; a step of the prep chain returns a new one.

    Attributes:
        ksp: k-space, complex64 ``(slice, coil, y, x)``, zero where ``mask`` is False.
        mask: sampled positions, bool ``(1, y, x)``.
        scan_id: the name everything derived from this scan carries; seeds its random streams.
        slices: index of each slice in the volume.
        acquired: bool ``(x,)``: False for columns the scanner never acquires.
        noise: noise-only samples, complex ``(coil, sample)``, or None.
        noise_std: k-space noise per real channel, in the units of ``ksp``; None until known.
        noise_source: where ``noise_std`` comes from.
        maps: coil sensitivities ``(slice, coil, y, x)``, or None before they are estimated.
        scale: what an image of this k-space is multiplied with to leave normalised units.
        coil_transform: all of compression x whitening, complex ``(coil, coil)``; its first rows
            made the virtual coils. None if the coils are as measured.
        voxel_mm: voxel size ``(y, x, slice)`` in millimetres, or None if the file does not say.
        recon_shape: the scanner's final matrix ``(y, x)``.
        steps: what was done to the measurement, in order.
    """

    ksp: Tensor
    mask: Tensor
    scan_id: str
    slices: tuple[int, ...]
    recon_shape: tuple[int, int]
    acquired: Tensor | None = None
    noise: Tensor | None = None
    noise_std: float | None = None
    noise_source: str | None = None
    maps: Tensor | None = None
    scale: float = 1.0
    coil_transform: Tensor | None = None
    voxel_mm: tuple[float, float, float] | None = None
    steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ksp.ndim != 4 or not self.ksp.is_complex():
            raise ValueError(
                f"ksp must be complex (slice, coil, y, x), "
                f"got {self.ksp.dtype} {tuple(self.ksp.shape)}"
            )
        wanted = (1, *self.ksp.shape[-2:])
        if self.mask.dtype != torch.bool or tuple(self.mask.shape) != wanted:
            raise ValueError(
                f"mask must be bool {wanted}, got {self.mask.dtype} {tuple(self.mask.shape)}"
            )
        if len(self.slices) != self.ksp.shape[0]:
            raise ValueError(f"{len(self.slices)} slice indices for {self.ksp.shape[0]} slices")
        if self.maps is not None and self.maps.shape != self.ksp.shape:
            raise ValueError(
                f"maps {tuple(self.maps.shape)} do not match ksp {tuple(self.ksp.shape)}"
            )
        if bool(((self.ksp != 0) & ~self.mask).any()):
            raise ValueError("ksp is not zero where mask is False")

    @property
    def n_coils(self) -> int:
        """Number of (possibly virtual) coils."""
        return self.ksp.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the encoded matrix ``(y, x)``."""
        return (self.ksp.shape[-2], self.ksp.shape[-1])

    @property
    def acceleration(self) -> float:
        """The achieved acceleration."""
        return achieved_acceleration(self.mask, self.acquired)

    def with_step(self, step: str, **changes: Any) -> Scan:  # noqa: ANN401 -- field values
        """A new scan with fields replaced and the step written down."""
        return replace(self, steps=(*self.steps, step), **changes)


@dataclass(frozen=True)
class Reconstruction:
    """What a sampler or baseline hands over, in the scan's normalised units.

    Attributes:
        img: the image, complex ``(slice, y, x)``; the mean of the samples where there are several.
        scan_id: of the scan it was made from.
        slices: index of each slice in the volume.
        std: standard deviation of the samples' magnitude, real ``(slice, y, x)``, or None.
        samples: complex ``(sample, slice, y, x)``, kept on request.
        checks: one dictionary of figures per slice, e.g. the data residual.
        provenance: method, options, seed, hashes, versions, device and seconds.
    """

    img: Tensor
    scan_id: str
    slices: tuple[int, ...]
    std: Tensor | None = None
    samples: Tensor | None = None
    checks: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
