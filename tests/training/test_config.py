from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import small_prior

from mri_ambient.errors import ConfigError
from mri_ambient.objectives import Gsure, Kspace
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.runtime.device import Runtime
from mri_ambient.training.config import TrainConfig, TrainJob

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_learning_rate_rises_stays_and_falls():
    config = TrainConfig(learning_rate=0.1, warmup_images=100, decay_images=400)
    rates = [config.learning_rate_at(images) for images in (50, 100, 400, 1600)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05])


def test_it_falls_to_zero_where_the_end_is_known():
    config = TrainConfig(learning_rate=0.1, warmup_images=100, decay_images=400)
    ending = replace(config, cooldown_images=1000, end_images=2000)
    rates = [ending.learning_rate_at(images) for images in (50, 900, 1600, 2000, 2001)]
    same = [config.learning_rate_at(images) for images in (50, 900)]
    assert rates == pytest.approx([*same, 0.05 * 0.4, 0, 0])


def test_the_average_has_the_power_profile():
    """After t steps, step s has the weight (s^(p+1) - (s-1)^(p+1)) / t^(p+1)."""
    config, t = TrainConfig(ema_power=6.94), 20
    values = torch.eye(t, dtype=torch.float64)
    average = torch.zeros(t, dtype=torch.float64)
    for step in range(1, t + 1):
        keep = config.ema_decay_at(step)
        average = keep * average + (1 - keep) * values[step - 1]
    s = torch.arange(1, t + 1, dtype=torch.float64)
    want = (s**7.94 - (s - 1) ** 7.94) / t**7.94
    torch.testing.assert_close(average, want)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("preset", "huge"), ("wrapper", "paper"), ("batch_size", 0), ("save_every", 0),
        ("max_skipped", 0), ("n_validation", -1), ("patience", -1), ("learning_rate", 0.0),
        ("precision", "fp8"), ("cooldown_images", -1), ("cooldown_images", 1), ("end_images", 7),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(option, value):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**{option: value})
    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    "given",
    [{}, {"images": 0}, {"images": 4, "workers": -1}],
    ids=["no end", "no images", "workers"],
)
def test_impossible_jobs_are_refused(given):
    with pytest.raises(ConfigError):
        TrainJob(Path("data"), Path("run"), **given)


@pytest.mark.parametrize("given", [{"images": 9}, {"time_limit_s": 1.0}])
def test_a_training_does_not_go_on_without_a_learning_rate(given):
    config = TrainConfig(cooldown_images=4, end_images=8)
    TrainJob(Path("data"), Path("run"), config, images=8)
    with pytest.raises(ConfigError) as caught:
        TrainJob(Path("data"), Path("run"), config, **given)
    assert "end_images" in str(caught.value)


def test_a_job_without_an_end_names_what_gives_one():
    with pytest.raises(ConfigError) as caught:
        TrainJob(Path("data"), Path("run"))
    assert all(word in str(caught.value) for word in ("images (", "time_limit (", "TrainConfig"))


def test_patience_is_an_end():
    job = TrainJob(Path("data"), Path("run"), TrainConfig(patience=1))
    assert job.only_patience_ends
    assert not replace(job, time_limit_s=1.0).only_patience_ends


@pytest.mark.parametrize(
    ("device", "precision", "fast", "per_group", "wanted"),
    [
        (CPU, "auto", True, 16, True), (CPU, "auto", False, 16, False),
        (CPU, "fp32", True, 16, False), (CPU, "auto", True, 4, False),
        (CPU, "bf16", False, 4, True), (GPU, "auto", False, 4, True),
        (GPU, "fp32", True, 16, False),
    ],
)  # fmt: skip
def test_networks_learn_in_bf16_where_that_is_faster(device, precision, fast, per_group, wanted):
    spec = UNetSpec(channels=(8, 12), blocks=1, embedding=16, per_group=per_group)
    runtime = Runtime(device, precision, auto_bf16_on_cpu=fast)
    assert TrainConfig().autocast_on(runtime, spec) == wanted


def test_bf16_is_for_objectives_that_allow_it():
    exact, network = TrainConfig(objective=Gsure()), TrainConfig().network
    assert not exact.autocast_on(Runtime(GPU), network)
    with pytest.raises(ConfigError):  # finite differences in half precision are noise
        exact.autocast_on(Runtime(GPU, "bf16"), network)


def test_settings_are_plain_values():
    prior = small_prior("conditioned", card={"sha256": "abc"})
    job = TrainJob(Path("data"), Path("run"), images=1, init=prior)
    settings = job.settings()
    assert settings["init"] == "abc"
    assert settings["config"]["batch_size"] == 8
    assert settings["config"]["objective"]["remove"] == list(Kspace().remove)
