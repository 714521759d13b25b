"""What killed processes leave behind, and processes that make the same file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mri_ambient.errors import BusyError
from mri_ambient.runtime.files import (
    LOCK,
    atomic_folder,
    atomic_path,
    locked,
    remove_torn,
    write_json,
)


def in_another_process(act: Callable[[], object]) -> None:
    """Do something in a copy of this process, and wait for its end."""
    child = os.fork()
    if not child:
        act()
        os._exit(0)
    os.waitpid(child, 0)


def write_and_die(folder: Path) -> None:
    with (
        locked(folder / "a.h5"),
        atomic_path(folder / "a.h5") as file,
        atomic_folder(folder / "b", "*"),
    ):
        file.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_is_removed_with_the_next_file(tmp_path):
    in_another_process(lambda: write_and_die(tmp_path))
    assert len(names(tmp_path)) == 3
    with atomic_path(tmp_path / "mine") as mine:
        mine.touch()
        others = {f".tmp-000000-{os.getpid()}-ab-x", ".tmp-01234567-old", ".tmp-x"}
        for name in others:  # of another machine, and of whom nothing is known
            (tmp_path / name).touch()
        assert names(tmp_path) == {mine.name, *others}


def test_what_a_process_left_is_removed_though_nobody_has_waited_for_its_end(tmp_path):
    child = os.fork()
    if not child:
        write_and_die(tmp_path)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it stays in the list of processes
    assert len(names(tmp_path)) == 3
    remove_torn(tmp_path)
    assert names(tmp_path) == set()
    os.waitpid(child, 0)


def test_files_of_living_processes_are_kept(tmp_path, monkeypatch):
    with atomic_path(tmp_path / "a") as mine, locked(tmp_path / "b"):
        mine.touch()
        monkeypatch.setattr("mri_ambient.runtime.files._CLEANED", set())  # it looks again
        in_another_process(lambda: write_json(tmp_path / "c", 1))
        assert names(tmp_path) == {mine.name, f"{LOCK}b", "c"}
    assert names(tmp_path) == {"a", "c"}


def test_one_process_makes_a_file_at_a_time(tmp_path):
    path = tmp_path / "new" / "a.h5"
    with locked(path, {"seed": 1}):
        with pytest.raises(BusyError) as error, locked(path, {"seed": 2}):
            pass
        assert str(error.value).startswith(f"{path}: ") and "another process" in str(error.value)
        assert error.value.settings == {"seed": 1}
        with locked(path.with_name("b.h5")):
            write_json(path, 1)
    with locked(path):
        pass
    assert names(path.parent) == {"a.h5"}
