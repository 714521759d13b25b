"""Repetitions of a scan, averaged in k-space: volumes of a file, or files.

M4Raw (Lyu et al. 2023, doi:10.1038/s41597-023-02181-4) has a file for every repetition, whose names
end in 01, 02, ...
"""

from __future__ import annotations

import cmath
import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ...errors import ScanFormatError, warn
from ...physics.crop import center_crop
from ..names import name_of
from ..sampling import Ksp, Sampling
from ..scan_file import ScanFile, zero_outside
from .averages import LEAST_DIFFERENCE, difference
from .view import View

WIDTH = 24
"""Side of the middle of k-space in which repetitions are compared."""

TURNED = 0.1
"""Phase between repetitions, in radians, above which it is removed; it costs 0.1 % of signal."""

ANOTHER = 0.8
"""Correlation of repetitions in the middle of k-space, below which files are not of one scan; 0.71
is the median between different heads."""


class Averaged(View):
    """Repetitions as one scan: every sample is the mean of those repetitions that measured it.

    The noise is that of the mean. Where places were measured by different numbers of repetitions,
    it is the root mean square over the places. A constant phase between repetitions (drift of the
    field) is removed.

    Args:
        files: the repetitions.
        volume: name of the volume, without that of a repetition.
        scan_id: name of the scan.

    Raises:
        ScanFormatError: they differ in size, or files are of different scans.
    """

    def __init__(self, files: Sequence[ScanFile], volume: str, scan_id: str) -> None:
        """Read the middle slice of each, to compare them."""
        first = files[0]
        super().__init__(first)
        for file in files:
            if file.shape != first.shape:
                raise ScanFormatError(
                    f"{file.path}: repetition of {file.shape} (slice, coil, y, x), the first one "
                    f"has {first.shape}; wanted repetitions of one scan"
                )
        self.files, self.volume, self.scan_id = files, volume, scan_id
        self._counts = np.stack([file.mask for file in files]).sum(axis=0, dtype=np.float32)
        self.sampling = Sampling(
            self._counts > 0, np.any([file.acquired for file in files], axis=0)
        )
        self.given_mask = None if first.given_mask is None else self.sampling.mask[0]
        if self.noise is not None:
            share = (1 / self._counts[self._counts > 0]).mean()
            self.noise = self.noise * np.sqrt(share)
        self._factors = self._compared()
        self.steps = (*first.steps, f"average {len(files)}")

    @property
    def output_stem(self) -> str:
        """The name of the scan."""
        return self.scan_id

    @cached_property
    def sha256(self) -> str:
        """Hash of the file, or of all files."""
        hashes = list(dict.fromkeys(file.sha256 for file in self.files))
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        )

    def read_ksp(self, index: int) -> Ksp:
        """The mean of the repetitions of one slice, complex64 ``(coil, y, x)``."""
        total = np.zeros(self.shape[1:], np.complex64)
        for factor, file in zip(self._factors, self.files, strict=True):
            total += factor * file.read_ksp(index)
        total /= np.maximum(self._counts, 1)
        return total

    def _compared(self) -> list[complex]:
        """Factors that give repetitions the phase of the first; W-REPETITIONS if unlike it."""
        first = self._plane(self.files[0])
        middle = self._middle(first)
        factors = []
        for number, file in enumerate(self.files, start=1):
            plane = first if number == 1 else self._plane(file)
            part = self._middle(plane)
            both = (part != 0) & (middle != 0)
            a, b = part[both], middle[both]
            product = complex(np.vdot(a, b))
            likeness = abs(product) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30)
            if likeness < ANOTHER and file.path != self.path:
                raise ScanFormatError(
                    f"{file.path}: is no repetition of {name_of(self.path)} "
                    f"(correlation {likeness:.2f} in the middle of k-space, wanted "
                    f"{ANOTHER:g}); rename it, or leave average (--average) out"
                )
            angle = cmath.phase(product)
            factors.append(cmath.exp(1j * angle) if abs(angle) > TURNED else 1 + 0j)
            gain = abs(product) / max(float(np.linalg.norm(a)) ** 2, 1e-30)
            unlike = difference(first, np.complex64(gain * factors[-1]) * plane)
            if unlike > LEAST_DIFFERENCE:
                warn(
                    "W-REPETITIONS",
                    f"{name_of(self.path)}: repetition {number} differs from the first one by "
                    f"{100 * unlike:.0f} % of the signal energy around k = 0",
                )
        return factors

    def _plane(self, file: ScanFile) -> Ksp:
        """The middle slice of a repetition."""
        return zero_outside(file.mask[0], file.read_ksp(len(self) // 2))

    def _middle(self, plane: Ksp) -> Ksp:
        ny, nx = self.shape[2:]
        return center_crop(plane, (min(WIDTH, ny), min(WIDTH, nx)))
