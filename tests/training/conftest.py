"""Prepared scans and finished runs that many tests share; those who change them take a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from training_runs import SCANS, prepared, trained

from mri_ambient.methods import L1Wavelet
from mri_ambient.training.config import TrainConfig


@pytest.fixture(autouse=True)
def few_pictures(
    unrendered: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most runs render no pictures, and their figures are empty."""
    if request.node.get_closest_marker("pictures") is None:
        for name in ("draw_curves", "draw_previews"):
            monkeypatch.setattr(f"mri_ambient.plots.{name}", lambda *_: Figure())


@pytest.fixture
def short_classical(monkeypatch: pytest.MonkeyPatch) -> None:
    """L1-wavelet, of targets too, takes few iterations."""
    short = partial(L1Wavelet, n_iter=10)
    monkeypatch.setattr("mri_ambient.training.targets.BASELINES", {"l1-wavelet": short})


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten prepared, undersampled scans."""
    return prepared(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="session")
def other_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of another matrix, number of coils and acceleration."""
    other = replace(SCANS, size=(24, 40), coils=4, acceleration=3.0, noise=0.02, seed=1)
    return prepared(tmp_path_factory.mktemp("other"), other, count=5)


@pytest.fixture(scope="session")
def full_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five fully sampled ones."""
    return prepared(tmp_path_factory.mktemp("full"), replace(SCANS, full=True), count=5)


@pytest.fixture
def own_scans(scans: Path, tmp_path: Path) -> Path:
    """A copy of the ten scans, to be changed."""
    return Path(shutil.copytree(scans, tmp_path / "own"))


@pytest.fixture(scope="session")
def finished(
    scans: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TrainConfig], Path]:
    """The folder of an undisturbed run of eight images by its configuration; with validation or
    targets those who ask for it have ``short_classical``."""
    runs: dict[str, Path] = {}

    def run(config: TrainConfig) -> Path:
        key = repr(config)
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("run") / "whole"
            trained(scans, runs[key], config, images=8)
        return runs[key]

    return run
