"""One prior for a folder of reconstructions: it is made once, and read by later calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import small_prior

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import MriAmbientError, OutputExistsError
from mri_ambient.recon.folder import Destination
from mri_ambient.recon.reconstruction import stored_settings
from mri_ambient.training.adapt import AdaptConfig
from mri_ambient.training.adapt_folder import SHARED, adapt_for_folder, with_shared_prior

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

CPU = ma.Runtime("cpu")
SCANS = SimulateConfig(size=(32, 24), coils=3, acceleration=2.0, calib=8, noise=0.01)


@pytest.fixture
def study(tmp_path) -> Path:
    """Two scans, and a file that is none."""
    simulate("phantom", tmp_path / "study", SCANS, count=2)
    (tmp_path / "study/bad.h5").write_bytes(b"no scan")
    return tmp_path / "study"


def test_all_scans_are_reconstructed_with_one_prior(study, tmp_path):
    to = Destination(tmp_path / "out")
    recipe = ma.Recipe("aos", prior=small_prior("conditioned", tau=0.1), adapt=AdaptConfig(1))
    shared = adapt_for_folder(study, to, recipe, CPU)
    assert shared.adapt is None and len(shared.prior.card["adaptation"]["scans"]) == 2
    outcomes = ma.reconstruct_folder(study, to, shared, CPU)
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "done"]
    sha = ma.load_prior(to.folder / SHARED).card["sha256"]
    assert all(
        stored_settings(outcome.path)["prior_sha256"] == sha for outcome in outcomes[1:]
    )  # fmt: skip

    made = (to.folder / SHARED).stat().st_mtime_ns
    (study / "bad.h5").unlink()
    assert adapt_for_folder(study, to, recipe, CPU).prior.card == shared.prior.card
    assert with_shared_prior(recipe.resolve(), to).prior.card == shared.prior.card
    assert (to.folder / SHARED).stat().st_mtime_ns == made
    with pytest.raises(OutputExistsError):
        adapt_for_folder(study, to, replace(recipe, adapt=AdaptConfig(2)), CPU)
    anew = replace(to, overwrite=True)
    assert with_shared_prior(recipe.resolve(), anew).prior is None
    adapt_for_folder(study, anew, replace(recipe, adapt=AdaptConfig(2)), CPU)
    assert (to.folder / SHARED).stat().st_mtime_ns != made


def test_without_an_adaptation_the_recipe_stays(study, tmp_path):
    recipe, to = ma.Recipe("cg-sense", adapt=AdaptConfig(1)).resolve(), Destination(tmp_path)
    assert adapt_for_folder(study, to, recipe, CPU) == recipe == with_shared_prior(recipe, to)
    assert not (tmp_path / SHARED).exists()


def test_nothing_is_written_where_no_scan_can_be_read(study, tmp_path):
    recipe = ma.Recipe("aos", prior=small_prior("conditioned", tau=0.1), adapt=AdaptConfig(1))
    with pytest.raises(MriAmbientError):
        adapt_for_folder(study / "bad.h5", Destination(tmp_path / "out"), recipe, CPU)
    assert not (tmp_path / "out" / SHARED).exists()
