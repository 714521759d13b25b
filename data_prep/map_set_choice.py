"""How many sets of coil maps a scan needs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from torch import Tensor

from ..physics.crop import center_crop, center_pad
from ..runtime.prefetch import in_order
from .espirit import SECOND_MAP_SHARE, espirit_maps, second_map_share
from .qc import calibration_residual, noise_share

COARSE = (48, 48)
"""Grid on which it is decided; eigenvalues are smooth."""

FEW_COILS, NARROW_KERNEL = 8, 4
"""Coils and kernel width with which slices are rejected first, in a hundredth of the time."""

LEAST_COILS, LEAST_LINES = 4, 12
"""Of a calibration block that can tell: two sets explain any data of two coils, and of eight lines
7 % of simulated heads inside their field of view seem to be larger."""


def choose_sets(blocks: Iterable[Tensor], kernel_width: int = 6, n_at_once: int = 1) -> int:
    """Two sets of maps if the object is larger than the field of view in any slice, otherwise one.

    As W-FOLDED-FOV: a second map fits in more than :data:`SECOND_MAP_SHARE` of the support, and one
    map misses signal.

    Args:
        blocks: calibration blocks ``(coil, cy, cx)`` of whitened coils, the strongest first.
        kernel_width: of ESPIRiT.
        n_at_once: blocks that threads look at together.
    """

    def is_folded(block: Tensor) -> bool:
        if len(block) < LEAST_COILS or min(block.shape[-2:]) < LEAST_LINES:
            return False
        return _seems_folded(block[:FEW_COILS], NARROW_KERNEL) and _seems_folded(
            block, kernel_width
        )

    with closing(in_order(is_folded, blocks, n_at_once)) as folded:
        return 2 if any(folded) else 1


def _seems_folded(block: Tensor, kernel_width: int) -> bool:
    ny, nx = block.shape[-2:]
    size = (min(ny, COARSE[0] // 2), min(nx, COARSE[1] // 2))
    calib = center_crop(block[None], size)
    found = espirit_maps(center_pad(calib, COARSE), size, kernel_width=kernel_width)
    missed = calibration_residual(calib, found.maps) > 1.5 * noise_share(calib, 1.0)
    return bool(missed & (second_map_share(found) > SECOND_MAP_SHARE))
