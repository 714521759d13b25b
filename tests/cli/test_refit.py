from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.training.run import RunFolder

SHORT = ("--rounds", 1, "--images", 4, "--steps", 3, "--device", "cpu")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the run, to write into."""
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


def made_by(folder: Path) -> dict:
    return json.loads((folder / "round-1/targets/made-by.json").read_text())


def test_a_run_is_refitted_in_parts_and_its_prior_reconstructs(cli, tmp_path, trained, run):
    """The run's scans are found; what was drawn is not drawn again, nor with other options."""
    words = ("refit", run, *SHORT)
    for part in ("1/2", "2/2"):
        cli(*words, "--shard", part)
    assert not (run / "refit/prior.safetensors").exists()
    drawn = {p: p.stat().st_mtime_ns for p in (run / "refit/round-1/targets").glob("*.safetensors")}
    printed = cli(*words)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in drawn.items())
    prior = load_prior(run / "refit")
    assert (prior.facts.objective, prior.facts.kind) == ("supervised", "plain")
    assert prior.card["images_seen"] == 4
    assert printed.err.rstrip().splitlines()[-1].startswith("4 images: ")
    made = made_by(run / "refit")
    assert (made["method"], made["options"]["final_dc"]) == ("dds", False)
    options = [RunFolder(at).identity.config for at in (run, run / "refit/round-1")]
    for key in ("batch_size", "learning_rate", "precision", "preset", "seed"):
        assert options[0][key] == options[1][key]
    for other in (("--method", "msm"), ("-O", "final_dc=true")):
        cli(*words, *other, code=2)
    cli("reconstruct", trained.prepared, "-o", tmp_path / "out", "-m", run / "refit", "--method",
        "dds", "--steps", 3, "--samples", 2, "--device", "cpu")  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.h5"))) == 6


def test_another_sampler_draws_without_its_last_solve_too(cli, run, tmp_path):
    cli("refit", run, *SHORT, "--method", "msm", "-O", "n_masks=2", "-o", tmp_path / "msm")
    made = made_by(tmp_path / "msm")
    assert made["method"] == "msm"
    assert (made["options"]["n_masks"], made["options"]["final_dc"]) == (2, False)


def test_a_folder_without_a_run_or_its_scans_is_refused(cli, run, tmp_path):
    cli("refit", tmp_path / "nowhere", code=3)
    identity = json.loads((run / "run.json").read_text())
    del identity["folder"], identity["sha256"]  # as in runs of older versions
    (run / "run.json").write_text(json.dumps(identity))
    assert "--data" in cli("refit", run, code=2).errors[0]
    assert "cg-sense" in cli("refit", run, "--data", run, "--method", "cg-sense", code=2).errors[0]
