"""What a training shows, and how Ctrl-C stops it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import pytest
import typer

from mri_ambient.cli.console import Bar, progress_bar
from mri_ambient.cli.exit_codes import Failures
from mri_ambient.cli.training_view import (
    Interruption,
    TrainingView,
    on_interrupt,
    resumable,
    round_hooks,
    status_line,
    validation_line,
)
from mri_ambient.errors import StoppedError
from mri_ambient.training.config import Progress

PROGRESS = Progress(
    images=24, images_now=24, loss=0.12345, images_per_second=3.0, seconds=8.4, waiting=0.1,
    validation=None, saved=True, skipped=0,
)  # fmt: skip
FOUND = {"held_out": 0.1, "held_out_cg_sense": 0.2, "held_out_l1_wavelet": 0.15, "tau": 0.05}


@pytest.fixture
def interrupted() -> Iterator[Interruption]:
    """The event that signals set; the handlers that were there before come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield on_interrupt()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_status_names_skipped_steps_if_there_are_any():
    assert status_line(PROGRESS) == "24 images in 8 s (training at 3.0/s), loss 0.123"
    assert status_line(replace(PROGRESS, skipped=2)).endswith(", 2 steps skipped")
    assert status_line(replace(PROGRESS, images_now=8)).startswith("24 images, 8 of them in 8 s")


def test_a_validation_is_shown_beside_the_classical_methods():
    line = validation_line(24, FOUND)
    assert line == (
        "24 images: error on held-out lines 0.1000 (CG-SENSE 0.2000, L1-wavelet 0.1500)"
    )
    assert validation_line(24, {"held_out": 0.1}) == "24 images: error on held-out lines 0.1000"


@pytest.mark.parametrize(("by_time", "done"), [(False, 24), (True, 8)])
def test_a_step_moves_the_bar_and_the_board(by_time, done, capsys):
    shown = {}
    with progress_bar() as bars:
        view = TrainingView(Bar(bars, "train", 48), shown.__setitem__, by_time=by_time)
        view.show(replace(PROGRESS, validation=FOUND))
        (task,) = bars.tasks
    assert (task.completed, task.description) == (done, f"train {status_line(PROGRESS)}")
    assert shown == {24: {"loss": 0.12345, "images_per_second": 3.0, **FOUND}}
    assert capsys.readouterr().err.splitlines() == [validation_line(24, FOUND)]


@pytest.mark.parametrize("validated", [True, False])
def test_the_end_shows_the_prior_and_its_figures_once(validated, capsys, tmp_path):
    shown = {}
    path = tmp_path / "prior.safetensors"
    card = {"images_seen": 24, "held_out": FOUND}
    with progress_bar() as bars:
        view = TrainingView(Bar(bars, "train"), shown.__setitem__, by_time=False)
        view.show(replace(PROGRESS, validation=FOUND if validated else None))
        shown.clear()
        view.finish(SimpleNamespace(facts=SimpleNamespace(card=card)), path, 24)
    assert shown == ({} if validated else {24: FOUND})
    *_, first, last = capsys.readouterr().err.splitlines()
    assert first == f"{path}: 24 images seen; {status_line(PROGRESS)}"
    assert last == validation_line(24, FOUND)


def test_a_round_has_a_bar_of_samples_and_one_of_training(capsys):
    failures, stop = Failures(), Event()
    with progress_bar() as bars:
        hooks = round_hooks(bars, 2, 48, by_time=False, failures=failures, interrupted=stop)
        hooks.on_target(3, 5)
        (samples,) = bars.tasks
        assert (samples.description, samples.completed, samples.total) == ("round 2: sample", 3, 5)
        for images in (22, 24):
            hooks.on_progress(replace(PROGRESS, images=images, validation=FOUND))
        _, training = bars.tasks
        assert training.description.startswith("round 2: train 24 images")
        assert (training.completed, training.total) == (24, 48)
    assert capsys.readouterr().err.splitlines()[-1] == f"round 2: {validation_line(24, FOUND)}"
    hooks.on_damaged("scan.h5: is damaged")
    assert failures.lines == ["scan.h5: is damaged"]
    assert not hooks.should_stop()
    stop.set()
    assert hooks.should_stop()


@pytest.mark.parametrize(
    ("number", "code", "at_once"),
    [(signal.SIGINT, 130, KeyboardInterrupt), (signal.SIGTERM, 143, SystemExit)],
)
def test_the_first_signal_is_remembered_and_the_second_ends_it(number, code, at_once, interrupted):
    assert not interrupted.is_set()
    signal.raise_signal(number)
    assert (interrupted.is_set(), interrupted.exit_code) == (True, code)
    with pytest.raises(at_once):
        signal.raise_signal(number)


def test_a_run_that_was_interrupted_before_its_prior_is_exit_code_130(capsys):
    stop = Interruption()
    with pytest.raises(StoppedError), resumable(stop):  # by its time limit
        raise StoppedError("stopped before the first image was seen")
    stop.set()
    with pytest.raises(typer.Exit) as end, resumable(stop):
        raise StoppedError("stopped before the first image was seen")
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == "stopped before the first image was seen\n"
