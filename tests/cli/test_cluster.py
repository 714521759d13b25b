"""Scans on a cluster: the same bytes as by one process, whatever becomes of its workers."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import pytest
import torch
from distributed import LocalCluster, get_worker
from helpers import load_script

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import MriAmbientError, PrepError, warn
from mri_ambient.recon.states import read_states
from mri_ambient.runtime.cluster import PROFILES, ClusterExecutor, cluster
from mri_ambient.runtime.files import MACHINE

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

bench = load_script("bench_kills")
SCANS = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, slices=2, noise=0.01)
WAVELET = ma.Recipe("l1-wavelet", {"n_iter": 30})


@pytest.fixture(scope="module")
def local(server: None) -> Iterator[LocalCluster]:
    """A scheduler and two workers, forked from a process that has imported the library."""
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local,
    ):
        yield local


@pytest.fixture
def workers(local: LocalCluster) -> Iterator[ClusterExecutor]:
    """These workers, two of them."""
    with cluster(local.scheduler_address) as executor:
        executor.client.wait_for_workers(2)
        yield executor


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Four scans, and a damaged one."""
    folder = tmp_path_factory.mktemp("study")
    paths = simulate("phantom", folder, SCANS, count=4)
    (folder / "cut.h5").write_bytes(paths[0].read_bytes()[:4000])
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Two scans of one slice, and a damaged one."""
    folder = tmp_path_factory.mktemp("few")
    paths = simulate("phantom", folder, replace(SCANS, slices=1), count=2)
    (folder / "cut.h5").write_bytes(paths[0].read_bytes()[:4000])
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    """The lines of the summary, without seconds."""
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_a_folder_by_workers_one_of_which_is_killed(study, workers, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ma.reconstruct_folder(study, one, WAVELET, ma.Runtime("cpu"))
    victim = next(iter(workers.client.run(os.getpid).values()))
    seen = []

    def kill(outcome: object) -> None:
        seen.append(outcome)
        if len(seen) == 2:
            os.kill(victim, signal.SIGKILL)
        if len(seen) == 5:  # as if it had been writing, which it may have been
            (two / f".tmp-{MACHINE}-{victim}-0000-phantom_00001.h5").touch()

    found = ma.reconstruct_folder(study, two, WAVELET, jobs=workers, on_outcome=kill)
    assert [outcome.scan.stem for outcome in found] == sorted(p.stem for p in study.iterdir())
    assert bench.content(two) == bench.content(one)
    assert rows(two) == rows(one)
    reasons = [{key: state.reason for key, state in read_states(d).items()} for d in (one, two)]
    assert reasons[0] == reasons[1]
    # "skipped": written by the worker that was killed, before it could say so.
    assert {state.status for state in read_states(two).values()} <= {"done", "skipped", "failed"}
    assert read_states(two)["cut"].status == "failed"
    again = ma.reconstruct_folder(study, two, WAVELET, jobs=workers)
    assert {outcome.status for outcome in again} == {"skipped", "failed"}


COMMANDS = [
    ["prep", "STUDY", "--no-pictures", "-o", "OUT"],
    ["reconstruct", "STUDY", "STUDY/none.h5", "-m", "PRIOR", "--adapt", 1, "-o", "OUT"],
    ["adapt", "STUDY", "-m", "PRIOR", "--until", 1, "-o", "OUT/p.safetensors"],
    ["evaluate", "STUDY", "-m", "PRIOR", "--json"],
    ["evaluate", "SCORED", "STUDY/cut.h5", "--target", "FULL", "--json"],
    ["audit", "calibration", "PRIOR", "STUDY", "--steps", 2, "--samples", 2, "-o", "OUT"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(map(str, words[:2])))
def test_commands_print_and_write_the_same(words, cli, few, full, prior_file, local, tmp_path):
    given = {"STUDY": few, "PRIOR": prior_file, "FULL": full, "SCORED": tmp_path / "scored"}
    if "SCORED" in words:
        ma.reconstruct_folder(full, tmp_path / "scored", ma.Recipe("zero-filled"))
    found = []
    for name, more in (("here", []), ("there", ["--scheduler", local.scheduler_address])):
        out = tmp_path / name
        filled = [str(word).replace("OUT", str(out)) for word in words]
        for key, value in given.items():
            filled = [word.replace(key, str(value)) for word in filled]
        printed = cli(*filled, *more, code=1)
        found.append((printed.errors, sorted(printed.codes), bench.content(out), printed.out))
    here, there = found
    assert there[:3] == here[:3]
    assert len(there[0]) == 1 + ("STUDY/none.h5" in words) and "cut.h5" in there[0][0]
    if "--json" in words:
        assert json.loads(there[3]) == json.loads(here[3])


def test_audits_of_one_prior_are_the_same_too(cli, trained, few, local, tmp_path):
    scan = next(few.glob("p*.h5"))
    memorization = ["memorization", trained.run, trained.prepared, "--steps", 2, "--samples", 2]
    stability = ["stability", scan, "-m", trained.run, "--iterations", 2]
    for name, more in (("here", []), ("there", ["--scheduler", local.scheduler_address])):
        for words in (memorization, stability):
            cli("audit", *words, "--device", "cpu", *more, "-o", tmp_path / name)
    made = bench.content(tmp_path / "here")
    assert len(made) == 4 and bench.content(tmp_path / "there") == made


def test_where_the_cluster_is_is_printed(cli, few, local, tmp_path):
    words = ("reconstruct", few, "--method", "zero-filled", "-o", tmp_path)
    printed = cli(*words, "--scheduler", local.scheduler_address, code=1)
    assert local.dashboard_link in printed.err and "2 workers" in printed.err


def refuse(case: int) -> int:
    """Fail for case 1, with a warning."""
    warn("W-ONE-COIL", f"case {case}")
    if case == 1:
        raise PrepError("has one coil")
    return os.getpid()


def test_errors_and_warnings_of_cases_arrive(workers):
    with pytest.warns() as caught:
        found = dict(workers.map(refuse, [0, 1]))
    assert found[0] != os.getpid()
    assert type(found[1]) is PrepError and str(found[1]) == "has one coil"
    assert sorted(warning.message.text for warning in caught) == ["case 0", "case 1"]
    with pytest.raises(ZeroDivisionError):
        list(workers.map((1).__truediv__, [0]))


def lose_device(marker: Path) -> int:
    """The first worker that comes here loses its GPU."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return os.getpid()
    marker.write_text(str(os.getpid()))
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_worker_that_loses_its_device_takes_no_more_cases(local, tmp_path):
    """Its case goes to another one."""
    local.scale(3)
    said = []
    with cluster(local.scheduler_address, say=said.append) as executor:
        executor.client.wait_for_workers(3)
        marker = tmp_path / "lost"
        found = dict(executor.map(lose_device, [marker] * 4))
        assert len(executor.client.nthreads()) == 2
    assert sorted(found) == [0, 1, 2, 3]
    assert int(marker.read_text()) not in found.values()
    assert len(said) == 2 and "illegal memory access" in said[1]


def bf16_by_default(runtime: ma.Runtime) -> bool:
    return runtime.bf16


def test_the_precision_of_workers_is_that_of_the_caller(workers, monkeypatch):
    """Whatever their CPUs have."""
    for fast in (True, False):
        monkeypatch.setattr("mri_ambient.runtime.device.has_fast_bf16", lambda fast=fast: fast)
        assert dict(workers.map(bf16_by_default, [ma.Runtime("cpu")] * 2)) == {0: fast, 1: fast}


def wait_for_ever(marker: Path) -> None:
    marker.with_suffix(".begun").touch()
    while True:
        time.sleep(0.01)


def is_profiled(_: int) -> bool:
    callbacks = get_worker().periodic_callbacks
    return any(callbacks[name].is_running() for name in PROFILES)


def test_workers_keep_no_profiles_which_would_fill_the_memory(workers):
    assert dict(workers.map(is_profiled, [0, 1])) == {0: False, 1: False}


def test_what_nobody_waits_for_any_more_is_stopped(workers, tmp_path):
    results = workers.map(wait_for_ever, [tmp_path, tmp_path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mri_ambient.runtime.cluster._finished", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(results)
    assert len(dict(workers.map(str, [1, 2]))) == 2


def interrupted(running: object) -> None:
    time.sleep(0.3)
    raise KeyboardInterrupt


def test_a_scan_that_kills_its_workers_is_given_up(workers, local):
    """The others are done."""
    local.scheduler.allowed_failures = 0
    found = dict(workers.map(end_process, [0, 1, 2]))
    local.scheduler.allowed_failures = 3
    assert type(found[0]) is MriAmbientError and "1 workers" in str(found[0])
    assert (found[1], found[2]) == (1, 2)


def end_process(case: int) -> int:
    if case == 0:
        os._exit(1)
    return case


def test_a_scheduler_that_does_not_answer_is_named(cli, few, tmp_path, monkeypatch):
    monkeypatch.setattr("mri_ambient.runtime.cluster.ANSWERS_IN_S", 0.5)
    words = ("reconstruct", few, "-o", tmp_path, "--scheduler")
    assert "tcp://127.0.0.1:9" in cli(*words, "tcp://127.0.0.1:9", code=2).errors[0]
    assert "nonsense" in cli(*words, "nonsense://x", code=2).errors[0]


def test_without_dask_one_sentence_tells_what_to_install(cli, few, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mri_ambient.runtime.cluster", None)
    printed = cli("prep", few, "-o", tmp_path, "--scheduler", "tcp://h:1", code=2)
    assert "mri-ambient[cluster]" in printed.errors[0]
