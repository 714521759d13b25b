"""Numbered training batches, for worker processes that read ahead."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .dataset import Dataset, Draw


@dataclass(frozen=True)
class Numbered(torch.utils.data.Dataset[Draw]):
    """Batch n as item n."""

    dataset: Dataset
    size: int
    seed: int
    rank: int
    world: int

    def __getitem__(self, n: int) -> Draw:
        return self.dataset.batch(n, self.size, self.seed, rank=self.rank, world=self.world)
