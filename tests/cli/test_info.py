from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from array_files import phantom_ksp
from sound_files import KINDS

from mri_ambient import __version__
from mri_ambient.cli import info
from mri_ambient.evaluation.info import contents
from mri_ambient.io import READERS
from mri_ambient.methods import METHODS, PRESETS
from mri_ambient.objectives import OBJECTIVES
from mri_ambient.physics.axis_fourier import ifftc
from mri_ambient.priors.weights import DEFAULT, default_prior
from mri_ambient.recon.saving import FORMATS
from mri_ambient.runtime.device import describe_device, pick_device
from mri_ambient.runtime.files import json_text

WITHOUT_TORCH = """
import json, sys

sys.modules["torch"] = None  # importing it is an error from now on
from mri_ambient.cli import info
from mri_ambient.cli.app import app

info._has_gpu_driver = lambda: False
for args in json.load(sys.stdin):
    app(["info", *args, "--json"], standalone_mode=False)
"""

TOLD = (
    "fastmri", "ismrmrd", "ismrmrd 3-D", "twix VB", "twix VD", "bruker", "bart", "matlab 5",
    "matlab 7", "matlab 7.3", "npy", "npz", "hdf5", "calgary", "prepared", "prior", "old prior",
    "reconstruction",
)  # fmt: skip
"""Kinds of files that are told without torch."""


@pytest.mark.parametrize("driver", [True, False])
def test_what_is_installed(driver, cli, monkeypatch):
    """The device is torch's where there may be a GPU."""
    monkeypatch.setattr(info, "_has_gpu_driver", lambda: driver)
    facts = json.loads(cli("info", "--json").out)
    assert facts["version"] == __version__
    assert facts["objectives"] == list(OBJECTIVES) and facts["methods"] == list(METHODS)
    assert facts["presets"] == list(PRESETS)
    assert facts["priors"] == [DEFAULT, "brain-kspace-wide"]
    assert facts["writers"] == ["h5", *FORMATS] and facts["readers"] == list(READERS)
    assert facts["device"] == (describe_device(pick_device()) if driver else "CPU")


@pytest.mark.skipif(sys.platform != "linux", reason="drivers are looked for on Linux")
def test_where_torch_finds_a_gpu_there_is_a_driver():
    assert info._has_gpu_driver() or not torch.cuda.is_available()


def test_what_a_file_holds(cli, scan, prior_file):
    facts = json.loads(cli("info", scan, "--json").out)
    assert (facts["kind"], facts["coils"], facts["fully_sampled"]) == ("scan", 3, True)
    facts = json.loads(cli("info", prior_file, "--json").out)
    assert (facts["kind"], facts["objective"]) == ("prior", "kspace")
    assert f"sigma_min: {facts['sigma_min']}" in cli("info", prior_file).out.splitlines()


def test_a_shipped_prior_is_known_by_its_name(cli):
    named = json.loads(cli("info", DEFAULT, "--json").out)
    assert named == json.loads(cli("info", default_prior(), "--json").out)
    assert "brain-kspace-large" in cli("info", "brain-kspace-large", code=3).errors[0]


def test_numbers_of_a_prior_are_printed_with_four_digits_and_exact_as_json(cli):
    rates = json.loads(cli("info", DEFAULT, "--json").out)["card"]["acceleration"]
    found = [line.strip() for line in cli("info", DEFAULT).out.splitlines()]
    (printed,) = (line for line in found if line.startswith("acceleration (least, median"))
    values = [float(value) for value in printed.partition(": ")[2].split(",")]
    assert values == pytest.approx(rates, rel=1e-3) and values != rates


def test_a_folder_with_a_damaged_file_ends_with_1(cli, full, scan, tmp_path):
    """Everything else is listed."""
    shutil.copy(scan, tmp_path / "raw.h5")
    (tmp_path / "empty.h5").write_bytes(b"")
    facts = json.loads(cli("info", tmp_path, "--json", code=1).out)
    found = {entry["file"]: entry["kind"] for entry in facts["files"]}
    assert found == {"raw.h5": "scan", "empty.h5": "unreadable"}
    lines = cli("info", tmp_path, code=1).out.splitlines()
    assert lines[:3] == ["kind: folder", "number: 2", "files:"]
    raw = next(entry for entry in facts["files"] if entry["kind"] == "scan")
    assert f"  raw.h5: {raw['summary']}" in lines[3:] and len(lines) == 5
    assert len(json.loads(cli("info", full, "--json").out)["files"]) == 2


def test_what_an_output_holds(cli, scan, tmp_path):
    cli("reconstruct", scan, "-o", tmp_path, "--method", "zero-filled", "--device", "cpu")
    facts = json.loads(cli("info", tmp_path / scan.name, "--json").out)
    assert (facts["kind"], facts["method"]) == ("output", "zero-filled")
    assert facts["images"]["reconstruction"] == [1, 40, 32]
    assert f"  {scan.name}: output, zero-filled, 1 x 40 x 32" in cli("info", tmp_path).out
    assert facts["settings"]["method"]["name"] == "zero-filled"


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_files_of_every_format_are_told_without_torch(tmp_path):
    """It takes a second or two to import. The facts are those that are told with it."""
    paths = [Path(DEFAULT)]
    for kind in TOLD:
        (tmp_path / kind).mkdir()
        paths.append(KINDS[kind].write(tmp_path / kind))
    paths.append(write_images(tmp_path / "images.h5"))
    repetitions = write_repetitions(tmp_path / "repetitions.npy")
    averaged = [repetitions, "--axes", "rep,slice,coil,y,x", "--average"]
    installed, *found = told_without_torch([[], *([path] for path in paths), averaged])
    assert installed["device"] == "CPU"
    told = [contents(path) for path in paths]
    told.append(contents(repetitions, axes="rep,slice,coil,y,x", average=True))
    assert found == [json.loads(json_text(facts)) for facts in told]
    assert [facts["corrections"] for facts in found[-2:]] == [["transform-yx"], ["average 2"]]
    files = [entry for facts in found for entry in facts.get("files", [facts])]
    assert {facts["kind"] for facts in files} == {"scan", "prior", "output"}
    assert {facts["format"] for facts in files if facts["kind"] == "scan"} == set(READERS)


def write_images(path: Path) -> Path:
    """Coil images in place of k-space."""
    with h5py.File(path, "w") as file:
        file["kspace"] = ifftc(ifftc(phantom_ksp((1, 4, 72, 63)), -1), -2)
    return path


def write_repetitions(path: Path) -> Path:
    """Two, the second of every other line."""
    ksp = phantom_ksp((1, 4, 72, 63))
    np.save(path, np.stack([ksp, ksp * (np.arange(63) % 2)]))
    return path


def told_without_torch(calls: list[list[object]]) -> list[dict[str, object]]:
    """What ``info`` says, called with these arguments."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps(calls, default=str),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(part) for part in done.stdout.replace("\n}\n{", "\n}\0{").split("\0")]
