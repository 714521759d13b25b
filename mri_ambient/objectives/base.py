"""What all objectives share: the shape of a loss, and the parts of k-space it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

from ..batch import Batch
from ..nn.precond import Denoiser


@dataclass(frozen=True)
class Loss:
    """One training step's loss.

    Attributes:
        backward: the one scalar that trains the network.
        log: figures that are only for looking at.
    """

    backward: Tensor
    log: dict[str, float]


class Objective(Protocol):
    """How a denoiser is learned; a frozen dataclass with its options.

    Attributes:
        name: the key it is chosen by.
        wrapper: the kind of denoiser it trains unless told otherwise.
        mask_conditioned: whether the prior it makes is given a mask M~.
        needs_full: whether it needs fully sampled scans.
    """

    name: ClassVar[str]
    wrapper: ClassVar[str]
    mask_conditioned: ClassVar[bool]
    needs_full: ClassVar[bool]

    def __call__(self, net: Denoiser, batch: Batch, rng: Generator) -> Loss:
        """The loss of ``net`` on ``batch``; all randomness from ``rng``."""
        ...


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) = (sigma^2 + s^2) / (sigma s)^2 (Karras et al. 2022, table 1)."""
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def abs2(x: Tensor) -> Tensor:
    """Squared magnitude, with a gradient that is finite at 0."""
    return torch.view_as_real(x).square().sum(dim=-1)


def per_pixel(energy: Tensor) -> Tensor:
    """Sum over coils, average over the grid: ``(b, coil, y, x)`` to ``(b,)``."""
    return energy.sum(dim=-3).mean(dim=(-2, -1))
