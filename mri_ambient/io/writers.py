"""Which writer writes a reconstruction, and what every writer provides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor

from .reconstruction import ReconstructionWriter


class VolumeWriter(Protocol):
    """A writer of reconstructions, slice by slice; a format is one such class in a file of its own.

    What it writes appears at its path when the block ends well.

    Args:
        path: where it goes, with the suffix of the format.
        n_slices: how many slices will be written, in any order, each once.
        shape: size of an image ``(y, x)``, the scan's ``recon_shape``.
        attributes: method, acceleration, voxel_mm, ...; those that are None are left out.
        with_std: whether every slice comes with a standard deviation.
        n_samples: how many samples of every slice are kept.
    """

    def __init__(
        self,
        path: str | Path,
        n_slices: int,
        shape: tuple[int, int],
        *,
        attributes: Mapping[str, object],
        with_std: bool = False,
        n_samples: int = 0,
    ) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> bool | None: ...  # noqa: ANN401 -- as contextlib passes them

    def write(
        self, index: int, img: Tensor, std: Tensor | None = None, samples: Tensor | None = None
    ) -> None:
        """Write one slice, with the parts that were announced.

        Args:
            index: of the slice in the volume.
            img: complex ``(y, x)`` in scanner units.
            std: standard deviation of the magnitude, real ``(y, x)``, in the same units.
            samples: complex ``(sample, y, x)``.
        """

    @staticmethod
    def settings_of(path: Path) -> dict[str, Any] | None:
        """The settings (an attribute) of a file it wrote; None for any other file."""


WRITERS: dict[str, type[VolumeWriter]] = {"h5": ReconstructionWriter}
"""What ``reconstruct`` writes, by format, which is the suffix of the file."""
