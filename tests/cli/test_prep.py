from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest
import torch


@pytest.mark.pictures
def test_prep_writes_files_pictures_and_a_manifest(cli, full, tmp_path):
    cli("prep", full, "-o", tmp_path / "out", "--device", "cpu")
    names = {path.name for path in full.glob("*.h5")}
    made = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.*")}
    assert names <= made
    assert {"manifest.json", *(f"qc/{name[:-3]}.png" for name in names)} <= made


def test_verbose_says_more_about_every_scan(cli, full, tmp_path):
    words = ("prep", full, "-o", tmp_path / "out", "--device", "cpu", "--no-pictures")
    first = cli(*words, "-v").err
    again = cli(*words).err
    names = [path.name for path in full.glob("*.h5")]
    assert all(first.count(f"{name}: done") == 1 for name in names)
    assert not any(f"{name}: " in again for name in names)
    assert all(cli(*words, "-v").err.count(f"{name}: skipped") == 1 for name in names)
    assert cli(*words, "-q").err == ""


def test_scans_prepared_with_other_options_are_a_matter_of_usage(cli, full, tmp_path):
    words = ("prep", full, "-o", tmp_path, "--device", "cpu", "--no-pictures")
    cli(*words)
    assert len(cli(*words, "--coils", 2, code=2).errors) == 2
    cli(*words, "--coils", 2, "--overwrite")


@pytest.mark.parametrize("words", [("reconstruct", "--method", "zero-filled"), ("prep",)])
def test_a_scan_whose_noise_is_all_zeros_costs_one_line(words, cli, full_copy, tmp_path):
    bad, good = sorted(full_copy.glob("*.h5"))
    with h5py.File(bad, "a") as file:
        file["noise"] = np.zeros((3, 99), np.complex64)
    (line,) = cli(*words, full_copy, "-o", tmp_path / "out", "--device", "cpu", code=1).errors
    assert line.startswith(f"error: {bad}: ")
    assert [path.stem for path in (tmp_path / "out").glob("*.h5")] == [good.stem]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "--device cpu"),
        (RuntimeError("CUDA error: out of memory"), "--device cpu"),
        (RuntimeError("CUDA error: unspecified launch failure"), "run the same command again"),
    ],
)
def test_prep_stops_where_memory_or_the_device_ends(
    error, advice, cli, full, tmp_path, monkeypatch
):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr("mri_ambient.data_prep.preparation.espirit_maps", exhausted)
    (line,) = cli("prep", full, "-o", tmp_path / "out", "--device", "cpu", code=4).errors
    assert str(error)[:20] in line
    assert advice in line


@pytest.mark.parametrize("words", [("reconstruct", "--method", "zero-filled"), ("prep",)])
def test_a_folder_that_cannot_be_written_is_noticed_before_the_first_scan(
    words, cli, full, tmp_path, monkeypatch
):
    def denied(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("mri_ambient.runtime.files.TemporaryFile", denied)
    out = tmp_path / "out"
    printed = cli(words[0], full, "-o", out, "--device", "cpu", *words[1:], code=2)
    assert len(printed.errors) == 1
    assert list(out.iterdir()) == []
    cli(words[0], full, "-o", tmp_path / "none", "--dry-run", *words[1:])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["prep", "convert"])
def test_scans_of_all_folders_below_become_files_of_one_folder(command, cli, full_copy):
    """Also if that lies among them; two of one name are refused."""
    one, two = sorted(full_copy.glob("*.h5"))
    (full_copy / "a" / "b").mkdir(parents=True)
    one.rename(full_copy / "a" / "b" / one.name)
    more = ("--device", "cpu", "--no-pictures") if command == "prep" else ("--to", "ismrmrd")
    words = (command, full_copy, "-o", full_copy / "out", *more)
    for again in ([], ["--overwrite"]):
        cli(*words, *again)
        assert {path.name for path in (full_copy / "out").glob("*.h5")} == {one.name, two.name}
    two.rename(full_copy / one.name)
    (line,) = cli(*words, code=2).errors
    assert repr(one.stem) in line
