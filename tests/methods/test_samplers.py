from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from gaussian import GaussianPrior, Mixture, WholeGaussian
from helpers import dense, load_script, random_maps, random_sense, small_prior
from torch import Tensor

from mri_ambient.errors import ConfigError, MriAmbientError, NumericalWarning
from mri_ambient.methods import Adps, Aos, Dds, Msm, PriorOnly, Pula, data_consistency
from mri_ambient.methods.base import CG_OF_PLAIN, first_level
from mri_ambient.methods.presets import with_options
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.schedules import LogNormal, rho_schedule
from mri_ambient.recon.engine import draw_images
from mri_ambient.rng import complex_normal, rng_for

SHAPE = (5, 6)


@pytest.fixture
def op(rng):
    return random_sense(SHAPE, 3, rng, torch.complex128)


@pytest.fixture
def prior(rng):
    var = 0.5 + torch.rand(SHAPE, generator=rng, dtype=torch.float64)
    return GaussianPrior(var, sigma_min=0.05)


def measure(
    op: SenseOp, prior: GaussianPrior, sigma: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    rng = rng_for(seed, "measure")
    x = prior.var.sqrt() * complex_normal(SHAPE, rng, dtype=torch.complex128)
    y = op(x[None]) + sigma * op.mask * complex_normal((1, *op.oshape), rng, dtype=torch.complex128)
    return x, y


def test_aos_is_the_posterior_mean(op, prior):
    """E[x | y] from the joint Gaussian, by dense matrices."""
    sigma = 0.3
    _, y = measure(op, prior, sigma)
    A = dense(op, torch.complex128)
    cov = torch.diag(2 * prior.var.flatten()).to(torch.complex128)
    gain = (
        cov
        @ A.mH
        @ torch.linalg.pinv(
            A @ cov @ A.mH + 2 * sigma**2 * torch.diag(op.mask.expand(op.oshape).flatten().double())
        )
    )
    want = (gain @ y.flatten()).reshape(SHAPE)
    got = Aos(final_dc=False)(prior, op, y, noise_std=torch.tensor([sigma]), rng=[rng_for(0)])
    torch.testing.assert_close(got[0], want, rtol=1e-6, atol=1e-6)


def test_aos_never_goes_below_the_trained_noise(op, prior):
    """A cleaner scan than any in training is labelled with the smallest trained sigma."""
    _, y = measure(op, prior, 0.0)
    run = Aos(final_dc=False)
    clean = run(prior, op, y, noise_std=torch.tensor([0.0]), rng=[rng_for(0)])
    floor = run(prior, op, y, noise_std=torch.tensor([prior.sigma_min]), rng=[rng_for(0)])
    assert torch.equal(clean, floor)


def test_data_consistency_is_the_regularised_least_squares(op, rng):
    y = op.mask * complex_normal((1, *op.oshape), rng, dtype=torch.complex128)
    x0 = complex_normal((1, *SHAPE), rng, dtype=torch.complex128)
    sigma, tau = 0.2, 0.3
    A = dense(op, torch.complex128)
    left = A.mH @ A / sigma**2 + torch.eye(30, dtype=torch.complex128) / tau**2
    right = A.mH @ y.flatten() / sigma**2 + x0.flatten() / tau**2
    want = torch.linalg.solve(left, right).reshape(SHAPE)
    got = data_consistency(
        op, y, x0, noise_std=torch.tensor([sigma], dtype=torch.float64), tau=tau, n_iter=60
    )
    torch.testing.assert_close(got[0], want, rtol=1e-8, atol=1e-8)


def test_a_full_noiseless_scan_is_given_back(op, prior):
    full = op.with_mask(torch.ones_like(op.mask))
    x, y = measure(full, prior, 0.0)
    got = Aos(n_cg=60)(prior, full, y, noise_std=torch.tensor([0.0]), rng=[rng_for(0)])
    # sigma_n has a floor of 0.01 against tau = 0.1, and the denoiser shrinks a little.
    assert float((got[0] - x).norm() / x.norm()) < 1e-3


def test_adps_is_its_own_affine_recursion(op, prior):
    """With a linear denoiser every step is affine but for ||r||; done here with dense matrices."""
    n, sigma_n, step_size = 8, 0.1, 0.7
    mask = op.mask.clone()
    mask[..., ::2] = False
    prior.mask = mask
    _, y = measure(op, prior, sigma_n)
    got = Adps(n_steps=n, step_size=step_size)(
        prior, op, y, noise_std=torch.tensor([sigma_n], dtype=torch.float64), rng=[rng_for(3)]
    )

    inner = op.with_mask(mask)
    A, B = dense(op, torch.complex128), dense(inner, torch.complex128)
    G = B.mH @ B
    sigma_max = 10.0 * prior.sigma_data / 0.5
    sigmas = [*rho_schedule(n, sigma_max, prior.sigma_min).tolist(), 0.0]
    step = step_size * sigma_n * (2 * 3 * int(op.mask.sum())) ** 0.5
    x = sigmas[0] * complex_normal(SHAPE, rng_for(3), dtype=torch.complex128).flatten()
    for sigma, sigma_next in pairwise(sigmas):
        D = prior.matrix(inner, sigma) @ G
        r = y.flatten() - A @ D @ x
        gradient = -2 * (A @ D).mH @ r
        x = x + (sigma_next - sigma) / sigma * (x - D @ x) - step / r.norm() * gradient
    torch.testing.assert_close(got[0].flatten(), x, rtol=1e-4, atol=1e-6)


def test_adps_pulls_towards_the_data_and_reports_every_step(op, prior):
    """The same noise with and without the data term: the residual is a fraction with it."""
    _, y = measure(op, prior, 0.05)
    seen = {}
    for step_size in (0.0, 0.9):
        steps = seen[step_size] = []
        Adps(n_steps=100, step_size=step_size)(
            prior, op, y, noise_std=torch.tensor([0.05]), rng=[rng_for(0)], on_step=steps.append
        )
        assert [info.index for info in steps] == list(range(100))
        assert steps[-1].sigma == pytest.approx(prior.sigma_min)
    assert float(seen[0.9][-1].residual) < 0.4 * float(seen[0.0][-1].residual)


@pytest.mark.parametrize(
    ("method", "bf16", "most"),
    [
        (Aos(), False, 1e-5),
        (Adps(n_steps=20), False, 1e-3),
        (Dds(n_steps=20), False, 1e-3),
        (Msm(n_steps=7), False, 1e-3),
        (Pula(n_steps=20), False, 1e-3),
        (Aos(), True, 1e-2),
    ],
)
def test_an_image_does_not_depend_on_its_batch(method, bf16, most, rng):
    """NRMSE 1e-5 for one step and 1e-3 for 20 steps in single precision, 1e-2 in bf16."""
    prior = small_prior("conditioned", tau=0.1)
    prior.net.autocast = bf16
    op = random_sense((16, 18), 4, rng)
    y = op.mask * complex_normal((3, *op.oshape), rng)
    noise = torch.tensor([0.02, 0.05, 0.1])

    def run(rows):
        streams = [rng_for(0, row) for row in rows]
        return method(prior, op, y[rows], noise_std=noise[rows], rng=streams).detach()

    together = run([0, 1, 2])
    alone = torch.cat([run([row]) for row in range(3)])
    error = float((together - alone).norm() / alone.norm())
    assert error < most


def test_prior_only_draws_from_a_gaussian(rng):
    """Variance of 400 unmasked draws per pixel within 6 standard errors (1e-6 over 12 pixels)."""
    shape, n = (3, 4), 400
    var = 0.2 + torch.rand(shape, generator=rng, dtype=torch.float64)
    prior = GaussianPrior(var, sigma_min=1e-3)
    maps = torch.ones(1, *shape, dtype=torch.complex128)
    streams = [rng_for(0, i) for i in range(n)]
    images = PriorOnly(n_steps=40)(prior, maps[None], rng=streams)
    measured = images.abs().square().mean(dim=0) / 2
    # The deterministic steps shrink the spread by their discretisation, below 3 % at 40 steps.
    error = (measured / var - 1).abs()
    assert float(error.max()) < 6 / n**0.5 + 0.03


def test_images_drawn_together_are_those_drawn_alone(rng):
    prior = GaussianPrior(0.2 + torch.rand((16, 18), generator=rng), sigma_min=1e-2)
    sampler, maps = PriorOnly(n_steps=3), random_maps((1, 2, 16, 18), rng)
    together = draw_images(prior, sampler, n_images=3, shape=(16, 18), maps=maps)
    for k in range(3):
        streams = [rng_for(0, "sample", k)]
        torch.testing.assert_close(together[k], sampler(prior, maps, rng=streams)[0])


def test_images_that_went_astray_are_not_handed_over():
    """A guided state that grows tenfold a step; a prior that gives none."""
    prior = small_prior("conditioned")
    with pytest.raises(MriAmbientError, match="less guidance"):
        draw_images(prior, PriorOnly(n_steps=8, guidance=50.0), n_images=1, shape=(32, 32))
    with torch.no_grad():
        next(prior.net.parameters()).fill_(float("nan"))
    with pytest.raises(MriAmbientError, match="another prior"):
        draw_images(prior, PriorOnly(n_steps=3), n_images=1, shape=(32, 32))


def test_guidance_is_the_gradient_of_what_masks_disagree_about(op, prior):
    """The guided sampler against its own linear recursion with dense matrices."""
    n, w = 5, 0.3
    prior.mask = op.mask
    got = PriorOnly(n_steps=n, guidance=w)(prior, op.maps[None], rng=[rng_for(4)])

    stream, lift = rng_for(4), dense(op.with_mask(torch.ones_like(op.mask)), torch.complex128)
    z = complex_normal(tuple(op.oshape), stream).to(torch.complex128).flatten()
    sigmas = [*rho_schedule(n, 80.0 * prior.sigma_data / 0.5, prior.sigma_min).tolist(), 0.0]
    z = sigmas[0] * z

    def denoising(mask: Tensor, sigma: float) -> Tensor:
        inner = op.with_mask(mask)
        return prior.matrix(inner, sigma) @ dense(inner, torch.complex128).mH

    for sigma, sigma_next in pairwise(sigmas):
        fixed = denoising(op.mask, sigma)
        other = denoising(prior.training_mask(op, [stream])[0], sigma)
        push = 2 * w * (fixed - other).mH @ (fixed - other) @ z
        x0 = fixed @ z
        z = lift @ x0 + sigma_next / sigma * (z - lift @ x0) - push
    torch.testing.assert_close(got[0].flatten(), x0, rtol=1e-6, atol=1e-8)


def test_levels_above_the_training_are_told_of(prior):
    """One draw in 4300 lies above exp(mean + 3.5 std): 22 for this law, 80 where there is none."""
    law = LogNormal(mean=-3.2, std=1.8)
    z = (math.log(law.highest) - law.mean) / law.std
    assert 0.5 * math.erfc(z / 2**0.5) == pytest.approx(1 / 4300, rel=0.01)
    card = {"objective_options": {"base": {"law": {"mean": -3.2, "std": 1.8}}}}
    known = small_prior(sigma_data=0.5, card=card)
    with pytest.warns(NumericalWarning, match=r"above all training \(up to about [0-9.]+\)"):
        assert first_level(23.0, known) == 23.0
    for quiet in (lambda: first_level(21.0, known), lambda: first_level(79.0, prior)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quiet()


@pytest.mark.parametrize("method", [Dds, Msm, Pula])
def test_options_as_text_are_options(method, op, prior):
    """As the command line gives them, those included that have no number by default."""
    _, y = measure(op, prior, 0.1)
    text = {"n_steps": "3", "n_cg": "7", "sigma_max": "0.5", "start": "aos", "final_dc": "false"}
    given = method(n_steps=3, n_cg=7, sigma_max=0.5, start="aos", final_dc=False)
    out = [
        one(prior, op, y, noise_std=torch.tensor([0.1]).double(), rng=[rng_for(0)])
        for one in (given, with_options(method, text))
    ]
    assert torch.equal(*out)


def test_guidance_needs_a_prior_that_knows_masks(prior, op):
    plain = WholeGaussian(prior.var, sigma_min=0.05)
    with pytest.raises(ConfigError, match="knows no masks"):
        PriorOnly(n_steps=3, guidance=0.1)(plain, op.maps[None], rng=[rng_for(0)])


@pytest.mark.parametrize(
    "make", [lambda: Adps(n_steps=1), lambda: Adps(step_size=-1), lambda: PriorOnly(n_steps=0),
             lambda: PriorOnly(guidance=-1), lambda: PriorOnly(sigma_max=0.0),
             lambda: Adps(sigma_max=float("inf")), lambda: Pula(sigma_max=-1.0),
             lambda: Aos(n_cg=0), lambda: Dds(start="there"), lambda: Dds(renoise="again"),
             lambda: Dds(sigma_max=0.0), lambda: Msm(n_masks=0), lambda: Pula(n_steps=1),
             lambda: Pula(gamma=2.1), lambda: Pula(start="there"), lambda: Dds(n_cg=2.5),
             lambda: Pula(n_cg=0)],
)  # fmt: skip
def test_impossible_options_are_refused(make):
    with pytest.raises(ConfigError, match=r"must|at least 2 steps are needed"):
        make()


N = 300
"""Samples of a stochastic test: a pixel's mean is known to 6 % of its deviation, the mean variance
over 12 pixels to 1.7 % (1 sigma)."""


def draw(method, prior: GaussianPrior, one: SenseOp, y: Tensor, sigma_n: float) -> Tensor:
    """N samples ``(N, pixel)``."""
    op = SenseOp(one.maps.expand(N, -1, -1, -1), one.mask.expand(N, 1, *one.ishape))
    noise_std = torch.full((N,), sigma_n).double()
    streams = [rng_for(1, i) for i in range(N)]
    y = y.expand(N, -1, -1, -1)
    return method(prior, op, y, noise_std=noise_std, rng=streams).flatten(1)


def posterior(prior: GaussianPrior, one: SenseOp, y: Tensor, sigma_n: float) -> tuple[Tensor, ...]:
    """Mean and covariance per real channel, in closed form."""
    A = dense(one, torch.complex128)
    precision = A.mH @ A / sigma_n**2 + torch.diag(1 / prior.var.flatten()).to(torch.complex128)
    cov = torch.linalg.inv(precision)
    return cov @ A.mH @ y.flatten() / sigma_n**2, cov


def even_problem(sigma_n: float) -> tuple[WholeGaussian, SenseOp, Tensor]:
    """12 pixels of the variance that the data step assumes, three coils, a measurement."""
    rng, shape = rng_for(0, "dds"), (3, 4)
    one = random_sense(shape, 3, rng, torch.complex128)
    prior = WholeGaussian(torch.full(shape, 0.8, dtype=torch.float64), sigma_min=0.01)
    x = prior.var.sqrt() * complex_normal(shape, rng, dtype=torch.complex128)
    noise = complex_normal(one.oshape, rng, dtype=torch.complex128)
    return prior, one, one(x) + sigma_n * one.mask * noise


@pytest.mark.parametrize(
    "method",
    [
        Dds(n_steps=60, eta=0.0, n_cg=12),
        Dds(n_steps=60, eta=0.5, n_cg=12),
        Dds(n_steps=60, eta=0.3, n_cg=12, renoise="diffpir"),
        Dds(n_steps=40, n_cg=12, start="cg-sense", sigma_max=2.0),
        Pula(n_steps=150, n_cg=20),
    ],
    ids=lambda method: f"{method.name}",
)
@pytest.mark.parametrize("sigma_n", [0.1, 0.3, 1.0])
def test_samples_are_the_posterior_of_a_plain_prior(method, sigma_n):
    """Complex data, three coils, a Gaussian prior: mean and variance against the closed form.

    All pixels have the variance that the data step assumes. The mean is right within 5 standard
    errors (12 pixels: 1e-5); finite steps lose up to a fifth of the variance (dds) or add some
    (pula), which the bounds allow and no more. (At sigma_n = 1 the prior decides, and correlations
    are too small for the last bound to tell.)
    """
    prior, one, y = even_problem(sigma_n)
    mean, cov = posterior(prior, one, y, sigma_n)
    out = draw(method, prior, one, y, sigma_n)

    spread = cov.diagonal().real.sqrt()
    off = (out.mean(dim=0) - mean).abs() / (2**0.5 * spread)
    assert float(off.max()) < 5 / N**0.5
    error = out - out.mean(dim=0)
    variance = error.abs().square().mean(dim=0) / 2
    widest = 1.1 if isinstance(method, Pula) else 1.03
    assert 0.8 < float((variance / spread**2).mean()) < widest
    correlation = error.mH @ error / (2 * N)
    assert float((correlation - cov.mT).norm() / cov.norm()) < 0.35  # sqrt(12/300) of it is chance


@pytest.mark.parametrize(
    ("method", "bias", "narrowest"),
    [(Dds(final_dc=False), (0.15, 0.4), 0.35), (Pula(final_dc=False), (-0.1, 0.2), 0.6)],
    ids=["dds", "pula"],
)
def test_how_near_samples_are_to_the_posterior_of_correlated_pixels(method, bias, narrowest):
    """64 pixels that know their neighbours, noise 0.3: what the data step of dds leaves out.

    In the posterior's eigendirections: bias of the mean in its standard deviations (RMS, without
    the 0.11 of chance), variance over the posterior's. Of dds the mean is a quarter of a
    deviation off, and well-measured directions lose variance, though all together lose little.
    """
    bench = load_script("bench_calibration")
    n, sigma_n = 80, 0.3
    _, y, mean, post, one, cov = bench.measure(1, sigma_n)
    op = SenseOp(*(part.expand(n, *part.shape[1:]) for part in (one.maps, one.mask)))
    noise_std = torch.full((n,), sigma_n).double()
    streams = [rng_for(5, i) for i in range(n)]
    prior = bench.Exact(cov, "everything")
    with torch.no_grad():
        out = method(prior, op, y.expand(n, *y.shape[1:]), noise_std=noise_std, rng=streams)[:, 0]
    low, high = bias
    assert low < bench.bias(out[:, None], mean, post) < high
    variance, directions = torch.linalg.eigh(post[0])
    drawn = (directions.mH @ (out - out.mean(dim=0)).mT).abs().square().sum(dim=1) / (2 * (n - 1))
    assert 0.8 < float(drawn.sum() / variance.sum()) < 1.3
    assert float((drawn / variance).min()) > narrowest


@pytest.mark.parametrize(
    ("method", "right"),
    [
        (Dds(), True),
        (Dds(n_steps=40, eta=0.0), True),
        (Dds(eta=1.0), False),
        (Dds(n_cg=5), False),
        (Dds(n_cg=CG_OF_PLAIN), True),
        (Dds(n_steps=39), False),
        (Dds(start="aos"), False),
        (Dds(sigma_max=0.2), False),
        (Dds(renoise="diffpir", eta=0.3), False),
        (Msm(), True),  # which is dds, with a plain prior
        (Pula(), True),
        (Pula(n_steps=50), False),
        (Pula(gamma=1.0), False),
        (Pula(gamma=0.01), False),
        (Pula(n_cg=2), False),
        (Pula(sigma_max=0.3), False),
        (Adps(), False),
        (Aos(), False),
    ],
)
def test_posterior_samples_are_those_of_options_that_were_measured(method, right):
    assert method.draws_posterior == right


def as_shown(method, rule: str) -> tuple[float, float]:
    """12 signals of bench_calibration (64 pixels, R = 4, little noise), four samples of each.

    Returns:
        Squared error of a sample over the posterior mean's, and variance over the posterior's;
        known to about 0.15 and 0.05 (1 sigma).
    """
    bench = load_script("bench_calibration")
    n, sigma_n = 12, 0.01
    x, y, mean, post, op, cov = bench.measure(n, sigma_n)
    noise_std = torch.full((n,), sigma_n).double()
    prior = bench.Exact(cov, rule)
    samples = torch.stack([
        method(prior, op, y, noise_std=noise_std, rng=[rng_for(1, i, k) for i in range(n)])[:, 0]
        for k in range(4)
    ])  # fmt: skip
    best = (mean - x).abs().square().sum(dim=1).mean()
    one = (samples - x).abs().square().sum(dim=2).mean()
    variance = samples.var(dim=0).sum(dim=1).mean()
    wanted = 2 * post.diagonal(dim1=1, dim2=2).real.sum(dim=1).mean()
    return float(one / best), float(variance / wanted)


@pytest.mark.parametrize("method", [Dds(), Pula()], ids=lambda method: method.name)
def test_samples_as_by_default_are_the_posterior_of_a_plain_prior(method):
    """Options as they come: truncated data steps are seen here and nowhere else.

    With 5 of them (dds) or 15 (pula) the errors are 2.9 and 1.8 times that of the posterior mean,
    where 2 is right, the variances 1.5 and 0.8 (``bench_calibration.py --noise 0.01 --n-cg 5``).
    """
    error, variance = as_shown(method, "everything")
    assert 1.6 < error < 2.5
    assert 0.85 < variance < 1.3


def test_averages_over_masks_spread_too_little():
    """The bias of msm under masks, with exact denoisers: under half of the posterior's variance."""
    assert as_shown(Msm(n_steps=40, final_dc=False), "asked")[1] < 0.5


def test_msm_is_dds_for_a_plain_prior():
    prior, one, y = even_problem(0.3)
    dds, msm = (draw(m, prior, one, y, 0.3) for m in (Dds(n_steps=9), Msm(n_steps=9)))
    assert torch.equal(dds, msm)


def test_adps_ends_at_least_squares_where_the_coils_decide():
    """The bias of A-DPS: it fits the noise, whatever the prior says, and its samples do not differ.

    The posterior's mean is far away, and its variance is 1 in these units.
    """
    sigma_n = 1.0
    prior, one, y = even_problem(sigma_n)
    mean, cov = posterior(prior, one, y, sigma_n)
    spread = 2**0.5 * cov.diagonal().real.sqrt()
    squares = torch.linalg.lstsq(dense(one, torch.complex128), y.flatten()[:, None]).solution[:, 0]
    assert float(((squares - mean).abs() / spread).square().mean().sqrt()) > 1

    out = draw(Adps(n_steps=200), prior, one, y, sigma_n)
    off = (out.mean(dim=0) - squares).abs() / spread
    assert float(off.max()) < 0.02
    assert float(((out - out.mean(dim=0)).abs() / spread).square().mean()) < 1e-3


@pytest.mark.parametrize("method", [Dds(n_steps=40), Pula(n_steps=80)])
def test_both_modes_of_a_mixture_are_found(method):
    """Two images nothing measured can tell apart: each turns up in 36 to 64 % of 300 samples.

    (Five standard errors; a fair sampler fails once in 10^6.)
    """
    shape = (3, 4)
    maps = torch.ones(1, 1, *shape, dtype=torch.complex128)
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[..., 2] = True  # k = 0 along x, and the centre has no mean along x
    center = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.complex128).expand(shape)
    prior = Mixture(center, 0.01, sigma_min=0.02)
    out = draw(method, prior, SenseOp(maps[0], mask[0]), torch.zeros_like(maps), 0.1)
    along = (out * center.conj().flatten()).real.sum(dim=1) / 12
    assert float((along.abs() - 1).abs().max()) < 0.3
    assert 0.36 < float((along > 0).double().mean()) < 0.64


def test_msm_is_its_own_linear_recursion(op, prior):
    """A result counts where its mask has seen, all where none has; here with dense matrices."""
    sigma_n, n_steps, n_masks, eta = 0.2, 4, 2, 0.4
    _, y = measure(op, prior, sigma_n)
    got = Msm(n_steps=n_steps, n_masks=n_masks, eta=eta, n_cg=60, final_dc=False)(
        prior, op, y, noise_std=torch.tensor([sigma_n]).double(), rng=[rng_for(6)]
    )

    stream = rng_for(6)
    lift = dense(op.with_mask(torch.ones_like(op.mask)), torch.complex128)
    A, unseen = dense(op, torch.complex128), 0

    def white() -> Tensor:
        return complex_normal(tuple(op.oshape), stream, dtype=torch.complex128).flatten()

    sigmas = [*rho_schedule(n_steps, 20.0 * prior.sigma_data, prior.sigma_min).tolist(), 0.0]
    z = sigmas[0] * white()
    for sigma, sigma_next in pairwise(sigmas):
        masks = [prior.training_mask(op, [stream])[0] for _ in range(n_masks)]
        results = []
        for mask in masks:
            inner = op.with_mask(mask)
            D = prior.matrix(inner, sigma) @ dense(inner, torch.complex128).mH @ z
            results.append((lift @ D).reshape(op.oshape))
        seen = sum(mask.double() for mask in masks)
        unseen += int((seen == 0).sum())
        counted = sum(mask * K for mask, K in zip(masks, results, strict=True)) / seen
        D = lift.mH @ torch.where(seen > 0, counted, sum(results) / n_masks).flatten()
        ridge = sigma_n**2 * (1 / sigma**2 + 1 / prior.sigma_data**2)
        normal = A.mH @ A + ridge * torch.eye(D.numel())
        x = torch.linalg.solve(normal, A.mH @ y.flatten() + ridge * D)
        fresh = eta * (1 - (sigma_next / sigma) ** 2) ** 0.5
        noise = (1 - fresh**2) ** 0.5 * (z - lift @ x) / sigma + fresh * white()
        z = lift @ x + sigma_next * noise
    assert unseen, "some lines must be seen by no mask"
    torch.testing.assert_close(got[0].flatten(), x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [Dds(n_steps=3), Msm(n_steps=3), Pula(n_steps=3)])
def test_the_last_solve_is_for_priors_that_know_masks(method, op, prior):
    """It trusts them by tau, of which a sample has sqrt(2); other samples are left alone."""
    _, y = measure(op, prior, 0.1)
    noise_std = torch.tensor([0.1]).double()
    for one, solved in ((prior, True), (WholeGaussian(prior.var, sigma_min=0.05), False)):
        x, got = (
            replace(method, final_dc=final)(one, op, y, noise_std=noise_std, rng=[rng_for(0)])
            for final in (False, True)
        )
        want = data_consistency(op, y, x, noise_std=noise_std, tau=0.1 * 2**0.5, n_iter=10)
        torch.testing.assert_close(got, want if solved else x)
        assert float((want - x).norm()) > 1e-3 * float(x.norm())


def test_a_warm_start_begins_where_it_says(op, prior):
    """At a noise level of next to nothing the sampler cannot leave its start, but for the data."""
    _, y = measure(op, prior, 0.1)
    noise_std = torch.tensor([0.1]).double()
    streams = [rng_for(0)]
    mean = Aos(final_dc=False)(prior, op, y, noise_std=noise_std, rng=streams)
    prior.sigma_min = 1e-4
    warm = Dds(n_steps=2, start="aos", sigma_max=1e-3, final_dc=False)
    got = warm(prior, op, y, noise_std=noise_std, rng=streams)
    assert float((got - mean).norm() / mean.norm()) < 1e-2
    cold = replace(warm, start="noise")(prior, op, y, noise_std=noise_std, rng=streams)
    assert float((cold - mean).norm() / mean.norm()) > 0.5


def test_evaluations_are_counted(op, prior):
    """What a sampler says it asks of the network is what it asks."""
    _, y = measure(op, prior, 0.1)
    calls = 0

    class Counted(GaussianPrior):
        def denoiser(self, op, rng, further="scan"):
            inner = super().denoiser(op, rng, further)

            def denoise(z, sigma):
                nonlocal calls
                calls += 1
                return inner(z, sigma)

            return denoise

    counted = Counted(prior.var, sigma_min=0.05)
    for method in (
        Aos(), Dds(n_steps=4), Dds(n_steps=4, start="aos"), Msm(n_steps=3, n_masks=2),
        Pula(n_steps=9, start="aos"), Adps(n_steps=3),
    ):  # fmt: skip
        calls = 0
        method(counted, op, y, noise_std=torch.tensor([0.1]).double(), rng=[rng_for(0)])
        assert calls == method.n_evaluations
