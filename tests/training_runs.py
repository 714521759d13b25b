"""Short training runs of very small networks, and what makes two of them equal."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from pathlib import Path

import torch

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.errors import NumericalWarning
from mri_ambient.objectives import Ambient, Consistency, Gsure, Kspace, Objective, Ssdu, Supervised
from mri_ambient.priors.checkpoint import load_tensors
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.unet import NETWORKS
from mri_ambient.training.config import Hooks, TrainConfig, TrainJob
from mri_ambient.training.loop import run_training
from mri_ambient.training.preflight import plan
from mri_ambient.training.run import RunFolder

NETWORKS["test"] = UNetSpec(channels=(8, 12), blocks=1, embedding=16, passes=2)

SCANS = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, noise=0.01)

QUICK = TrainConfig(
    preset="test", batch_size=2, check_every=10**6, save_every=4, n_validation=0,
    warmup_images=4, decay_images=8,
)  # fmt: skip
"""Without validation, whose classical methods and figures take most of the time."""

VALIDATED = replace(QUICK, n_validation=2, check_every=4)

EVERY: list[Objective] = [
    Kspace(),
    Ambient(),
    Ambient(noise_correction=True),
    Gsure(),
    Consistency(),
    Ssdu(),
    Supervised(images="l1-wavelet"),
]


def prepared(folder: Path, config: SimulateConfig = SCANS, count: int = 10) -> Path:
    """Simulated scans of a phantom, prepared; that their masks are few is no news."""
    raw = simulate("phantom", folder / "raw", config, count=count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        prepare(raw, folder / "prepared")
    return folder / "prepared"


def trained(data: Path, run: Path, config: TrainConfig = QUICK, **given: object) -> Prior:
    """A prior trained in this run; ``given`` are fields of TrainJob and of Hooks."""
    hooks = {field.name: given.pop(field.name) for field in fields(Hooks) if field.name in given}
    return run_training(plan(TrainJob(data, run, config, **given)), Hooks(**hooks))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "prior.safetensors")[0]


def assert_same_run(a: Path, b: Path) -> None:
    """Everything that training made is equal to the bit."""
    for name in (RunFolder(a).latest_checkpoint.name, "prior.safetensors"):
        left, right = load_tensors(a / name)[0], load_tensors(b / name)[0]
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert (a / "log.jsonl").read_text() == (b / "log.jsonl").read_text()
