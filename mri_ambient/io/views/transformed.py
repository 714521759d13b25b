"""Raw files whose samples are Fourier-transformed: images and hybrid data to k-space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...physics.axis_fourier import fftc
from ..sampling import Ksp, Sampling, find_sampling
from ..scan_file import ScanFile
from .view import View


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

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``."""
        ksp = self.source.read_ksp(index)
        for axis in self.axes:
            ksp = fftc(ksp, dim=axis)
        return ksp

    def read_target(self, name: str) -> NDArray[np.float32] | None:
        """See :meth:`ScanFile.read_target`."""
        return self.source.read_target(name)
