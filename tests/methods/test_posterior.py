"""Samples against posteriors in closed form: mean, variance, correlation, modes."""

from __future__ import annotations

import pytest
import torch
from gaussian import Mixture, draw, even_problem, posterior
from helpers import apply_method, load_script

from mri_ambient.methods import Dds, Msm, Pula
from mri_ambient.physics.operators import SenseOp
from mri_ambient.rng import rng_for

pytestmark = pytest.mark.slow

N = 300
"""Samples: a pixel's mean is known to 6 % of its deviation, the mean variance over 12 pixels to
1.7 % (1 sigma)."""


@pytest.mark.parametrize(
    "method",
    [
        Dds(n_steps=60, eta=0.0, n_cg=12),
        Dds(n_steps=60, eta=0.5, n_cg=12),
        Dds(n_steps=60, eta=0.3, n_cg=12, renoise="diffpir"),
        Dds(n_steps=40, n_cg=12, start="cg-sense", sigma_max=2.0),
        Pula(n_steps=150, n_cg=12),
    ],
    ids=lambda method: f"{method.name}",
)
@pytest.mark.parametrize("sigma_n", [0.1, 1.0])
def test_samples_are_the_posterior_of_a_plain_prior(method, sigma_n):
    """Complex data, three coils, a Gaussian prior: mean and variance against the closed form.

    All pixels have the variance that the data step assumes, and 12 conjugate-gradient steps solve
    for 12 pixels exactly. The mean is right within 5 standard errors (12 pixels: 1e-5); finite
    steps lose up to a fifth of the variance (dds) or add some (pula), which the bounds allow and no
    more. (At sigma_n = 1 the prior decides, and correlations are too small for the last bound.)
    """
    prior, op, y = even_problem(sigma_n)
    mean, cov = posterior(prior, op, y, sigma_n)
    out = draw(method, prior, op, y, sigma_n, N)

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
    """64 correlated pixels, noise 0.3: what the data step of dds leaves out.

    In the posterior's eigendirections: bias of the mean in its standard deviations (RMS, without
    the 0.11 of chance), variance over the posterior's. The mean of dds is off by a quarter of a
    deviation, and well-measured directions lose variance, though all together lose little.
    """
    bench = load_script("bench_calibration")
    n, sigma_n = 80, 0.3
    _, y, mean, post, one, cov = bench.measure(1, sigma_n)
    op = SenseOp(*(part.expand(n, *part.shape[1:]) for part in (one.maps, one.mask)))
    out = apply_method(
        method, op, y.expand(n, *y.shape[1:]), sigma_n, prior=bench.Exact(cov, "everything"),
        rng=[rng_for(5, i) for i in range(n)],
    )[:, 0]  # fmt: skip
    low, high = bias
    assert low < bench.bias(out[:, None], mean, post) < high
    variance, directions = torch.linalg.eigh(post[0])
    drawn = (directions.mH @ (out - out.mean(dim=0)).mT).abs().square().sum(dim=1) / (2 * (n - 1))
    assert 0.8 < float(drawn.sum() / variance.sum()) < 1.3
    assert float((drawn / variance).min()) > narrowest


def errors_with_little_noise(method, rule: str, n: int = 12) -> tuple[float, float]:
    """Signals of bench_calibration (64 pixels, R = 4, little noise), four samples of each.

    Returns:
        Squared error of a sample over the posterior mean's, and variance over the posterior's;
        known to about 0.15 and 0.05 (1 sigma) with 12 signals.
    """
    bench = load_script("bench_calibration")
    sigma_n = 0.01
    x, y, mean, post, op, cov = bench.measure(n, sigma_n)
    four = SenseOp(op.maps.repeat(4, 1, 1, 1), op.mask.repeat(4, 1, 1, 1))
    streams = [rng_for(1, i, k) for k in range(4) for i in range(n)]
    samples = apply_method(
        method, four, y.repeat(4, 1, 1, 1), sigma_n, prior=bench.Exact(cov, rule), rng=streams
    ).view(4, n, -1)
    best = (mean - x).abs().square().sum(dim=1).mean()
    one = (samples - x).abs().square().sum(dim=2).mean()
    variance = samples.var(dim=0).sum(dim=1).mean()
    wanted = 2 * post.diagonal(dim1=1, dim2=2).real.sum(dim=1).mean()
    return float(one / best), float(variance / wanted)


@pytest.mark.parametrize("method", [Dds(), Pula()], ids=lambda method: method.name)
def test_samples_with_default_options_are_the_posterior_of_a_plain_prior(method):
    """Truncated data steps show here and nowhere else.

    With 5 conjugate-gradient steps (dds) or 15 (pula) the errors are 2.9 and 1.8 times that of the
    posterior mean, where 2 is right, the variances 1.5 and 0.8
    (``bench_calibration.py --noise 0.01 --n-cg 5``).
    """
    error, variance = errors_with_little_noise(method, "everything")
    assert 1.6 < error < 2.5
    assert 0.85 < variance < 1.3


def test_averages_over_masks_have_too_little_variance():
    """The bias of msm under masks, with exact denoisers: under half of the posterior's variance.

    It is 0.16 of it, known to 0.1 from 4 signals.
    """
    _, variance = errors_with_little_noise(Msm(n_steps=20, final_dc=False), "asked", n=4)
    assert variance < 0.5


@pytest.mark.parametrize("method", [Dds(n_steps=40), Pula(n_steps=80)])
def test_both_modes_of_a_mixture_are_found(method):
    """Two images that the measurement cannot tell apart: each is 36 to 64 % of 300 samples.

    (Five standard errors; a fair sampler fails once in 10^6.)
    """
    shape = (3, 4)
    maps = torch.ones(1, *shape, dtype=torch.complex128)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[..., 2] = True  # k = 0 along x, and the centre has no mean along x
    center = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.complex128).expand(shape)
    prior = Mixture(center, 0.01, sigma_min=0.02)
    out = draw(method, prior, SenseOp(maps, mask), torch.zeros_like(maps), 0.1, N)
    along = (out * center.conj().flatten()).real.sum(dim=1) / 12
    assert float((along.abs() - 1).abs().max()) < 0.3
    assert 0.36 < float((along > 0).double().mean()) < 0.64
