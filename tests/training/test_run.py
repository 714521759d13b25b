from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import QUICK

from mri_ambient.errors import CheckpointError, ConfigError, MriAmbientError
from mri_ambient.objectives import Kspace
from mri_ambient.priors.checkpoint import save_tensors
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.run import Identity, Log, RunFolder

IDENTITY = Identity(
    config=TrainJob(Path(), Path(), QUICK, images=1).settings()["config"],
    init=None,
    data={
        "train": {"a": "1", "b": "2"},
        "validation": {"c": "3"},
        "files": {"a": "a.h5", "b": "patient-7.h5", "c": "c.h5"},
    },
    measured={"sigma_data": 0.3},
    folder="/scans",
)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin(IDENTITY)
    return folder


def save(run: RunFolder, images: int) -> None:
    run.save_checkpoint(images, {"x": torch.full((), float(images))}, {"step": images})


# Identity


def test_a_run_knows_what_it_is(run):
    assert run.has_begun
    assert run.identity == IDENTITY
    assert run.identity.validation_scans(run.path) == ["c"]
    assert "batch_size = 2" in (run.path / "config.toml").read_text()


def test_beginning_again_changes_nothing(run):
    before = (run.path / "run.json").read_bytes()
    run.begin(replace(IDENTITY, init="another"))
    assert (run.path / "run.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{}", '{"config": {"a"', "[1, 2]"])
def test_a_damaged_identity_is_one_error(content, run):
    (run.path / "run.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        _ = run.identity
    assert "run.json" in str(error.value)


def test_a_folder_without_a_run_has_no_identity(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.has_begun
    with pytest.raises(CheckpointError):
        _ = folder.identity


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        RunFolder(tmp_path / "file" / "run").begin(IDENTITY)


def test_a_run_of_an_earlier_version_is_not_called_damaged(run):
    stored = json.loads((run.path / "run.json").read_text())
    del stored["sha256"]
    (run.path / "run.json").write_text(json.dumps(stored | {"data": "0123456789abcdef"}))
    assert run.identity.config == IDENTITY.config
    assert run.identity.option("batch_size") == 2
    with pytest.raises(ConfigError) as error:
        run.identity.validation_scans(run.path)
    assert "--init" in str(error.value)


# Settings and scans of a run that is resumed


def test_other_settings_are_refused(run):
    job = TrainJob(Path(), run.path, QUICK, images=4)
    run.check_settings(run.identity, job)
    with pytest.raises(ConfigError) as error:
        run.check_settings(run.identity, replace(job, config=replace(QUICK, learning_rate=1e-4)))
    assert "learning_rate" in str(error.value)
    with pytest.raises(ConfigError) as error:
        run.check_settings(replace(run.identity, init="another"), job)
    assert "init" in str(error.value)


def test_a_run_from_before_an_option_had_its_default(run):
    config = json.loads(json.dumps(IDENTITY.config))
    del config["objective"]["fresh_masks"], config["clip"]
    older = replace(IDENTITY, config=config)
    assert older.option("clip") == TrainConfig.clip
    job = TrainJob(Path(), run.path, QUICK, images=4)
    run.check_settings(older, job)
    other = replace(QUICK, objective=Kspace(fresh_masks=False))
    with pytest.raises(ConfigError) as error:
        run.check_settings(older, replace(job, config=other))
    assert "objective" in str(error.value)


@pytest.mark.parametrize(
    ("train", "damaged", "reported"),
    [
        ({"a": "1", "b": "2"}, set(), None),
        ({"b": "2"}, {"a.h5"}, None),
        ({"a": "1"}, {"patient-7.h5"}, None),
        ({"a": "1"}, {"b.h5"}, "1 missing (b)"),
        ({"a": "1", "b": "9"}, set(), "1 new or changed (b)"),
        ({"a": "1", "b": "2", "d": "4"}, set(), "1 new or changed (d)"),
    ],
)
def test_other_scans_are_refused_unless_they_broke(train, damaged, reported, run):
    """A broken file is known by its name, which need not be its scan's."""
    found = {"train": train, "validation": {"c": "3"}}
    if reported is None:
        run.check_scans(IDENTITY, found, damaged)
        return
    with pytest.raises(ConfigError) as error:
        run.check_scans(IDENTITY, found, damaged)
    assert reported in str(error.value)


# Checkpoints


def test_the_last_two_checkpoints_are_kept(run):
    assert run.images_seen == 0
    for images in (2, 4, 6):
        save(run, images)
    names = [path.name for path in sorted(run.path.glob("checkpoint-*"))]
    assert names == ["checkpoint-000000004.safetensors", "checkpoint-000000006.safetensors"]
    assert run.images_seen == 6
    tensors, header = run.load_checkpoint()
    assert (float(tensors["x"]), header["format"], header["step"]) == (6.0, "train/1", 6)


def test_torn_and_foreign_checkpoints_are_passed_over(run):
    for images in (2, 4):
        save(run, images)
    newest = run.latest_checkpoint
    newest.write_bytes(newest.read_bytes()[:50])
    assert run.images_seen == 2
    foreign = {"format": "prior/1"}
    save_tensors(run.path / "checkpoint-000000009.safetensors", {"x": torch.ones(1)}, foreign)
    assert run.images_seen == 2
    shutil.copy(newest, run.path / "checkpoint-000000002.safetensors")
    assert run.load_checkpoint() is None


# Log


def test_the_log_is_cut_back_and_torn_lines_are_dropped(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.cut(4)
    assert log.records() == [] and log.values("loss") == []
    for images, loss in ((2, 1.0), (4, float("nan")), (6, 0.5)):
        log.write(images=images, loss=loss)
    with log.path.open("a") as file:
        file.write('garbage\n{"images": 8, "lo')
    assert [record["images"] for record in log.records()] == [2, 4, 6]
    assert log.values("loss") == [1.0, 0.5]
    log.cut(4)
    assert log.path.read_text() == '{"images": 2, "loss": 1.0}\n{"images": 4, "loss": null}\n'


def test_a_log_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(MriAmbientError) as error:
        Log(tmp_path / "log.jsonl").write(images=2, loss=1.0)
    assert "log.jsonl" in str(error.value)
