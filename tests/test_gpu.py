"""Results of a GPU are those of a CPU; skipped without one (test_second_device.py always runs)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import small_prior
from memory_scan import simulated_scan

from mri_ambient.data_prep import SimulateConfig, plan_preparation, prepare, simulate
from mri_ambient.io import PreparedFile
from mri_ambient.methods import METHODS
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.runtime.device import Runtime
from mri_ambient.training.config import TrainConfig
from mri_ambient.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning"),
]

SCAN = SimulateConfig(size=(48, 40), coils=4, acceleration=2.0, calib=12, noise=0.01)


def test_maps_are_those_of_the_cpu():
    file, _ = simulated_scan("head", SCAN)
    here, there = (
        plan_preparation(file, device=device).apply(file[0]) for device in ("cpu", "cuda")
    )
    assert there.maps.device.type == "cpu"
    both = (here.maps != 0).any(dim=1) & (there.maps != 0).any(dim=1)
    alike = (here.maps.conj() * there.maps).sum(dim=1)[both].abs()
    assert float(alike.min()) > 0.999
    assert int(both.sum()) > 0.99 * int((here.maps != 0).any(dim=1).sum())


def test_every_method_gives_the_image_of_the_cpu(monkeypatch):
    file, _ = simulated_scan("head", SCAN)
    scan = plan_preparation(file).apply(file[0])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for name, kind in METHODS.items():
        method = kind() if kind.n_steps == 1 else kind(n_steps=10)
        images = []
        for device in ("cpu", "cuda"):
            prior = small_prior("conditioned", tau=0.1) if method.needs_prior else None
            engine = Engine(ResolvedRecipe(method, prior), Runtime(device, "fp32"))
            images.append(engine([scan])[0].img)
        error = (images[0] - images[1]).norm() / images[0].norm()
        assert float(error) < (1e-3 if method.n_steps == 1 else 1e-2), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_resumes_and_its_prior_loads(precision, tmp_path: Path):
    raw = simulate("phantom", tmp_path / "raw", SCAN, count=10)
    prepare(raw, tmp_path / "prepared", runtime=Runtime("cuda"))
    assert PreparedFile(next((tmp_path / "prepared").glob("*.h5"))).noise_std > 0
    config = TrainConfig(batch_size=4, check_every=40, save_every=40, precision=precision)
    for images in (40, 80):
        train(tmp_path / "prepared", tmp_path / "run", config, images=images,
              runtime=Runtime("cuda"))  # fmt: skip
    prior = load_prior(tmp_path / "run")
    assert prior.facts.card["images_seen"] == 80
    assert all(bool(tensor.isfinite().all()) for tensor in prior.net.state_dict().values())
