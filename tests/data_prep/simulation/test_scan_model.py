"""The model of a simulated scan against what its definition promises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mri_ambient.data_prep import ScanModel, SimulateConfig
from mri_ambient.data_prep.simulation.images import Anatomy
from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.errors import ConfigError
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.patterns import achieved_acceleration
from mri_ambient.rng import rng_for

SMALL = SimulateConfig(size=(32, 32), coils=4, calib=6, acceleration=3.0, noise=0.02)
FULL = replace(SMALL, full=True)


def anatomy(shape: tuple[int, int] = (32, 32), n_slices: int = 1) -> Anatomy:
    return Anatomy(head_phantom(shape, rng_for(0, "anatomy"), n_slices), subject="someone")


@pytest.mark.parametrize("correlated", [False, True])
def test_whitened_kspace_has_the_energy_that_the_noise_level_promises(correlated):
    # The definition of ``noise``: |W y|^2 = |m|^2 / noise^2 for whitening W and object m.
    model = ScanModel(anatomy(), replace(FULL, correlated_noise=correlated), "scan")
    chol = torch.linalg.cholesky(model.cov.to(torch.complex128))
    clean = model.clean(0).flatten(1).to(torch.complex128)
    white = torch.linalg.solve_triangular(chol, clean, upper=False)
    want = model.img.square().sum() / model.noise**2
    assert float(white.abs().square().sum()) == pytest.approx(float(want), rel=1e-4)


def test_white_noise_has_the_level_asked_for():
    config = replace(FULL, size=(64, 64), correlated_noise=False, noise=0.03, units=1e-3)
    model = ScanModel(anatomy(), config, "scan")
    quiet = ScanModel(anatomy(), replace(config, noise=0.0), "scan")
    noise = torch.view_as_real(model.measure(0) - quiet.measure(0)) / config.units
    # 32768 numbers: the standard error is 0.39 %, four of them are passed by 1 seed in 16000.
    assert float(noise.std()) == pytest.approx(0.03, rel=4 / math.sqrt(2 * noise.numel()))


def test_noise_has_the_covariance_it_claims():
    model = ScanModel(anatomy(), replace(FULL, size=(64, 64)), "scan")
    quiet = ScanModel(anatomy(), replace(FULL, size=(64, 64), noise=0.0), "scan")
    noise = ((model.measure(0) - quiet.measure(0)) / FULL.units).flatten(1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(model.cov), noise, upper=False)
    sample_cov = white @ white.mH / 2 / white.shape[1]
    # An entry has a standard error of at most 1 / sqrt(4096); 10 entries pass 5 in 1 of 10^5 runs.
    assert (sample_cov - torch.eye(4)).abs().max() < 5 / 64
    # And it is no white noise in disguise.
    shares = model.cov / model.cov.diagonal().real.sqrt().outer(model.cov.diagonal().real.sqrt())
    assert (shares - torch.diag(shares.diagonal())).abs().max() > 0.05
    assert model.cov.diagonal().real.max() > 1.2 * model.cov.diagonal().real.min()


def test_noise_is_all_that_differs_between_noise_levels():
    loud = ScanModel(anatomy(), SMALL, "scan")
    quiet = ScanModel(anatomy(), replace(SMALL, noise=0.001), "scan")
    assert torch.equal(loud.mask, quiet.mask)
    assert torch.equal(loud.clean(0), quiet.clean(0))


def test_ranges_are_drawn_anew_for_every_scan():
    config = replace(
        SMALL, size=(16, 128), noise=(0.001, 0.1), acceleration=(2.0, 8.0), coils=(2, 5)
    )
    models = [ScanModel(anatomy(), config, f"scan{i}") for i in range(60)]
    rates = torch.tensor([achieved_acceleration(model.mask) for model in models])
    logs = torch.tensor([model.noise for model in models]).log10()
    assert {model.n_coils for model in models} == {2, 3, 4, 5}  # missed by 1 seed in 10^7
    assert rates.min() >= 128 / 65
    assert rates.max() <= 128 / 15.5
    assert logs.min() >= -3
    assert logs.max() <= -1
    # Means of 60 uniform draws, five standard errors: wrong for 1 seed in 10^6.
    assert float(rates.mean()) == pytest.approx(5, abs=5 * 6 / math.sqrt(12 * 60) + 0.1)
    assert float(logs.mean()) == pytest.approx(-2, abs=5 * 2 / math.sqrt(12 * 60))


def test_a_mixture_of_masks_has_the_shares_asked_for():
    config = replace(SMALL, mask={"random": 0.75, "equispaced": 0.25})
    kinds = [ScanModel(anatomy((16, 16)), config, f"scan{i}").mask_kind for i in range(80)]
    # 20 of 80 expected, standard deviation 3.9; 16 away happens to 1 seed in 20000.
    assert abs(kinds.count("equispaced") - 20) <= 16
    assert set(kinds) == {"random", "equispaced"}


def test_a_coarse_scan_is_the_middle_of_a_fine_one():
    picture = anatomy((64, 64))
    fine = ScanModel(picture, replace(FULL, size=(64, 64)), "scan").clean(0)
    coarse = ScanModel(picture, replace(FULL, size=(32, 32)), "scan").clean(0)
    # Orthonormal transforms of half the side: image values keep, k-space halves.
    torch.testing.assert_close(coarse, center_crop(fine, (32, 32)) / 2)


def test_a_small_picture_fills_only_the_middle_of_kspace():
    ksp = ScanModel(anatomy((32, 32)), replace(FULL, size=(64, 64)), "scan").clean(0)
    assert (ksp[:, 16:48, 16:48] != 0).all()
    assert ksp.abs().square().sum() == ksp[:, 16:48, 16:48].abs().square().sum()


def test_image_values_keep_when_a_large_picture_is_scanned():
    flat = Anatomy(torch.ones(1, 512, 512), subject="paper")
    model = ScanModel(flat, replace(FULL, noise=0.0), "scan")
    img = ifft2c(model.clean(0)) / model.gains[:, None, None]
    energy = img.abs().square().sum(dim=0)
    # sum |S_c|^2 is 1 on average; little of a smooth phase lies outside the window.
    assert 0.95 < float(energy.mean()) < 1


def test_readout_oversampling_doubles_the_field_of_view_and_nothing_else():
    once = ScanModel(anatomy(), FULL, "scan")
    twice = ScanModel(anatomy(), replace(FULL, readout_oversampling=2), "scan")
    assert twice.clean(0).shape == (4, 64, 32)
    img = ifft2c(twice.clean(0))
    torch.testing.assert_close(img[:, 16:48], ifft2c(once.clean(0)), rtol=0, atol=1e-5)
    assert img[:, :16].abs().max() < 1e-5
    assert img[:, 48:].abs().max() < 1e-5


def test_coils_see_different_parts_and_do_not_add_up_to_one():
    model = ScanModel(anatomy((64, 64)), replace(FULL, coils=8), "scan")
    maps = model.maps(0)[:, model.img[0] > 0.1]
    gram = maps @ maps.mH
    assert torch.linalg.cond(gram) < 1e5
    rss = maps.abs().square().sum(dim=0).sqrt()
    assert rss.max() > 1.3 * rss.min()  # shaded, like the images of real arrays
    brightest = model.maps(0).abs().flatten(1).argmax(dim=1)
    assert len(set(brightest.tolist())) == 8


def test_jitter_moves_the_field_of_view_and_leaves_the_object_alone():
    picture = anatomy((64, 64))
    plain = ScanModel(picture, FULL, "scan")
    assert plain.img.shape == (1, 64, 64)
    models = [ScanModel(picture, replace(FULL, jitter=True), f"s{i}") for i in range(20)]
    zooms = [model.fov_mm[0] / plain.fov_mm[0] for model in models]
    assert 0.93 < min(zooms) < 1.05 < max(zooms) < 1.27
    for model in models:
        # Whole pixels are moved: grey values stay what they were, but for what leaves the picture.
        assert float(model.img.sum()) == pytest.approx(float(picture.img.sum()), rel=0.1)
        assert torch.isin(model.img[model.img > 0], picture.img).float().mean() > 0.99


def test_partial_fourier_leaves_out_one_side():
    config = replace(SMALL, size=(24, 40), acceleration=2.0, partial_fourier=(0.6, 0.8))
    models = [ScanModel(anatomy(), config, f"scan{i}") for i in range(30)]
    for model in models:
        first, end = model.acquired
        assert (first == 0) != (end == 40) and 0.6 * 40 - 0.5 <= end - first <= 0.8 * 40 + 0.5
        lines = model.mask[0, 0]
        assert not lines[:first].any() and not lines[end:].any()
        assert int(lines.sum()) == round((end - first) / 2)
        assert lines[17:23].all()  # calibration
    assert {model.acquired[0] == 0 for model in models} == {True, False}


def test_a_rotation_turns_the_object_about_its_centre():
    rod = torch.zeros(1, 65, 65)
    rod[0, 31:34, 12:53] = 1
    config, angles = replace(FULL, size=(65, 65), rotation=30.0), []
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    for i in range(20):
        img = ScanModel(Anatomy(rod, "rod"), config, f"scan{i}").img[0]
        weight = img / img.sum()
        assert abs(float((weight * y).sum())) < 0.3 and abs(float((weight * x).sum())) < 0.3
        # The long axis of the second moments.
        xx, yy, xy = ((weight * a).sum() for a in (x * x, y * y, x * y))
        angles.append(math.degrees(0.5 * math.atan2(2 * xy, xx - yy)))
    # 20 uniform angles all lie within 15 degrees, or are all of one sign, in 1 of 2^19 sets.
    assert -30.5 < min(angles) < 0 < max(angles) < 30.5 and max(map(abs, angles)) > 15


def test_a_bias_field_is_smooth_and_as_strong_as_asked_for():
    flat, config = Anatomy(torch.ones(1, 64, 64), "paper"), replace(FULL, size=(64, 64), bias=0.2)
    fields = [ScanModel(flat, config, f"scan{i}").img[0].log() for i in range(40)]
    assert all(float((f[1:] - f[:-1]).abs().max()) < 0.05 for f in fields)
    nodes = torch.stack([f[::63, ::63] - f[32, 32] for f in fields])
    # Differences of two nodes have a variance of 2 * 0.2^2; 160 of them (not all independent).
    assert 0.2 < float(nodes.std()) < 0.37


def test_pixels_keep_their_aspect():
    tall = Anatomy(torch.ones(1, 60, 30), subject="door", pixel_mm=2.0)
    model = ScanModel(tall, replace(FULL, size=(32, 32)), "scan")
    assert model.fov_mm == (120.0, 120.0)
    assert model.img.sum() == 60 * 30
    wide = ScanModel(tall, replace(FULL, size=(32, 64)), "scan")
    assert wide.fov_mm == (120.0, 240.0)


def test_the_phase_is_smooth_over_pixels_and_slices():
    flat = Anatomy(torch.ones(4, 64, 64), subject="paper", slice_mm=5.0)
    model = ScanModel(flat, replace(FULL, size=(64, 64), slices=4), "scan")
    first, second = model.signal(1), model.signal(2)
    for a, b in ((first[1:], first[:-1]), (first[:, 1:], first[:, :-1]), (first, second)):
        assert (a * b.conj()).angle().abs().max() < 0.8
    assert first.angle().std() > 0.1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"size": (8, 64)}, "8 x 64"),
        ({"coils": 0}, "got 0"),
        ({"coils": (5, 3)}, r"\(5, 3\)"),
        ({"noise": -0.1}, "-0.1"),
        ({"noise": (0.0, 0.1)}, "0"),
        ({"noise": math.nan}, "nan"),
        ({"slices": 0}, "got 0"),
        ({"readout_oversampling": 3}, "got 3"),
        ({"units": 0.0}, "got 0.0"),
        ({"rotation": -1.0}, "-1.0"),
        ({"bias": 2.0}, "2.0"),
        ({"partial_fourier": 0.5}, "0.5"),
        ({"partial_fourier": (0.6, 1.1)}, "1.1"),
        ({"mask": "spiral"}, "spiral"),
        ({"mask": {}}, "{}"),
        ({"mask": {"random": -1.0, "gaussian": 2.0}}, "-1.0"),
        ({"acceleration": (2.0, 8.0)}, "8"),
        ({"acceleration": 0.5}, "0.5"),
        ({"mask": "poisson", "readout_oversampling": 2}, "readout_oversampling=1"),
    ],
)
def test_settings_that_cannot_work(change, found):
    with pytest.raises(ConfigError, match=found):
        replace(SMALL, **change)


def test_an_object_outside_the_field_of_view():
    # A field of view that is smaller than the picture (zoom below 1) cuts off its corner.
    dot = torch.zeros(1, 64, 64)
    dot[0, 0, 0] = 1
    config, refused = replace(FULL, jitter=True), 0
    for i in range(20):
        try:
            ScanModel(Anatomy(dot, "dot"), config, f"scan{i}")
        except ConfigError as error:
            assert str(error).startswith("dot: ")
            refused += 1
    assert refused > 0
