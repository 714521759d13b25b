from __future__ import annotations

from pathlib import Path

import pytest
from torch import Generator

from mri_ambient.rng import rng_for

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Generator:
    """A random stream of the test's own."""
    return rng_for(0, request.node.name)


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """Real multi-coil scans, where a folder with them stands beside the checkout."""
    folder = SHARED / "kspace"
    if not folder.is_dir():
        pytest.skip("no folder with real scans beside the checkout")
    return folder
