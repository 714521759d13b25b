"""Arrays that hold images, hybrid data or spokes where Cartesian k-space is expected.

Along an axis of k-space most energy lies in a few samples, along an axis of an image it is spread
over the object; the Fourier transform turns one into the other. The spokes of radial and spiral
scans all pass through k = 0, where they hold the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ScanFormatError
from ..physics.fourier import fftc
from .sampling import Sampling, find_sampling
from .scan_file import ScanFile
from .view import View

SPREAD, CONCENTRATED = 0.3, 0.08
"""Share of an axis over which energy is spread: of an image at least, of its k-space at most.

So have the k-space and the image of an object narrower than a twentieth of its field of view, if
there is hardly any noise."""

FLOOR = 0.1
"""Quantile of the energies along an axis, without zeros, that counts as noise."""

ALIKE = 0.9
"""Least share of their energy that values have in common which are all those of k = 0."""

LEAST_SIDE = 32
"""Of a matrix that is judged by its samples."""


class Transformed(View):
    """A raw file whose samples are Fourier-transformed along some axes.

    Args:
        source: the file as it was read.
        axes: of ``(y, x)`` as -2 and -1.
    """

    def __init__(self, source: ScanFile, axes: Sequence[int]) -> None:
        super().__init__(source)
        self.axes = tuple(axes)
        names = "".join("yx"[axis] for axis in axes)
        self.steps = (*source.steps, f"transform-{names}")

    @cached_property
    def sampling(self) -> Sampling:
        """Where k-space was sampled, by its samples and the mask in the file."""
        return find_sampling(self.path, self.read_ksp, self.shape, self.given_mask)

    def read_ksp(self, index: int) -> Tensor:
        """K-space of one slice, complex64 ``(coil, y, x)``."""
        ksp = self.source.read_ksp(index)
        for axis in self.axes:
            ksp = fftc(ksp, dim=axis)
        return ksp

    def read_target(self, name: str) -> Tensor | None:
        """See :meth:`ScanFile.read_target`."""
        return self.source.read_target(name)


def image_axes(slices: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of the axes -2 and -1 of all slices ``(coil, y, x)`` are those of an image."""
    return tuple(axis for axis in (-2, -1) if slices and all(_is_image(s, axis) for s in slices))


def check_cartesian(path: Path, slices: Sequence[Tensor]) -> None:
    """Refuse the spokes of scans that are not Cartesian, if all slices ``(coil, y, x)`` hold such.

    Raises:
        ScanFormatError: every row, or every column, passes through k = 0.
    """
    for axis, name in ((-2, "row"), (-1, "column")):
        if slices and all(_are_spokes(values, axis) for values in slices):
            raise ScanFormatError(
                f"{path}: every {name} holds k = 0, like the spokes of a radial or spiral scan; "
                "wanted Cartesian k-space: grid it first. If it is Cartesian, --centre header "
                "takes it as it is"
            )


def _are_spokes(values: Tensor, axis: int) -> bool:
    """Whether all values along an axis are the same somewhere in the middle of the other one."""
    if values.shape[axis] < LEAST_SIDE or _occupied(values, axis) < SPREAD:
        return False
    lines = values.transpose(-1, axis).to(torch.complex128)  # (coil, other axis, axis)
    energy = lines.abs().square().mean(dim=-1).sum(dim=0)
    common = lines.mean(dim=-1).abs().square().sum(dim=0)
    # k = 0 itself need not be where most energy is: coils have phases.
    return bool((common > ALIKE * energy)[energy > energy.max() / 20].any())


def _is_image(values: Tensor, axis: int) -> bool:
    """Whether energy is spread along an axis, and concentrated along its Fourier transform."""
    if values.shape[axis] < LEAST_SIDE or _occupied(values, axis) < SPREAD:
        return False
    return _occupied(fftc(values, dim=axis), axis) <= CONCENTRATED


def _occupied(values: Tensor, axis: int) -> float:
    """Share of an axis over which the energy of ``(coil, y, x)`` is spread.

    The number of samples that would hold it in equal parts, (sum p)^2 / sum p^2, over all samples;
    0 where nothing is above the noise.
    """
    energy = values.real.double().square() + values.imag.double().square()
    profile = energy.sum(dim=(0, -1 if axis == -2 else -2))
    profile = (profile - profile[profile > 0].quantile(FLOOR)).clamp(min=0)
    n_equal = profile.sum().square() / profile.square().sum().clamp(min=1e-300)
    return float(n_equal) / len(profile)
