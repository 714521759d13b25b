from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import ArrayFile, ScanFile, open_scan
from mri_ambient.methods import CgSense, L1Wavelet, Method, ZeroFilled
from mri_ambient.priors.prior import DenoiserSource
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.recon.volume import Volume
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan


@pytest.fixture(autouse=True)
def short_classical(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where L1-wavelet stands beside a method, it takes few iterations."""
    short = partial(L1Wavelet, n_iter=10)
    monkeypatch.setattr("mri_ambient.recon.held_out.L1Wavelet", short)
    monkeypatch.setattr("mri_ambient.recon.comparison.COMPARED", (ZeroFilled(), short()))


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slices of a phantom, undersampled; its small slices have warnings about coil maps."""
    config = SimulateConfig(size=(24, 24), coils=3, acceleration=2.0, calib=8, slices=6, noise=0.02)
    (path,) = simulate("phantom", tmp_path_factory.mktemp("raw"), config, count=1)
    return path


@pytest.fixture(scope="session")
def prepared(phantom: Path) -> Scan:
    """The same, prepared: without further warnings of the preparation."""
    file = open_scan(phantom)
    volume = Volume(file, file, ResolvedRecipe(CgSense()), Runtime("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        return volume.preparation.apply(file[:])


@pytest.fixture
def file(prepared: Scan) -> ScanFile:
    return ArrayFile(prepared)


@pytest.fixture
def make_volume(file: ScanFile) -> Callable[..., Volume]:
    """The prepared phantom with a method, a prior and more of the recipe; on the CPU, by default
    two images at once."""

    def make(
        method: Method,
        prior: DenoiserSource | None = None,
        *,
        runtime: Runtime | None = None,
        **recipe: object,
    ) -> Volume:
        resolved = ResolvedRecipe(method, prior, **recipe)
        return Volume(file, file, resolved, runtime or Runtime("cpu", batch_size=2))

    return make


@pytest.fixture
def device_of_batches(monkeypatch) -> list[str]:
    """Batches stay on the CPU; the list says where they were to go."""
    where: list[str] = []

    def stay(batch: Batch, device: object) -> Batch:
        where.append(str(device))
        return batch

    monkeypatch.setattr(Batch, "to", stay)
    return where
