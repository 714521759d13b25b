"""What a reconstruction is shown beside is what these methods give by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.methods import CgSense, L1Wavelet, ZeroFilled
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.comparison import compare
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.pipeline import open_volume, reconstruct
from mri_ambient.recon.recipe import Checks, Recipe
from mri_ambient.recon.volume import Volume
from mri_ambient.runtime.device import Runtime

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

CPU = Runtime("cpu")
RECIPE = Recipe(CgSense(), checks=Checks(2), retrospective=MaskSpec("random", 2.0, 8))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SimulateConfig(size=(32, 24), coils=3, full=True, noise=0.01, slices=3)
    return simulate("phantom", tmp_path_factory.mktemp("raw"), config, count=1)[0]


@pytest.fixture
def volume(full) -> Volume:
    return open_volume(full, RECIPE.resolve(), CPU)


@pytest.fixture
def slices_done(monkeypatch) -> list[str]:
    """Methods of the slices that were reconstructed."""
    done: list[str] = []
    call = Engine.__call__

    def counted(engine, scans):
        done.append(engine.recipe.method.name)
        return call(engine, scans)

    monkeypatch.setattr(Engine, "__call__", counted)
    return done


@pytest.mark.parametrize("method", [ZeroFilled(), L1Wavelet(n_iter=10)], ids=lambda m: m.name)
def test_images_and_scores_are_those_of_the_method(method, full, volume, tmp_path):
    found = compare(volume, tmp_path)
    alone = reconstruct(full, replace(RECIPE, method=method, checks=Checks()), CPU)
    images = torch.stack([found.images(i)[method.name] for i in range(3)])
    np.testing.assert_allclose(images, alone.magnitude, rtol=1e-5, atol=1e-9)
    assert found.metrics[method.name]["psnr"] == pytest.approx(alone.metrics["psnr"], abs=1e-3)
    expected = [check["data_residual"] for check in alone.checks]
    assert found.residuals(method.name) == pytest.approx(expected, rel=1e-4)


def test_the_reference_is_that_of_the_metrics(volume, tmp_path):
    kind, images = compare(volume, tmp_path).reference
    assert kind == "rss"
    torch.testing.assert_close(images, volume.reference.volumes()["rss"])
    undersampled = replace(volume, full=volume.file)
    assert compare(undersampled, tmp_path).reference is None


def test_a_method_is_not_compared_with_itself(volume, tmp_path):
    own = replace(volume, recipe=volume.recipe.with_method(L1Wavelet(lam=0.1)))
    assert list(compare(own, tmp_path).stores) == ["zero-filled"]


def test_an_interrupted_comparison_is_resumed(volume, tmp_path, slices_done):
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(volume, tmp_path, stop)
    slices_done.clear()
    seen: list[tuple[int, int]] = []
    compare(volume, tmp_path, lambda *progress: seen.append(progress))
    assert slices_done == ["zero-filled", "l1-wavelet"] and seen == [(3, 3)]
    other = replace(volume, recipe=replace(volume.recipe, seed=7))
    compare(other, tmp_path)
    assert len(slices_done) == 2 + 6  # other settings: all of them again
