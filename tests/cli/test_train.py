from __future__ import annotations

import json
import shutil
import sys
import time
from pkgutil import resolve_name

import pytest
from helpers import small_prior

from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import NETWORKS
from mri_ambient.training.run import RunFolder

SHORT = ("--batch-size", 2, "--device", "cpu")


def test_a_dry_run_prints_and_writes_nothing(cli, trained, tmp_path):
    printed = cli("train", trained.prepared, "-o", tmp_path / "run", "--images", 4, "--dry-run",
                  *SHORT)  # fmt: skip
    assert printed.out
    assert not (tmp_path / "run").exists()


def test_the_network_is_that_of_the_initial_prior_and_another_is_refused(
    cli, trained, tmp_path, monkeypatch
):
    own = UNetSpec(channels=(8, 16), blocks=1, embedding=16)
    monkeypatch.setitem(NETWORKS, "small", own)
    save_prior(small_prior("conditioned", network=own), tmp_path / "own.safetensors")
    words = ("train", trained.prepared, "-o", tmp_path / "run", "--images", 2, "--dry-run",
             "--init", tmp_path / "own.safetensors", *SHORT)  # fmt: skip
    assert 'preset = "small"' in cli(*words).out
    (line,) = cli(*words, "--preset", "base", code=2).errors
    assert "--preset small" in line


def test_usage_errors_come_before_the_scans_are_loaded(cli, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mri_ambient.training.preflight", None)
    words = ("train", trained.prepared, "-o", tmp_path / "run")
    (line,) = cli(*words, code=2).errors
    assert all(flag in line for flag in ("--images", "--time-limit", "--patience"))
    scan = min(trained.prepared.glob("*.h5"))
    (line,) = cli("train", scan, "-o", tmp_path / "run", "--images", 2, code=2).errors
    assert str(scan) in line and "folder" in line


def test_a_run_resumes(cli, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    words = ("train", trained.prepared, "-o", run, "--learning-rate", 2e-3, "--precision", "fp32")
    printed = cli(*words, "--images", 6, *SHORT)
    assert str(run) in printed.err
    assert RunFolder(run).images_seen == 6
    log = (run / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in log] == [2, 4, 6]


def test_verbose_says_where_it_is_at_every_checkpoint(cli, trained, tmp_path):
    words = ("train", trained.prepared, "--images", 16, "--batch-size", 8, "--save-every", 8,
             "--device", "cpu")  # fmt: skip
    for more, n_lines in (((), 0), (("-v",), 1)):
        printed = cli(*words, "-o", tmp_path / f"run{n_lines}", *more)
        lines = [line for line in printed.err.splitlines() if line.startswith("8 images in ")]
        assert len(lines) == n_lines


def test_damaged_scans_are_named_and_the_rest_is_trained_on(cli, tmp_path, trained):
    folder = tmp_path / "damaged"
    shutil.copytree(trained.prepared, folder)
    path = min(folder.glob("*.h5"))
    path.write_bytes(path.read_bytes()[:5000])
    (line,) = cli("train", folder, "-o", tmp_path / "run", "--images", 4, *SHORT, code=1).errors
    assert path.name in line
    assert RunFolder(tmp_path / "run").images_seen == 4
    assert (tmp_path / "run/prior.safetensors").exists()


def test_a_run_that_goes_back_says_so(cli, tmp_path, trained, monkeypatch):
    """Errors at 2, 4 and 6 images, where patience ends, and once more at the end."""
    errors = iter([0.3, 0.4, 0.5, 0.5])
    monkeypatch.setattr(
        "mri_ambient.training.validation.fit_tau", lambda *_: (0.1, next(errors), 0.6)
    )
    printed = cli("train", trained.prepared, "-o", tmp_path / "patient", "--patience", 2,
                  "--check-every", 2, *SHORT)  # fmt: skip
    *_, first, second, last = printed.err.rstrip().splitlines()
    assert "prior.safetensors: 2 images seen" in first
    assert second.startswith("6 images ")
    assert last.startswith("2 images: ")
    assert "0.3" in last


def test_refused_it_leaves_no_folder(cli, full, tmp_path):
    cli("prep", full, "-o", tmp_path / "prepared", "--device", "cpu", "--no-pictures")
    words = ("train", tmp_path / "prepared", "-o", tmp_path / "run", "--tensorboard", "--device",
             "cpu", "--patience", 1)  # fmt: skip
    cli(*words, code=2)  # two scans leave none to validate on
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_what_the_log_says(cli, tmp_path, trained):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    run = tmp_path / "watched"
    cli("train", trained.prepared, "-o", run, "--images", 6, "--check-every", 4, *SHORT,
        "--tensorboard")  # fmt: skip
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for name in ("loss", "held_out"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        logged = [(row["images"], row[name]) for row in log if name in row]
        for (images, value), row in zip(shown, logged, strict=False):
            assert (images, value) == (row[0], pytest.approx(row[1], rel=1e-6))
        assert len(logged) == (3 if name == "loss" else 1)
        assert shown[-1][0] == 6, "the error of the finished prior is shown too"


@pytest.mark.parametrize(
    "early",
    ["mri_ambient.objectives.make_objective", "mri_ambient.training.preflight.TrainPlan.describe"],
)
def test_the_time_limit_counts_from_the_start_of_the_call(
    early, cli, trained, tmp_path, monkeypatch
):
    """Where one thing before the first step takes an hour, there is one step."""
    clock, later, slow = time.monotonic, [0.0], resolve_name(early)

    def takes_an_hour(*given, **more):
        later[0] = 3600.0
        return slow(*given, **more)

    monkeypatch.setattr(time, "monotonic", lambda: clock() + later[0])
    monkeypatch.setattr(early, takes_an_hour)
    cli("train", trained.prepared, "-o", tmp_path, "--images", 6, "--time-limit", "30m",
        "--batch-size", 2, "--device", "cpu")  # fmt: skip
    assert RunFolder(tmp_path).images_seen == 2
