from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sound_files import KINDS

from mri_ambient.evaluation.info import contents, installed
from mri_ambient.io import READERS
from mri_ambient.priors.weights import DEFAULT, default_prior
from mri_ambient.runtime.files import json_text

WITHOUT_TORCH = """
import sys

sys.modules["torch"] = None  # importing it is an error from now on
from mri_ambient.cli.app import app

for path in sys.argv[1:]:
    app(["info", path, "--json"], standalone_mode=False)
"""

TOLD = (
    "fastmri", "ismrmrd", "twix VB", "twix VD", "bruker", "bart", "matlab 5", "matlab 7",
    "matlab 7.3", "npy", "npz", "hdf5", "calgary", "prepared", "prior", "old prior",
    "reconstruction",
)  # fmt: skip
"""Kinds of files that are told without torch; slices of 3-D scans are computed with it."""


def test_what_is_installed(cli):
    assert json.loads(cli("info", "--json").out) == installed()


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


def test_a_folder_with_a_damaged_file_ends_with_1(cli, full, scan, tmp_path):
    """Everything else is listed."""
    shutil.copy(scan, tmp_path / "raw.h5")
    (tmp_path / "empty.h5").write_bytes(b"")
    facts = json.loads(cli("info", tmp_path, "--json", code=1).out)
    found = {entry["file"]: entry["kind"] for entry in facts["files"]}
    assert found == {"raw.h5": "scan", "empty.h5": "unreadable"}
    assert len(json.loads(cli("info", full, "--json").out)["files"]) == 2


def test_what_an_output_holds(cli, scan, tmp_path):
    cli("reconstruct", scan, "-o", tmp_path, "--method", "zero-filled", "--device", "cpu")
    facts = json.loads(cli("info", tmp_path / scan.name, "--json").out)
    assert (facts["kind"], facts["method"]) == ("output", "zero-filled")
    assert facts["images"]["reconstruction"] == [1, 40, 32]
    assert facts["settings"]["method"]["name"] == "zero-filled"


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_files_of_every_format_are_told_without_torch(tmp_path):
    """It takes a second or two to import. The facts are those that are told with it."""
    paths = [Path(DEFAULT)]
    for kind in TOLD:
        (tmp_path / kind).mkdir()
        paths.append(KINDS[kind].write(tmp_path / kind))
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *paths], capture_output=True, text=True, check=True
    )
    found = [json.loads(part) for part in told.stdout.replace("\n}\n{", "\n}\0{").split("\0")]
    assert found == [json.loads(json_text(contents(path))) for path in paths]
    files = [entry for facts in found for entry in facts.get("files", [facts])]
    assert {facts["kind"] for facts in files} == {"scan", "prior", "output"}
    assert {facts["format"] for facts in files if facts["kind"] == "scan"} == set(READERS)
