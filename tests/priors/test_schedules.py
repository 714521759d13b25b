"""Noise levels: the schedule is the paper's, the law is what is left of a log-normal one."""

from __future__ import annotations

import pytest
import torch

from mri_ambient.errors import ConfigError
from mri_ambient.priors.schedules import LogNormal, rho_schedule


def test_schedule_is_the_papers_formula():
    n, high, low, rho = 5, 10.0, 0.004, 7.0
    want = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    assert rho_schedule(n, high, low).tolist() == pytest.approx(want, rel=1e-12)


def test_schedule_falls_from_first_to_last():
    sigmas = rho_schedule(40, 3.0, 0.02)
    assert float(sigmas[0]) == pytest.approx(3.0)
    assert float(sigmas[-1]) == pytest.approx(0.02)
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize(("n", "high", "low"), [(1, 1.0, 0.1), (5, 0.1, 1.0), (5, 1.0, 0.0)])
def test_a_schedule_that_does_not_fall_is_refused(n, high, low):
    with pytest.raises(ConfigError):
        rho_schedule(n, high, low)


def test_law_scales_with_the_data(rng):
    """Mean and deviation of ln(sigma) within 5 standard errors (false alarm below 1e-6)."""
    n = 40_000
    law = LogNormal(mean=-1.2, std=1.2)
    logs = law.draw(torch.zeros(n), 0.15, [rng] * n).log()
    want = -1.2 + torch.log(torch.tensor(0.3))
    assert abs(float(logs.mean() - want)) < 5 * 1.2 / n**0.5
    assert abs(float(logs.std()) - 1.2) < 5 * 1.2 / (2 * n) ** 0.5


def test_a_bound_leaves_the_law_above_it(rng):
    """Against rejection: the Kolmogorov distance of 20 000 draws stays below its 1e-6 quantile."""
    n, bound = 20_000, 0.4
    law = LogNormal()
    ours = law.draw(torch.full((n,), bound), 0.5, [rng] * n).sort().values.double()
    normal = torch.distributions.Normal(-1.2, 1.2)
    lowest = normal.cdf(torch.tensor(bound).log())
    cdf = (normal.cdf(ours.log()) - lowest) / (1 - lowest)
    distance = (cdf - torch.linspace(0, 1, n)).abs().max()
    assert float(ours.min()) >= bound
    assert float(distance) < 2.7 / n**0.5


def test_a_bound_far_out_still_gives_finite_levels(rng):
    sigma = LogNormal().draw(torch.full((100,), 500.0), 0.1, [rng] * 100)
    assert bool(torch.isfinite(sigma).all())
    assert float(sigma.min()) >= 500.0
