"""Failures: one line each, and the documented exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from mri_ambient.cli.exit_codes import Failures, claim_folder, exit_code, run_cases
from mri_ambient.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    MriAmbientError,
    OutputExistsError,
    PrepError,
    ScanFormatError,
    StoppedError,
)
from mri_ambient.io import ScanPath

CODES = {
    MriAmbientError: 1, StoppedError: 1, ConfigError: 2, OutputExistsError: 2, ScanFormatError: 3,
    PrepError: 3, CheckpointError: 3, DeviceError: 4,
}  # fmt: skip


@pytest.mark.parametrize("kind", CODES)
def test_every_error_has_its_exit_code(kind):
    assert exit_code(kind("reason")) == CODES[kind]


@pytest.mark.parametrize(("bad", "code"), [((), None), ((1,), 1), ((0, 1, 2), 3)])
def test_what_fails_costs_a_line_and_the_rest_is_done(bad, code, capsys):
    done = []

    def work(case: int) -> None:
        if case in bad:
            raise PrepError(f"case {case}")
        done.append(case)

    if code is None:
        run_cases(range(3), work)
    else:
        with pytest.raises(typer.Exit) as stop:
            run_cases(range(3), work)
        assert stop.value.exit_code == code
    assert done == [case for case in range(3) if case not in bad]
    assert capsys.readouterr().err.splitlines() == [f"error: case {case}" for case in bad]


def test_a_lost_device_ends_it_at_once():
    tried = []

    def work(case: int) -> None:
        tried.append(case)
        raise DeviceError("lost")

    with pytest.raises(DeviceError):
        run_cases(range(3), work)
    assert tried == [0]


def test_a_line_names_its_file_once(capsys):
    failures, path = Failures(), Path("scans/head.h5")
    failures.case(path, PrepError("no calibration block"))
    failures.case(path, ScanFormatError(f"{path}: is empty"))
    for _ in range(2):
        failures.damaged("scans/torso.h5: is damaged")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"error: {path}: no calibration block",
        f"error: {path}: is empty",
        "error: scans/torso.h5: is damaged",
    ]
    with pytest.raises(typer.Exit) as stop:
        failures.end()
    assert stop.value.exit_code == 1


def test_without_failures_nothing_ends():
    for nothing_done in (False, True):
        failures = Failures()
        failures.end(nothing_done=nothing_done)  # would raise typer.Exit
        assert failures.codes == []


def test_a_folder_is_claimed_once(tmp_path):
    claim_folder(tmp_path, "samples.h5", overwrite=False)
    (tmp_path / "samples.h5").touch()
    with pytest.raises(OutputExistsError, match=r"samples\.h5"):
        claim_folder(tmp_path, "samples.h5", overwrite=False)
    claim_folder(tmp_path, "samples.h5", overwrite=True)


def test_a_training_run_is_never_claimed(tmp_path):
    (tmp_path / "run.json").touch()
    with pytest.raises(OutputExistsError, match=tmp_path.name):
        claim_folder(tmp_path, "samples.h5", overwrite=True)


def test_an_error_of_a_volume_names_the_file_once(capsys, tmp_path):
    path = tmp_path / "scan.dat"
    failures = Failures()
    failures.case(ScanPath(path, {"volume": "rep-5"}), ScanFormatError(f"{path}: is damaged"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {path} rep-5: is damaged"
