"""The chain as a whole: units, noise, what it may see, and what it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import pytest
import torch
from memory_scan import MemoryScan, noise_only, random_cov, simulated_scan
from mri_ambient.data_prep.shards import MANIFEST
from scipy.spatial import Delaunay
from torch import Tensor

from mri_ambient.data_prep import PrepConfig, plan_preparation, prepare_file, prepare_many
from mri_ambient.data_prep.espirit import espirit
from mri_ambient.data_prep.oversampling import remove_oversampling, rows_without_oversampling
from mri_ambient.data_prep.simulate import SimulateConfig, simulate_scans
from mri_ambient.errors import (
    ConfigError,
    DeviceError,
    MriAmbientError,
    NumericalWarning,
    OutputExistsError,
    PrepError,
    ScanFormatError,
)
from mri_ambient.io import PreparedFile, Undersampled, open_scan
from mri_ambient.io.prepared import duplicate_acquisitions
from mri_ambient.methods.baselines import ZeroFilled
from mri_ambient.physics.fourier import fft2c, fftc, ifft2c, ifftc
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.units import rss_weight
from mri_ambient.recon.engine import reconstruct, to_file_units
from mri_ambient.recon.reference import plan_reference
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import Scan
from mri_ambient.training.dataset import load_dataset


def head(
    name: str = "a", *, noise: float = 0.01, full: bool = False, slices: int = 1, **options: object
) -> MemoryScan:
    """A simulated head of 64x64 with 8 coils, unequal and correlated."""
    config = SimulateConfig(size=(64, 64), noise=noise, full=full, calib=16, slices=slices)
    config = SimulateConfig(**{**vars(config), **options})
    return simulated_scan(name, config)[0]


def exported(scan: Scan) -> Tensor:
    """What `reconstruct` exports of a prepared scan by the adjoint, ``(slice, y, x)``."""
    return to_file_units(reconstruct(scan, ZeroFilled()).img, scan).abs()


# Units


@pytest.mark.parametrize("oversampling", [1, 2])
def test_a_full_scan_comes_back_as_its_root_sum_of_squares(oversampling):
    # Unequal, correlated noise (whitening) and 16 coils made 8 (compression). Noise is low: in an
    # RSS image it adds up, in a combined one it averages out.
    file = head(noise=2e-4, full=True, coils=16, readout_oversampling=oversampling)
    preparation = plan_preparation(file, PrepConfig(n_coils=8))
    scan = preparation.apply(file[0])
    rows = slice(32, 96) if oversampling == 2 else slice(None)
    rss = ifft2c(file[0].ksp).abs().square().sum(dim=1).sqrt()[:, rows]
    inside = (scan.maps != 0).any(dim=1) & (rss > 0.1 * rss.max())
    assert scan.n_coils == 8
    error = (exported(scan) - rss)[inside]
    assert error.norm() / rss[inside].norm() < 0.01
    assert (error.abs() / rss[inside]).median() < 0.01


def test_the_first_rows_pseudo_inverse_would_not_come_back():
    # Why the transform is kept whole (see mri_ambient.units).
    file = head(noise=2e-4, full=True, coils=16)
    scan = plan_preparation(file, PrepConfig(n_coils=3)).apply(file[0])
    pinv = torch.linalg.pinv(scan.coil_transform[:3]).to(torch.complex64)
    naive = torch.einsum("cv,svyx->scyx", pinv, scan.maps).abs().square().sum(dim=1).sqrt()
    weight = rss_weight(scan.maps, scan.coil_transform)
    assert (naive - weight).norm() / weight.norm() > 0.05


def test_prepared_images_are_about_1_whatever_the_files_units():
    small = head(units=1e-4)
    large = MemoryScan(small.ksp * 1e7, small.mask)
    a, b = (plan_preparation(file).apply(file[0]) for file in (small, large))
    torch.testing.assert_close(a.ksp, b.ksp, rtol=1e-3, atol=1e-4)
    assert (a.maps - b.maps).abs().max() < 1e-2
    torch.testing.assert_close(1e7 * exported(a), exported(b), rtol=1e-3, atol=1e-3)
    top = SenseOp(a.maps, a.mask).adjoint(a.ksp).abs().quantile(0.99)
    assert 0.5 < top < 2


# Noise


def test_prepared_noise_is_white_and_as_strong_as_the_scan_says():
    # The same scan twice with fresh noise: the difference is noise. 8 x 64 x 64 complex samples
    # know the standard deviation to 0.4 %; the noise scan to 0.3 %.
    cov = random_cov(8)
    clean = head(noise=0.0, full=True, units=2000.0).ksp
    first, second = (clean + noise_only(8, (64, 64), cov, seed)[None] for seed in (1, 2))
    scan_noise = noise_only(8, (100, 100), cov, 3).flatten(1)
    preparation = plan_preparation(MemoryScan(first, noise=scan_noise))
    a, b = (preparation.apply(MemoryScan(ksp, noise=scan_noise)[0]) for ksp in (first, second))
    assert a.noise_source == "noise-scan"
    assert a.noise_std == pytest.approx(1 / a.scale)
    noise = (a.ksp - b.ksp).transpose(0, 1).flatten(1) / 2**0.5
    assert noise.real.std() == pytest.approx(a.noise_std, rel=0.02)
    assert noise.imag.std() == pytest.approx(a.noise_std, rel=0.02)
    white = noise @ noise.mH / (2 * a.noise_std**2 * noise.shape[1])
    assert (white - torch.eye(8)).abs().max() < 0.1


def test_a_given_noise_level_is_taken():
    file = head()
    preparation = plan_preparation(file, PrepConfig(noise_std=3e-6))
    scan = preparation.apply(file[0])
    assert scan.noise_source == "given"
    # In the file's units, whatever was done to the coils: W keeps lengths up to the level.
    assert torch.linalg.svdvals(scan.coil_transform) * 3e-6 == pytest.approx(torch.ones(8))


@pytest.mark.filterwarnings("ignore:.*what the scan shows:UserWarning")
@pytest.mark.parametrize(("times", "doubted"), [(0.01, True), (0.5, False), (2, False), (50, True)])
def test_a_given_noise_level_that_the_scan_does_not_show_is_doubted(times, doubted):
    file = head()
    shown = plan_preparation(file).noise.std
    found = plan_preparation(file, PrepConfig(noise_std=times * shown))
    assert found.noise.std == pytest.approx(times * shown)
    assert any(f"is {times:.2g} times what the scan shows" in d for d in found.doubts) == doubted


@pytest.mark.filterwarnings("ignore:.*a single coil:UserWarning")
def test_an_upper_bound_does_not_doubt_less_noise():
    """One coil, whose outer samples hold signal: the true noise is far below what they show."""
    config = SimulateConfig(size=(48, 40), coils=1, acceleration=2.0, calib=12, noise=1e-3)
    file, _ = simulated_scan("head", config)
    shown = plan_preparation(file).noise
    assert shown.is_bound
    for times, doubted in ((0.01, False), (30, True)):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            found = plan_preparation(file, PrepConfig(noise_std=times * shown.std)).doubts
        assert any("what the scan shows" in doubt for doubt in found) == doubted


# What it may see


@pytest.mark.parametrize("kind", ["random", "poisson"])
def test_samples_that_were_not_selected_leave_no_trace(kind):
    full = head(full=True, slices=2)
    spec = MaskSpec(kind, 3.0, 12)
    masked = Undersampled(full, spec, seed=4)
    hidden = complex_normal(full.shape, rng_for(1))
    other = MemoryScan(torch.where(masked.mask, full.ksp, hidden), scan_id=full.scan_id)
    a, b = (Undersampled(file, spec, seed=4) for file in (full, other))
    plans = plan_preparation(a), plan_preparation(b)
    one, two = (p.apply(file[1]) for p, file in zip(plans, (a, b), strict=True))
    assert plans[0].scale == plans[1].scale
    assert torch.equal(plans[0].noise.cov, plans[1].noise.cov)
    assert torch.equal(one.ksp, two.ksp)
    assert torch.equal(one.maps, two.maps)


def test_slices_may_come_alone_or_together():
    file = head(slices=3)
    preparation = plan_preparation(file)
    together = preparation.apply(file[0:3])
    for index in (2, 0):
        alone = preparation.apply(file[index])
        torch.testing.assert_close(alone.ksp[0], together.ksp[index], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.maps[0], together.maps[index], rtol=1e-3, atol=1e-4)


# Readout oversampling


@pytest.mark.parametrize(("n_rows", "keep"), [(16, 8), (15, 8), (18, 9), (21, 7)])
def test_oversampling_is_removed_exactly(n_rows, keep):
    img = complex_normal((1, 2, n_rows, 6), rng_for(n_rows))
    mask = torch.ones(1, n_rows, 6, dtype=torch.bool)
    mask[..., 1] = False
    scan = MemoryScan(fft2c(img), mask)[0]
    after = remove_oversampling(scan, keep)
    top = (n_rows - keep) // 2  # as fastMRI crops images
    want = ifftc(scan.ksp, dim=-2)[..., top : top + keep, :]  # image rows stay what they are
    torch.testing.assert_close(ifftc(after.ksp, dim=-2), want)
    assert not after.ksp[..., 1].any()
    assert after.shape == (keep, 6)


def test_an_incomplete_readout_keeps_its_rows():
    mask = torch.ones(1, 16, 6, dtype=torch.bool)
    assert rows_without_oversampling(16, 2.0, mask) == 8
    mask[:, 3, 2] = False
    assert rows_without_oversampling(16, 2.0, mask) == 16
    with pytest.raises(ValueError, match="cannot cut"):
        remove_oversampling(MemoryScan(complex_normal((1, 1, 16, 6), rng_for(0)), mask)[0], 8)


def test_cutting_the_readout_commutes_with_measuring():
    # An object inside the final field of view, scanned with and without oversampling.
    img = complex_normal((1, 2, 8, 6), rng_for(0))
    wide = torch.nn.functional.pad(img, (0, 0, 4, 4))
    scan = MemoryScan(fft2c(wide))[0]
    torch.testing.assert_close(remove_oversampling(scan, 8).ksp, fft2c(img), rtol=1e-4, atol=1e-5)
    assert torch.equal(fftc(scan.ksp, dim=-1)[0, 0, 0], fftc(scan.ksp[0, 0, 0], dim=-1))


# What it refuses, and doubts


def test_a_scan_of_zeros_is_refused():
    mask = torch.ones(1, 32, 32, dtype=torch.bool)
    with pytest.raises(PrepError, match="every sample is zero"):
        plan_preparation(MemoryScan(torch.zeros(1, 4, 32, 32, dtype=torch.complex64), mask))


def test_too_few_central_lines_are_refused():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[..., :20:4] = True
    mask[..., 29:36] = True
    with pytest.raises(PrepError, match=r"no calibration block.*24x7.*at least 8x8.*keep"):
        plan_preparation(MemoryScan(complex_normal((1, 4, 64, 64), rng_for(0)), mask))


def test_a_single_coil_has_unit_maps_and_is_doubted():
    file = head(coils=1, noise=0.02)
    with pytest.warns(NumericalWarning, match="single coil"):
        preparation = plan_preparation(file)
    scan = preparation.apply(file[0])
    assert torch.equal(scan.maps, torch.ones_like(scan.ksp))
    assert "espirit" not in scan.steps


@pytest.mark.parametrize(
    "options",
    [{"n_coils": 0}, {"energy": 0.0}, {"energy": 1.1}, {"calib_width": 7}, {"noise_std": 0.0}],
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        PrepConfig(**options)


@pytest.mark.parametrize(
    ("noise", "told"),
    [(0.03, ""), (0.12, "a second set of coil maps is as real"), (0.5, "too noisy to tell")],
)
def test_noise_is_not_taken_for_a_folded_field_of_view(noise, told):
    """A head that fits, in noise that gives ESPIRiT eigenvalues of 1 in places or everywhere."""
    file = head(noise=noise)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan_preparation(file).apply(file[0])
    said = " ".join(str(w.message) for w in caught)
    assert told in said
    assert ("second set of coil maps" in said, "too noisy" in said) == (
        told.startswith("a second"), told.startswith("too noisy"),
    )  # fmt: skip
    assert "share a pixel" not in said


def test_one_map_too_few_is_noticed_on_a_real_scan(real_scans, tmp_path):
    with pytest.warns(NumericalWarning, match="one set of coil maps is not enough"):
        path = prepare_file(real_scans / "alias_brain8.h5", tmp_path)
    qc = PreparedFile(path).qc
    assert len(qc["doubts"]) == 1
    assert qc["slices"][0]["second_map"] > 0.1
    good = PreparedFile(prepare_file(real_scans / "espirit_brain8.h5", tmp_path)).qc
    assert good["doubts"] == []
    assert good["slices"][0]["calib_residual"] < 0.01 < qc["slices"][0]["calib_residual"]


# Files


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three simulated scans on disk, of two slices each."""
    folder = tmp_path_factory.mktemp("raw")
    config = SimulateConfig(size=(48, 48), coils=4, calib=12, slices=2, jitter=True)
    return simulate_scans("phantom", folder, config, count=3)


def test_a_prepared_file_holds_what_the_chain_makes(raw, tmp_path):
    path = prepare_file(raw[0], tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / raw[0].name
    file, want = open_scan(path), plan_preparation(open_scan(raw[0]))
    assert isinstance(file, PreparedFile)
    scan, fresh = file[1], want.apply(open_scan(raw[0])[1])
    assert torch.equal(scan.ksp, fresh.ksp)
    assert torch.equal(scan.maps, fresh.maps)
    assert torch.equal(scan.mask, fresh.mask)
    assert (scan.scale, scan.noise_std) == pytest.approx((fresh.scale, fresh.noise_std))
    assert scan.steps == fresh.steps == ("read", "whiten", "compress", "espirit", "normalise")
    torch.testing.assert_close(scan.coil_transform, fresh.coil_transform.to(torch.complex64))
    assert file.qc["noise_std_file"] == pytest.approx(want.noise.std)
    assert [check["index"] for check in file.qc["slices"]] == [0, 1]
    assert all(0.9 < check["eigenvalue"] <= 1 + 1e-6 for check in file.qc["slices"])


def test_one_acquisition_under_two_masks_is_found_out(tmp_path):
    """Two files of one image, each with every other outer line of it: together, all of it."""
    config = SimulateConfig(size=(48, 48), coils=4, calib=12, full=True, noise=0.01)
    whole, other = simulate_scans("phantom", tmp_path / "whole", config, count=2)
    raw = tmp_path / "raw"
    raw.mkdir()
    for first, name in enumerate(("even", "odd")):
        with h5py.File(shutil.copy(whole, raw / f"{name}.h5"), "r+") as file:
            ksp = file["kspace"][()]
            ksp[..., first:18:2] = 0
            ksp[..., 30 + first :: 2] = 0
            file["kspace"][...] = ksp
    shutil.copy(other, raw / "other.h5")
    prepared = tmp_path / "prepared"
    summary = prepare_many(sorted(raw.glob("*.h5")), prepared)
    (told,) = [doubt for doubt in summary.doubts if "one acquisition" in doubt]
    assert told.startswith("even.h5, odd.h5 hold one acquisition")
    with pytest.raises(ScanFormatError, match=r"even\.h5, odd\.h5 hold one acquisition"):
        load_dataset(prepared, n_validation=0, seed=0)
    (prepared / "odd.h5").unlink()
    assert load_dataset(prepared, n_validation=0, seed=0).n_scans == 2


def test_what_does_not_say_its_center_has_no_twin(raw, tmp_path):
    """Files of earlier versions."""
    files = [PreparedFile(prepare_file(path, tmp_path)) for path in raw[:2]]
    assert files[0].center_sha256 != files[1].center_sha256
    for file in files:
        with h5py.File(file.path, "r+") as stored:
            del stored.attrs["center_sha256"]
    assert duplicate_acquisitions(map(PreparedFile, [file.path for file in files])) == []


def test_a_compressed_prepared_file_still_knows_its_units(raw, tmp_path):
    config = PrepConfig(n_coils=3)
    file = PreparedFile(prepare_file(raw[0], tmp_path, config))
    assert file.shape[1] == 3
    fresh = plan_preparation(open_scan(raw[0]), config).apply(open_scan(raw[0])[0])
    torch.testing.assert_close(exported(file[0]), exported(fresh), rtol=1e-4, atol=1e-9)


def test_a_prepared_file_passes_through(raw, tmp_path):
    file = PreparedFile(prepare_file(raw[0], tmp_path))
    preparation = plan_preparation(file)
    assert preparation.apply(file[0]).ksp is not None
    assert torch.equal(preparation.apply(file[0]).ksp, file[0].ksp)
    assert preparation.scale == file.scale
    with pytest.raises(ConfigError, match="prepared already"):
        plan_preparation(file, PrepConfig(noise_std=1.0))
    with pytest.raises(ConfigError, match="prepared already"):
        prepare_file(file, tmp_path / "again")


def test_a_picture_shows_the_middle_slice(raw, tmp_path):
    prepare_file(raw[0], tmp_path, picture=True)
    picture = tmp_path / "qc" / f"{raw[0].stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000  # a blank page is smaller
    assert "matplotlib.pyplot" not in sys.modules  # no global state


def test_a_finished_folder_is_left_alone(raw, tmp_path):
    first = prepare_many(raw, tmp_path)
    times = [result.path.stat().st_mtime_ns for result in first.results]
    seen = []
    again = prepare_many(raw, tmp_path, on_scan=seen.append)
    assert [result.status for result in again.results] == ["skipped"] * 3
    assert tuple(seen) == again.results
    assert [result.path.stat().st_mtime_ns for result in again.results] == times
    assert first.line() == "3 prepared, 0 skipped (prepared already), 0 failed"


def test_an_interrupted_folder_is_completed(raw, tmp_path):
    prepare_many(raw[:1], tmp_path)
    summary = prepare_many(raw, tmp_path)
    assert [result.status for result in summary.results] == ["skipped", "done", "done"]
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert [entry["scan_id"] for entry in manifest["scans"]] == sorted(p.stem for p in raw)


def test_other_options_want_another_folder_or_overwrite(raw, tmp_path):
    prepare_many(raw[:1], tmp_path)
    other = PrepConfig(n_coils=2)
    summary = prepare_many(raw[:1], tmp_path, other)
    assert "prepared from other options" not in summary.line()
    assert "other options" in summary.failed_lines[0]
    summary = prepare_many(raw[:1], tmp_path, other, overwrite=True)
    assert summary.results[0].status == "done"
    assert PreparedFile(summary.results[0].path).shape[1] == 2


def test_a_scan_that_fails_costs_a_line_and_the_others_go_on(raw, tmp_path):
    broken = tmp_path / "broken.h5"
    broken.write_bytes(raw[0].read_bytes()[:2000])
    summary = prepare_many([broken, raw[1]], tmp_path / "out")
    assert [result.status for result in summary.results] == ["failed", "done"]
    assert len(summary.failed) == 1
    assert "broken.h5" in summary.failed_lines[0]
    assert "\n" not in summary.failed_lines[0]
    manifest = json.loads(summary.manifest.read_text())
    assert [entry["source"] for entry in manifest["failed"]] == ["broken.h5"]
    assert not (tmp_path / "out" / "broken.h5").exists()


def test_raw_data_are_never_written_over(raw, tmp_path):
    copy = tmp_path / raw[0].name
    copy.write_bytes(raw[0].read_bytes())
    with pytest.raises(OutputExistsError, match="scans to be prepared"):
        prepare_many([copy], tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]
    other = tmp_path / "other"
    other.mkdir()
    (other / copy.name).write_bytes(raw[1].read_bytes())
    summary = prepare_many([copy], other, overwrite=True)
    assert "raw scan" in summary.failed_lines[0]
    assert copy.read_bytes() == raw[0].read_bytes()
    assert (other / copy.name).read_bytes() == raw[1].read_bytes()


def test_nothing_prepared_leaves_nothing(tmp_path):
    (tmp_path / "bad.h5").write_text("no scan")
    assert prepare_many([tmp_path / "bad.h5"], tmp_path / "out").failed
    assert not (tmp_path / "out").exists()


def test_two_scans_of_one_name_are_refused(raw, tmp_path):
    with pytest.raises(ConfigError, match="overwrite each other"):
        prepare_many([raw[0], tmp_path / raw[0].name], tmp_path / "out")


def test_workers_make_the_same_files(raw, tmp_path):
    prepare_many(raw[:2], tmp_path / "one")
    summary = prepare_many(raw[:2], tmp_path / "two", workers=2)
    assert [result.status for result in summary.results] == ["done", "done"]
    for path in raw[:2]:
        a, b = (PreparedFile(tmp_path / folder / path.name) for folder in ("one", "two"))
        torch.testing.assert_close(a[0].ksp, b[0].ksp, rtol=1e-4, atol=1e-5)
        assert a.scale == pytest.approx(b.scale, rel=1e-5)


def test_an_error_that_is_no_fault_of_the_scan_is_not_hidden(raw, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mri_ambient.data_prep.shards.plan", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_many(raw, tmp_path)
    assert not list(tmp_path.glob("*.h5"))
    assert not isinstance(KeyboardInterrupt(), MriAmbientError)


# Memory


STREAM = """
import resource, torch
from memory_scan import MemoryScan
from mri_ambient.data_prep import PrepConfig, plan_preparation

torch.set_num_threads(1)


class Stream(MemoryScan):
    def read_ksp(self, index):
        return self.ksp[0] * (1 + 0.01 * index)


ksp = 1e-3 * torch.randn(1, 8, 256, 256, dtype=torch.complex64)
ksp[..., 120:136, 120:136] += 10
for n_slices in (2, 40):
    file = Stream(ksp)
    file.shape = (n_slices, *file.shape[1:])
    preparation = plan_preparation(file, PrepConfig(n_coils=1))  # spares ESPIRiT
    for index in range(n_slices):
        preparation.apply(file[index])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # the peak so far
"""


def test_memory_does_not_grow_with_the_number_of_slices():
    # 40 slices of 4 MiB, or as many of the 1 MiB they are made into, would show.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STREAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    few, many = map(int, done.stdout.split())
    assert many <= 1.1 * few


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
)
def test_coil_maps_are_computed_on_the_cpu_where_that_is_wanted(error, monkeypatch):
    """A GPU without room for ESPIRiT (here: a device that holds nothing) hands over."""
    where = []

    def crowded(ksp, *args, **options):
        where.append(ksp.device.type)
        if ksp.device.type != "cpu":
            raise error
        return espirit(ksp, *args, **options)

    file = head(full=True)
    expected = plan_preparation(file).apply(file[0])
    monkeypatch.setattr("mri_ambient.data_prep.prepare.espirit", crowded)
    with pytest.raises(DeviceError, match=r"out of memory.*--cpu-fallback"):
        plan_preparation(file, device="meta").apply(file[0])
    with pytest.warns(NumericalWarning, match="coil maps are computed on the CPU"):
        scan = plan_preparation(file, device="meta", cpu_fallback=True).apply(file[0])
    assert where == ["meta", "meta", "cpu"]
    torch.testing.assert_close(scan.maps, expected.maps, rtol=0, atol=0)
    reference = plan_reference(file, device="meta", cpu_fallback=True)
    there = plan_reference(file)
    torch.testing.assert_close(reference.volumes(), there.volumes(), rtol=0, atol=0)


def test_the_coverage_of_a_data_set_is_told_and_drawn(tmp_path):
    """Two scans with masks of their own: every line's share is 0, 1/2 or 1."""
    config = SimulateConfig(size=(32, 48), coils=3, acceleration=2, calib=8, noise=0.01)
    raw = simulate_scans("phantom", tmp_path / "raw", config, count=2)
    summary = prepare_many(raw, tmp_path / "prepared", pictures=True)
    (group,) = summary.coverage
    masks = torch.stack([open_scan(path).mask[0, 0] for path in raw])
    assert group.per_line == tuple(masks.double().mean(dim=0).tolist())
    assert "2 scans of 32x48: 2 distinct masks" in group.line
    assert (tmp_path / "prepared/qc/coverage.png").stat().st_size > 3000
