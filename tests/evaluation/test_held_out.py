"""A method predicts measured lines that it was not given, over a whole volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from helpers import small_prior

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import ConfigError, NumericalWarning, ScanFormatError
from mri_ambient.evaluation.held_out import evaluate_held_out, held_out_report
from mri_ambient.io import open_scan
from mri_ambient.methods import CgSense, Dds
from mri_ambient.priors.prior import scan_digest
from mri_ambient.recon.held_out import held_out_means
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import Checks, ResolvedRecipe
from mri_ambient.recon.volume import Volume
from mri_ambient.runtime.device import Runtime


@pytest.fixture
def path(tmp_path: Path) -> Path:
    config = SimulateConfig(size=(32, 32), coils=3, acceleration=2, calib=8, slices=3, noise=0.01)
    return simulate("phantom", tmp_path, config, count=1)[0]


def volume(path: Path, recipe: ResolvedRecipe, batch_size: int | None = None) -> Volume:
    return open_volume(path, recipe, Runtime("cpu", batch_size=batch_size))


def test_every_slice_has_its_figures_however_many_are_computed_at_once(path):
    recipe = ResolvedRecipe(CgSense(), checks=Checks(2))
    done: list[tuple[int, int]] = []
    rows = evaluate_held_out(volume(path, recipe, 2), on_slice=lambda *a: done.append(a))
    assert done == [(2, 3), (3, 3)]
    assert len(rows) == 3
    assert rows == [pytest.approx(row, rel=1e-5) for row in evaluate_held_out(volume(path, recipe))]
    for row in rows:
        assert 0 < row["noise"] < row["error"] < 1
        assert row["error"] == pytest.approx(row["cg_sense"])
    assert held_out_means(rows)["error"] == pytest.approx(sum(row["error"] for row in rows) / 3)
    assert held_out_report(recipe, {"head": rows}) == {
        "method": "cg-sense", "method_options": {"lam": CgSense().lam, "n_iter": CgSense().n_iter},
        "scans": {"head": rows},
    }  # fmt: skip


def test_samples_are_described_and_training_scans_warned_about(path):
    prior = small_prior("conditioned")
    card = {**prior.facts.card, "trained_on": [scan_digest(open_scan(path).source_sha256)]}
    prior = replace(prior, facts=replace(prior.facts, card=card))
    recipe = ResolvedRecipe(Dds(n_steps=2), prior, n_samples=2, checks=Checks(1))
    steps = []
    with pytest.warns(NumericalWarning) as caught:
        rows = evaluate_held_out(volume(path, recipe), on_step=steps.append)
    assert [w.message.code for w in caught] == ["W-TRAINED-ON-SCAN", "W-UNCALIBRATED"]
    assert sum(info.n_images for info in steps) == 2 * 3 * 2  # steps, slices, samples
    assert all({"coverage_50", "coverage_90", "chi_square"} <= set(row) for row in rows)
    report = held_out_report(recipe, {"head": rows})
    assert (report["n_samples"], report["std_factor"]) == (2, 1.0)
    assert report["samples_are"] == recipe.samples_are


def test_slices_without_signal_have_no_figures(path):
    """They do not count in the mean."""
    recipe = ResolvedRecipe(CgSense(), checks=Checks(1))
    with h5py.File(path, "r+") as file:
        file["kspace"][1] = 0
    with pytest.warns(NumericalWarning):
        rows = evaluate_held_out(volume(path, recipe))
    assert [bool(row) for row in rows] == [True, False, True]
    assert held_out_means(rows)["error"] == pytest.approx((rows[0]["error"] + rows[2]["error"]) / 2)


def test_a_scan_without_signal_on_the_held_out_lines_is_refused(path, monkeypatch):
    monkeypatch.setattr(
        "mri_ambient.evaluation.held_out.predict_held_out", lambda engine, scan, n: [{}]
    )
    with pytest.raises(ScanFormatError, match=path.name):
        evaluate_held_out(volume(path, ResolvedRecipe(CgSense(), checks=Checks(1)), 1))


def test_too_many_lines_are_refused(path):
    with pytest.raises(ConfigError, match="500"):
        evaluate_held_out(volume(path, ResolvedRecipe(CgSense(), checks=Checks(500))))
