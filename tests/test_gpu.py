"""What runs on a GPU gives what it gives on a CPU; skipped where there is no GPU."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers import small_prior
from memory_scan import simulated_scan

from mri_ambient.data_prep import SimulateConfig, plan_preparation, prepare, simulate
from mri_ambient.io import PreparedFile
from mri_ambient.methods import SAMPLERS
from mri_ambient.methods.baselines import BASELINES
from mri_ambient.methods.presets import with_options
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.recon.engine import Options, reconstruct
from mri_ambient.training.config import TrainConfig
from mri_ambient.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore:.*(masks|sampled):UserWarning"),
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


@pytest.mark.parametrize("methods", [SAMPLERS, BASELINES], ids=["samplers", "baselines"])
def test_every_method_gives_the_image_of_the_cpu(methods, monkeypatch):
    file, _ = simulated_scan("head", SCAN)
    scan = plan_preparation(file).apply(file[0])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    start = small_prior("conditioned", tau=0.1)
    for name, method in methods.items():
        many = hasattr(method, "n_steps")
        images = []
        for device in ("cpu", "cuda"):
            prior = deepcopy(start)  # which is moved where it is wanted
            chosen = with_options(method, {"n_steps": 10} if many else {})
            options = Options(n_samples=1, device=device, precision="fp32")
            images.append(reconstruct(scan, chosen, prior, options).img)
        error = (images[0] - images[1]).norm() / images[0].norm()
        assert float(error) < (1e-2 if many else 1e-3), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_goes_on_where_it_was_and_its_prior_loads(precision, tmp_path: Path):
    raw = simulate("phantom", tmp_path / "raw", SCAN, count=10)
    prepare(raw, tmp_path / "prepared", device="cuda")
    assert PreparedFile(next((tmp_path / "prepared").glob("*.h5"))).noise_std > 0
    config = TrainConfig(batch_size=4, check_every=40, save_every=40, precision=precision)
    for images in (40, 80):
        train(tmp_path / "prepared", tmp_path / "run", config, images=images, device="cuda")
    prior = load_prior(tmp_path / "run")
    assert prior.facts.card["images_seen"] == 80
    assert all(bool(tensor.isfinite().all()) for tensor in prior.net.state_dict().values())
