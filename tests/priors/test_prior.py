"""A prior bound to a scan: masks, holes filled with noise, devices, and what its card says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
import torch
from helpers import random_sense, small_prior, streams

from mri_ambient.errors import CheckpointError, ConfigError
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.masks import outer_samples
from mri_ambient.physics.patterns import achieved_acceleration
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.facts import PriorFacts
from mri_ambient.priors.prior import DenoiserSource, scan_digest
from mri_ambient.priors.weights import DEFAULT, default_prior, find_prior, shipped_priors
from mri_ambient.rng import complex_normal, complex_normals

SIGMA = torch.tensor([0.1, 0.5])


@pytest.fixture
def op(rng):
    return random_sense((16, 18), 3, rng)


@pytest.fixture
def state(op, rng):
    return complex_normal((2, *op.oshape), rng)


def test_a_plain_prior_is_given_the_whole_state(op, state):
    prior = small_prior("plain")
    whole = op.with_mask(torch.ones_like(op.mask))
    want = prior.net(whole, state, SIGMA)
    for further in ("scan", "training", op.mask):
        assert torch.equal(prior.denoiser(op, streams(0, 2), further)(state, SIGMA), want)
    assert prior.training_mask(op, streams(0, 2)) is None
    assert not prior.mask_conditioned


def test_a_mask_conditioned_prior_is_given_the_mask_that_is_asked_for(op, state):
    prior = small_prior("conditioned")
    drawn = prior.training_mask(op, streams(0, 2))
    for further, mask in (("scan", op.mask), ("training", drawn), (drawn, drawn)):
        got = prior.denoiser(op, streams(0, 2), further)(state, SIGMA)
        assert torch.equal(got, prior.net(op.with_mask(mask), state, SIGMA))
    assert prior.mask_conditioned


def test_a_noise_filled_prior_is_given_noise_outside_the_mask(op, state):
    """And no mask; the noise has the level of the state."""
    prior = small_prior("plain", noise_filled=True)
    mask = prior.training_mask(op, streams(0, 2))
    got = prior.denoiser(op, streams(5, 2), mask)(state, SIGMA)
    noise = complex_normals(tuple(state.shape[1:]), streams(5, 2))
    filled = torch.where(mask, state, SIGMA[:, None, None, None] * noise)
    want = prior.net(op.with_mask(torch.ones_like(op.mask)), filled, SIGMA)
    assert torch.equal(got, want)
    assert prior.mask_conditioned


@pytest.mark.parametrize("noise_filled", [True, False])
def test_training_masks_have_the_rate_of_the_training(noise_filled, rng):
    """R = 3, and from R to R + 1 where the training subsampled further."""
    op = random_sense((4, 240), 1, rng)
    spec = MaskSpec("random", 3.0, 12)
    prior = small_prior("plain" if noise_filled else "conditioned", mask=spec,
                        noise_filled=noise_filled)  # fmt: skip
    masks = prior.training_mask(op, streams(0, 4))
    assert masks.shape == (4, 1, 4, 240)
    assert not torch.equal(masks[0], masks[1])
    for mask in masks:
        assert achieved_acceleration(mask) == pytest.approx(3 if noise_filled else 4, rel=0.03)


def test_a_narrow_matrix_has_fewer_calibration_lines(rng):
    """Of 24 columns at R = 4, 6 lines are sampled: 20 calibration lines would not fit."""
    op = random_sense((4, 24), 1, rng)
    prior = small_prior("conditioned", mask=MaskSpec("random", 4.0, 20))
    (mask,) = prior.training_mask(op, streams(0, 1))
    assert 3 <= int(mask[0, 0].sum()) <= 6
    assert not bool(outer_samples(mask).all())


def test_a_copy_on_the_cpu_is_the_same_denoiser(op, state):
    prior = small_prior("conditioned")
    copy = prior.copy_on_cpu()
    assert copy.net is not prior.net
    assert not any(parameter.requires_grad for parameter in copy.net.parameters())
    images = [p.denoiser(op, streams(0, 2))(state, SIGMA).detach() for p in (prior, copy)]
    assert torch.equal(*images)


def test_autocast_lasts_for_the_block(op, state):
    prior, seen = small_prior("plain"), []
    prior.net.nets[0].first.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    with prior.autocast(True):
        prior.denoiser(op, streams(0, 2))(state, SIGMA)
        with prior.autocast(False):
            prior.denoiser(op, streams(0, 2))(state, SIGMA)
    prior.denoiser(op, streams(0, 2))(state, SIGMA)
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_autocast_is_of_a_thread(op, state):
    """Of two blocks with one prior, the second begins within the first and ends after it."""
    prior, seen = small_prior("plain"), []
    prior.net.nets[0].first.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    begun, go_on = Event(), Event()

    def run() -> None:
        prior.denoiser(op, streams(0, 2))(state, SIGMA)

    def second() -> None:
        with prior.autocast(True):
            begun.set()
            assert go_on.wait(60)
            run()

    with ThreadPoolExecutor(1) as other:
        with prior.autocast(True):
            ended = other.submit(second)
            assert begun.wait(60)
        run()
        go_on.set()
        ended.result()
    run()
    assert seen == [torch.float32, torch.bfloat16, torch.float32]


def test_the_card_lists_training_scans_by_their_hash():
    prior = small_prior(card={"trained_on": [scan_digest("ab" * 32)]})
    assert prior.was_trained_on("ab" * 32)
    assert not prior.was_trained_on("cd" * 32)
    assert not small_prior().was_trained_on("ab" * 32)


def test_images_of_parent_priors_count():
    facts = small_prior(card={"images_seen": 5, "images_seen_before": 7}).facts
    assert facts.images_seen == 12


def test_an_unknown_kind_of_denoiser_is_refused():
    facts = small_prior().facts
    with pytest.raises(ConfigError, match="other"):
        replace(facts, kind="other").build()
    assert isinstance(facts, PriorFacts)


def test_defaults_serve_a_denoiser_in_closed_form(op):
    class Zero(DenoiserSource):
        sigma_min, sigma_data, tau, mask_conditioned = 0.01, 0.5, 0.1, False

        def denoiser(self, op, rng, further="scan"):
            return lambda z, sigma: torch.zeros_like(z[:, 0])

    prior = Zero()
    assert prior.card == {} and prior.trained_acceleration == 0
    assert not (prior.one_level or prior.compiled or prior.was_trained_on("ab"))
    assert prior.to("cpu") is prior and prior.copy_on_cpu() is prior
    assert prior.training_mask(op, streams(0, 1)) is None
    with prior.autocast(True):
        prior.compile()


def test_shipped_priors_are_found_by_name(tmp_path, monkeypatch):
    assert default_prior() in shipped_priors()
    assert load_prior(DEFAULT).card["sha256"] == load_prior(default_prior()).card["sha256"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()  # a run folder of that name comes first
    assert find_prior(tmp_path / DEFAULT) == tmp_path / DEFAULT
    with pytest.raises(CheckpointError):
        load_prior(DEFAULT)
