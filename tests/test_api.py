"""The Python API, typed as a user would."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import command

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig
from mri_ambient.errors import ConfigError, MriAmbientError, NumericalWarning, ScanFormatError
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import DEFAULT_NETWORK, NETWORKS
from mri_ambient.recon.folder import Destination

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six undersampled scans and a fully sampled one."""
    folder = tmp_path_factory.mktemp("api")
    small = SimulateConfig(size=(48, 40), coils=4, calib=12, noise=0.01, acceleration=2.0)
    ma.simulate("phantom", folder / "raw", small, count=6)
    ma.simulate("phantom", folder / "full", replace(small, full=True, seed=7), count=1)
    return folder


@pytest.fixture(scope="module")
def full(folder: Path) -> Path:
    """The fully sampled scan."""
    (path,) = (folder / "full").glob("*.h5")
    return path


def test_a_path_an_open_scan_and_an_array_give_the_same_image(full, tmp_path):
    recipe = ma.Recipe("cg-sense", retrospective=2)
    runtime = ma.Runtime("cpu")
    from_path = ma.reconstruct(full, recipe, runtime)
    from_scan = ma.reconstruct(ma.open_scan(full), recipe, runtime)
    assert np.array_equal(from_path.complex, from_scan.complex)
    assert from_path.metrics["psnr"] > 20
    assert from_path.voxel_mm == ma.open_scan(full).voxel_mm

    with h5py.File(full) as file:
        ksp = file["kspace"][:]
    array = ma.Scan.from_numpy(ksp, scan_id=full.stem)
    from_array = ma.reconstruct(array, recipe, runtime)  # without a header; this one crops nothing
    assert np.array_equal(from_array.complex, from_path.complex)


def test_a_reconstruction_has_images_figures_and_a_picture(full):
    recipe = ma.Recipe("dds", options={"n_steps": 3}, n_samples=2, retrospective=2)
    rec = ma.reconstruct(full, recipe, ma.Runtime("cpu"))
    assert rec.magnitude.dtype == np.float32
    assert rec.std.shape == rec.magnitude.shape
    assert np.array_equal(rec.magnitude, np.abs(rec.complex))
    assert rec.samples is None  # they are kept on request
    assert len(rec.checks) == len(rec.magnitude)
    assert {entry["code"] for entry in rec.warnings} >= {"W-UNCALIBRATED"}
    assert rec._repr_html_().startswith("<img")
    assert len(rec.plot().axes) >= 2


def test_save_writes_what_the_command_writes(full, server, tmp_path):
    rec = ma.reconstruct(full, ma.Recipe("l1-wavelet", retrospective=2), ma.Runtime("cpu"))
    rec.save(tmp_path / "api")
    ended, printed = command(
        "reconstruct", full, "-o", tmp_path / "command", "--method", "l1-wavelet",
        "--retrospective", "2", "--device", "cpu", folder=tmp_path,
    )  # fmt: skip
    assert ended == [0], printed
    files = [h5py.File(tmp_path / name / full.name) for name in ("api", "command")]
    assert sorted(files[0]) == sorted(files[1])
    for name in files[0]:
        assert np.array_equal(files[0][name][:], files[1][name][:]), name
    assert dict(files[0].attrs).keys() == dict(files[1].attrs).keys()


def test_many_scans_one_of_them_broken(folder, tmp_path):
    paths = sorted((folder / "raw").glob("*.h5"))[:2]
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"no scan")
    failed: list[tuple[object, MriAmbientError]] = []
    recs = ma.reconstruct_many(
        [paths[0], broken, paths[1]], recipe=ma.Recipe("zero-filled"), runtime=ma.Runtime("cpu"),
        on_error=lambda scan, error: failed.append((scan, error)),
    )  # fmt: skip
    assert [rec.scan_id for rec in recs] == [path.stem for path in paths]
    assert [Path(scan) for scan, _ in failed] == [broken]
    with pytest.raises(MriAmbientError):
        list(ma.reconstruct_many([broken], recipe=ma.Recipe("zero-filled")))


def test_prepare_train_and_evaluate(folder, full, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, DEFAULT_NETWORK, UNetSpec((8, 12), blocks=1, embedding=16))
    ma.prepare(folder / "raw", tmp_path / "prepared")
    config = ma.TrainConfig(batch_size=4, n_validation=0)
    prior = ma.train(tmp_path / "prepared", tmp_path / "run", config, images=8)
    assert isinstance(prior, ma.Prior)
    assert ma.train(tmp_path / "prepared", tmp_path / "run", config, time_limit="0s") is not None
    rec = ma.reconstruct(full, ma.Recipe(prior=tmp_path / "run"), ma.Runtime("cpu"))
    rec.save(tmp_path / "out")
    found = ma.evaluate(tmp_path / "out", target=full.parent)
    assert found["volumes"][full.stem]["psnr"] == pytest.approx(rec.metrics["psnr"], abs=1e-4)


def test_a_warning_names_the_users_line_through_functions_of_other_packages(folder, tmp_path):
    """``functools.cached_property`` finds the sampling of a scan."""
    path = min((folder / "raw").glob("*.h5"))
    ksp = ma.open_scan(path).read_ksp(0)[None]
    np.save(tmp_path / "a.npy", np.concatenate([ksp, 0 * ksp]))
    scan = ma.open_scan(tmp_path / "a.npy", axes="slice,coil,y,x")
    with pytest.warns(NumericalWarning) as caught:
        assert scan.mask.any()
    assert [w.message.code for w in caught] == ["W-EMPTY-SLICES"]
    assert Path(caught[0].filename).name == "test_api.py"


def test_a_warning_shows_its_code_and_the_line_that_led_to_it(folder, tmp_path):
    scan = min((folder / "raw").glob("*.h5"))
    copies = [tmp_path / "raw" / name for name in ("a.h5", "b.h5")]
    copies[0].parent.mkdir()
    for copy in copies:
        copy.write_bytes(scan.read_bytes())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NumericalWarning)
        summary = ma.prepare(copies, tmp_path / "prepared")
        ma.reconstruct(scan, ma.Recipe("dds", {"n_steps": 2}), ma.Runtime("cpu"))
    codes = [warning.message.code for warning in caught]
    assert codes == [*(warning.code for warning in summary.warnings), "W-UNCALIBRATED"]
    assert "W-DUPLICATES" in codes
    assert all(str(w.message).startswith(f"[{w.message.code}] ") for w in caught)
    assert {Path(w.filename).name for w in caught} == {"test_api.py"}


@pytest.mark.parametrize(
    "mistake",
    [
        lambda scan: ma.reconstruct(scan, "dds"),
        lambda scan: ma.reconstruct(scan, runtime="cpu"),
        lambda scan: ma.reconstruct([scan]),
        lambda scan: ma.reconstruct(scan.parent),
        lambda scan: ma.reconstruct_folder(scan.parent, scan.parent / "x", "dds"),
        lambda scan: ma.reconstruct_folder(scan, Destination(scan.parent / "x", ["nifty"])),
        lambda scan: ma.reconstruct_many([scan], "dds"),
        lambda scan: ma.Recipe(ma.METHODS["cg-sense"]),
        lambda scan: ma.Recipe(checks={"n_held_out": 2}),
        lambda scan: ma.Recipe(preparation={"n_coils": 2}),
        lambda scan: ma.Recipe(retrospective="4"),
        lambda scan: ma.Recipe("dds", n_samples=2.0),
        lambda scan: ma.Recipe("dds", {"n_steps": 2.5}).resolve(),
        lambda scan: ma.Recipe("dds", {"eta": True}).resolve(),
        lambda scan: ma.TrainConfig(objective="ambient"),
        lambda scan: ma.TrainConfig(objective=ma.OBJECTIVES["ambient"]),
        lambda scan: ma.Recipe(retrospective=True),
        lambda scan: ma.train(scan.parent, "run", runtime=ma.Runtime("cpu", batch_size=2)),
        lambda scan: ma.train(scan.parent, "run", runtime="cpu"),
        lambda scan: ma.prepare(scan, scan.parent / "x", runtime="cpu"),
        lambda scan: ma.adapt(scan, "aos"),
        lambda scan: ma.adapt(scan, runtime="cpu"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_at_once(mistake, full):
    with pytest.raises(ConfigError):
        mistake(full)


def test_nothing_to_score_is_said(full):
    with pytest.raises(ScanFormatError):
        ma.evaluate([], full)


def test_scans_are_equal_to_themselves_alone(full):
    one, other = (ma.open_scan(full)[0] for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2


def test_records_show_themselves_in_one_line(folder, full, tmp_path):
    scan = ma.open_scan(full)[0]
    maps = np.ones((2, 8, 6), np.complex64)
    shown = [
        scan, ma.prepare(full, tmp_path), ma.load_prior("brain-kspace-wide"), ma.open_scan(full),
        ma.SenseOp(torch.from_numpy(maps), torch.ones(1, 8, 6, dtype=torch.bool)),
    ]  # fmt: skip
    for record in shown:
        assert len(repr(record)) < 120 and "\n" not in repr(record)


def test_importing_takes_no_time_and_no_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import mri_ambient; "
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, with_torch = done.stdout.split()
    assert float(seconds) < 0.3
    assert with_torch == "False"
