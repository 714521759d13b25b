"""A run that was stopped, killed or damaged ends as if it had been left alone."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from helpers import PROCESSES, damage_samples
from training_runs import EVERY, QUICK, VALIDATED, assert_same_run, trained

from mri_ambient.errors import CheckpointError, ConfigError, MriAmbientError, StoppedError
from mri_ambient.objectives import Ambient, Kspace, Supervised
from mri_ambient.priors.checkpoint import load_prior, load_tensors, save_tensors
from mri_ambient.training.run import RunFolder
from mri_ambient.training.validation import Validator

pytestmark = [
    pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning"),
    pytest.mark.usefixtures("short_classical"),
]

CONFIGS = [replace(QUICK, objective=objective) for objective in EVERY]
CONFIGS += [
    replace(QUICK, wrapper="patched"),
    replace(QUICK, wrapper="patched", objective=Supervised(images="l1-wavelet")),
    replace(QUICK, precision="bf16"),
]


def name_of(config: object) -> str:
    parts = (config.objective.name, config.wrapper, config.precision.replace("auto", ""))
    return "-".join(filter(None, parts))


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_eight_images_are_four_and_four(config, finished, scans, other_scans, tmp_path):
    """To the bit; and the prior starts another run, on other scans."""
    for images in (4, 8):
        trained(scans, tmp_path / "parts", config, images=images)
    whole = finished(config)
    assert_same_run(whole, tmp_path / "parts")
    prior = load_prior(whole)
    assert prior.facts.kind == config.kind
    tuned = trained(other_scans, tmp_path / "tuned", config, images=2, init=prior)
    assert tuned.facts.card["init"] == prior.facts.card["sha256"]


def test_validation_and_its_errors_are_those_of_an_undisturbed_run(finished, scans, tmp_path):
    """Without time, the last validation ends after a slice, undrawn; one that is due does not."""
    limits = [{"time_limit_s": 1e-9}, {"time_limit_s": 1e-9}, {"images": 8}]
    made = [trained(scans, tmp_path / "parts", VALIDATED, **limits[0])]
    assert not list((tmp_path / "parts").glob("*.png"))
    made += [trained(scans, tmp_path / "parts", VALIDATED, **limit) for limit in limits[1:]]
    n_slices = [prior.facts.card["held_out"].get("n_slices") for prior in made]
    assert n_slices == [1, None, None]
    ends = RunFolder(tmp_path / "parts").ends
    assert [record["images"] for record in ends.records()] == [4, 8]
    assert ends.values("held_out")[1] == made[2].facts.card["held_out"]["held_out"]
    assert_same_run(finished(VALIDATED), tmp_path / "parts")
    cards = [load_prior(run).facts.card for run in (finished(VALIDATED), tmp_path / "parts")]
    assert cards[0]["held_out"] == cards[1]["held_out"]


def test_a_time_limit_only_stops(finished, scans, tmp_path):
    made = trained(scans, tmp_path / "parts", time_limit_s=1e-9)
    assert made.facts.card["images_seen"] == 2  # it always takes a step
    trained(scans, tmp_path / "parts", images=8)
    assert_same_run(finished(QUICK), tmp_path / "parts")


def test_a_stopped_run_writes_a_checkpoint_and_resumes(finished, scans, tmp_path):
    answers = iter([False, True])
    trained(scans, tmp_path / "parts", images=8, should_stop=lambda: next(answers))
    assert RunFolder(tmp_path / "parts").images_seen == 2
    trained(scans, tmp_path / "parts", images=8)
    assert_same_run(finished(QUICK), tmp_path / "parts")


def test_who_stops_a_run_need_not_wait_for_its_last_validation(scans, tmp_path, monkeypatch):
    """Killed while it validates, it has its checkpoint; one that was not stopped has none."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Validator, "__call__", killed)
    answers = iter([False, True])
    for name, given in (("stopped", {"should_stop": lambda: next(answers)}), ("ended", {})):
        with pytest.raises(KeyboardInterrupt):
            trained(scans, tmp_path / name, images=2 if name == "ended" else 8, **given)
    assert RunFolder(tmp_path / "stopped").images_seen == 2
    assert RunFolder(tmp_path / "ended").images_seen == 0


IMAGES = 72


def test_killed_at_random_moments_it_still_ends_the_same(scans, server, tmp_path, rng):
    """kill -9 five times while it trains, then left alone: equal to a run that was not."""
    config = replace(QUICK, objective=Ambient())

    def start(path: Path) -> BaseProcess:
        child = PROCESSES.Process(
            target=trained, args=(scans, path, config), kwargs={"images": IMAGES}
        )
        child.start()
        return child

    run = RunFolder(tmp_path / "killed")
    n_hits = 0
    for _ in range(5):
        # It trains some images beyond its newest checkpoint, which a kill takes away.
        wanted = run.images_seen + 2 + 2 * int(torch.randint(7, (), generator=rng))
        line = f'{{"images": {wanted},'
        child, deadline = start(run.path), time.monotonic() + 100
        while not (run.log.path.exists() and line in run.log.path.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.02 * float(torch.rand((), generator=rng)))  # anywhere within a step
        child.kill()
        child.join()
        # A kill after the last checkpoint hits nothing.
        n_hits += child.exitcode == -signal.SIGKILL and run.images_seen < IMAGES
    assert n_hits == 5
    for path in (run.path, tmp_path / "whole"):
        child = start(path)
        child.join()
        assert child.exitcode == 0
    assert_same_run(tmp_path / "whole", run.path)


def test_workers_read_what_the_thread_reads(finished, scans, server, tmp_path):
    """And a run is resumed with another number of them, to the bit."""
    trained(scans, tmp_path / "helped", images=6, workers=2)
    trained(scans, tmp_path / "helped", images=8, workers=1)
    assert_same_run(finished(QUICK), tmp_path / "helped")


def test_fine_tuning_resumes_with_the_same_prior_only(finished, scans, tmp_path):
    first = load_prior(finished(QUICK))
    trained(scans, tmp_path / "whole", images=8, init=first)
    trained(scans, tmp_path / "parts", images=4, init=first)
    with pytest.raises(ConfigError) as error:
        trained(scans, tmp_path / "parts", images=8)
    assert "init" in str(error.value)
    trained(scans, tmp_path / "parts", images=8, init=first)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_can_be_stopped_while_its_targets_are_made(scans, tmp_path, monkeypatch):
    """By a signal or by the time limit; a prior that saw nothing is not written."""
    config, run = replace(QUICK, objective=Supervised(images="l1-wavelet")), tmp_path / "run"
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 1)
    answers = iter([False, False, False, True])
    with pytest.raises(StoppedError):
        trained(scans, run, config, images=2, should_stop=lambda: next(answers))
    assert len(list((run / "targets").glob("*.h5"))) == 3
    with pytest.raises(StoppedError):
        trained(scans, run, config, time_limit_s=1e-9)
    assert len(list((run / "targets").glob("*.h5"))) == 4  # it always makes one
    assert not (run / "prior.safetensors").exists()
    assert trained(scans, run, config, images=2).facts.card["images_seen"] == 2
    with pytest.raises(StoppedError):
        trained(scans, tmp_path / "other", images=2, should_stop=lambda: True)
    assert not (tmp_path / "other/prior.safetensors").exists()


# Damage


def test_a_torn_checkpoint_is_passed_over(finished, scans, tmp_path):
    run = Path(shutil.copytree(finished(QUICK), tmp_path / "torn"))
    newest = RunFolder(run).latest_checkpoint
    newest.write_bytes(newest.read_bytes()[:1000])
    with (run / "log.jsonl").open("a") as log:
        log.write('{"images": 10, "lo')
    trained(scans, run, images=8)
    assert_same_run(finished(QUICK), run)


def garble_log(run: RunFolder) -> None:
    lines = run.log.path.read_text().splitlines()
    run.log.path.write_text("\n".join([lines[0], "garbage", *lines[1:]]) + "\n")


def shorten_checkpoint(run: RunFolder) -> None:
    path = run.latest_checkpoint
    tensors, header = load_tensors(path)
    save_tensors(path, dict(list(tensors.items())[:3]), header)


def replace_checkpoint(run: RunFolder) -> None:
    shutil.copy(run.prior, run.latest_checkpoint)


@pytest.mark.parametrize(
    ("damage", "goes_on"),
    [(garble_log, True), (shorten_checkpoint, False), (replace_checkpoint, True)],
)
def test_a_damaged_run_folder_goes_on_or_says_why_not(damage, goes_on, finished, scans, tmp_path):
    run = RunFolder(Path(shutil.copytree(finished(QUICK), tmp_path / "run")))
    damage(run)
    if goes_on:
        assert trained(scans, run.path, images=12).facts.card["images_seen"] == 12
        return
    with pytest.raises(CheckpointError) as error:
        trained(scans, run.path, images=12)
    assert str(run.path) in str(error.value)


def test_a_full_disk_leaves_the_last_good_checkpoint(finished, scans, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    trained(scans, run.path, images=4)
    good = run.latest_checkpoint
    before = good.read_bytes()

    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(MriAmbientError) as error:
            trained(scans, run.path, images=8)
    assert "No space left" in str(error.value)
    assert good.read_bytes() == before
    trained(scans, run.path, images=8)
    assert_same_run(finished(QUICK), run.path)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_run_goes_on_without_a_file_that_broke(part, own_scans, tmp_path):
    run, named = RunFolder(tmp_path / "run"), []
    trained(own_scans, run.path, VALIDATED, images=4)
    broken = own_scans / f"{min(run.identity.data[part])}.h5"
    broken.write_bytes(b"torn")
    card = trained(own_scans, run.path, VALIDATED, images=8, on_damaged=named.append).facts.card
    assert card["images_seen"] == 8
    assert len(named) == 1 and broken.name in named[0]


def test_classical_errors_are_measured_once_scans_can_be_read(finished, own_scans, scans, tmp_path):
    """The validation scans open at first and cannot be read; later they are put right."""
    run = RunFolder(tmp_path / "run")
    held = [
        own_scans / f"{name}.h5"
        for name in RunFolder(finished(VALIDATED)).identity.data["validation"]
    ]
    for path in held:
        damage_samples(path)
    assert "held_out" not in trained(own_scans, run.path, VALIDATED, images=4).facts.card
    for path in held:
        shutil.copy(scans / path.name, path)
    found = trained(own_scans, run.path, VALIDATED, images=8).facts.card["held_out"]
    assert found == load_prior(finished(VALIDATED)).facts.card["held_out"]


def test_a_run_from_before_an_option_goes_on(finished, scans, tmp_path):
    run = RunFolder(Path(shutil.copytree(finished(QUICK), tmp_path / "run")))
    stored = json.loads((run.path / "run.json").read_text())
    del stored["config"]["objective"]["fresh_masks"], stored["sha256"]
    (run.path / "run.json").write_text(json.dumps(stored))
    trained(scans, run.path, images=10)
    with pytest.raises(ConfigError):
        other = replace(QUICK, objective=Kspace(fresh_masks=False))
        trained(scans, run.path, other, images=12)


def test_a_run_goes_on_with_other_checks_to_the_same_weights(finished, scans, tmp_path):
    trained(scans, tmp_path / "parts", images=4)
    other = replace(QUICK, save_every=2, check_every=6, patience=9)
    trained(scans, tmp_path / "parts", other, images=8)
    assert_same_run(finished(QUICK), tmp_path / "parts")
