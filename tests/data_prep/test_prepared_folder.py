"""What preparing files and folders writes, keeps, refuses and reports."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from codes import warns
from memory_scan import exported

from mri_ambient.data_prep import (
    MANIFEST,
    PrepConfig,
    SimulateConfig,
    plan_preparation,
    prepare,
    prepare_file,
    prepared_folder,
    simulate,
)
from mri_ambient.errors import (
    BusyError,
    ConfigError,
    DeviceError,
    InternalError,
    OutputExistsError,
    ScanFormatError,
)
from mri_ambient.io import PreparedFile, open_scan
from mri_ambient.io.formats.prepared import duplicate_acquisitions
from mri_ambient.runtime.files import locked
from mri_ambient.training.dataset import load_dataset

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three simulated scans on disk, of two slices each."""
    folder = tmp_path_factory.mktemp("raw")
    config = SimulateConfig(size=(32, 32), coils=4, acceleration=2, calib=12, slices=2, jitter=True)
    return simulate("phantom", folder, config, count=3)


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


def test_one_acquisition_under_two_masks_is_a_warning(tmp_path):
    """Two files of one image, each with every other outer line of it: together, all of it."""
    config = SimulateConfig(size=(48, 48), coils=4, calib=12, full=True, noise=0.01)
    whole, other = simulate("phantom", tmp_path / "whole", config, count=2)
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
    summary = prepare(raw, prepared)
    (found,) = [w for w in summary.warnings if w.code == "W-DUPLICATES"]
    assert found.text.startswith("even.h5, odd.h5")
    manifest = json.loads(summary.manifest.read_text())
    assert manifest["warnings"] == [w.as_dict() for w in summary.warnings]
    assert manifest["doubts"] == [w.text for w in summary.warnings]
    with pytest.raises(ScanFormatError, match=r"even\.h5, odd\.h5"):
        load_dataset(prepared, n_validation=0, seed=0)
    (prepared / "odd.h5").unlink()
    assert len(load_dataset(prepared, n_validation=0, seed=0).train) == 2


def test_files_without_a_hash_of_their_center_are_no_duplicates(raw, tmp_path):
    """Files of earlier versions."""
    files = [PreparedFile(prepare_file(path, tmp_path)) for path in raw[:2]]
    assert files[0].center_sha256 != files[1].center_sha256
    for file in files:
        with h5py.File(file.path, "r+") as stored:
            del stored.attrs["center_sha256"]
    assert duplicate_acquisitions(map(PreparedFile, [file.path for file in files])) == []


def test_a_compressed_prepared_file_keeps_the_units_of_its_source(raw, tmp_path):
    config = PrepConfig(n_coils=3)
    file = PreparedFile(prepare_file(raw[0], tmp_path, config))
    assert file.shape[1] == 3
    fresh = plan_preparation(open_scan(raw[0]), config).apply(open_scan(raw[0])[0])
    torch.testing.assert_close(exported(file[0]), exported(fresh), rtol=1e-4, atol=1e-9)


def test_a_prepared_file_is_left_as_it_is(raw, tmp_path):
    file = PreparedFile(prepare_file(raw[0], tmp_path))
    preparation = plan_preparation(file)
    assert torch.equal(preparation.apply(file[0]).ksp, file[0].ksp)
    assert preparation.scale == file.scale
    with pytest.raises(ConfigError, match=file.path.name):
        plan_preparation(file, PrepConfig(noise_std=1.0))
    with pytest.raises(ConfigError, match=file.path.name):
        prepare_file(file, tmp_path / "again")


def test_a_picture_shows_the_middle_slice(raw, tmp_path):
    prepare_file(raw[0], tmp_path, picture=True)
    picture = tmp_path / "qc" / f"{raw[0].stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000  # a blank page is smaller
    assert "matplotlib.pyplot" not in sys.modules  # no global state


def test_a_finished_folder_is_left_alone(raw, tmp_path):
    first = prepare(raw, tmp_path)
    times = [result.path.stat().st_mtime_ns for result in first.results]
    seen = []
    again = prepare(raw, tmp_path, on_scan=seen.append)
    assert [result.status for result in again.results] == ["skipped"] * 3
    assert tuple(seen) == again.results
    assert [result.path.stat().st_mtime_ns for result in again.results] == times
    assert first.line() == "3 prepared, 0 skipped (prepared already), 0 failed"


def test_an_interrupted_folder_is_completed(raw, tmp_path):
    prepare(raw[:1], tmp_path)
    summary = prepare(raw, tmp_path)
    assert [result.status for result in summary.results] == ["skipped", "done", "done"]
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert [entry["scan_id"] for entry in manifest["scans"]] == sorted(p.stem for p in raw)


def test_other_options_want_another_folder_or_overwrite(raw, tmp_path):
    prepare(raw[:1], tmp_path)
    other = PrepConfig(n_coils=2)
    summary = prepare(raw[:1], tmp_path, other, on_scan=lambda _: None)
    assert summary.line() == "0 prepared, 0 skipped (prepared already), 1 failed"
    assert type(summary.failed[0].error) is ConfigError
    assert raw[0].name in summary.failed[0].message
    summary = prepare(raw[:1], tmp_path, other, overwrite=True)
    assert summary.results[0].status == "done"
    assert PreparedFile(summary.results[0].path).shape[1] == 2


def test_a_scan_that_fails_costs_a_line_and_the_others_go_on(raw, tmp_path):
    broken = tmp_path / "broken.h5"
    broken.write_bytes(raw[0].read_bytes()[:2000])
    with warns("W-SCAN-FAILED") as found:
        summary = prepare([broken, raw[1]], tmp_path / "out")
    assert found[0].text == summary.failed[0].message
    assert [result.status for result in summary.results] == ["failed", "done"]
    assert len(summary.failed) == 1
    assert "broken.h5" in summary.failed[0].message
    assert "\n" not in summary.failed[0].message
    manifest = json.loads(summary.manifest.read_text())
    assert [entry["source"] for entry in manifest["failed"]] == ["broken.h5"]
    assert not (tmp_path / "out" / "broken.h5").exists()


def test_raw_data_are_never_written_over(raw, tmp_path):
    copy = tmp_path / raw[0].name
    copy.write_bytes(raw[0].read_bytes())
    with pytest.raises(OutputExistsError):
        prepare([copy], tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]
    other = tmp_path / "other"
    other.mkdir()
    (other / copy.name).write_bytes(raw[1].read_bytes())
    summary = prepare([copy], other, overwrite=True, on_scan=lambda _: None)
    assert type(summary.failed[0].error) is ConfigError
    assert copy.read_bytes() == raw[0].read_bytes()
    assert (other / copy.name).read_bytes() == raw[1].read_bytes()


def test_nothing_prepared_leaves_nothing(tmp_path):
    (tmp_path / "bad.h5").write_text("no scan")
    assert prepare([tmp_path / "bad.h5"], tmp_path / "out", on_scan=lambda _: None).failed
    assert not (tmp_path / "out").exists()


def test_two_scans_of_one_name_are_refused(raw, tmp_path):
    with pytest.raises(ConfigError, match=raw[0].stem):
        prepare([raw[0], tmp_path / raw[0].name], tmp_path / "out")


def test_files_folders_and_globs_are_accepted(raw, tmp_path):
    stems = sorted(path.stem for path in raw)
    for given in (raw[0].parent, str(raw[0].parent / "*.h5"), sorted(raw)):
        done = prepare(given, tmp_path / "out").results
        assert [result.source.stem for result in done] == stems
    assert [result.status for result in done] == ["skipped"] * 3
    with pytest.raises(ScanFormatError):
        prepare(tmp_path / "*.nii", tmp_path / "out")


def test_workers_make_the_same_files_and_warnings(raw, forked, tmp_path):
    config = SimulateConfig(size=(48, 48), coils=1, calib=12, acceleration=2, noise=0.02)
    single = Path(shutil.copy(simulate("phantom", tmp_path, config, count=1)[0], tmp_path / "a.h5"))
    here, there = (prepare([raw[0], single], tmp_path / str(n), workers=n).results for n in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert (a.status, b.status) == ("done", "done")
        one, two = PreparedFile(a.path), PreparedFile(b.path)
        torch.testing.assert_close(one[0].ksp, two[0].ksp, rtol=1e-4, atol=1e-5)
        assert one.scale == pytest.approx(two.scale, rel=1e-5)
        assert [w.as_dict() for w in a.warnings] == [w.as_dict() for w in b.warnings]
    assert [w.code for w in there[1].warnings] == ["W-ONE-COIL"]


def test_an_error_that_is_no_fault_of_the_scan_is_not_hidden(raw, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mri_ambient.data_prep.prepared_folder.plan_preparation", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path)
    assert not list(tmp_path.glob("*.h5"))


def test_the_coverage_of_a_folder_is_reported_and_drawn(tmp_path):
    """Two scans with masks of their own: every line's share is 0, 1/2 or 1."""
    config = SimulateConfig(size=(32, 48), coils=3, acceleration=2, calib=8, noise=0.01)
    raw = simulate("phantom", tmp_path / "raw", config, count=2)
    summary = prepare(raw, tmp_path / "prepared", pictures=True)
    (group,) = summary.coverage
    masks = np.stack([open_scan(path).mask[0, 0] for path in raw])
    assert group.per_line == tuple(masks.mean(axis=0).tolist())
    assert (group.shape, group.n_scans, group.n_masks) == ((32, 48), 2, 2)
    assert (tmp_path / "prepared/qc/coverage.png").stat().st_size > 3000


def test_a_mistake_of_ours_costs_one_scan_of_several(raw, tmp_path, monkeypatch):
    """And a single scan ends with it, as does a device that was lost all scans."""
    original = prepared_folder.plan_preparation

    def failing(file, *args, **options):
        if file.path == raw[0]:
            raise error
        return original(file, *args, **options)

    monkeypatch.setattr(prepared_folder, "plan_preparation", failing)
    error = ZeroDivisionError("x")
    results = prepare(raw[:2], tmp_path / "a", on_scan=lambda _: None).results
    assert [result.status for result in results] == ["failed", "done"]
    assert type(results[0].error) is InternalError
    assert "ZeroDivisionError" in results[0].error.trace
    with pytest.raises(ZeroDivisionError):
        prepare(raw[:1], tmp_path / "b")
    error = torch.OutOfMemoryError("out of memory")
    with pytest.raises(DeviceError):
        prepare(raw[:2], tmp_path / "c")


def test_what_another_process_prepares_is_left_to_it(raw, tmp_path):
    with locked(tmp_path / f"{raw[0].stem}.h5"):
        summary = prepare(raw[:2], tmp_path)
    assert [result.status for result in summary.results] == ["left", "done"]
    assert type(summary.results[0].error) is BusyError
    assert summary.failed == ()
