"""Reconstructions and targets meet by name; the numbers are those of the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.evaluation.folders import (
    find_reconstructions,
    mean_metrics,
    pair_up,
    refuse_reconstructions,
    score_pair,
)
from mri_ambient.io import ScanPath


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    config = SimulateConfig(size=(40, 32), coils=3, full=True, noise=0.005)
    return simulate("phantom", tmp_path_factory.mktemp("full"), config, count=2)


@pytest.fixture(scope="module")
def out(full: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zero-filled reconstructions."""
    folder = tmp_path_factory.mktemp("out")
    recipe = ma.Recipe("zero-filled", retrospective=ma.MaskSpec("random", 2, 8))
    for rec in ma.reconstruct_many(full, recipe, ma.Runtime("cpu")):
        rec.save(folder)
    return folder


def test_folders_are_scored_from_python(full, out):
    scores = ma.evaluate(str(out), target=full[0].parent)
    assert list(scores["volumes"]) == [path.stem for path in full]
    for path in full:
        assert scores["volumes"][path.stem]["reference"] == "rss"
    means = [row["psnr"] for row in scores["volumes"].values()]
    assert scores["mean"]["psnr"] == pytest.approx(sum(means) / 2)
    one = ma.evaluate(out / full[0].name, target=full[0])
    assert one["volumes"][full[0].stem] == scores["volumes"][full[0].stem]


def test_results_of_several_methods_have_a_mean_each(full, out, tmp_path):
    for rec in ma.reconstruct_many(full, ma.Recipe("cg-sense"), ma.Runtime("cpu")):
        rec.save(tmp_path / "cg")
    folders = [str(out), str(tmp_path / "cg")]
    both = ma.evaluate(folders, target=full[0].parent)
    assert (len(both["volumes"]), both["mean"]) == (2 * len(full), {})
    each = [ma.evaluate(folder, target=full[0].parent)["mean"] for folder in folders]
    assert both["means"] == dict(zip(folders, each, strict=True))
    for name, folder in zip(("a", "b"), folders, strict=True):
        shutil.copytree(folder, tmp_path / "all" / name)
    below = ma.evaluate(tmp_path / "all", target=full[0].parent)["means"]
    assert list(below.values()) == each


def test_a_target_that_is_missing_is_an_error_or_reported(full, out, tmp_path):
    with h5py.File(full[0]) as source, h5py.File(tmp_path / full[0].name, "w") as target:
        target["reconstruction_rss"] = source["reconstruction_rss"][()]
    with pytest.raises(ScanFormatError, match=full[1].stem):
        ma.evaluate(out, tmp_path)
    failed = []
    scores = ma.evaluate(out, tmp_path, on_error=lambda path, _: failed.append(path))
    assert list(scores["volumes"]) == [full[0].stem]
    assert failed == [out / full[1].name]


def test_without_a_stored_reference_the_rss_of_the_full_scan_is_taken(full, out, tmp_path):
    """To rounding the one that the simulation stored, and the one of ``reconstruct``."""
    bare = tmp_path / full[0].name
    with h5py.File(full[0]) as source, h5py.File(bare, "w") as target:
        source.copy("kspace", target)
        source.copy("ismrmrd_header", target)
    stored, computed = (score_pair(out / full[0].name, ScanPath(path)) for path in (full[0], bare))
    assert computed.reference == "rss"
    assert computed.nmse == pytest.approx(stored.nmse, rel=1e-4)
    assert computed.ssim == pytest.approx(stored.ssim, abs=1e-4)


def test_an_undersampled_scan_is_no_reference(full, out, tmp_path):
    bare = tmp_path / full[0].name
    with h5py.File(full[0]) as source, h5py.File(bare, "w") as target:
        source.copy("kspace", target)
        source.copy("ismrmrd_header", target)
        target["kspace"][..., 1:8:2] = 0
    with pytest.raises(ScanFormatError, match=bare.stem):
        score_pair(out / full[0].name, ScanPath(bare))


def test_pairs_have_the_same_stem(tmp_path):
    for name in ("a.h5", "b.h5", ".hidden.h5", "a.json"):
        (tmp_path / name).touch()
    targets = tmp_path / "targets"
    targets.mkdir()
    for name in ("b.npy", "c.dat"):
        (targets / name).touch()
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    assert (
        find_reconstructions([tmp_path, b]) == find_reconstructions([tmp_path / "?.h5"]) == [a, b]
    )
    target = ScanPath(targets / "b.npy")
    assert pair_up([a, b], targets) == [(a, None), (b, target)]
    assert pair_up([a, b], target.path) == [(b, target)]
    assert pair_up([a], target.path) == [(a, target)]


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_volumes_of_a_file_are_targets_by_their_names(tmp_path):
    """A file of two repetitions; their stems are those of the reconstructions."""
    generator = np.random.default_rng(0)
    ksp = generator.normal(size=(2, 1, 2, 16, 12)) + 1j * generator.normal(size=(2, 1, 2, 16, 12))
    np.save(tmp_path / "scan.npy", ksp.astype(np.complex64))
    (tmp_path / "out").mkdir()
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(ksp, (-2, -1))), (-2, -1))
    rss = np.sqrt((np.abs(images * np.sqrt(16 * 12)) ** 2).sum(2))
    for n in (1, 2):
        with h5py.File(tmp_path / "out" / f"scan_rep-{n}.h5", "w") as file:
            file["reconstruction"] = n * rss[n - 1]
    found = ma.evaluate([tmp_path / "out"], tmp_path / "scan.npy", axes="rep,slice,coil,y,x")[
        "volumes"
    ]
    assert found["scan_rep-1"]["nmse"] == pytest.approx(0, abs=1e-10)
    assert found["scan_rep-2"]["nmse"] == pytest.approx(1)


def test_files_of_several_folders_keep_their_rows(full, out, tmp_path):
    (tmp_path / full[0].name).write_bytes((out / full[0].name).read_bytes())
    found = ma.evaluate([out, tmp_path], full[0].parent)["volumes"]
    assert len(found) == 3
    assert found[str(tmp_path / full[0].stem)] == found[str(out / full[0].stem)]


def test_targets_of_nested_folders_are_paired_by_folder_and_stem(tmp_path):
    pairs = {
        "a/head": "a/head", "b/head": "b/head", "c/head": None,  # several of this stem
        "a/foot": None, "b/foot": "b/foot", "neck": "b/neck",  # the only one of its stem
    }  # fmt: skip
    places = [f"full/{target}.npy" for target in pairs.values() if target]
    for place in (*places, *(f"out/{name}.h5" for name in pairs)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    found = pair_up(find_reconstructions([tmp_path / "out"]), tmp_path / "full")
    assert pairs == {
        file.relative_to(tmp_path / "out").with_suffix("").as_posix(): scan and scan.key
        for file, scan in found
    }


def test_one_of_two_targets_of_the_same_name_is_not_chosen(full, out, tmp_path):
    for name in ("a/head.h5", "a/head.hdf5", "b/foot.h5"):
        path = tmp_path / "full" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(full[0])
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "head.h5").symlink_to(out / full[0].name)
    ((file, scan),) = pair_up([tmp_path / "out" / "a" / "head.h5"], tmp_path / "full")
    with pytest.raises(ConfigError, match="head"):
        score_pair(file, scan)


def test_swapped_arguments_are_recognised(full, out):
    for given, target in ((full[0].parent, out), (full[0], out / full[0].name)):
        with pytest.raises(ConfigError, match="--target"):
            ma.evaluate(given, target)


def test_reconstructions_where_scans_are_wanted_are_refused(full, out):
    for inputs in ([out, full[0].parent], [out / full[0].name]):
        with pytest.raises(ConfigError, match="--target"):
            refuse_reconstructions(inputs)
    refuse_reconstructions([full[0].parent, full[0], "nowhere", "*.h5"])


def test_what_cannot_be_paired_is_refused(tmp_path):
    (tmp_path / "a.h5").touch()
    (tmp_path / "b.h5").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "c.txt").touch()
    for inputs in ([tmp_path / "nowhere"], [tmp_path, tmp_path / "empty"]):
        with pytest.raises(ScanFormatError):
            find_reconstructions(inputs)
    for target in (tmp_path / "nowhere", tmp_path / "empty" / "c.txt", tmp_path / "empty"):
        with pytest.raises(ScanFormatError):
            pair_up([tmp_path / "a.h5", tmp_path / "b.h5"], target)
    with pytest.raises(ScanFormatError, match="no such file or folder"):
        pair_up([tmp_path / "a.h5"], tmp_path / "gone")


@pytest.mark.parametrize(
    ("kspace", "kind"), [((1, 3, 8, 8), "rss"), ((1, 1, 8, 8), "esc"), ((1, 8, 8), "esc")]
)
def test_single_coil_scans_are_scored_as_fastmri_scores_them(kspace, kind, tmp_path):
    image = np.random.default_rng(0).random((1, 8, 8))
    with h5py.File(tmp_path / "target.h5", "w") as file:
        file["kspace"] = np.zeros(kspace, np.complex64)
        file["reconstruction_rss"] = image
        file["reconstruction_esc"] = 2 * image
    with h5py.File(tmp_path / "rec.h5", "w") as file:
        file["reconstruction"] = image
    score = score_pair(tmp_path / "rec.h5", ScanPath(tmp_path / "target.h5"))
    assert score.reference == kind
    assert score.nmse == pytest.approx(0 if kind == "rss" else 0.25)


@pytest.mark.parametrize("wrong", ["no target", "complex", "other shape", "no HDF5"])
def test_files_that_do_not_fit_are_named(wrong, tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as file:
        file["reconstruction"] = np.ones((1, 8, 8))
    target = tmp_path / "target.h5"
    if wrong == "no HDF5":
        target.write_bytes(b"text")
    else:
        with h5py.File(target, "w") as file:
            name = "kspace" if wrong == "no target" else "reconstruction_rss"
            shape = (2, 8, 8) if wrong == "other shape" else (1, 8, 8)
            file[name] = np.ones(shape, complex if wrong == "complex" else float)
    with pytest.raises(ScanFormatError, match="rec" if wrong == "other shape" else "target"):
        score_pair(tmp_path / "rec.h5", ScanPath(target))


def test_the_mean_of_nothing_is_nothing():
    assert mean_metrics({}) == {}
