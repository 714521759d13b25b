"""Cases spread over processes: results have numbers, errors arrive, the dead are replaced."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest

from mri_ambient.errors import DeviceError, MriAmbientError, PrepError
from mri_ambient.runtime.executor import Processes, completed, run_one
from mri_ambient.runtime.files import is_alive

pytestmark = pytest.mark.usefixtures("forked")

double = partial(operator.mul, 2)


def refuse(case: int) -> int:
    """Fail for odd numbers, and worse for large ones."""
    if case > 9:
        raise DeviceError("lost")
    if case % 2:
        raise PrepError(f"{case} is odd")
    return case


def die_once(marker: Path, case: int) -> int:
    """End this process in the middle of case 0, unless it did so before."""
    if case == 0 and not marker.exists():
        marker.touch()
        os._exit(9)
    return case


def sleep_long(folder: Path, case: int) -> None:
    """Say which process this is, then take longer than any test."""
    (folder / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_every_result_comes_with_the_number_of_its_case(n):
    assert sorted(Processes(n).map(double, range(7))) == [(k, 2 * k) for k in range(7)]
    assert list(Processes(n).map(double, [])) == []


@pytest.mark.parametrize("n", [0, 2])
def test_the_error_of_a_case_stands_in_place_of_its_result(n):
    found = dict(Processes(n).map(refuse, [4, 3]))
    assert found[0] == 4
    assert type(found[1]) is PrepError and str(found[1]) == "3 is odd"
    for task, error in ((refuse, DeviceError), (partial(operator.truediv, 1.0), ZeroDivisionError)):
        with pytest.raises(error):
            list(Processes(n).map(task, [0, 10]))


def test_errors_of_cases_are_raised_or_given_to_the_caller():
    failed = []
    found = completed(Processes(), refuse, [4, 3, 2], lambda case, _: failed.append(case))
    assert (dict(found), failed) == ({0: 4, 2: 2}, [3])
    with pytest.raises(PrepError, match="3 is odd"):
        list(completed(Processes(), refuse, [4, 3]))
    assert run_one(Processes(), refuse, 4) == 4
    with pytest.raises(PrepError, match="3 is odd"):
        run_one(Processes(), refuse, 3)


def test_what_a_process_that_died_had_not_finished_is_done_by_others(tmp_path, monkeypatch):
    task = partial(die_once, tmp_path / "marker")
    assert sorted(Processes(2).map(task, range(3))) == [(k, k) for k in range(3)]
    monkeypatch.setattr("mri_ambient.runtime.executor.RETRIES", 0)
    with pytest.raises(MriAmbientError):
        list(Processes(2).map(os._exit, [3, 3]))


def in_work(folder: Path) -> list[int]:
    """Processes that :func:`sleep_long` noted and that are still alive."""
    return [int(path.name) for path in folder.iterdir() if is_alive(int(path.name))]


def test_a_signal_ends_the_processes_in_the_middle_of_their_cases(tmp_path):
    def stop_both() -> None:
        while len(in_work(tmp_path)) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(143))
    threading.Thread(target=stop_both, daemon=True).start()
    try:
        with pytest.raises(SystemExit):
            list(Processes(2).map(partial(sleep_long, tmp_path), range(3)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not in_work(tmp_path)


def test_the_processes_end_with_their_caller_if_that_is_killed(tmp_path, monkeypatch):
    forkserver.ensure_running()
    monkeypatch.setattr(forkserver._forkserver, "ensure_running", lambda: None)
    caller = os.fork()
    if not caller:
        try:
            list(Processes(2).map(partial(sleep_long, tmp_path), range(2)))
        finally:
            os._exit(1)
    while len(in_work(tmp_path)) < 2:
        time.sleep(0.01)
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    deadline = time.monotonic() + 20
    while in_work(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


START = """
import operator, sys
from functools import partial
from mri_ambient.runtime.executor import Processes
if __name__ == "__main__":
    print("ready", flush=True)
    try:
        list(Processes(2).map(partial(operator.mul, 2), range(4)))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_ctrl_c_while_processes_start_prints_no_tracebacks(tmp_path):
    """Of those of them that are importing, as Ctrl-C reaches all."""
    script = tmp_path / "start.py"
    script.write_text(START)
    words = [sys.executable, str(script)]
    pipe = subprocess.PIPE
    run = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "")
