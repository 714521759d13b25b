"""Several processes train as one; what ends one of them ends the job with a message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import weights

from mri_ambient.errors import MriAmbientError
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.runtime.process_group import ProcessGroup
from mri_ambient.training.run import RunFolder

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(processes: int, scans: Path, run: Path, images: int, *words: object) -> list[str]:
    launcher = [] if processes == 1 else [
        "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone",
    ]  # fmt: skip
    program = [sys.executable, *launcher, "-m", "mri_ambient.cli", "train", scans, "-o", run]
    return [str(word) for word in (*program, "--images", images, "--device", "cpu", *words)]


def test_two_processes_train_as_one_and_another_number_goes_on(scans, tmp_path):
    """The loss curve of one process at the same batch (to rounding), written once; a run of two
    processes resumed by one."""
    words = ["--batch-size", "4", "--check-every", "8", "-O", "margin=1.3"]
    words += ["--patience", "9"]  # the first process alone knows which prior was best

    def call(run: Path, images: int, processes: int, *more: str) -> subprocess.CompletedProcess:
        line = command(processes, scans, run, images, *words, *more)
        return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)

    for name, images, processes in (("one", 16, 1), ("two", 8, 2), ("two", 12, 2), ("two", 16, 1)):
        ran = call(tmp_path / name, images, processes)
        assert ran.returncode == 0, ran.stderr
    # What one refuses, all refuse, with its words.
    refused = call(tmp_path / "two", 20, 2, "--learning-rate", "0.1")
    assert refused.returncode != 0
    assert "learning_rate" in refused.stderr and "another process" not in refused.stderr
    one, two = (RunFolder(tmp_path / name).log.records() for name in ("one", "two"))
    assert [row["images"] for row in one] == [row["images"] for row in two] == [4, 8, 12, 16]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-6)


def test_a_killed_process_ends_the_job_with_a_message(scans, tmp_path):
    run = RunFolder(tmp_path / "run")
    line = command(2, scans, run.path, 100000, "--batch-size", 2)
    with subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 100
        while not run.log.path.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        output = job.communicate(timeout=100)[1]
    assert job.returncode != 0
    assert "SIGKILL" in output or "Signal 9" in output, "torchrun names the killed process"
    assert "another process" in output
    # The run goes on, with another number of processes.
    seen = run.images_seen
    alone = command(1, scans, run.path, seen + 4, "--batch-size", 2)
    subprocess.run(alone, env=ENVIRONMENT, check=True, capture_output=True)
    assert run.images_seen == seen + 4
    assert load_prior(run.path).facts.card["images_seen"] == seen + 4


def test_what_ends_another_process_is_an_error_that_says_what_to_do(monkeypatch):
    def closed(*_: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    with pytest.raises(MriAmbientError) as error:
        ProcessGroup(rank=0, size=2).any(True, torch.device("cpu"))
    assert "same command" in str(error.value)
