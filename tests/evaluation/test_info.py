from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from codes import warns
from helpers import small_prior

from mri_ambient import __version__
from mri_ambient.data_prep import SimulateConfig, prepare_file, simulate
from mri_ambient.errors import CheckpointError, ScanFormatError
from mri_ambient.evaluation.info import contents, installed
from mri_ambient.io import READERS
from mri_ambient.methods import METHODS, PRESETS
from mri_ambient.objectives import OBJECTIVES
from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.priors.weights import DEFAULT
from mri_ambient.recon.saving import FORMATS


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    config = SimulateConfig(size=(32, 24), coils=3, full=True, slices=2)
    return simulate("phantom", tmp_path / "scans", config, count=1)[0]


def test_what_the_dictionaries_hold_is_installed():
    facts = installed()
    assert facts.pop("device")
    assert facts == {
        "version": __version__,
        "objectives": list(OBJECTIVES),
        "methods": list(METHODS),
        "presets": list(PRESETS),
        "readers": [reader.format for reader in READERS.values()],
        "writers": ["h5", *FORMATS],
        "priors": [DEFAULT],
    }


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
    assert facts["summary"] == "2-D scan, fully sampled, 3 coils, 2 slices of 32 x 24"
    assert "evaluate --target" in facts["use_with"]
    prepared = contents(prepare_file(scan, tmp_path / "prepared"))
    assert prepared["summary"].startswith("prepared 2-D scan")
    assert "prep" not in prepared["use_with"]


def test_axes_and_dataset_are_handed_to_the_reader(scan, tmp_path):
    with h5py.File(scan) as file, h5py.File(tmp_path / "other.h5", "w") as out:
        out["a"] = file["kspace"][:].transpose(2, 3, 1, 0)
        out["b"] = file["kspace"][:]
    with warns("W-NO-HEADER"):
        facts = contents(tmp_path / "other.h5", axes="y,x,coil,slice", dataset="a")
    assert (facts["format"], facts["slices"], facts["coils"]) == ("hdf5", 2, 3)
