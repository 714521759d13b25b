"""Files of simulated scans: what they hold, and that they are made once and reproducibly."""

from __future__ import annotations

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
from torch import Tensor

from mri_ambient.data_prep import ScanModel, SimulateConfig, simulate
from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.errors import ConfigError
from mri_ambient.io import open_scan, parse_header
from mri_ambient.rng import rng_for

SMALL = SimulateConfig(size=(32, 32), coils=4, calib=6, acceleration=3.0, noise=0.02)
FULL = replace(SMALL, full=True)


def write_pictures(folder: Path, n: int, side: int = 48) -> Path:
    folder.mkdir()
    for i in range(n):
        img = head_phantom((side, side), rng_for(i, "picture"))[0]
        Image.fromarray((255 * img).byte().numpy()).save(folder / f"p{i}.png")
    return folder


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
    simulate(few, tmp_path / "a", SMALL)
    simulate(few, tmp_path / "b", SMALL, count=1)
    simulate(many, tmp_path / "c", SMALL)
    (alone,) = (tmp_path / "b").iterdir()
    assert same_scan(alone, tmp_path / "a" / alone.name)
    for i in range(3):
        assert same_scan(tmp_path / "a" / f"p{i}.h5", tmp_path / "c" / f"p{i}.h5")


def test_another_seed_gives_another_scan_of_the_same_image(tmp_path):
    folder = write_pictures(tmp_path / "images", 1)
    (one,) = simulate(folder, tmp_path / "a", SMALL)
    (other,) = simulate(folder, tmp_path / "b", replace(SMALL, seed=1))
    assert not torch.equal(stored(one), stored(other))
    assert not torch.equal(stored(one, "mask"), stored(other, "mask"))


def test_processes_change_nothing(tmp_path, forked):
    folder = write_pictures(tmp_path / "images", 3)
    config = replace(SMALL, jitter=True)
    here = simulate(folder, tmp_path / "a", config)
    there = simulate(folder, tmp_path / "b", config, workers=2)
    assert [path.name for path in here] == [path.name for path in there]
    assert all(same_scan(a, b) for a, b in zip(here, there, strict=True))


def test_finished_scans_are_kept_and_missing_ones_made_again(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    paths = simulate(folder, tmp_path / "out", SMALL)
    before = paths[1].read_bytes()
    kept = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    seen: list[Path] = []
    assert simulate(folder, tmp_path / "out", SMALL, on_scan=seen.append) == paths
    assert paths[0].stat().st_mtime_ns == kept
    assert paths[1].read_bytes() == before
    assert sorted(seen) == sorted(paths)


def test_an_interrupted_scan_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "images", 1)

    def interrupt(model: ScanModel, index: int) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScanModel, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulate(folder, tmp_path / "out", SMALL)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_is_as_good_as_its_folder(tmp_path):
    folder = write_pictures(tmp_path / "images", 2)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for picture in folder.iterdir():
            archive.write(picture, picture.name)
        archive.writestr("__MACOSX/._p0.png", b"no picture")
    a = simulate(folder, tmp_path / "a", SMALL)
    b = simulate(tmp_path / "images.zip", tmp_path / "b", SMALL)
    assert all(same_scan(*pair) for pair in zip(a, b, strict=True))


# What a file holds


def test_an_undersampled_file_holds_nothing_but_the_measurement(tmp_path):
    (path,) = simulate("phantom", tmp_path, SMALL, count=1)
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
    (honest,) = simulate("phantom", tmp_path / "a", config, count=1)
    clean = ScanModel.clean

    def poisoned(model: ScanModel, index: int) -> Tensor:
        return torch.where(model.mask, clean(model, index), complex(math.nan, math.inf))

    monkeypatch.setattr(ScanModel, "clean", poisoned)
    (poisoned_path,) = simulate("phantom", tmp_path / "b", config, count=1)
    assert same_scan(honest, poisoned_path)


def test_a_full_file_holds_the_root_sum_of_squares_of_its_own_kspace(tmp_path):
    config = replace(FULL, readout_oversampling=2, slices=2)
    (path,) = simulate("phantom", tmp_path, config, count=1)
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


def test_the_file_records_its_settings(tmp_path):
    config = replace(SMALL, noise=(0.01, 0.05), mask={"random": 1, "gaussian": 1})
    (path,) = simulate("phantom", tmp_path, config, count=1)
    facts = json.loads(str(attributes(path)["mri_ambient_simulation"]))
    assert facts["config"]["seed"] == 0
    assert facts["config"]["mask"] == {"random": 1, "gaussian": 1}
    assert facts["mask_kind"] in ("random", "gaussian")
    assert 0.01 <= facts["noise"] <= 0.05
    assert facts["scan_id"] == path.stem


def test_our_reader_understands_the_file(tmp_path):
    config = replace(SMALL, size=(48, 32), readout_oversampling=2)
    (path,) = simulate("phantom", tmp_path, config, count=1)
    scan = open_scan(path)
    assert scan.shape == (1, 4, 96, 32)
    assert scan.recon_shape == (48, 32)
    assert scan.readout_oversampling == 2
    assert scan.acceleration == pytest.approx(32 / 11)
    assert scan.voxel_mm is not None
    assert scan.voxel_mm[0] == pytest.approx(scan.voxel_mm[1], rel=0.03)  # square pixels


@pytest.mark.fastmri
def test_fastmri_reads_the_files(tmp_path):
    from fastmri.data import SliceDataset

    config = replace(FULL, readout_oversampling=2, slices=2)
    (full,) = simulate("phantom", tmp_path / "full", config, count=1)
    ksp, mask, target, attrs, name, index = SliceDataset(tmp_path / "full", "multicoil")[1]
    assert (name, index, mask) == (full.name, 1, None)
    assert ksp.shape == (4, 64, 32)
    assert target.shape == (32, 32)
    assert attrs["encoding_size"] == (64, 32, 1)
    assert attrs["recon_size"] == (32, 32, 1)
    assert (attrs["padding_left"], attrs["padding_right"]) == (0, 32)

    (path,) = simulate("phantom", tmp_path / "under", SMALL, count=1)
    ksp, mask, target, attrs, _, _ = SliceDataset(tmp_path / "under", "multicoil")[0]
    assert target is None
    np.testing.assert_array_equal(mask, stored(path, "mask").numpy())
    np.testing.assert_array_equal((ksp != 0).any(axis=(0, 1)), mask)


@pytest.mark.parametrize("rate", [2.0, 3.0, 4.0])
def test_the_achieved_acceleration_is_the_one_asked_for(tmp_path, rate):
    config = replace(SMALL, size=(16, 120), acceleration=rate)
    (path,) = simulate("phantom", tmp_path, config, count=1)
    assert int(stored(path, "mask").sum()) == 120 / rate
    assert attributes(path)["acceleration"] == rate


def test_a_poisson_mask_is_stored_in_two_dimensions(tmp_path):
    config = replace(SMALL, size=(64, 64), mask="poisson", acceleration=5.0)
    (path,) = simulate("phantom", tmp_path, config, count=1)
    ksp, mask = stored(path), stored(path, "mask")
    assert mask.shape == (64, 64)
    assert torch.equal((ksp != 0).any(dim=1)[0], mask)
    assert mask[29:35, 29:35].all()
    assert abs(64 * 64 / int(mask.sum()) - 5) < 0.6


def test_an_index_gives_pixel_size_and_subject(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    (folder / "index.csv").write_text("file,group,pixel_mm\np0.png,ann,2.5\np1.png,ann,2.5\n")
    simulate(folder, tmp_path / "out", SMALL)
    ids = [attributes(tmp_path / "out" / f"p{i}.h5")["patient_id"] for i in range(3)]
    assert ids[0] == ids[1] != ids[2]
    with h5py.File(tmp_path / "out" / "p0.h5") as file:
        assert parse_header(file["ismrmrd_header"][()]).recon_fov_mm == (120.0, 120.0)


# Which images are scanned


def test_no_image_is_scanned_twice(tmp_path):
    folder = write_pictures(tmp_path / "images", 3)
    paths = simulate(folder, tmp_path / "out", SMALL)
    assert len({path.stem for path in paths}) == 3
    with pytest.raises(ConfigError, match=r"4 .*3"):
        simulate(folder, tmp_path / "more", SMALL, count=4)
    assert not (tmp_path / "more").exists()


def test_phantoms_of_different_seeds_share_no_head(tmp_path):
    (a,) = simulate("phantom", tmp_path / "a", FULL, count=1)
    (b,) = simulate("phantom", tmp_path / "b", replace(FULL, seed=1), count=1)
    a_img, b_img = (stored(path, "reconstruction_rss").flatten() for path in (a, b))
    assert float(torch.corrcoef(torch.stack([a_img, b_img]))[0, 1]) < 0.95


# Errors


def test_the_number_of_scans_must_be_known_and_positive(tmp_path):
    with pytest.raises(ConfigError):
        simulate("phantom", tmp_path / "out", SMALL)
    with pytest.raises(ConfigError, match="0"):
        simulate("phantom", tmp_path / "out", SMALL, count=0)


def test_scans_of_other_settings_are_not_mixed(tmp_path):
    simulate("phantom", tmp_path, SMALL, count=1)
    other = replace(SMALL, noise=0.01)
    with pytest.raises(ConfigError, match=r"\.h5"):
        simulate("phantom", tmp_path, other, count=1)
    (path,) = simulate("phantom", tmp_path, other, count=1, overwrite=True)
    path.write_bytes(b"no")
    for overwrite in (False, True):  # it could be somebody's raw data
        with pytest.raises(ConfigError, match=path.name):
            simulate("phantom", tmp_path, other, count=1, overwrite=overwrite)
    assert path.read_bytes() == b"no"


def test_partial_fourier_is_in_the_header(tmp_path):
    config = SimulateConfig(size=(32, 48), coils=2, calib=8, acceleration=1.5, partial_fourier=0.75)
    for path in simulate("phantom", tmp_path, config, count=3):
        scan = open_scan(path)
        assert int(scan.acquired.sum()) == 36 and scan.acceleration == pytest.approx(1.5)
        left = int(scan.acquired.argmax())
        assert left in (0, 12) and not scan.mask[0, :, ~scan.acquired].any()
    full = simulate("phantom", tmp_path / "full", replace(config, full=True), count=1)
    assert open_scan(full[0]).fully_sampled


def test_scans_of_an_older_version_are_kept(tmp_path):
    """Its settings lack the options that did not exist."""
    config = SimulateConfig(size=(32, 32), coils=2, acceleration=1.0)
    (path,) = simulate("phantom", tmp_path, config, count=1)
    with h5py.File(path, "a") as file:
        stored = json.loads(file.attrs["mri_ambient_simulation"])
        for name in ("rotation", "bias", "partial_fourier"):
            del stored["config"][name]
        file.attrs["mri_ambient_simulation"] = json.dumps(stored)
    before = path.read_bytes()
    simulate("phantom", tmp_path, config, count=1)
    assert path.read_bytes() == before
    with pytest.raises(ConfigError):
        simulate("phantom", tmp_path, replace(config, bias=0.1), count=1)
