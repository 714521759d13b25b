from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mri_ambient.cli.console import (
    Bar,
    VolumeBar,
    be_quiet,
    log_to,
    print_error,
    print_facts,
    print_line,
    print_more_warnings,
    print_result,
    print_table,
    print_warning,
    progress_bar,
)
from mri_ambient.errors import WARNINGS, ConfigError, NumericalWarning


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The seconds that a log file waits for its next line."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("mri_ambient.cli.console.time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_warnings_come_with_their_code_and_remedy(capsys):
    print_warning(NumericalWarning("W-RESIDUAL", "scan.h5: does not fit"))
    line = f"warning [W-RESIDUAL] scan.h5: does not fit. {WARNINGS['W-RESIDUAL']}\n"
    assert capsys.readouterr().err == line


def test_warnings_of_many_scans_are_counted_and_all_in_the_log(capsys, tmp_path):
    be_quiet(False)
    log_to(tmp_path / "log")
    for number in range(9):
        print_warning(NumericalWarning("W-RESIDUAL", f"scan{number}.h5: does not fit"))
    print_warning(NumericalWarning("W-NO-HEADER", "scan0.h5: has none"))
    print_more_warnings()
    log_to(None)
    lines = capsys.readouterr().err.splitlines()
    assert ["W-RESIDUAL" in line for line in lines] == [True, True, True, False, True]
    assert "6 of W-RESIDUAL" in lines[-1] and "W-NO-HEADER" not in lines[-1]
    assert (tmp_path / "log").read_text().count("does not fit") == 9
    print_more_warnings()
    assert capsys.readouterr().err == ""


def test_a_scan_is_no_log_file(tmp_path):
    """As where the value was forgotten and a glob follows."""
    scan, log = tmp_path / "scan.h5", tmp_path / "log"
    scan.write_bytes(bytes(64))
    with pytest.raises(ConfigError):
        log_to(scan)
    assert scan.read_bytes() == bytes(64)
    for _ in range(2):
        log_to(log)
    log_to(None)
    assert len(log.read_text().splitlines()) == 2


def test_names_tell_a_terminal_nothing(capsys):
    be_quiet(False)
    print_error("error: \x1b[2Jx.h5")
    print_result("\x1b]0;x\x07x.h5")
    printed = capsys.readouterr()
    assert "\\x1b[2Jx.h5" in printed.err and "\x1b" not in printed.err + printed.out


@pytest.mark.parametrize("broken", ["/dev/full", "closed pipe"])
def test_results_that_cannot_be_printed_are_not_the_end(broken):
    """The scans that follow are reconstructed, and the exit code is theirs."""
    code = "from mri_ambient.cli.console import *; print_result('x' * 9999); print_result('y')"
    if broken == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(broken, os.O_WRONLY)
    words = [sys.executable, "-c", f"{code}; print_error('the end')"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 0 and done.stderr.endswith("the end\n")


def test_quiet_prints_errors_only(capsys):
    be_quiet(True)
    try:
        print_line("progress")
        print_error("error: [bold]not markup[/bold]")
    finally:
        be_quiet(False)
    assert capsys.readouterr().err == "error: [bold]not markup[/bold]\n"


def test_a_log_file_gets_a_line_every_half_a_minute(clock, capsys):
    with progress_bar() as bars:
        bar, other = Bar(bars, "prep", 10), Bar(bars, "search")
        for done in range(4):
            clock.s = 20.0 * done
            bar.add()
        clock.s = 100.0
        other.describe("search on")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("prep: 3 of 10")
    assert lines[1] == "search on"


def test_a_volume_moves_by_the_steps_of_its_slices():
    with progress_bar() as bars:
        with VolumeBar(bars, "scan.h5", n_slices=3, steps_per_slice=4) as bar:
            (task,) = bars.tasks
            assert task.total == 3
            bar.on_step(SimpleNamespace(n_images=2))
            assert task.completed == 0.5
            bar.on_slice(2, 3)
            assert task.fields["amount"] == "2 of 3 slices"
        assert bars.tasks == []


def test_facts_are_printed_a_line_each(capsys):
    print_facts({"kind": "folder", "size": (2, 3), "card": {"n": 1}, "files": [{"file": "a.h5"}]})
    assert capsys.readouterr().out.splitlines() == [
        "kind: folder", "size: 2, 3", "card:", "  n: 1", "files 1:", "  file: a.h5",
    ]  # fmt: skip


def test_a_table_keeps_whole_names(capsys):
    name = "a-very-long-name-of-a-scan-" * 2
    row = [name, *(f"{value:.6f}" for value in range(6))]
    print_table(["scan", *"abcdef"], [row], last=["mean", *row[1:]])
    assert name in capsys.readouterr().out


def test_json_is_read_by_programs(capsys):
    from mri_ambient.cli.console import print_json

    print_json({"psnr": float("inf"), "size": torch.tensor([1, 2])})
    assert json.loads(capsys.readouterr().out) == {"psnr": None, "size": [1, 2]}
