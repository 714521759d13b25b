from __future__ import annotations

import gzip
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import ellipe, ellipk
from torch import Tensor

from mri_ambient.data_prep import simulate
from mri_ambient.data_prep.images import Anatomy, open_images
from mri_ambient.data_prep.phantom import head_phantom
from mri_ambient.data_prep.simulate import (
    CoilLoops,
    ScanModel,
    SimulateConfig,
    simulate_scans,
    write_scan,
)
from mri_ambient.errors import ConfigError
from mri_ambient.io import open_scan, parse_header
from mri_ambient.physics.fourier import center_crop, ifft2c
from mri_ambient.physics.masks import achieved_acceleration
from mri_ambient.rng import rng_for

SMALL = SimulateConfig(size=(32, 32), coils=4, calib=6, acceleration=3.0, noise=0.02)
FULL = replace(SMALL, full=True)


def write_pictures(folder: Path, n: int, side: int = 48) -> Path:
    folder.mkdir()
    for i in range(n):
        img = head_phantom((side, side), rng_for(i, "picture"))[0]
        Image.fromarray((255 * img).byte().numpy()).save(folder / f"p{i}.png")
    return folder


def anatomy(shape: tuple[int, int] = (32, 32), n_slices: int = 1) -> Anatomy:
    return Anatomy(head_phantom(shape, rng_for(0, "anatomy"), n_slices), subject="someone")


def stored(path: Path, name: str = "kspace") -> Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file[name][()])


def attributes(path: Path) -> dict[str, object]:
    with h5py.File(path) as file:
        return dict(file.attrs)


def same_scan(a: Path, b: Path) -> bool:
    """Whether two files hold the same datasets and attributes, bit by bit."""
    with h5py.File(a) as one, h5py.File(b) as other:
        return (
            set(one) == set(other)
            and all(np.array_equal(one[name][()], other[name][()]) for name in one)
            and dict(one.attrs) == dict(other.attrs)
        )


# Determinism


def test_the_same_seed_gives_the_same_scans_whatever_else_is_simulated(tmp_path):
    few, many = write_pictures(tmp_path / "few", 3), write_pictures(tmp_path / "many", 5)
    simulate_scans(few, tmp_path / "a", SMALL)
    simulate_scans(few, tmp_path / "b", SMALL, count=1)
    simulate_scans(many, tmp_path / "c", SMALL)
    (alone,) = (tmp_path / "b").iterdir()
    assert same_scan(alone, tmp_path / "a" / alone.name)
    for i in range(3):
        assert same_scan(tmp_path / "a" / f"p{i}.h5", tmp_path / "c" / f"p{i}.h5")


def test_another_seed_gives_another_scan_of_the_same_image(tmp_path):
    folder = write_pictures(tmp_path / "images", 1)
    (one,) = simulate_scans(folder, tmp_path / "a", SMALL)
    (other,) = simulate_scans(folder, tmp_path / "b", replace(SMALL, seed=1))
    assert not torch.equal(stored(one), stored(other))
    assert not torch.equal(stored(one, "mask"), stored(other, "mask"))


def test_processes_change_nothing(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    config = replace(SMALL, jitter=True)
    here = simulate_scans(folder, tmp_path / "a", config)
    there = simulate_scans(folder, tmp_path / "b", config, workers=2)
    assert [path.name for path in here] == [path.name for path in there]
    assert all(same_scan(a, b) for a, b in zip(here, there, strict=True))


def test_an_archive_is_as_good_as_its_folder(tmp_path):
    folder = write_pictures(tmp_path / "images", 2)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for picture in folder.iterdir():
            archive.write(picture, picture.name)
        archive.writestr("__MACOSX/._p0.png", b"no picture")
    a = simulate_scans(folder, tmp_path / "a", SMALL)
    b = simulate_scans(tmp_path / "images.zip", tmp_path / "b", SMALL)
    assert all(same_scan(*pair) for pair in zip(a, b, strict=True))


def test_finished_scans_are_kept_and_missing_ones_made_again(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    paths = simulate_scans(folder, tmp_path / "out", SMALL)
    before = paths[1].read_bytes()
    kept = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    told: list[Path] = []
    assert simulate_scans(folder, tmp_path / "out", SMALL, on_scan=told.append) == paths
    assert paths[0].stat().st_mtime_ns == kept
    assert paths[1].read_bytes() == before
    assert sorted(told) == sorted(paths)


def test_an_interrupted_scan_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "images", 1)

    def interrupt(model: ScanModel, index: int) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScanModel, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulate_scans(folder, tmp_path / "out", SMALL)
    assert list((tmp_path / "out").iterdir()) == []


# What a file holds


def test_an_undersampled_file_holds_nothing_but_the_measurement(tmp_path):
    (path,) = simulate_scans("phantom", tmp_path, SMALL, count=1)
    with h5py.File(path) as file:
        assert set(file) == {"kspace", "mask", "ismrmrd_header"}
        assert set(file.attrs) == {
            "acquisition", "patient_id", "acceleration", "num_low_frequency",
            "mri_ambient_simulation",
        }  # fmt: skip
        assert file["kspace"].dtype == np.complex64
    ksp, mask = stored(path), stored(path, "mask")
    assert ksp.shape == (1, 4, 32, 32)
    assert mask.shape == (32,)
    assert torch.equal((ksp != 0).any(dim=1)[0], mask.expand(32, 32))


@pytest.mark.parametrize("kind", ["random", "poisson"])
def test_nothing_in_the_file_depends_on_unmeasured_kspace(tmp_path, monkeypatch, kind):
    config = replace(SMALL, size=(64, 64), mask=kind)
    (honest,) = simulate_scans("phantom", tmp_path / "a", config, count=1)
    clean = ScanModel.clean

    def poisoned(model: ScanModel, index: int) -> Tensor:
        return torch.where(model.mask, clean(model, index), complex(math.nan, math.inf))

    monkeypatch.setattr(ScanModel, "clean", poisoned)
    (poisoned_path,) = simulate_scans("phantom", tmp_path / "b", config, count=1)
    assert same_scan(honest, poisoned_path)


def test_a_full_file_holds_the_root_sum_of_squares_of_its_own_kspace(tmp_path):
    config = replace(FULL, readout_oversampling=2, slices=2)
    (path,) = simulate_scans("phantom", tmp_path, config, count=1)
    ksp, target = stored(path), stored(path, "reconstruction_rss")
    assert ksp.shape == (2, 4, 64, 32)
    coil_img = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(ksp.numpy(), axes=(-2, -1)), norm="ortho"), axes=(-2, -1)
    )
    rss = np.sqrt((np.abs(coil_img) ** 2).sum(axis=1))[:, 16:48]
    np.testing.assert_allclose(target.numpy(), rss, rtol=1e-5, atol=1e-9)
    attrs = attributes(path)
    assert attrs["max"] == pytest.approx(rss.max(), rel=1e-5)
    assert attrs["norm"] == pytest.approx(np.linalg.norm(rss), rel=1e-5)
    assert 2e-5 < rss.max() < 2e-3  # as small as in fastMRI files


def test_the_file_says_what_was_asked_for(tmp_path):
    config = replace(SMALL, noise=(0.01, 0.05), mask={"random": 1, "gaussian": 1})
    (path,) = simulate_scans("phantom", tmp_path, config, count=1)
    facts = json.loads(str(attributes(path)["mri_ambient_simulation"]))
    assert facts["config"]["seed"] == 0
    assert facts["config"]["mask"] == {"random": 1, "gaussian": 1}
    assert facts["mask_kind"] in ("random", "gaussian")
    assert 0.01 <= facts["noise"] <= 0.05
    assert facts["scan_id"] == path.stem


def test_our_reader_understands_the_file(tmp_path):
    config = replace(SMALL, size=(48, 32), readout_oversampling=2)
    (path,) = simulate_scans("phantom", tmp_path, config, count=1)
    scan = open_scan(path)
    assert scan.shape == (1, 4, 96, 32)
    assert scan.recon_shape == (48, 32)
    assert scan.readout_oversampling == 2
    assert scan.acceleration == pytest.approx(32 / 11)
    assert scan.voxel_mm is not None
    assert scan.voxel_mm[0] == pytest.approx(scan.voxel_mm[1], rel=0.03)  # square pixels


def test_an_index_gives_pixel_size_and_subject(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    (folder / "index.csv").write_text("file,group,pixel_mm\np0.png,ann,2.5\np1.png,ann,2.5\n")
    simulate_scans(folder, tmp_path / "out", SMALL)
    ids = [attributes(tmp_path / "out" / f"p{i}.h5")["patient_id"] for i in range(3)]
    assert ids[0] == ids[1] != ids[2]
    with h5py.File(tmp_path / "out" / "p0.h5") as file:
        assert parse_header(file["ismrmrd_header"][()]).recon_fov_mm == (120.0, 120.0)


@pytest.mark.fastmri
def test_fastmri_reads_the_files(tmp_path):
    from fastmri.data import SliceDataset

    config = replace(FULL, readout_oversampling=2, slices=2)
    (full,) = simulate_scans("phantom", tmp_path / "full", config, count=1)
    ksp, mask, target, attrs, name, index = SliceDataset(tmp_path / "full", "multicoil")[1]
    assert (name, index, mask) == (full.name, 1, None)
    assert ksp.shape == (4, 64, 32)
    assert target.shape == (32, 32)
    assert attrs["encoding_size"] == (64, 32, 1)
    assert attrs["recon_size"] == (32, 32, 1)
    assert (attrs["padding_left"], attrs["padding_right"]) == (0, 32)

    (path,) = simulate_scans("phantom", tmp_path / "under", SMALL, count=1)
    ksp, mask, target, attrs, _, _ = SliceDataset(tmp_path / "under", "multicoil")[0]
    assert target is None
    np.testing.assert_array_equal(mask, stored(path, "mask").numpy())
    np.testing.assert_array_equal((ksp != 0).any(axis=(0, 1)), mask)


# Physics


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


@pytest.mark.parametrize("rate", [2.0, 3.0, 4.0])
def test_the_achieved_acceleration_is_the_one_asked_for(tmp_path, rate):
    config = replace(SMALL, size=(16, 120), acceleration=rate)
    (path,) = simulate_scans("phantom", tmp_path, config, count=1)
    assert int(stored(path, "mask").sum()) == 120 / rate
    assert attributes(path)["acceleration"] == rate


def test_a_mixture_of_masks_has_the_shares_asked_for():
    config = replace(SMALL, mask={"random": 0.75, "equispaced": 0.25})
    kinds = [ScanModel(anatomy((16, 16)), config, f"scan{i}").mask_kind for i in range(80)]
    # 20 of 80 expected, standard deviation 3.9; 16 away happens to 1 seed in 20000.
    assert abs(kinds.count("equispaced") - 20) <= 16
    assert set(kinds) == {"random", "equispaced"}


def test_a_poisson_mask_is_stored_in_two_dimensions(tmp_path):
    config = replace(SMALL, size=(64, 64), mask="poisson", acceleration=5.0)
    (path,) = simulate_scans("phantom", tmp_path, config, count=1)
    ksp, mask = stored(path), stored(path, "mask")
    assert mask.shape == (64, 64)
    assert torch.equal((ksp != 0).any(dim=1)[0], mask)
    assert mask[29:35, 29:35].all()
    assert abs(64 * 64 / int(mask.sum()) - 5) < 0.6


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


def test_a_loop_has_the_field_of_its_elliptic_integrals():
    # A loop of radius 50 mm in the plane x = -120 mm, looked at in the plane z = 0.
    radius, nodes = 50.0, 21
    loop = CoilLoops.circles(
        torch.tensor([[-120.0, 0.0, 0.0]]),
        torch.tensor([[0.0, 1.0, 0.0]]),
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([radius]),
    )
    field = loop.field((160.0, 160.0), 0.0, nodes)[0]
    axis = np.linspace(-80, 80, nodes)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    d, rho = x + 120.0, np.abs(y) + 1e-9
    # Jackson, Classical Electrodynamics, 5.5 with mu0 I / 4 pi = 1.
    far, near = (radius + rho) ** 2 + d**2, (radius - rho) ** 2 + d**2
    m = 4 * radius * rho / far
    axial = (ellipk(m) + (radius**2 - rho**2 - d**2) / near * ellipe(m)) * 2 / np.sqrt(far)
    radial = (-ellipk(m) + (radius**2 + rho**2 + d**2) / near * ellipe(m)) * 2 * d / rho
    radial = np.sign(y) * radial / np.sqrt(far)
    want = torch.from_numpy(axial - 1j * radial).to(torch.complex64)
    # The wire is 6 mm thick and the loop has 24 corners: 3 % at the closest point, 40 mm away.
    assert (field - want).abs().max() < 0.03 * want.abs().max()
    assert (field - want)[:, 10:].abs().max() < 0.01 * want[:, 10:].abs().max()


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


def test_pixels_keep_their_aspect():
    tall = Anatomy(torch.ones(1, 60, 30), subject="door", pixel_mm=2.0)
    model = ScanModel(tall, replace(FULL, size=(32, 32)), "scan")
    assert model.fov_mm == (120.0, 120.0)
    assert model.img.sum() == 60 * 30
    wide = ScanModel(tall, replace(FULL, size=(32, 64)), "scan")
    assert wide.fov_mm == (120.0, 240.0)


def test_the_phase_is_smooth_over_pixels_and_slices():
    model = ScanModel(anatomy((64, 64), 4), replace(FULL, size=(64, 64), slices=4), "scan")
    turns = [torch.polar(torch.ones(64, 64), model._phase(z, (64, 64))) for z in (0.0, 5.0)]
    for a, b in ((turns[0][1:], turns[0][:-1]), (turns[0][:, 1:], turns[0][:, :-1]), turns):
        assert (a * b.conj()).angle().abs().max() < 0.8
    assert turns[0].angle().std() > 0.1


# Where images come from


def test_no_image_is_scanned_twice(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    paths = simulate_scans(folder, tmp_path / "out", SMALL)
    assert len({path.stem for path in paths}) == 3
    with pytest.raises(ConfigError, match=r"4 scans .* 3 images"):
        simulate_scans(folder, tmp_path / "more", SMALL, count=4)
    assert not (tmp_path / "more").exists()


def test_phantoms_of_different_seeds_share_no_head(tmp_path):
    (a,) = simulate_scans("phantom", tmp_path / "a", FULL, count=1)
    (b,) = simulate_scans("phantom", tmp_path / "b", replace(FULL, seed=1), count=1)
    a_img, b_img = (stored(path, "reconstruction_rss").flatten() for path in (a, b))
    assert float(torch.corrcoef(torch.stack([a_img, b_img]))[0, 1]) < 0.95


def save_nifti(path: Path, volume: np.ndarray) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.diag([2, 2, 3, 1])), path)


def test_a_nifti_volume_is_cut_into_blocks_of_slices_with_anatomy(tmp_path):
    volume = np.zeros((40, 50, 9))
    volume[5:20, 10:40, 2:8] = np.arange(1, 7)
    save_nifti(tmp_path / "head.nii.gz", volume)
    source = open_images(tmp_path / "head.nii.gz")
    assert source.names(None, 1) == [f"head_s{i:03d}" for i in range(2, 8)]
    assert source.names(None, 4) == ["head_s002"]
    block = source.read("head_s004", (32, 32), 2, rng_for(0))
    assert block.img.shape == (2, 50, 40)
    assert block.pixel_mm == 2
    assert block.slice_mm == 3
    assert block.subject == "head"
    assert block.img[0].max() == pytest.approx(3 / 4)
    assert block.img[1, 10:40, 5:20].min() == 1  # columns of the first axis, rows of the second
    paths = simulate_scans(tmp_path / "head.nii.gz", tmp_path / "out", replace(FULL, slices=3))
    assert [stored(path).shape[0] for path in paths] == [3, 3]


def test_sixteen_bit_and_colour_pictures_are_grey_values(tmp_path):
    ramp = np.linspace(0, 60000, 1024).reshape(32, 32)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 60000).astype(np.float32)).save(tmp_path / "float.tif")
    grey = (ramp / 256).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "colour.png")
    source = open_images(tmp_path)
    for name in ("deep", "float", "colour"):
        img = source.read(name, (32, 32), 1, rng_for(0)).img[0]
        np.testing.assert_allclose(img.numpy(), ramp / 60000, atol=0.005)


# Errors


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no pictures here"):
        simulate_scans(tmp_path, tmp_path / "out", SMALL)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="not a folder"):
        open_images(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="has no end"):
        simulate_scans("phantom", tmp_path / "out", SMALL)
    with pytest.raises(ConfigError, match="at least 1"):
        simulate_scans("phantom", tmp_path / "out", SMALL, count=0)


def test_files_that_cannot_be_read(tmp_path):
    def simulate_one(path: Path) -> None:
        simulate_scans(path, tmp_path / "out", SMALL)

    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(ConfigError, match=r"broken\.png: cannot be read as a picture"):
        simulate_one(folder)
    (folder / "broken.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "black.png")
    with pytest.raises(ConfigError, match=r"black\.png: the image is all zero"):
        simulate_one(folder)
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    with pytest.raises(ConfigError, match="not a readable zip"):
        simulate_one(tmp_path / "broken.zip")
    (tmp_path / "broken.nii").write_bytes(b"no")
    with pytest.raises(ConfigError, match="cannot be read as NIfTI"):
        simulate_one(tmp_path / "broken.nii")
    (tmp_path / "broken.nii.gz").write_bytes(gzip.compress(b"no" * 500)[:-20])
    with pytest.raises(ConfigError, match="cannot be read as NIfTI"):
        simulate_one(tmp_path / "broken.nii.gz")
    save_nifti(tmp_path / "series.nii", np.ones((8, 8, 8, 3)))
    with pytest.raises(ConfigError, match="three axes"):
        simulate_one(tmp_path / "series.nii")


def test_two_files_of_one_name(tmp_path):
    folder = write_pictures(tmp_path / "images", 1)
    Image.open(folder / "p0.png").save(folder / "p0.jpg")
    with pytest.raises(ConfigError, match=r"occur twice .*'p0'"):
        simulate_scans(folder, tmp_path / "out", SMALL)


def test_pictures_are_no_volumes(tmp_path):
    folder = write_pictures(tmp_path / "images", 1)
    with pytest.raises(ConfigError, match="single slices"):
        simulate_scans(folder, tmp_path / "out", replace(SMALL, slices=2))


def test_scans_of_other_settings_are_not_mixed(tmp_path):
    simulate_scans("phantom", tmp_path, SMALL, count=1)
    other = replace(SMALL, noise=0.01)
    with pytest.raises(ConfigError, match="other settings"):
        simulate_scans("phantom", tmp_path, other, count=1)
    (path,) = simulate_scans("phantom", tmp_path, other, count=1, overwrite=True)
    path.write_bytes(b"no")
    for overwrite in (False, True):  # it could be somebody's raw data
        with pytest.raises(ConfigError, match="no simulated scan, so it is never written over"):
            simulate_scans("phantom", tmp_path, other, count=1, overwrite=overwrite)
    assert path.read_bytes() == b"no"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (8, 64)}, "size must be at least 16"),
        ({"coils": 0}, "at least one coil"),
        ({"coils": (5, 3)}, "pair"),
        ({"noise": -0.1}, "noise must not be negative"),
        ({"noise": (0.0, 0.1)}, "cannot start at 0"),
        ({"noise": math.nan}, "noise must be a number"),
        ({"slices": 0}, "slices must be at least 1"),
        ({"readout_oversampling": 3}, "1 or 2"),
        ({"units": 0.0}, "units must be positive"),
        ({"mask": "spiral"}, "unknown"),
        ({"mask": {}}, "mask weights"),
        ({"mask": {"random": -1.0, "gaussian": 2.0}}, "mask weights"),
        ({"acceleration": (2.0, 8.0)}, "calibration lines are always sampled"),
        ({"acceleration": 0.5}, "acceleration must be at least 1"),
        ({"mask": "poisson", "readout_oversampling": 2}, "poisson masks undersample both axes"),
    ],
)
def test_settings_that_cannot_work(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


def test_an_object_outside_the_field_of_view(monkeypatch, tmp_path):
    dot = torch.zeros(1, 64, 64)
    dot[0, 0, 0] = 1
    config = replace(FULL, jitter=True)
    # The field of view at its smallest and furthest to one side.
    monkeypatch.setattr(simulate, "_uniform", lambda low, high, shape, rng: torch.full(shape, low))
    with pytest.raises(ConfigError, match="nothing of it lies"):
        write_scan(ScanModel(Anatomy(dot, "dot"), config, "scan"), tmp_path / "scan.h5")
