"""What every loss may read, and further masks and weights of unseen entries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import streams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import EVERY, batch_for, gradients, make_batch, net_for, poisoned

from mri_ambient.errors import ConfigError
from mri_ambient.objectives import OBJECTIVES, Ambient, Consistency, Kspace, make_objective
from mri_ambient.objectives.base import thinned, unseen_weight
from mri_ambient.physics.coverage import MaskFacts, sampling_densities
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.masks import outer_samples
from mri_ambient.priors.denoisers import Denoiser
from mri_ambient.rng import rng_for
from mri_ambient.scan import Batch

CONDITIONED = [name for name in EVERY if EVERY[name].mask_conditioned]


@pytest.mark.parametrize("name", EVERY)
def test_unmeasured_entries_are_never_read(name):
    """NaN in every unmeasured entry: loss and gradients are equal to the bit."""
    objective = EVERY[name]
    net, batch = net_for(objective), batch_for(objective)
    dirty_batch = poisoned(batch, everything=objective.targets is not None)
    if not objective.needs_full:
        assert bool(dirty_batch.ksp.isnan().any())
    clean_loss = objective(net, batch, streams(1, 2))
    clean = gradients(net, clean_loss)
    dirty_loss = objective(net, dirty_batch, streams(1, 2))
    dirty = gradients(net, dirty_loss)
    assert torch.equal(clean_loss.backward, dirty_loss.backward)
    assert bool(clean_loss.backward.isfinite())
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name].targets is None])
def test_the_loss_has_no_gradient_at_unmeasured_entries(name):
    objective = EVERY[name]
    net, batch = net_for(objective), batch_for(objective)
    ksp = batch.ksp.clone().requires_grad_()
    objective(net, replace(batch, ksp=ksp), streams(1, 2)).backward.backward()
    unmeasured = ~batch.mask.expand_as(ksp)
    assert float(ksp.grad.abs().max()) > 0
    assert float(torch.where(unmeasured, ksp.grad, 0).abs().max()) == 0


class Watched(torch.nn.Module):
    """A network that is given NaN for every sample its mask leaves out; it records the masks."""

    def __init__(self, net: Denoiser) -> None:
        super().__init__()
        self.net, self.sigma_data = net, net.sigma_data
        self.masks: list[torch.Tensor] = []

    def forward(self, op, z, sigma):
        self.masks.append(op.mask)
        return self.net(op, torch.where(op.mask, z, complex("nan+nanj")), sigma)


@pytest.mark.parametrize("name", CONDITIONED)
def test_the_network_is_never_given_what_is_held_out(name):
    """NaN in the held-out entries: loss and gradients are equal to the bit."""
    objective = EVERY[name]
    net, batch = net_for(objective), batch_for(objective)
    clean_loss = objective(net, batch, streams(1, 2))
    clean = gradients(net, clean_loss)
    dirty_loss = objective(Watched(net), batch, streams(1, 2))
    dirty = gradients(net, dirty_loss)
    assert torch.equal(clean_loss.backward, dirty_loss.backward)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("name", [name for name in CONDITIONED if "equivariant" not in name])
def test_the_network_is_given_fewer_lines_than_were_measured(name):
    """M~ lies in M, strictly, and is drawn anew in every call, unless masks are frozen."""
    objective, batch = EVERY[name], make_batch()
    net = Watched(net_for(objective))
    for k in range(4):
        objective(net, batch, streams(k, 2))
    for mask in net.masks:
        assert not bool((mask & ~batch.mask).any())
        assert bool((batch.mask & ~mask).any(dim=(1, 2, 3)).all())
    calls = {mask.numpy().tobytes() for mask in net.masks}
    assert (len(calls) == 1) == (name == "kspace, bare")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(EVERY)),
    shape=st.tuples(st.integers(9, 18), st.integers(12, 21)),
    coils=st.integers(1, 4),
    n=st.integers(1, 3),
    kind=st.sampled_from(["random", "equispaced", "gaussian", "poisson"]),
    noise_std=st.sampled_from([0.0, 0.001, 0.05]),
)
def test_any_batch_is_the_mean_of_its_slices(name, shape, coils, n, kind, noise_std):
    """Whatever shape, coils, mask and noise: finite, blind to what was not measured, and the loss
    of a batch is the mean of the losses of its slices with the same streams."""
    objective = EVERY[name]
    net = net_for(objective)
    batch = batch_for(objective, n=n, shape=shape, coils=coils, kind=kind, noise_std=noise_std)
    together = objective(net, batch, streams(3, n)).backward.detach()
    alone = [objective(net, batch[[i]], [streams(3, n)[i]]).backward.detach() for i in range(n)]
    assert bool(together.isfinite())
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=2e-3, atol=1e-5)
    dirty = objective(net, poisoned(batch), streams(3, n)).backward.detach()
    if not (objective.targets is None and objective.needs_full):
        assert torch.equal(together, dirty)


def test_masks_are_drawn_anew_unless_frozen():
    batch = make_batch()
    fresh, frozen = (
        [thinned(batch, (0.05, 0.4), streams(k, 2), fresh=fresh) for k in range(4)]
        for fresh in (True, False)
    )
    assert not all(torch.equal(fresh[0], other) for other in fresh)
    assert all(torch.equal(frozen[0], other) for other in frozen)
    assert bool((batch.mask & ~frozen[0]).any(dim=(1, 2, 3)).all())


def test_calibration_is_kept_and_a_share_of_the_outer_lines_removed():
    batch = make_batch(n=1)
    outer = outer_samples(batch.mask[0])
    n_outer = int(outer.any(dim=-2).sum())
    for k in range(50):
        seen = thinned(batch, (0.05, 0.4), streams(k, 1), fresh=True)
        removed = batch.mask[0] & ~seen[0]
        assert not bool((removed & ~outer).any())
        assert 1 <= int(removed.any(dim=-2).sum()) <= round(0.4 * n_outer)


@pytest.mark.slow
def test_weights_are_one_over_p_of_the_data_set():
    """1500 masks of falling density, thinned: of the lines then empty, which share was sampled?

    The estimate uses the masks only; the truth is counted from 10 draws of M~ for each of them.
    Per outer line P is about 0.05, known from 10 000 empty cases to 4.6 % (1 sigma) within the same
    masks; 4.3 sigma bound every line (false alarm 7e-4), the mean over lines is known to 1 %.
    """
    spec, width = MaskSpec("gaussian", 3.0, 6), 48
    masks = [spec.draw((1, width), rng_for(i, "mask")) for i in range(1500)]
    facts = [MaskFacts(m, torch.ones(width, dtype=torch.bool)) for m in masks]
    (density,) = sampling_densities(facts).values()
    n = len(masks)
    batch = Batch(
        ksp=torch.zeros(n, 1, 1, width, dtype=torch.complex64),
        maps=torch.ones(n, 1, 1, width, dtype=torch.complex64),
        mask=torch.stack(masks),
        acquired=torch.ones(n, width, dtype=torch.bool),
        noise_std=torch.zeros(n),
        density=density.expand(n, 1, 1, width),
    )
    n_empty, n_sampled = torch.zeros(width), torch.zeros(width)
    for k in range(10):
        seen = thinned(batch, (0.05, 0.4), streams(k, n), fresh=True)
        n_empty += (~seen).sum(dim=(0, 1, 2))
        n_sampled += (batch.mask & ~seen).sum(dim=(0, 1, 2))
    chance = n_sampled / n_empty.clamp(min=1)
    found = 1 / unseen_weight(batch, (0.05, 0.4), 1e9)[0, 0, 0]
    outer = torch.ones(width, dtype=torch.bool)
    outer[width // 2 - 5 : width // 2 + 5] = False  # chance makes neighbours part of the block
    error = (found / chance - 1)[outer]
    assert float(chance[outer].max() / chance[outer].min()) > 3  # a flat estimate would fail
    assert float(error.abs().max()) < 0.2
    assert abs(float(error.mean())) < 0.03


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("kspace", {"remove": "0,0.4"}, "remove"),
        ("kspace", {"remove": "0.5,0.4"}, "remove"),
        ("kspace", {"margin": "1"}, "margin"),
        ("kspace", {"margin": "wide"}, "margin"),
        ("kspace", {"weights": "maybe"}, "maybe"),
        ("kspace", {"noise_domain": "time"}, "noise_domain"),
        ("kspace", {"law": "1"}, "law"),
        ("ambient", {"margin": "-1"}, "margin"),
        ("gsure", {"epsilon": "0"}, "epsilon"),
        ("gsure", {"margin": "1"}, "margin"),
        ("consistency", {"base": "gsure"}, "gsure"),
        ("consistency", {"weight": "-1"}, "weight"),
        ("consistency", {"margin": "inf"}, "margin"),
        ("ssdu", {"remove": "1"}, "remove"),
        ("magic", {}, "magic"),
    ],
)
def test_options_that_cannot_work_are_refused(name, options, said):
    with pytest.raises(ConfigError, match=said):
        make_objective(name, options)


def test_options_are_read_from_text():
    made = make_objective("kspace", {"weights": "false", "remove": "0.1,0.3", "margin": "1.5"})
    assert made == Kspace(weights=False, remove=(0.1, 0.3), margin=1.5)
    assert make_objective("consistency", {"base": "ambient"}) == Consistency(base=Ambient())
    assert Consistency().as_dict()["base"]["name"] == "kspace"
    for name in OBJECTIVES:
        assert make_objective(name).as_dict()["name"] == name
