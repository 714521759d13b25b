"""What masks to draw; how they are drawn is in :mod:`~mri_ambient.physics.masks`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Generator, Tensor

KINDS = ("random", "equispaced", "gaussian", "poisson")
"""Kinds of masks; the command line knows them by these, without torch."""


@dataclass(frozen=True)
class MaskSpec:
    """What masks to draw; a prior stores the one it was trained with.

    Attributes:
        kind: one of :data:`KINDS`.
        acceleration: the wanted rate R, calibration included.
        calib: fully sampled centre: lines, or the side of the square for 2-D masks.
    """

    kind: str = "random"
    acceleration: float = 4.0
    calib: int = 20

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("mask type", self.kind, KINDS)
        if not 1 <= self.acceleration < math.inf:
            raise ConfigError(f"acceleration is {self.acceleration}, wanted at least 1 and finite")
        if self.calib < 0:
            raise ConfigError(f"calibration lines must not be negative, got {self.calib}")

    def draw(
        self, shape: tuple[int, int], rng: Generator, acquired: Tensor | None = None
    ) -> Tensor:
        """One mask ``(1, y, x)`` for a k-space of ``shape``.

        ``acquired``, bool ``(x,)``, are the columns a scanner would acquire; all by default.

        Raises:
            ConfigError: the acceleration cannot be reached with this calibration block.
        """
        import torch  # with whose random numbers masks are drawn

        from .masks import MASKS

        if acquired is None:
            acquired = torch.ones(shape[-1], dtype=torch.bool)
        draw = MASKS[self.kind]
        drawn = acquired if self.acceleration == 1 else draw(shape, self, acquired, rng)
        return drawn.expand(1, *shape).clone()
