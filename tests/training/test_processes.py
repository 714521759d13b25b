"""Several processes train as one; what ends one of them ends the job with a message."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from helpers import PROCESSES, command, run_torchrun
from training_runs import weights

from mri_ambient.errors import MriAmbientError
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.runtime.process_group import ProcessGroup
from mri_ambient.training.run import RunFolder


def test_two_processes_train_as_one_and_another_number_goes_on(scans, server, tmp_path):
    """The loss curve of one process at the same batch (to rounding), written once; a run of two
    processes resumed by one."""

    def call(name: str, images: int, n_processes: int, *more: str) -> tuple[list[int | None], str]:
        return command(
            "train", scans, "-o", tmp_path / name, "--images", images, "--device", "cpu",
            "--batch-size", "4", "--check-every", "8", "-O", "margin=1.3",
            "--patience", "9",  # the first process alone knows which prior was best
            *more, folder=tmp_path, n_processes=n_processes,
        )  # fmt: skip

    for name, images, processes in (("one", 12, 1), ("two", 4, 2), ("two", 8, 2), ("two", 12, 1)):
        ended, printed = call(name, images, processes)
        assert ended == [0] * processes, printed
    # What one refuses, all refuse, with its words.
    ended, printed = call("two", 16, 2, "--learning-rate", "0.1")
    assert all(ended)
    assert "learning_rate" in printed and "another process" not in printed
    one, two = (RunFolder(tmp_path / name).log.records() for name in ("one", "two"))
    assert [row["images"] for row in one] == [row["images"] for row in two] == [4, 8, 12]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-6)


def test_a_killed_process_ends_the_job_with_a_message(scans, server, tmp_path):
    """A job that torchrun starts."""
    run = RunFolder(tmp_path / "run")
    words = ["train", scans, "-o", run.path, "--batch-size", 2, "--device", "cpu", "--images"]
    launcher = ["--nproc-per-node=2", "--standalone", "-m", "mri_ambient.cli"]
    line, printed = [*launcher, *words, "100000"], tmp_path / "printed"
    job = PROCESSES.Process(target=run_torchrun, args=(line, printed))
    job.start()
    deadline = time.monotonic() + 100
    while not run.log.path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    *_, second = sorted((tmp_path / "pids").iterdir(), key=lambda path: path.stat().st_mtime)
    os.kill(int(second.name), signal.SIGKILL)
    job.join(timeout=100)
    output = printed.read_text()
    assert job.exitcode
    assert "SIGKILL" in output or "Signal 9" in output, "torchrun names the killed process"
    assert "another process" in output
    # The run goes on, with another number of processes.
    seen = run.images_seen
    assert command(*words, seen + 4, folder=tmp_path)[0] == [0]
    assert run.images_seen == seen + 4
    assert load_prior(run.path).facts.card["images_seen"] == seen + 4


def test_what_ends_another_process_is_an_error_that_says_what_to_do(monkeypatch):
    def closed(*_: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    with pytest.raises(MriAmbientError) as error:
        ProcessGroup(rank=0, size=2).any(True, torch.device("cpu"))
    assert "same command" in str(error.value)
