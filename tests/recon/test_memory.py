"""Estimates of memory against the tensors that are really there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import PeakBytes, random_sense, small_prior
from mri_ambient.recon.memory import (
    CPU_PIXELS,
    UNKNOWN_FREE,
    bytes_per_image,
    free_bytes,
    images_at_once,
)

from mri_ambient.methods import Adps, Aos, Dds, Msm, PriorOnly, Pula
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.unet import PRESETS
from mri_ambient.rng import complex_normal, rng_for


def prior_of(preset: str) -> Prior:
    prior = small_prior("conditioned", network=PRESETS[preset], mask=MaskSpec("random", 3, 8))
    prior.net.requires_grad_(False)
    return prior


@pytest.mark.parametrize(
    ("preset", "shape", "n_coils"),
    [("tiny", (64, 64), 4), ("tiny", (96, 64), 8), ("small", (64, 64), 8), ("tiny", (64, 64), 16)],
)
@pytest.mark.parametrize(
    "method", [Aos(), Dds(n_steps=2), Msm(n_steps=2), Pula(n_steps=2), Adps(n_steps=2)]
)
def test_the_estimate_is_the_peak(preset, shape, n_coils, method):
    """Between 5 % below what a batch of three takes and twice that."""
    prior = prior_of(preset)
    op = random_sense(shape, n_coils, rng_for(0))
    y = op.mask * complex_normal((3, *op.oshape), rng_for(1))
    streams = [rng_for(0, i) for i in range(3)]
    with PeakBytes() as counted, torch.set_grad_enabled(method.needs_grad):
        method(prior, op, y, noise_std=torch.full((3,), 0.02), rng=streams)
    estimate = 3 * bytes_per_image(prior.net, shape, n_coils, needs_grad=method.needs_grad)
    assert 0.95 < estimate / counted.peak < 2.0


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_guidance_keeps_two_evaluations(preset):
    """Between 5 % below what a batch of three takes and twice that."""
    prior, maps = prior_of(preset), torch.ones(3, 1, 64, 64, dtype=torch.complex64)
    with PeakBytes() as counted:
        PriorOnly(n_steps=2, guidance=0.1)(prior, maps, rng=[rng_for(0, i) for i in range(3)])
    estimate = bytes_per_image(prior.net, (64, 64), 1, needs_grad=True, n_evaluations=2)
    assert 0.95 < 3 * estimate / counted.peak < 2.0


def test_free_memory_is_what_the_system_can_give(monkeypatch):
    assert 2**26 < free_bytes(torch.device("cpu")) < 2**50

    def nowhere(*_, **__):
        raise FileNotFoundError("no /proc")

    monkeypatch.setattr(Path, "read_text", nowhere)
    assert free_bytes(torch.device("cpu")) == UNKNOWN_FREE


def test_memory_and_use_limit_a_batch(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("mri_ambient.recon.memory.free_bytes", lambda device: 10_000)
    assert images_at_once(1000, (16, 16), cpu) == 7
    assert images_at_once(20_000, (16, 16), cpu) == 1
    monkeypatch.setattr("mri_ambient.recon.memory.free_bytes", lambda device: 2**40)
    assert images_at_once(1000, (64, 64), cpu) == CPU_PIXELS // 4096
    assert images_at_once(1000, (640, 640), cpu) == 1
    assert images_at_once(1000, (640, 640), torch.device("cuda")) == 64


@pytest.mark.parametrize("error", ["CUDA error: out of memory", "CUDA error: unspecified failure"])
def test_a_gpu_too_full_to_be_asked_has_nothing_free(error, monkeypatch):
    def refuse(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    if "memory" in error:
        assert free_bytes(torch.device("cuda")) == 0
        assert images_at_once(1000, (64, 64), torch.device("cuda")) == 1
    else:
        with pytest.raises(RuntimeError, match="unspecified"):
            free_bytes(torch.device("cuda"))
