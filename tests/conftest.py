from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from helpers import PROCESSES, serve
from hypothesis import settings
from pictures import touch
from torch import Generator

from mri_ambient.methods import L1Wavelet
from mri_ambient.rng import rng_for
from mri_ambient.runtime import device, executor
from mri_ambient.training.validation import REFERENCES

# pytest-xdist runs as many processes as there are cores: a thread each, in the processes that tests
# start too. More of them wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# What is imported and collected stays. The garbage collector would look through it all again and
# again, which takes a quarter of the collection and a tenth of the tests.
gc.disable()

# The same precision on every CPU, whether it is faster in bf16 or not.
device.has_fast_bf16 = lambda: False

# A number that validation logs: its 200 iterations would take most of the time of a short run.
REFERENCES["held_out_l1_wavelet"] = L1Wavelet(n_iter=10)

# The same cases in every run: a failure that comes and goes helps nobody.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Generator:
    """A random stream of the test's own."""
    return rng_for(0, request.node.name)


@pytest.fixture(scope="session")
def server() -> None:
    """Processes are forked from this one, instead of importing torch anew."""
    serve()


@pytest.fixture
def forked(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an executor too."""
    monkeypatch.setattr(executor, "get_context", lambda _: PROCESSES)


@pytest.fixture
def unrendered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not rendered, unless they are what a test is about."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", touch)


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """Real multi-coil scans, where a folder with them stands beside the checkout."""
    folder = SHARED / "kspace"
    if not folder.is_dir():
        pytest.skip("no folder with real scans beside the checkout")
    return folder
