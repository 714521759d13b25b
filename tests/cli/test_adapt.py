"""Adaptation from the command line: what is written, what is refused, and that the prior stays."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from helpers import report_of, small_prior

from mri_ambient.io import open_scan
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.prior import name_digest
from mri_ambient.training import adapter

RECON = ("--retrospective", 2, "--calib-lines", 8, "--device", "cpu")


@pytest.fixture
def own_prior(prior_file, tmp_path) -> Path:
    """A copy of the prior, to see whether it is changed."""
    path = tmp_path / "start.safetensors"
    path.write_bytes(prior_file.read_bytes())
    return path


def test_reconstruct_adapts_to_every_volume(cli, full, own_prior, tmp_path):
    bits, out = own_prior.read_bytes(), tmp_path / "out"
    words = ("reconstruct", full, "-o", out, "-m", own_prior, *RECON, "--adapt", 2)
    cli(*words)
    for scan in full.glob("*.h5"):
        report = report_of(out, scan)
        adaptation = report["adaptation"]
        assert (adaptation["steps"], adaptation["stopped_by"]) == (2, "steps")
        assert [name for name, _ in adaptation["scans"]] == [name_digest(scan.stem)]
        start = load_prior(own_prior).card["sha256"]
        assert report["provenance"]["prior_sha256"] == adaptation["start_sha256"] == start
        assert report["settings"]["adapt"]["per"] == "volume"
    assert own_prior.read_bytes() == bits
    made = {path: path.stat().st_mtime_ns for path in out.glob("phantom*")}
    assert cli(*words).err.count("is finished already") == 2
    assert made == {path: path.stat().st_mtime_ns for path in out.glob("phantom*")} != {}
    others = (*words[:-2], "--adapt", 3), words[:-2]
    assert all("(adapt)" in cli(*other, code=2).err for other in others)


def test_every_slice_may_have_its_own(cli, scan, prior_file, tmp_path):
    words = ("-m", prior_file, *RECON, "--adapt", 1, "--adapt-per", "slice", "-v")
    cli("reconstruct", scan, "-o", tmp_path / "out", *words)
    report = report_of(tmp_path / "out", scan)
    assert "adaptation" not in report
    assert [check["adaptation"]["steps"] for check in report["checks"]] == [1]


def test_one_prior_for_all_scans_is_that_of_the_command(cli, full, prior_file, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "bad.h5"
    bad.write_bytes(b"no scan")
    words = ("-m", prior_file, *RECON)
    cli("reconstruct", full, bad, "-o", out, *words, "--adapt", 2, "--adapt-per", "folder", code=1)
    shared = load_prior(out / "adapted.safetensors")
    assert len(shared.card["adaptation"]["scans"]) == 2
    other = tmp_path / "prior2.safetensors"
    found = json.loads(cli("adapt", full, "-o", other, *words, "--until", 2, "--json").out)
    sha = "adapted_weights_sha256"
    assert found[sha] == shared.card["adaptation"][sha]
    for scan in full.glob("*.h5"):
        report = report_of(out, scan)
        assert report["provenance"]["prior_sha256"] == shared.card["sha256"]
        assert report["adaptation"] == shared.card["adaptation"]
    made = other.stat().st_mtime_ns
    cli("adapt", full, "-o", other, *words, "--until", 2)
    assert other.stat().st_mtime_ns == made
    assert str(other) in cli("adapt", full, "-o", other, *words, "--until", 1, code=2).err


def test_a_shared_prior_serves_what_is_done_later(cli, full, prior_file, tmp_path):
    """A scan that was repaired, and what --retry-failed does again; parts are refused."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    first, second = sorted(full.glob("*.h5"))
    (raw / "a.h5").write_bytes(first.read_bytes())
    words = ("reconstruct", raw, "-o", out, "-m", prior_file, *RECON, "--adapt", 1)
    words = (*words, "--adapt-per", "folder")
    (line,) = cli(*words, "--shard", "1/2", code=2).errors
    assert "mri-ambient adapt" in line and not out.exists()
    (raw / "b.h5").write_bytes(b"no scan")
    cli(*words, code=1)
    made = (out / "adapted.safetensors").stat().st_mtime_ns
    (raw / "b.h5").write_bytes(second.read_bytes())
    for other in (words[:-2], (*words, "--overwrite")):
        cli(*other, "--retry-failed", code=2)
    for more in (("--retry-failed",), ()):
        cli(*words, *more)
        assert (out / "adapted.safetensors").stat().st_mtime_ns == made
    adapted = load_prior(out / "adapted.safetensors").card
    assert report_of(out, raw / "b.h5")["provenance"]["prior_sha256"] == adapted["sha256"]
    cli(*words[:-3], 2, *words[-2:], code=2)


def test_no_file_where_no_scan_can_be_used(cli, prior_file, tmp_path):
    bad, out = tmp_path / "bad.h5", tmp_path / "p.safetensors"
    bad.write_bytes(b"no scan")
    for _ in range(2):
        cli("adapt", bad, "-o", out, "-m", prior_file, "--device", "cpu", code=3)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--adapt", "soon"), "soon"),
        (("--adapt", "0"), "'0'"),
        (("--adapt", "2", "--adapt-per", "coil"), "coil"),
        (("--adapt-per", "slice"), "--adapt"),
    ],
)
def test_options_that_cannot_be_are_usage_errors(words, reason, cli, scan, prior_file, tmp_path):
    (line,) = cli(
        "reconstruct", scan, "-o", tmp_path / "out", "-m", prior_file, *words, code=2
    ).errors
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_a_prior_of_another_objective_is_refused(cli, scan, tmp_path):
    save_prior(small_prior("plain"), tmp_path / "plain.safetensors")
    words = ("-m", tmp_path / "plain.safetensors", "--device", "cpu")
    for command in (("reconstruct", "--adapt", 2), ("adapt", "--until", 2)):
        (line,) = cli(command[0], scan, "-o", tmp_path / "x", *command[1:], *words, code=2).errors
        assert "supervised" in line


def test_a_dry_run_writes_nothing(cli, full, prior_file, tmp_path):
    out = tmp_path / "out"
    words = ("-m", prior_file, *RECON, "--dry-run")
    printed = cli("reconstruct", full, "-o", out, *words, "--adapt", "90s").out
    assert "every volume" in printed and "90s" in printed
    assert "2 scans" in cli("adapt", full, "-o", out / "p.safetensors", *words).out
    assert not out.exists()


def test_calibration_uses_lines_that_were_set_aside_or_refuses(
    cli, prior_file, tmp_path, monkeypatch
):
    """Of an adapted prior; adapted to all lines, its errors on them would be too small."""
    falling = itertools.cycle([torch.full((8,), 3.0), torch.full((8,), 2.0)])
    monkeypatch.setattr(adapter, "held_out_errors", lambda *_: next(falling))
    prepared = tmp_path / "prepared"
    raw = tmp_path / "raw"
    cli("simulate", "phantom", "-o", raw, "--scans", 1, "--size", 32, 32, "--coils", 3,
        "--acceleration", 2, "--calib-lines", 8)  # fmt: skip
    cli("prep", raw, "-o", prepared, "--device", "cpu", "--no-pictures")
    words = ("--method", "dds", "--steps", 2, "--samples", 2, "--device", "cpu", "--overwrite")
    for n_lines, code in ((0, 2), (2, 0)):
        path = tmp_path / f"{n_lines}.safetensors"
        cli("adapt", raw, "-o", path, "-m", prior_file, "--until", 2, "--holdout", n_lines)
        (file,) = prepared.glob("*.h5")
        assert load_prior(path).was_trained_on(open_scan(file).source_sha256)
        cli("audit", "calibration", path, prepared, "-o", tmp_path / "audit", *words, code=code)
