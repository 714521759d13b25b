from __future__ import annotations

import pytest
import torch
from gaussian import GaussianPrior
from helpers import random_sense
from torch import Generator

from mri_ambient.physics.operators import SenseOp

SHAPE = (5, 6)


@pytest.fixture
def op(rng: Generator) -> SenseOp:
    """Three coils and a random mask."""
    return random_sense(SHAPE, 3, rng, torch.complex128)


@pytest.fixture
def prior(rng: Generator) -> GaussianPrior:
    """An exact mask-conditioned prior."""
    return GaussianPrior(
        0.5 + torch.rand(SHAPE, generator=rng, dtype=torch.float64), sigma_min=0.05
    )
