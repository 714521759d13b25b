from __future__ import annotations

import pytest
import torch
from gaussian import GaussianPrior
from helpers import random_maps

from mri_ambient.baselines import CgSense
from mri_ambient.batch import Batch
from mri_ambient.errors import ConfigError
from mri_ambient.masks import MaskSpec
from mri_ambient.reconstruct import Options, _residuals, reconstruct, to_file_units, with_options
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.samplers import Adps, Aos
from mri_ambient.scan import Scan
from mri_ambient.sense import SenseOp

SHAPE = (6, 8)


@pytest.fixture
def scan(rng) -> Scan:
    maps = random_maps((3, 4, *SHAPE), rng)
    mask = MaskSpec("random", 2, 2).draw(SHAPE, rng)
    ksp = SenseOp(maps, mask)(complex_normal((3, *SHAPE), rng))
    return Scan(
        ksp=ksp, mask=mask, scan_id="head", slices=(4, 5, 6), recon_shape=(4, 6),
        noise_std=0.1, maps=maps, scale=2.5,
    )  # fmt: skip


@pytest.fixture
def prior(rng) -> GaussianPrior:
    return GaussianPrior(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)


def test_samples_differ_and_average_to_the_image(scan, prior):
    result = reconstruct(scan, Adps(n_steps=5), prior, Options(n_samples=3))
    assert result.samples.shape == (3, 3, *SHAPE)
    torch.testing.assert_close(result.img, result.samples.mean(dim=0))
    want = (result.samples - result.img).abs().square().mean(dim=0).sqrt()
    torch.testing.assert_close(result.std, want)
    assert float(result.std.min()) > 0


def test_a_deterministic_method_runs_once(scan, prior):
    result = reconstruct(scan, Aos(), prior, Options(n_samples=3))
    assert result.std is None
    assert result.provenance["n_samples"] == 1


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_the_batch_size_changes_nothing(batch_size, scan, prior):
    base = reconstruct(scan, Adps(n_steps=6), prior, Options(n_samples=3, batch_size=4))
    other = reconstruct(scan, Adps(n_steps=6), prior, Options(n_samples=3, batch_size=batch_size))
    torch.testing.assert_close(base.img, other.img, rtol=1e-4, atol=1e-5)


def test_a_slice_alone_gets_the_image_it_gets_in_the_volume(scan, prior):
    from dataclasses import replace

    alone = replace(scan, ksp=scan.ksp[1:2], maps=scan.maps[1:2], slices=scan.slices[1:2])
    method = Adps(n_steps=6)
    whole = reconstruct(scan, method, prior).img[1]
    torch.testing.assert_close(reconstruct(alone, method, prior).img[0], whole)


def test_the_residual_is_in_units_of_the_noise(scan, rng):
    """A x = y but for noise of sigma_n: 1, within 5 standard errors of 3 x 96 complex numbers."""
    from dataclasses import replace

    op = SenseOp(scan.maps, scan.mask)
    noise = 0.1 * scan.mask * complex_normal(tuple(scan.ksp.shape), rng)
    truth = complex_normal((3, *SHAPE), rng)
    noisy = replace(scan, ksp=op(truth) + noise)
    values = [check["data_residual"] for check in _residuals(Batch.of([noisy]), truth)]
    assert values == pytest.approx([1.0] * 3, abs=5 / (2 * 96) ** 0.5)


def test_file_units_undo_the_scale_and_crop(scan):
    img = torch.ones(3, *SHAPE, dtype=torch.complex64)
    out = to_file_units(img, scan)
    assert out.shape == (3, 4, 6)
    # Unit-norm maps and no coil transform: the weight is 1.
    torch.testing.assert_close(out, torch.full_like(out, 2.5), rtol=1e-5, atol=0)


def test_a_sampler_needs_a_prior(scan):
    with pytest.raises(ConfigError, match="needs a prior"):
        reconstruct(scan, Aos())


def test_options_a_method_lacks_are_named():
    assert with_options(CgSense, {"lam": 0.5, "n_steps": None}) == CgSense(lam=0.5)
    with pytest.raises(ConfigError, match="n_steps"):
        with_options(CgSense, {"n_steps": 4})


def test_seeds_and_scans_have_streams_of_their_own():
    draws = {
        float(torch.rand((), generator=rng_for(*keys)))
        for keys in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))
    }
    assert len(draws) == 4
