from __future__ import annotations

import time
from dataclasses import replace

import pytest
from training_runs import QUICK

from mri_ambient.methods.baselines import ZeroFilled
from mri_ambient.objectives import Supervised
from mri_ambient.training.config import TrainJob
from mri_ambient.training.dry_run import ImageCost, dry_run, measure_image
from mri_ambient.training.preflight import plan

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


def test_a_dry_run_shows_options_plan_and_cost(scans, tmp_path):
    text = dry_run(plan(TrainJob(scans, tmp_path / "run", QUICK, images=100)))
    for fact in (
        "batch_size = 2", "[objective]", 'wrapper = "conditioned"', 'precision = "fp32"',
        "M parameters", "one image of 32x32", "100 images",
    ):  # fmt: skip
        assert fact in text
    assert not (tmp_path / "run").exists()


def test_figures_are_those_of_the_job(tmp_path):
    """Half a second for one image: thirty for sixty that are left, 1200 in ten minutes."""
    found = ImageCost((320, 256), 0.5, 3 * 2**29, n_targets=8, target_seconds=60.0)
    text = found.describe(TrainJob(tmp_path, tmp_path, images=100), 40)
    for fact in ("320x256", "0.50 s", "1.50 GiB", "8 targets", "8 min", "40 images", "30 s"):
        assert fact in text
    limited = replace(found, n_targets=0)
    text = limited.describe(TrainJob(tmp_path, tmp_path, time_limit_s=600), 0)
    assert "1200 images in 10 min" in text and "targets" not in text


def test_targets_are_timed_and_those_that_are_there_not_counted(scans, tmp_path, monkeypatch):
    class Slow(ZeroFilled):
        def __call__(self, *args):
            time.sleep(0.3)
            return super().__call__(*args)

    monkeypatch.setattr("mri_ambient.training.targets.BASELINES", {"l1-wavelet": Slow})
    config = replace(QUICK, objective=Supervised(images="l1-wavelet"))
    made = plan(TrainJob(scans, tmp_path / "run", config, images=2))
    found = measure_image(made)
    assert found.n_targets == len(made.dataset.train) == 10
    assert found.target_seconds >= 0.3
    made.target_folder.make(made.dataset.train[:3])
    assert measure_image(made).n_targets == 7
    assert measure_image(plan(TrainJob(scans, tmp_path / "run", QUICK, images=2))).n_targets == 0
