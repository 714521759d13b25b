"""Whether a prior is safe to hand on and to use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from mri_ambient.data_prep import Preparation
from mri_ambient.errors import ConfigError, DeviceError, PrepError
from mri_ambient.io import open_scan
from mri_ambient.methods import PRESETS, Dds, Preset
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.prior import scan_digest


@pytest.mark.pictures
def test_drawn_images_are_compared_with_the_training_scans(cli, tmp_path, trained):
    printed = cli("audit", "memorization", trained.run, trained.prepared, "-o", tmp_path / "audit",
                  "--samples", 2, "--steps", 2, "--device", "cpu", "--json")  # fmt: skip
    report = json.loads(printed.out)
    assert report == json.loads((tmp_path / "audit/memorization.json").read_text())
    assert len(report["sample_distances"]) == 2
    assert (tmp_path / "audit/memorization.png").stat().st_size > 5000
    cli("audit", "memorization", trained.run, trained.raw, "-o", tmp_path / "other", "--device",
        "cpu", code=3)  # fmt: skip
    assert not (tmp_path / "other").exists()


def test_damaged_scans_are_named_and_the_rest_is_compared(cli, tmp_path, trained):
    folder = tmp_path / "damaged"
    shutil.copytree(trained.prepared, folder)
    known = load_prior(trained.run).was_trained_on
    path = next(p for p in sorted(folder.glob("*.h5")) if known(open_scan(p).source_sha256))
    path.write_bytes(path.read_bytes()[:5000])
    (line,) = cli("audit", "memorization", trained.run, folder, "-o", tmp_path / "audit",
                  "--samples", 1, "--steps", 2, "--device", "cpu", code=1).errors  # fmt: skip
    assert path.name in line
    assert (tmp_path / "audit/memorization.json").exists()


@pytest.mark.pictures
def test_a_scan_is_attacked(cli, scan, prior_file, tmp_path):
    words = ("audit", "stability", scan, "-m", prior_file, "--iterations", 2, "--device", "cpu")
    printed = cli(*words, "-o", tmp_path / "audit", "--json")
    report = json.loads(printed.out)
    assert report == json.loads((tmp_path / "audit/stability.json").read_text())
    assert list(report["attacks"]) == ["aos", "cg-sense", "l1-wavelet"]
    assert (tmp_path / "audit/stability.png").stat().st_size > 5000
    cli(*words, "-o", tmp_path / "audit", code=2)  # without --overwrite
    assert "not 7" in cli(*words, "-o", tmp_path / "other", "--slice", 7, code=2).errors[0]
    assert not (tmp_path / "other").exists()


STEPS = ("--steps", 2, "--device", "cpu")


@pytest.mark.pictures
def test_a_factor_is_found_and_used(cli, full, prior_file, tmp_path, monkeypatch):
    """By reconstruct and evaluate, for the method, options and samples it was found for."""
    printed = cli("audit", "calibration", prior_file, full, "-o", tmp_path / "audit",
                  "--holdout", 1, "--samples", 3, "--json", *STEPS)  # fmt: skip
    factor = json.loads(printed.out)["factor"]
    assert f"{factor:.2f}" in printed.err
    assert (tmp_path / "audit/calibration.png").stat().st_size > 5000
    out = tmp_path / "out"
    cli("reconstruct", full, "-o", out, "-m", tmp_path / "audit", "--method", "dds", "--samples", 3,
        *STEPS)  # fmt: skip
    made = [json.loads(path.read_text())["provenance"] for path in out.glob("*.json")]
    assert [provenance["std_factor"] for provenance in made] == [factor, factor]
    cli("audit", "calibration", tmp_path / "audit", full, "-o", tmp_path / "second", "--holdout", 1,
        "--samples", 2, *STEPS)  # fmt: skip
    known = load_prior(tmp_path / "second").card["calibration"]
    assert [entry["n_samples"] for entry in known] == [3, 2]
    assert known[0]["factor"] == factor
    monkeypatch.setitem(PRESETS, "balanced", Preset(Dds(n_steps=3), 2))
    words = ("--preset", "balanced", "--holdout", 1, "--json", "--device", "cpu")
    report = json.loads(
        cli("audit", "calibration", tmp_path / "second", full, "-o", tmp_path / "third", *words).out
    )
    assert (report["method_options"]["n_steps"], report["n_samples"]) == (3, 2)
    scores = json.loads(cli("evaluate", full, "-m", tmp_path / "third", *words).out)
    assert scores["std_factor"] == report["factor"]


def test_training_scans_are_warned_about(cli, full, scan, prior_file, tmp_path):
    prior = load_prior(prior_file)
    card = {**prior.facts.card, "trained_on": [scan_digest(open_scan(scan).source_sha256)]}
    save_prior(replace(prior, facts=replace(prior.facts, card=card)), tmp_path / "p.safetensors")
    printed = cli("audit", "calibration", tmp_path / "p.safetensors", full, "-o", tmp_path / "out",
                  "--samples", 2, *STEPS)  # fmt: skip
    assert printed.codes == ["W-TRAINED-ON-SCAN"]
    assert scan.name in printed.err


def test_a_calibration_is_not_overwritten_and_a_run_never(cli, full, prior_file, tmp_path):
    words = ("audit", "calibration", prior_file, full, "-o", tmp_path, "--device", "cpu")
    for name in ("calibration.json", "prior.safetensors"):
        (tmp_path / name).write_text("mine")
        assert name in cli(*words, code=2).errors[0]
        (tmp_path / name).unlink()
    (tmp_path / "run.json").write_text("{}")
    cli(*words, "--overwrite", code=2)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DeviceError("device 'cuda' was lost; run the same command again"), 4),
        (PrepError("every sample is zero"), 3),
        (ConfigError("cannot hold out 2 lines"), 2),
    ],
)
def test_a_calibration_ends_where_no_scan_can_be_used(
    error, code, cli, full, prior_file, tmp_path, monkeypatch
):
    """A lost device costs a line; scans of which none can be used, each, and no more."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Preparation, "apply", fail)
    printed = cli("audit", "calibration", prior_file, full, "-o", tmp_path / "audit", "--device",
                  "cpu", code=code)  # fmt: skip
    n_scans = len(list(full.glob("*.h5")))
    assert printed.err.count(str(error)) == len(printed.errors) == (1 if code == 4 else n_scans)
    assert not (tmp_path / "audit/calibration.json").exists()
