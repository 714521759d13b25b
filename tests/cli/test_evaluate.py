"""Scores against targets, and by held-out lines without any."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from mri_ambient.runtime.device import Runtime


@pytest.fixture
def scored(cli, full, tmp_path) -> Path:
    """Reconstructions of the full scans."""
    out = tmp_path / "out"
    cli("reconstruct", full, "-o", out, "--method", "zero-filled", "--device", "cpu")
    return out


def test_csv_holds_every_volume(cli, full_copy, scored):
    rows = list(
        csv.DictReader(io.StringIO(cli("evaluate", scored, "--target", full_copy, "--csv").out))
    )
    assert len(rows) == 2
    assert float(rows[0]["psnr"]) > 10
    min(full_copy.glob("*.h5")).unlink()
    printed = cli("evaluate", scored, "--target", full_copy, "--csv", code=1)
    assert len(printed.errors) == 1
    assert len(list(csv.DictReader(io.StringIO(printed.out)))) == 1


def test_a_table_ends_with_the_mean(cli, full, scored):
    scores = json.loads(cli("evaluate", scored, "--target", full, "--json").out)
    table = cli("evaluate", scored, "--target", full).out
    assert f"{scores['mean']['psnr']:.2f}" in table
    for name, row in scores["volumes"].items():
        assert name in table
        assert f"{row['ssim']:.4f}" in table


def test_with_a_target_images_are_scored_as_they_are(cli, full, scored):
    assert "(--target)" in cli("evaluate", scored, full, code=2).errors[0]
    printed = cli("evaluate", scored, "--target", full, "--method", "dds", code=2)
    assert "--method" in printed.errors[0]


def test_targets_need_no_k_space_and_say_what_they_are(cli, full, scored, tmp_path):
    whole = json.loads(cli("evaluate", scored, "--target", full, "--json").out)["volumes"]
    bare = tmp_path / "bare"
    bare.mkdir()
    first, second = sorted(path.name for path in full.glob("*.h5"))
    for name, dataset in ((first, "reconstruction_rss"), (second, "reconstruction_esc")):
        with h5py.File(full / name) as source, h5py.File(bare / name, "w") as target:
            target[dataset] = source["reconstruction_rss"][()]
    volumes = json.loads(cli("evaluate", scored, "--target", bare, "--json").out)["volumes"]
    rows = [volumes[Path(name).stem] for name in (first, second)]
    assert [row.pop("reference") for row in rows] == ["rss", "esc"]
    assert all(whole[Path(name).stem].pop("reference") == "rss" for name in (first, second))
    assert rows == [whole[Path(name).stem] for name in (first, second)]


def test_targets_that_cannot_be_used_cost_a_line_each(cli, full, scored, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    first, second = sorted(path.name for path in full.glob("*.h5"))
    with h5py.File(bare / first, "w") as target:
        target["reconstruction_rss"] = np.ones((1, 40, 32), complex)
    (bare / second).write_bytes(b"no HDF5")
    lines = cli("evaluate", scored, "--target", bare, code=3).errors
    assert [line.startswith(f"error: {bare / name}: ") for line, name in
            zip(lines, (first, second), strict=True)] == [True, True]  # fmt: skip
    with h5py.File(bare / first, "w") as target:
        target["reconstruction_rss"] = np.ones((2, 40, 32))
    (line,) = cli("evaluate", scored / first, "--target", bare / first, code=3).errors
    assert line.startswith(f"error: {scored / first}: ")


@pytest.mark.usefixtures("short_wavelets")
def test_without_a_target_lines_are_held_out(cli, full, prior_file, monkeypatch):
    """Samples have a coverage; slices give the same figures one by one."""
    words = ("evaluate", full, "--device", "cpu", "--holdout", 1, "-m", prior_file, "--method",
             "dds", "--steps", 2, "--samples", 3, "--json")  # fmt: skip
    printed = cli(*words)
    report = json.loads(printed.out)
    assert (report["method"], report["n_samples"], report["std_factor"]) == ("dds", 3, 1.0)
    assert report["samples_are"] == "estimates with a spread"
    assert printed.codes == 2 * ["W-UNCALIBRATED"]
    slices = [row for rows in report["scans"].values() for row in rows]
    assert len(slices) == 2
    assert all(0 <= row["coverage_50"] <= row["coverage_90"] <= 1 for row in slices)
    monkeypatch.setattr(Runtime, "images_at_once", lambda *_: 1)
    alone = [row for rows in json.loads(cli(*words).out)["scans"].values() for row in rows]
    for row, other in zip(slices, alone, strict=True):
        assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.usefixtures("short_wavelets")
def test_a_classical_method_is_evaluated_without_samples(cli, full):
    words = ("evaluate", full, "--device", "cpu", "--holdout", 1, "--method", "cg-sense")
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--csv").out)))
    report = json.loads(cli(*words, "--json").out)
    assert len(rows) == len(report["scans"]) == 2
    assert "samples_are" not in report
    assert all(float(row["error"]) == pytest.approx(float(row["cg_sense"])) for row in rows)
    table = cli(*words).out
    assert all(f"{float(row['error']):.3f}" in table for row in rows)


def test_too_many_lines_to_hold_out_are_a_matter_of_usage(cli, full):
    words = ("evaluate", full, "--device", "cpu", "--holdout", 500, "--method", "cg-sense")
    assert len(cli(*words, code=2).errors) == 2
