from __future__ import annotations

import json
import shutil

from mri_ambient.evaluation.info import installed
from mri_ambient.priors.weights import DEFAULT, default_prior


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
