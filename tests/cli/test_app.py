"""How the process ends: exit codes, and one line in place of a traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mri_ambient import __version__
from mri_ambient.cli import app as module

TORCH = str(Path(torch.__file__).parent / "lib/libtorch_cpu.so")
"""The library, without Python."""


def test_the_version_is_printed(cli):
    assert cli("--version").out == f"mri-ambient {__version__}\n"


def test_usage_errors_are_exit_code_2(cli):
    for words in (["reconstruct"], ["nonsense"]):
        result = cli(*words, code=2)
        assert result.out == ""
        assert result.err


def test_a_typo_is_answered_without_torch():
    words = [sys.executable, "-X", "importtime", "-m", "mri_ambient.cli", "reconstuct", "x"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 2 and "reconstruct" in ended.stderr.splitlines()[-1]
    imported = re.findall(r"\| +(\w+)$", ended.stderr, re.MULTILINE)
    assert "typer" in imported and not {"torch", "numpy", "h5py"} & set(imported)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("reconstruct", "x", "--retro", 4), "--retrospective"),
        (("reconstruct", "x", "--acceleration", 4), "--retrospective"),
        (("reconstruct", "x", "--lines", 4), "--calib-lines"),
        (("reconstruct", "x", "--metod=dds"), "--method"),
        (("simulate", "phantom", "--count", 24), "--scans"),
        (("audit", "calibration", "x", "y", "--sample", 4), "--samples"),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(words, meant, cli):
    assert f"(did you mean {meant}?)" in cli(*words, "-o", "y", code=2).err
    assert "did you mean" not in cli(words[0], "--qqq", code=2).err


@pytest.mark.parametrize("option", ["--save", "--parts"])
def test_a_list_is_given_once(option, cli):
    """All but the last would be ignored; of other options the last one counts, as is usual."""
    assert cli("reconstruct", "x", "-o", "y", f"{option}=mag", option, "std", code=2).errors
    cli("reconstruct", "x", "-o", "y", "--seed", 1, "--seed", 2, code=3)


def test_help_as_a_command_is_answered_with_how_to_get_it(cli):
    (line,) = cli("help", code=2).errors
    assert "`mri-ambient -h`" in line


@pytest.mark.parametrize("words", [("-o", ""), ("-o", "out", ""), ("--output=",)])
def test_an_empty_word_is_not_the_working_folder(words, cli, scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = cli("reconstruct", scan, *words, "--method", "zero-filled", code=2).errors
    assert "nothing stands after" in line and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "reason",
    ["CUDA out of memory. Tried to allocate 2 GiB", "CUDA error: unspecified launch failure"],
)
def test_a_device_that_fails_anywhere_is_a_line_and_exit_code_4(reason, cli, monkeypatch):
    def fails() -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(module, "app", fails)
    (line,) = cli("sample", code=4).errors
    assert reason in line


@pytest.mark.parametrize("code", [130, 143])
def test_a_command_that_is_stopped_says_that_it_can_be_resumed(code, cli, monkeypatch):
    """130: by Ctrl-C; 143: on SIGTERM."""
    monkeypatch.setattr(module, "app", lambda: sys.exit(code))
    reason = "interrupted" if code == 130 else "terminated (SIGTERM)"
    assert cli("train", code=code).err.startswith(
        f"{reason}; the same command goes on from the last"
    )
    assert "is kept, the same command" in cli("prep", code=code).err
    assert "the same command" not in cli("sample", code=code).err  # it keeps nothing


def test_the_signal_that_ended_a_command_is_named(cli, monkeypatch):
    monkeypatch.setattr(module, "app", lambda: os.kill(os.getpid(), signal.SIGHUP))
    assert "terminated (SIGHUP)" in cli("train", code=143).err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(module, "app", lambda: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):
        module.main()


def test_a_device_that_is_not_there_is_exit_code_4(cli, scan, tmp_path):
    words = ("-o", tmp_path / "out", "--method", "cg-sense", "--device", "cuda:99")
    assert "cuda:99" in cli("reconstruct", scan, *words, code=4).err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("train", "DATA", "-o", "RUN", "--images", 2, "--wrapper", "foo"), "foo"),
        (("train", "DATA", "-o", "RUN", "--images", 2, "--learning-rate", "nan"), "nan"),
        (("train", "DATA", "-o", "RUN", "--images", 2, "--precision", "fp8"), "fp8"),
        (("train", "DATA", "-o", "RUN", "--images", 0, "--device", "cpu"), "0"),
        (("train", "DATA", "-o", "RUN", "--targets", "full", "--images", 2), "--targets"),
        (("train", "DATA", "-o", "RUN", "--patches", "--wrapper", "plain"), "--patches"),
        (("sample", "-o", "OUT", "--size", 0, 10, "--device", "cpu"), "0 x 10"),
        (("sample", "-o", "OUT", "--samples", 0), "--samples"),
        (("sample", "-o", "OUT", "--device", "abacus"), "abacus"),
        (("simulate", "phantom", "--scans", 1, "-o", "FILE"), "FILE"),
        (("reconstruct", "SCAN", "-o", "OUT", "--holdout", -1), "-1"),
        (("reconstruct", "SCAN", "-o", "OUT", "--method", "magic"), "magic"),
        (("reconstruct", "SCAN", "-o", "OUT", "--method", "CG-Sense"), "did you mean cg-sense?"),
        (("simulate", "phantom", "-o", "OUT"), "--scans N"),
        (("reconstruct", "SCAN", "-o", "OUT", "--method", "cg-sense", "--steps", 5), "--steps"),
        (("reconstruct", "SCAN", "-o", "OUT", "--method", "adps", "--steps", 1), "1"),
        (("reconstruct", "SCAN", "-o", "OUT", "--steps", 3, "-O", "n_steps=7"), "n_steps"),
        (("reconstruct", "SCAN", "-o", "OUT", "--no-final-dc", "-O", "final_dc=true"), "final_dc"),
        (("reconstruct", "SCAN", "-o", "OUT", "--retrospective", 0.5), "0.5"),
        (("reconstruct", "SCAN", "-o", "OUT", "--shard", "3/2"), "3/2"),
        (("reconstruct", "SCAN", "-o", "OUT", "--preset", "fast", "--steps", 3), "--preset"),
        (("reconstruct", "SCAN", "-o", "OUT", "--precision", "fp8"), "fp8"),
        (("audit", "calibration", "PRIOR", "SCAN", "-o", "OUT", "--samples", 1), "1"),
        (("audit", "calibration", "PRIOR", "SCAN", "-o", "OUT", "--holdout", 0), "--holdout"),
        (("audit", "calibration", "PRIOR", "SCAN", "-o", "OUT", "--method", "aos"), "aos"),
        (("audit", "stability", "SCAN", "-o", "OUT", "--calib-lines", 8), "--retrospective"),
    ],
)
def test_options_that_cannot_work_are_one_line_and_leave_no_folder(
    words, reason, cli, scan, prior_file, trained, tmp_path
):
    (tmp_path / "FILE").write_text("in the way")
    places = {name: tmp_path / name for name in ("RUN", "OUT", "FILE")}
    places |= {"DATA": trained.prepared, "SCAN": scan, "PRIOR": prior_file}
    assert reason in cli(*(places.get(word, word) for word in words), code=2).err
    assert {path.name for path in tmp_path.iterdir()} == {"FILE"}


@pytest.mark.parametrize(("theirs", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_decides(theirs, policy):
    """As OpenMP itself shows when the library of torch is loaded, which alone takes no time."""
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env |= {"OMP_DISPLAY_ENV": "TRUE"} | ({"OMP_WAIT_POLICY": theirs} if theirs else {})
    code = f"import ctypes, mri_ambient.cli.app; ctypes.CDLL({TORCH!r})"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    found = re.findall(r"OMP_WAIT_POLICY ?= ?'(\w+)'", done.stderr)
    assert done.returncode == 0 and set(found) == {policy}
