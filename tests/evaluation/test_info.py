from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from codes import warns
from helpers import small_prior

from mri_ambient.data_prep import SimulateConfig, prepare_file, simulate
from mri_ambient.errors import CheckpointError, ScanFormatError
from mri_ambient.evaluation.info import FORMAT_NAMES, contents, in_text
from mri_ambient.io import READERS, Geometry, convert_scan, open_scan
from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    config = SimulateConfig(size=(32, 24), coils=3, full=True, slices=2)
    return simulate("phantom", tmp_path / "scans", config, count=1)[0]


def test_a_raw_scan(scan):
    facts = contents(scan)
    assert (facts["kind"], facts["slices"], facts["coils"]) == ("scan", 2, 3)
    assert (facts["matrix"], facts["mask"], facts["acceleration"]) == ((32, 24), "lines", 1.0)
    assert "sigma_n" not in facts


def test_a_prepared_scan_has_noise_and_scale(scan, tmp_path):
    facts = contents(prepare_file(scan, tmp_path / "prepared"))
    assert facts["format"] == "prepared"
    assert 0 < facts["sigma_n"] < 1
    assert facts["scale"] > 0
    assert facts["steps"]


def test_a_prior_without_the_hashes_of_its_scans(tmp_path):
    """By its file, or the folder of its run."""
    save_prior(
        small_prior("conditioned", card={"trained_on": ["abc"]}), tmp_path / "prior.safetensors"
    )
    facts = contents(tmp_path)
    assert facts == contents(tmp_path / "prior.safetensors")
    assert (facts["kind"], facts["denoiser"]) == ("prior", "conditioned")
    assert facts["parameters"] > 1000
    assert "trained_on" not in facts["card"]


def test_a_folder_lists_what_cannot_be_read_too(scan):
    (scan.parent / "bad.h5").write_bytes(b"no HDF5")
    facts = contents(scan.parent)
    assert facts["kind"] == "folder"
    kinds = {entry["file"]: entry["kind"] for entry in facts["files"]}
    assert kinds == {"bad.h5": "unreadable", scan.name: "scan"}


def test_what_is_not_there_or_not_ours_is_an_error(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no HDF5")
    with pytest.raises(ScanFormatError):
        contents(tmp_path / "bad.h5")
    with pytest.raises(CheckpointError):
        contents(tmp_path / "nowhere.safetensors")


def test_a_scan_in_plain_words_and_what_can_use_it(scan, tmp_path):
    facts = contents(scan)
    want = "2-D scan, fully sampled, 3 coils, 2 slices of 32 x 24, orientation unknown"
    assert facts["summary"] == f"{want}, fastMRI layout"
    assert "evaluate --target" in facts["use_with"]
    prepared = contents(prepare_file(scan, tmp_path / "prepared"))
    assert prepared["summary"].startswith("prepared 2-D scan")
    assert "prep" not in prepared["use_with"]


def test_every_format_has_a_name():
    assert set(FORMAT_NAMES) == set(READERS)


def test_the_plane_of_slices_is_named(scan, tmp_path):
    """Of scans, and of results, which hold no raw geometry."""
    file = open_scan(scan)
    for directions, plane in (
        (((0, 1, 0), (1, 0, 0), (0, 0, 1)), "transverse"),
        (((0, 0, -1), (0, 1, 0), (1, 0, 0)), "sagittal"),
        (((0, 0, 1), (-1, 0, 0), (0, 1, 0)), "coronal"),
        (((0.6, 0, 0.8), (0, 1, 0), (-0.8, 0, 0.6)), "oblique, nearest sagittal"),
    ):
        file.voxel_mm = (1.0, 1.0, 2.0)
        file.geometry = Geometry.of_vectors(*directions, 2.0 * np.outer(range(2), directions[2]))
        path = convert_scan(file, tmp_path, "fastmri", overwrite=True)
        assert contents(path)["orientation"] == plane
        rec = reconstruct(path, Recipe("zero-filled")).save(tmp_path / "out", overwrite=True)
        facts = contents(rec)
        assert facts["orientation"] == plane and "geometry" not in facts


def test_slices_of_a_3d_scan_stay_3d(scan, tmp_path):
    file = open_scan(scan)
    file.is_3d = True
    converted = convert_scan(file, tmp_path, "fastmri")
    for path in (converted, prepare_file(converted, tmp_path / "prepared")):
        assert "3-D scan" in contents(path)["summary"]
    assert "is_3d" not in open_scan(converted).attributes


def test_text_is_short(scan, tmp_path):
    """R with two decimals, a line for each volume."""
    facts = contents(scan)
    assert in_text(facts | {"acceleration": 3.98765})["acceleration"] == "3.99"
    with h5py.File(scan) as file:
        ksp = file["kspace"][:]
    np.save(tmp_path / "two.npy", np.stack([ksp, ksp]))
    with warns("W-NO-HEADER", "W-NO-HEADER"):
        facts = contents(tmp_path / "two.npy", axes="con,slice,coil,y,x")
    shown = in_text(facts)["volumes"]
    assert list(shown) == ["two.npy con-1", "two.npy con-2"]
    assert all(line.startswith("2-D scan") for line in shown.values())


def test_axes_and_dataset_are_handed_to_the_reader(scan, tmp_path):
    with h5py.File(scan) as file, h5py.File(tmp_path / "other.h5", "w") as out:
        out["a"] = file["kspace"][:].transpose(2, 3, 1, 0)
        out["b"] = file["kspace"][:]
    with warns("W-NO-HEADER"):
        facts = contents(tmp_path / "other.h5", axes="y,x,coil,slice", dataset="a")
    assert (facts["format"], facts["slices"], facts["coils"]) == ("hdf5", 2, 3)
