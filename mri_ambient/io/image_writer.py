"""What every writer of reconstructions provides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor


class ImageWriter(Protocol):
    """A reconstruction written slice by slice; it appears at its path when the block ends well.

    A new format is a class with these methods in a file of its own and a line of
    :data:`~mri_ambient.io.WRITERS`::

        with writer(path, n_slices, shape, attributes=facts) as out:
            for index in range(n_slices):
                out.write(index, img)
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
    ) -> None:
        """What will be written.

        Args:
            path: where the file goes.
            n_slices: how many slices will be written, in any order, each once.
            shape: size of an image ``(y, x)``, the scan's ``recon_shape``.
            attributes: method, acceleration, voxel_mm, ...; those that are None are left out.
            with_std: whether every slice comes with a standard deviation.
            n_samples: how many samples of every slice are kept.
        """

    def write(
        self, index: int, img: Tensor, std: Tensor | None = None, samples: Tensor | None = None
    ) -> None:
        """Write one slice.

        Args:
            index: of the slice in the volume.
            img: complex ``(y, x)`` in scanner units.
            std: standard deviation of the magnitude, real ``(y, x)``, in the same units.
            samples: complex ``(sample, y, x)``, where they are kept.

        Raises:
            ValueError: the slice was written before, has the wrong shape, or lacks a part.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...
