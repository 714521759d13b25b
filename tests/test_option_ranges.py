"""Numbers out of range are refused where options are made, whoever makes them."""

from __future__ import annotations

import math

import pytest

from mri_ambient.data_prep import PrepConfig, SimulateConfig
from mri_ambient.errors import ConfigError
from mri_ambient.methods import Dds, L1Wavelet
from mri_ambient.objectives import Ambient, Consistency, Equivariant, Gsure, Kspace, Ssdu
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.recon.recipe import Checks
from mri_ambient.runtime.device import Runtime
from mri_ambient.training.adapt import AdaptConfig
from mri_ambient.training.config import TrainConfig


@pytest.mark.parametrize(
    "make",
    [
        lambda: Kspace(max_weight=-5), lambda: Kspace(max_unseen=-1), lambda: Gsure(max_inverse=0),
        lambda: Consistency(weight=math.nan), lambda: Equivariant(rotation=math.nan),
        lambda: Equivariant(shift=-9), lambda: Ambient(n_cg=-3), lambda: LogNormal(std=-1),
        lambda: LogNormal(mean=math.inf), lambda: Ssdu(max_unseen=0), lambda: TrainConfig(clip=-1),
        lambda: TrainConfig(ema_power=-3), lambda: TrainConfig(batch_size=2.5),
        lambda: TrainConfig(warmup_images=True), lambda: Dds(n_steps=10.5), lambda: Dds(n_cg=2.5),
        lambda: Runtime("cpu", batch_size=2.5), lambda: PrepConfig(crop=2.0),
        lambda: PrepConfig(kernel_width=0), lambda: PrepConfig(threshold=0.0),
        lambda: PrepConfig(energy="a"), lambda: PrepConfig(energy=True),
        lambda: PrepConfig(noise_std="a"), lambda: Dds(n_steps=10**400),
        lambda: L1Wavelet(n_iter=2.5), lambda: AdaptConfig(rows=1.5),
        lambda: AdaptConfig(ema_power=0), lambda: TrainConfig(seed="x"),
        lambda: SimulateConfig(seed=1.5), lambda: Checks(n_held_out=-1),
        lambda: Checks(n_held_out=1.5),
    ],
)  # fmt: skip
def test_options_that_would_give_a_wrong_result_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_cap_may_be_infinite():
    assert Kspace(max_unseen=math.inf, max_weight=math.inf).max_unseen == math.inf
    assert Gsure(max_inverse=math.inf).max_inverse == TrainConfig(clip=math.inf).clip == math.inf
