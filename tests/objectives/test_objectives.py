from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import random_maps, shaken, streams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mri_ambient.errors import ConfigError
from mri_ambient.objectives import (
    OBJECTIVES,
    Ambient,
    Consistency,
    Gsure,
    Kspace,
    Ssdu,
    Supervised,
    make_objective,
)
from mri_ambient.objectives.base import edm_weight, thinned, unseen_weight
from mri_ambient.physics.coverage import MaskFacts, sampling_densities
from mri_ambient.physics.masks import (
    MaskSpec,
    achieved_acceleration,
    outer_samples,
    sampling_density,
    subsample_further,
)
from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.solve import conjugate_gradient
from mri_ambient.priors.denoisers import DENOISERS, Denoiser
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.priors.unet import UNetSpec
from mri_ambient.rng import complex_normal, complex_normals, rng_for
from mri_ambient.scan import Batch

SPEC = UNetSpec(channels=(8, 12), blocks=1, embedding=16)
SHAPE = (16, 20)

EVERY = {
    "kspace": Kspace(),
    "kspace, noise in the image": Kspace(noise_domain="image"),
    "kspace, bare": Kspace(weights=False, fresh_masks=False, noise_correction=False),
    "ambient": Ambient(),
    "ambient, corrected": Ambient(noise_correction=True),
    "gsure": Gsure(),
    "gsure without divergence": Gsure(divergence=False),
    "consistency": Consistency(),
    "consistency on ambient": Consistency(base=Ambient()),
    "ssdu": Ssdu(),
    "supervised": Supervised(),
    "supervised by images": Supervised(images="l1-wavelet"),
}
"""Every objective with options that lead through other code."""


def make_batch(
    *,
    n: int = 2,
    shape: tuple[int, int] = SHAPE,
    coils: int = 3,
    full: bool = False,
    noise_std: float = 0.02,
    kind: str = "random",
    images: bool = False,
    seed: int = 0,
) -> Batch:
    rng = rng_for(seed, "batch")
    maps = random_maps((n, coils, *shape), rng)
    spec = MaskSpec(kind, 1.0 if full else 2.0, 4)
    mask = torch.stack([spec.draw(shape, rng) for _ in range(n)])
    op = SenseOp(maps, mask)
    img = 0.3 * complex_normal((n, *shape), rng)
    ksp = op(img) + noise_std * mask * complex_normal((n, coils, *shape), rng)
    acquired = torch.ones(n, shape[1], dtype=torch.bool)
    density = torch.stack([sampling_density(m) for m in mask])
    sigma_n = torch.full((n,), noise_std)
    return Batch(ksp, maps, mask, acquired, sigma_n, density, img if images else None)


def batch_for(objective, **options) -> Batch:
    return make_batch(full=objective.needs_full, images=objective.targets is not None, **options)


def net_for(objective, seed=0):
    torch.manual_seed(seed)
    return shaken(DENOISERS[objective.wrapper](SPEC, 0.3))


def gradients(net, loss):
    net.zero_grad()
    loss.backward.backward()
    return [p.grad.clone() for p in net.parameters()]


# What a loss may look at


def poisoned(batch: Batch, *, everything: bool = False) -> Batch:
    """NaN wherever nothing was measured, or in all of k-space."""
    bad = torch.full_like(batch.ksp, complex("nan+nanj"))
    return replace(batch, ksp=bad if everything else torch.where(batch.mask, batch.ksp, bad))


@pytest.mark.parametrize("name", EVERY)
def test_nothing_unmeasured_is_ever_looked_at(name):
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


CONDITIONED = [name for name in EVERY if EVERY[name].mask_conditioned]


class Watched(torch.nn.Module):
    """A network that is given NaN for every sample its mask leaves out, and notes the masks."""

    def __init__(self, net: Denoiser) -> None:
        super().__init__()
        self.net, self.sigma_data = net, net.sigma_data
        self.masks: list[torch.Tensor] = []

    def forward(self, op, z, sigma):
        self.masks.append(op.mask)
        return self.net(op, torch.where(op.mask, z, complex("nan+nanj")), sigma)


@pytest.mark.parametrize("name", CONDITIONED)
def test_the_network_never_sees_what_is_held_out(name):
    """NaN in the held-out entries: loss and gradients are equal to the bit."""
    objective = EVERY[name]
    net, batch = net_for(objective), batch_for(objective)
    clean_loss = objective(net, batch, streams(1, 2))
    clean = gradients(net, clean_loss)
    dirty_loss = objective(Watched(net), batch, streams(1, 2))
    dirty = gradients(net, dirty_loss)
    assert torch.equal(clean_loss.backward, dirty_loss.backward)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("name", CONDITIONED)
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


def test_ambient_trains_from_r_to_r_plus_one():
    """METHODS section 2: of every scan so many lines are left that R grows by one."""
    batch = make_batch(shape=(8, 60), n=3)
    net = Watched(net_for(Ambient()))
    Ambient()(net, batch, streams(1, 3))
    rates = [achieved_acceleration(mask) for mask in batch.mask]
    lines = [int(mask[0, 0].sum()) for mask in net.masks[0]]
    for rate, n_lines in zip(rates, lines, strict=True):
        assert abs(60 / (rate + 1) - n_lines) <= 1


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


# What a loss is


def test_ambient_on_full_noiseless_data_is_supervised():
    batch = make_batch(full=True, noise_std=0.0)
    net = net_for(Ambient())
    ambient = Ambient(thin=False)(net, batch, streams(5, 2)).backward
    supervised = Supervised()(net, batch, streams(5, 2)).backward
    torch.testing.assert_close(ambient, supervised, rtol=1e-5, atol=0)


def test_supervised_by_images_of_full_scans_is_supervised():
    batch = make_batch(full=True, noise_std=0.0, images=True)
    net = net_for(Supervised())
    by_image = Supervised(images="any")(net, batch, streams(5, 2)).backward
    by_scan = Supervised()(net, replace(batch, img=None), streams(5, 2)).backward
    torch.testing.assert_close(by_image, by_scan, rtol=1e-5, atol=0)


def test_masks_are_drawn_fresh_unless_frozen():
    batch = make_batch()
    fresh, frozen = (
        [thinned(batch, (0.05, 0.4), streams(k, 2), fresh=fresh) for k in range(4)]
        for fresh in (True, False)
    )
    assert not all(torch.equal(fresh[0], other) for other in fresh)
    assert all(torch.equal(frozen[0], other) for other in frozen)
    assert bool((batch.mask & ~frozen[0]).any(dim=(1, 2, 3)).all())


def test_kspace_is_the_documented_sum():
    """One item, written out with plain loops over what is seen and unseen."""
    batch = make_batch(n=1, noise_std=0.05, kind="gaussian")
    spread = 0.1 + 0.5 * torch.rand(batch.density.shape, generator=rng_for(0, "spread"))
    batch = replace(batch, density=spread)
    objective = Kspace(law=LogNormal(-1.0, 0.5))
    net = net_for(objective)
    got = objective(net, batch, [rng_for(9)]).backward.detach()

    rng = rng_for(9)
    fraction = 0.05 + 0.35 * float(torch.rand((), generator=rng))
    seen = subsample_further(batch.mask[0], fraction, rng)[None]
    sigma = objective.law.draw(1.2 * batch.noise_std, 0.3, [rng])
    r = float((batch.noise_std / sigma) ** 2)
    eta = complex_normal(tuple(batch.ksp.shape[1:]), rng)[None]
    extra = float((sigma**2 - batch.noise_std**2).sqrt())
    y = batch.ksp
    y_t = torch.where(seen, y + extra * eta, 0)
    K = batch.op.expand(net(batch.op.with_mask(seen), y_t, sigma)).detach()
    total = 0.0
    for coil in range(3):
        for row, column in (batch.mask[0, 0]).nonzero().tolist():
            k, v, t = K[0, coil, row, column], y[0, coil, row, column], y_t[0, coil, row, column]
            if seen[0, 0, row, column]:
                total += float(((1 - r) * k + r * t - v).abs() ** 2) / (1 - r)
            else:
                p = float(batch.density[0, 0, row, column])
                chance = 0.225 * p / (1 - 0.775 * p)
                total += min(1 / chance, 20.0) * float((k - v).abs() ** 2)
    level = min(float(edm_weight(sigma, 0.3)), 400.0)
    want = level * total / (SHAPE[0] * SHAPE[1])
    assert float(got) == pytest.approx(want, rel=1e-4)


def test_ssdu_judges_the_hidden_entries_alone():
    batch = make_batch(n=1, noise_std=0.05)
    objective = Ssdu()
    net = net_for(objective)
    got = objective(net, batch, [rng_for(9)]).backward.detach()
    seen = thinned(batch, objective.remove, [rng_for(9)], fresh=True)
    D = net(batch.op.with_mask(seen), torch.where(seen, batch.ksp, 0), batch.noise_std).detach()
    misfit = (batch.op.expand(D) - batch.ksp).abs().square()
    weight = unseen_weight(batch, objective.remove, 20.0)
    want = (weight * misfit * (batch.mask & ~seen)).sum() / (SHAPE[0] * SHAPE[1]) / 0.3**2
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def test_kspace_keeps_calibration_and_hides_a_share_of_the_outer_lines():
    batch = make_batch(n=1)
    outer = outer_samples(batch.mask[0])
    n_outer = int(outer.any(dim=-2).sum())
    for k in range(50):
        seen = thinned(batch, (0.05, 0.4), streams(k, 1), fresh=True)
        hidden = batch.mask[0] & ~seen[0]
        assert not bool((hidden & ~outer).any())
        n_hidden = int(hidden.any(dim=-2).sum())
        assert 1 <= n_hidden <= round(0.4 * n_outer)


def test_weights_are_one_over_p_of_the_data_set():
    """1500 masks of falling density, thinned: of the lines then empty, which share was sampled?

    The estimate sees the masks only; the truth is counted from 20 draws of M~ for each of them.
    Per outer line P is about 0.05, known from 20 000 empty cases to 3.3 % (1 sigma) within the same
    masks; 6 sigma bound every line, the mean over lines is known to 1 %.
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
    for k in range(20):
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


def test_densities_of_discs_follow_their_falling_density():
    """60 Poisson discs: smoothed shares against those of 400 others, within 15 % RMS."""
    spec = MaskSpec("poisson", 4.0, 8)

    def densities(first: int, n: int) -> torch.Tensor:
        masks = [spec.draw((40, 36), rng_for(i, "disc")) for i in range(first, first + n)]
        facts = [MaskFacts(m, torch.ones(36, dtype=torch.bool)) for m in masks]
        (found,) = sampling_densities(facts).values()
        return found

    few, many = densities(0, 60), densities(100, 400)
    outer = torch.ones(1, 40, 36, dtype=torch.bool)
    outer[:, 14:26, 12:24] = False
    error = (few / many - 1)[outer & (many > 0.02)]
    assert float(error.square().mean().sqrt()) < 0.15
    assert float(few.min()) >= 0 and float(few.max()) <= 1


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("kspace", {"remove": "0,0.4"}, "remove"),
        ("kspace", {"remove": "0.5,0.4"}, "remove"),
        ("kspace", {"margin": "1"}, "margin"),
        ("kspace", {"margin": "wide"}, "margin"),
        ("kspace", {"weights": "maybe"}, "true or false"),
        ("kspace", {"noise_domain": "time"}, "noise_domain"),
        ("kspace", {"law": "1"}, "has no option"),
        ("gsure", {"epsilon": "0"}, "epsilon"),
        ("consistency", {"base": "gsure"}, "kspace or ambient"),
        ("consistency", {"weight": "-1"}, "weight"),
        ("ssdu", {"remove": "1"}, "remove"),
        ("magic", {}, "unknown"),
    ],
)
def test_options_that_cannot_work_are_refused(name, options, match):
    with pytest.raises(ConfigError, match=match):
        make_objective(name, options)


def test_options_are_read_from_text():
    made = make_objective("kspace", {"weights": "false", "remove": "0.1,0.3", "margin": "1.5"})
    assert made == Kspace(weights=False, remove=(0.1, 0.3), margin=1.5)
    assert make_objective("consistency", {"base": "ambient"}) == Consistency(base=Ambient())
    assert Consistency().as_dict()["base"]["name"] == "kspace"
    for name in OBJECTIVES:
        assert make_objective(name).as_dict()["name"] == name


# What a loss teaches: over linear denoisers, on problems whose answer is known


class Toy:
    """x ~ CN(0, diag var) on 2 x 6 pixels, four coils, three lines always seen, one more measured.

    The further mask is the same for all, which of the other three lines was measured beside it is
    random, so that given M~ every line has its chance.
    """

    shape, sigma = (2, 6), 0.5

    def __init__(self, n: int, noise_std: float, seed: int = 0, *, full: bool = False) -> None:
        rng = rng_for(seed, "toy")
        self.n, self.noise_std = n, noise_std
        self.maps = random_maps((4, *self.shape), rng)
        self.var = 0.3 + torch.rand(self.shape, generator=rng)
        self.seen = torch.zeros(1, *self.shape, dtype=torch.bool)
        self.seen[..., 2:5] = True
        extra = torch.tensor([0, 1, 5])[torch.randint(3, (n,), generator=rng)]
        mask = self.seen.expand(n, 1, *self.shape).clone()
        mask[torch.arange(n), ..., extra] = True
        if full:
            mask[:] = True
        self.x = self.var.sqrt() * complex_normal((n, *self.shape), rng)
        maps = self.maps.expand(n, -1, -1, -1)
        noise = noise_std * complex_normal((n, 4, *self.shape), rng)
        ksp = mask * (SenseOp(maps, mask)(self.x) + noise)
        density = torch.where(self.seen, 1.0, 1.0 if full else 1 / 3)
        self.batch = Batch(
            ksp, maps, mask, torch.ones(n, 6, dtype=torch.bool),
            torch.full((n,), noise_std), density.expand(n, 1, *self.shape),
        )  # fmt: skip

    def matrix(self, mask: torch.Tensor) -> torch.Tensor:
        """G = A^H A, (pixel, pixel)."""
        eye = torch.eye(12, dtype=torch.complex64).reshape(12, *self.shape)
        return SenseOp(self.maps, mask).normal(eye).reshape(12, 12).T

    def minimiser(self, objective, streams_seed: int = 1) -> torch.Tensor:
        """The matrix W of D = W u that minimises the empirical loss, found exactly.

        The loss is quadratic in W: 80 conjugate-gradient steps with Hessian products solve it.
        """
        net = LinearDenoiser()
        loss = objective(net, self.batch, streams(streams_seed, self.n)).backward
        (grad,) = torch.autograd.grad(loss, net.weight, create_graph=True)

        def hessian(v: torch.Tensor) -> torch.Tensor:
            v = v.float().view_as(grad)
            return torch.autograd.grad(grad, net.weight, v, retain_graph=True)[0].flatten()

        right = -grad.detach().flatten()
        best = conjugate_gradient(hessian, right, n_iter=80, dims=(-1,))
        assert float((hessian(best) - right).norm() / right.norm()) < 1e-3
        return torch.view_as_complex(best.view(12, 12, 2))

    def excess(self, W: torch.Tensor, best: torch.Tensor, cov_u: torch.Tensor) -> float:
        """E ||W u - best u||^2 over the error of the best, E ||best u - x||^2."""
        gap = W - best
        lost = (gap @ cov_u @ gap.mH).diagonal().real.sum()
        error = self.var.sum() - (best @ cov_u @ best.mH).diagonal().real.sum()
        return float(lost / error)


class LinearDenoiser(torch.nn.Module):
    """D = W A~^H z."""

    sigma_data = 0.8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(12, 12, 2))

    def forward(self, op, z, sigma):
        u = op.adjoint(z).flatten(-2)
        return (u @ torch.view_as_complex(self.weight).T).reshape(-1, *op.ishape)


@pytest.fixture
def always_seen(monkeypatch):
    """Fix M~ and sigma in every objective."""

    def fix(toy: Toy) -> None:
        def seen(batch, *_, **__):
            return toy.seen.expand(len(batch), 1, *toy.shape)

        for module in ("kspace", "ssdu"):
            monkeypatch.setattr(f"mri_ambient.objectives.{module}.thinned", seen)
        monkeypatch.setattr(Ambient, "_thin", lambda _self, batch, _rng: seen(batch))

    return fix


class At(LogNormal):
    """Always the same level."""

    def draw(self, at_least, sigma_data, rng):
        return torch.full((len(rng),), Toy.sigma)


N_TOY = 8000
"""Draws. With 144 complex weights the minimiser has an excess error of a few times 144 / N."""

RIGHT = {
    "kspace": 0.009,
    "kspace, no weights": 0.006,
    "ambient": 0.008,
    "gsure": 0.003,
    "gsure, no divergence": 0.008,
}
"""Excess errors below which a loss is taken to be right: up to twice what these seeds give."""

WRONG = 0.1
"""And above which a plain mistake must lie."""


@pytest.mark.parametrize("noise_std", [0.0, 0.4])
@pytest.mark.parametrize("weights", [True, False])
def test_kspace_learns_the_posterior_mean(noise_std, weights, always_seen):
    """W = (G + sigma^2 / C)^-1, also from noisy measurements and whatever the weights."""
    toy = Toy(N_TOY, noise_std)
    always_seen(toy)
    G, C = toy.matrix(toy.seen), torch.diag(toy.var.flatten()).to(torch.complex64)
    best = torch.linalg.inv(G + toy.sigma**2 * torch.linalg.inv(C))
    cov_u = G @ C @ G + toy.sigma**2 * G
    right = RIGHT["kspace" if weights else "kspace, no weights"]
    assert toy.excess(toy.minimiser(Kspace(law=At(), weights=weights)), best, cov_u) < right


def test_kspace_with_noise_in_the_image_learns_from_noiseless_scans(always_seen):
    toy = Toy(N_TOY, 0.0)
    always_seen(toy)
    G, C = toy.matrix(toy.seen), torch.diag(toy.var.flatten()).to(torch.complex64)
    cov_u = G @ (C + toy.sigma**2 * torch.eye(12)) @ G
    best = C @ G @ torch.linalg.pinv(cov_u, hermitian=True, rtol=1e-5)
    learned = toy.minimiser(Kspace(law=At(), noise_domain="image"))
    assert toy.excess(learned, best, cov_u) < RIGHT["kspace"]


def test_plain_squares_on_seen_noisy_entries_learn_something_else(always_seen):
    """Without the correction for the noise of the target the minimiser is wrong."""
    toy = Toy(N_TOY, 0.4)
    always_seen(toy)
    G, C = toy.matrix(toy.seen), torch.diag(toy.var.flatten()).to(torch.complex64)
    best = torch.linalg.inv(G + toy.sigma**2 * torch.linalg.inv(C))
    learned = toy.minimiser(Kspace(law=At(), weights=False, noise_correction=False))
    assert toy.excess(learned, best, G @ C @ G + toy.sigma**2 * G) > WRONG


@pytest.mark.parametrize(
    ("noise_std", "corrected", "right"),
    [(0.0, False, True), (0.4, True, True), (0.4, False, False)],
)
def test_ambient_learns_the_posterior_mean_if_it_knows_its_noise(
    noise_std, corrected, right, always_seen
):
    """u = G (x + sigma n) + A~^H (measured noise); W = E[x u^H] E[u u^H]^-1."""
    toy = Toy(N_TOY, noise_std)
    always_seen(toy)
    G, C = toy.matrix(toy.seen), torch.diag(toy.var.flatten()).to(torch.complex64)
    cov_u = G @ (C + toy.sigma**2 * torch.eye(12)) @ G + noise_std**2 * G
    best = C @ G @ torch.linalg.pinv(cov_u, hermitian=True, rtol=1e-5)
    learned = toy.minimiser(Ambient(law=At(), noise_correction=corrected, n_cg=12))
    found = toy.excess(learned, best, cov_u)
    assert found < RIGHT["ambient"] if right else found > WRONG


@pytest.mark.parametrize("divergence", [True, False])
def test_gsure_learns_the_posterior_mean_of_full_scans(divergence):
    """Everything sampled, with noise: W = C (C + sigma^2)^-1, which plain squares would miss."""
    toy = Toy(N_TOY, 0.4, full=True)
    C = toy.var.flatten()
    best = torch.diag(C / (C + toy.sigma**2)).to(torch.complex64)
    cov_u = torch.diag(C + toy.sigma**2).to(torch.complex64)
    learned = toy.minimiser(Gsure(law=At(), divergence=divergence))
    assert (
        toy.excess(learned, best, cov_u) < RIGHT["gsure" if divergence else "gsure, no divergence"]
    )
    naive = toy.minimiser(Kspace(law=At(), noise_correction=False))
    assert toy.excess(naive, best, cov_u) > WRONG


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("divergence", [True, False])
def test_gsure_plus_its_constant_is_the_error_to_the_clean_image(divergence, full):
    """For a network that is no linear map, over 6000 noisy measurements, within 4 standard errors
    (false alarm 6e-5): the loss plus its constant is lambda sum W M |K - F S x|^2; with everything
    sampled, lambda ||D - x||^2."""
    toy = Toy(6000, 0.4, full=full)
    net = shaken(DENOISERS["plain"](SPEC, 0.8), seed=3)
    objective = Gsure(law=At(), divergence=divergence, epsilon=0.02)
    batch, sigma = toy.batch, toy.sigma
    weight = torch.where(batch.mask, 1 / batch.density, 0)
    differences = []
    with torch.no_grad():
        for first in range(0, toy.n, 50):
            rows = slice(first, first + 50)
            part, x, w = batch[rows], toy.x[rows], weight[rows]
            loss = objective(net, part, streams(first, 50)).backward
            y = torch.where(part.mask, part.ksp, 0)
            extra = torch.where(part.mask, (sigma**2 - 0.4**2) ** 0.5, sigma)
            state = y + extra * complex_normals(tuple(y.shape[1:]), streams(first, 50))
            whole = part.op.with_mask(torch.ones_like(part.mask))
            D = net(whole, state, torch.full((50,), sigma))
            error = (w * (part.op.expand(D) - part.op.expand(x)).abs().square()).sum(1)
            if full:
                torch.testing.assert_close(
                    error.sum(dim=(-2, -1)), (D - x).abs().square().sum(dim=(-2, -1))
                )
            # What the target carries beside k: 2 sigma_n^2 an entry and coil, more if the state's
            # own noise was subtracted from it.
            noise = 2 * 0.4**2 / (1 if divergence else 1 - (0.4 / sigma) ** 2)
            constant = 4 * noise * w.mean()
            level = min(float(edm_weight(torch.tensor(sigma), 0.8)), 400.0)
            differences.append(loss - level * (constant + error.mean()))
    difference = torch.stack(differences)
    standard_error = difference.std() / len(difference) ** 0.5
    assert abs(float(difference.mean())) < 4 * float(standard_error)
    # The test can tell: the constant alone is many standard errors.
    assert 20 * float(standard_error) / level < 2 * 0.4**2


class Exact(torch.nn.Module):
    """E[x | A~^H z] of the toy, for noise in k-space or the image, times a factor (1 is right)."""

    sigma_data = 0.8

    def __init__(self, toy: Toy, factor: float = 1.0, *, in_image: bool = False) -> None:
        super().__init__()
        self.toy, self.factor, self.in_image = toy, factor, in_image

    def forward(self, op, z, sigma):
        G = self.toy.matrix(self.toy.seen)
        C = torch.diag(self.toy.var.flatten()).to(G)
        var = sigma[:, None, None].square()
        if self.in_image:
            cov_u = G @ (C + var * torch.eye(12)) @ G
            W = C @ G @ torch.linalg.pinv(cov_u, hermitian=True, rtol=1e-5)
        else:
            W = torch.linalg.inv(G + var * torch.linalg.inv(C))
        u = op.adjoint(z).flatten(-2)
        return self.factor * (W @ u[..., None]).reshape(-1, *op.ishape)


@pytest.mark.parametrize("base", [Kspace(), Ambient()], ids=lambda o: o.name)
def test_rollouts_start_with_the_noise_they_are_said_to_have(base, monkeypatch):
    """On scans of nothing but noise, 0.4 per channel: kspace counts it in, ambient knows none.

    12 entries of four coils, Re and Im, of 500 scans: within 5 standard errors (false alarm 6e-7).
    """
    toy = Toy(500, 0.4)
    in_image = isinstance(base, Ambient)
    noise = 0.0 if in_image else 0.4
    ksp = noise * complex_normals((4, *toy.shape), streams(3, toy.n))
    toy.batch = replace(toy.batch, ksp=torch.where(toy.batch.mask, ksp, 0))
    states = []

    class Noting(Exact):
        def forward(self, op, z, sigma):
            states.append((op, z, sigma))
            return super().forward(op, z, sigma)

    with torch.no_grad():
        Consistency(base=base)._penalty(Noting(toy), toy.batch, streams(5, toy.n))
    op, z, sigma = states[0]
    wanted = sigma[:, None, None, None].expand_as(z)
    if in_image:  # white in the image, where the coils weigh it: E |A n|^2 = 2 sigma^2 |S|^2
        wanted = wanted * op.maps.abs()
    seen = op.mask.expand_as(z)
    got, want = z[seen].abs().square().sum() / 2, wanted[seen].square().sum()
    n = 2 * int(seen.sum()) / (4 if in_image else 1)
    assert abs(float(got / want) - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize(("factor", "consistent"), [(1.0, True), (0.7, False)])
@pytest.mark.parametrize("base", [Kspace(), Ambient()], ids=lambda o: o.name)
def test_the_consistency_penalty_vanishes_for_the_posterior_mean_alone(
    base, factor, consistent, monkeypatch
):
    """8000 measurements in 80 groups: the mean penalty of the exact denoiser is within 4
    standard errors of 0 (false alarm 6e-5), that of one too small by 30 % more than 8 above.

    Those of ambient, which takes the measured noise for nothing, have none.
    """
    in_image = isinstance(base, Ambient)
    toy = Toy(8000, 0.0 if in_image else 0.4)
    toy.batch = replace(toy.batch, noise_std=torch.full((toy.n,), 0.4))
    monkeypatch.setattr(
        "mri_ambient.objectives.consistency.thinned",
        lambda batch, *_, **__: toy.seen.expand(len(batch), 1, *toy.shape),
    )
    objective, net = Consistency(base=base), Exact(toy, factor, in_image=in_image)
    with torch.no_grad():
        penalties = torch.stack(
            [
                objective._penalty(net, toy.batch[slice(i, i + 100)], streams(i, 100))
                for i in range(0, toy.n, 100)
            ]
        )
    score = float(penalties.mean() / (penalties.std() / len(penalties) ** 0.5))
    assert abs(score) < 4 if consistent else score > 8
