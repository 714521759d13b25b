"""Files of settings of jobs, and what a worker does and refuses; commands are tested elsewhere."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from distributed import CancelledError

from mri_ambient.errors import ConfigError, MriAmbientError, ScanFormatError, StoppedError
from mri_ambient.runtime import cluster
from mri_ambient.runtime.batch_jobs import submitted
from mri_ambient.runtime.cluster import TaskPlugin

SETTINGS = """
cluster: SLURMCluster
n_workers: 3
cores: 8
processes: 1
memory: 24GB
queue: gpu
interface: lo
scheduler_options: {dashboard_address: ":0"}
job_extra_directives: ["--gres=gpu:1"]
"""
SBATCH = """#!/bin/sh
cat "$1" >> "$(dirname "$0")/submitted"
echo Submitted batch job 7
"""


@pytest.fixture
def batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that note what was submitted and cancelled, in place of Slurm's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\ntouch "$(dirname "$0")/$1"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def written(folder: Path, text: str) -> Path:
    path = folder / "jobs.yaml"
    path.write_text(text)
    return path


def test_the_settings_of_jobs_reach_the_batch_system(batch_system, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with submitted(written(tmp_path, SETTINGS)):
        assert signal.getsignal(signal.SIGINT) is before
        noted = batch_system / "submitted"
        while noted.read_text().count("#!/usr/bin/env") < 3:
            time.sleep(0.02)
        assert noted.read_text().count("#SBATCH --gres=gpu:1\n") == 3
        assert "#SBATCH -p gpu\n" in noted.read_text() and "--nthreads 8" in noted.read_text()
    assert (batch_system / "7").exists(), "cancelled at the end"


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("SLURMCluster", "SlurmCluster", "SLURMCluster"),
        ("cluster: SLURMCluster", "", "SLURMCluster"),
        ("memory:", "memroy:", "memory"),
        ("n_workers: 3", "", "n_workers"),
        ("n_workers: 3", "n_workers: many", "many"),
        ("memory: 24GB", "", "memory"),
        (SETTINGS, "- a list", "cluster"),
        (SETTINGS, "{", "YAML"),
        (SETTINGS, "job_cls: x\ncluster: SLURMCluster\n", "job_cls"),
    ],
)
def test_other_settings_are_refused(before, after, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        submitted(written(tmp_path, SETTINGS.replace(before, after)))
    with pytest.raises(ConfigError):
        submitted(tmp_path / "nowhere.yaml")


def test_what_the_batch_system_refuses_is_quoted(batch_system, tmp_path):
    (batch_system / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="no such partition"):
        submitted(written(tmp_path, SETTINGS))
    (batch_system / "sbatch").unlink()
    with pytest.raises(ConfigError, match="sbatch"):
        submitted(written(tmp_path, SETTINGS))


def test_a_worker_does_one_case_at_a_time(tmp_path):
    """However many threads it has."""
    busy, most = [0], []

    def task(_: int) -> None:
        busy[0] += 1
        most.append(busy[0])
        time.sleep(0.02)
        busy[0] -= 1

    plugin = TaskPlugin(task, Path.cwd())
    threads = [threading.Thread(target=plugin.do, args=(k, [], 1)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_worker_that_cannot_do_the_task_says_so(tmp_path, monkeypatch):
    there = TaskPlugin(str, tmp_path / "not-shared")
    with pytest.raises(ConfigError, match="not-shared"):
        there.setup(None)
    here = TaskPlugin(str, Path.cwd())
    here.version = "0.0.1"
    with pytest.raises(ConfigError, match=r"0\.0\.1"):
        here.setup(None)
    found, _ = here.do(1, [], 1)
    assert isinstance(found, ConfigError)
    unseen = tmp_path / "not-shared.h5"
    found, _ = TaskPlugin(str, Path.cwd()).do(unseen, [unseen], 1)
    assert isinstance(found, ScanFormatError) and str(unseen) in str(found)


def test_a_case_is_stopped_with_its_task():
    begun = threading.Event()

    def endless(_: int) -> None:
        begun.set()
        while True:
            time.sleep(0.01)

    plugin, found = TaskPlugin(endless, Path.cwd()), []
    thread = threading.Thread(target=lambda: found.append(plugin.do(0, [], 1)))
    thread.start()
    begun.wait()
    plugin.teardown(None)
    thread.join(timeout=10)
    assert isinstance(found[0][0], StoppedError)
    plugin.teardown(None)  # nothing is being done


@pytest.mark.parametrize("n_answers", [1, 2])
def test_a_scheduler_that_is_lost_ends_the_call(n_answers, monkeypatch):
    class Lost:
        def done(self) -> bool:
            return True

        def result(self) -> None:
            raise CancelledError("scheduler-connection-lost")

    class Client:
        scheduler = type("Scheduler", (), {"address": "tcp://head:1"})
        dashboard_link = "none"
        n_asked = 0

        def nthreads(self) -> dict[str, int]:
            Client.n_asked += 1
            if Client.n_asked > n_answers:
                raise OSError("timed out")
            return {"tcp://worker": 1}

        def submit(self, *_: object, **__: object) -> Lost:
            return Lost()

        def register_plugin(self, *_: object, **__: object) -> None:
            pass

        cancel = unregister_worker_plugin = register_plugin

    monkeypatch.setattr(cluster, "wait", lambda *_, **__: None)
    with pytest.raises(MriAmbientError, match="scheduler"):
        next(cluster.ClusterExecutor(Client()).map(str, [0, 1]))
