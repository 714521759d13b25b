"""The factor that a spread lacks, where it is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from gaussian import WholeGaussian
from helpers import random_maps, small_prior

from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.evaluation import calibration
from mri_ambient.evaluation.calibration import LEVELS, calibrate, with_calibration
from mri_ambient.methods import SAMPLERS, Aos, Dds, data_consistency
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.recon.engine import Options, reconstruct
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Scan

SHAPE = (24, 32)
SIGMA_N = 0.2


@pytest.fixture
def prior() -> WholeGaussian:
    return WholeGaussian(torch.full(SHAPE, 0.8, dtype=torch.float64), sigma_min=0.01)


@pytest.fixture
def scans(rng, prior) -> list[Scan]:
    """Two scans of two slices of what the prior believes in."""
    return [scan_of(prior, rng, f"scan{i}") for i in range(2)]


def scan_of(prior, rng, name: str) -> Scan:
    maps = random_maps((2, 2, *SHAPE), rng)
    mask = MaskSpec("random", 2, 6).draw(SHAPE, rng)
    x = prior.var.sqrt().float() * complex_normal((2, *SHAPE), rng)
    y = SenseOp(maps, mask)(x) + SIGMA_N * mask * complex_normal((2, 2, *SHAPE), rng)
    return Scan(
        ksp=y, mask=mask, scan_id=name, slices=(0, 1), recon_shape=SHAPE, noise_std=SIGMA_N,
        maps=maps, scale=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Spread(Dds):
    """Posterior samples whose distance from the mean is multiplied by ``times``."""

    name: ClassVar[str] = "spread"

    times: float = 1.0

    def __call__(self, prior, op, ksp, *, noise_std, rng, on_step=None):
        out = super().__call__(prior, op, ksp, noise_std=noise_std, rng=rng)
        # The prior is white, so CG-SENSE with the right weight is the posterior mean.
        mean = data_consistency(
            op, ksp, torch.zeros_like(out), noise_std=noise_std, tau=prior.sigma_data, n_iter=40
        )
        return mean + self.times * (out - mean)


@pytest.mark.parametrize("times", [0.3, 1.0, 2.0])
def test_the_factor_is_what_the_spread_lacks(times, scans, prior, monkeypatch):
    """Within 12 % of 1/times; 40 steps alone lose about 5 % of the standard deviation.

    About 1100 hidden numbers, of which noise is a part: 3 % is one standard error.
    """
    monkeypatch.setitem(SAMPLERS, "spread", Spread)
    ticks = []
    found = calibrate(
        scans, Spread(n_steps=40, n_cg=10, times=times), prior, Options(n_samples=8),
        n_lines=3, on_scan=ticks.append,
    )  # fmt: skip
    assert found.factor * times == pytest.approx(1.05, rel=0.12)
    assert max(abs(a - b) for a, b in zip(found.after, LEVELS, strict=True)) < 0.1
    if times == 0.3:
        assert found.before[LEVELS.index(0.9)] < 0.8
    assert (found.n_slices, found.mask_kinds, ticks) == (4, ("lines",), [1, 2])


def test_scans_that_are_sampled_together_give_the_same_factor(scans, prior, monkeypatch):
    """Whether they share a call or not; those with other coils never do."""
    single = replace(scans[1], ksp=scans[1].ksp[:, :1], maps=scans[1].maps[:, :1])
    sizes, whole = [], calibration.reconstruct_many

    def spied(cuts, *rest):
        sizes.append(len(cuts))
        return whole(cuts, *rest)

    monkeypatch.setattr(calibration, "reconstruct_many", spied)
    alone, together = (
        calibrate([*scans, single], Dds(n_steps=3), prior, Options(n_samples=2, batch_size=size))
        for size in (2, 4)
    )
    assert sizes == [1, 1, 1, 2, 1]
    assert alone.factor == pytest.approx(together.factor, rel=1e-4)


def test_what_has_no_spread_cannot_be_calibrated(scans, prior):
    for method, n in ((Aos(), 4), (Dds(n_steps=2), 1)):
        with pytest.raises(ConfigError, match="at least two samples"):
            calibrate(scans, method, prior, Options(n_samples=n))
    with pytest.raises(ScanFormatError, match="no scan with signal"):
        calibrate([], Dds(n_steps=2), prior, Options())


def test_a_prior_carries_its_factor_to_new_scans(scans, prior, tmp_path):
    """Through its file, into the standard deviation, for the very options it was fitted with."""
    plain = small_prior()
    method, options = Dds(n_steps=2), Options(n_samples=3)
    found = replace(calibrate(scans, method, prior, options), factor=2.5)
    save_prior(with_calibration(plain, method, found), tmp_path / "prior.safetensors")
    kept = load_prior(tmp_path / "prior.safetensors")
    before, after = (reconstruct(scans[0], method, p, options) for p in (plain, kept))
    torch.testing.assert_close(after.std, 2.5 * before.std)
    torch.testing.assert_close(after.img, before.img)
    assert after.provenance["std_factor"] == 2.5
    for other, n_samples in ((Dds(n_steps=3), 3), (method, 2)):
        raw = reconstruct(scans[0], other, kept, Options(n_samples=n_samples))
        assert raw.provenance["std_factor"] == 1.0


def test_overestimated_noise_gives_no_factor(scans, prior):
    """A factor of 0 would call every image certain."""
    loud = [
        replace(scan, noise_std=20 * SIGMA_N, noise_source="outermost samples") for scan in scans
    ]
    with pytest.raises(ConfigError, match=r"overestimated .outermost samples."):
        calibrate(loud, Dds(n_steps=4), prior, Options(n_samples=2))
