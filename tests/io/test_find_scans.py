"""From the files, folders and globs that a user names to a list of scan files."""

from __future__ import annotations

import os

import pytest

from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.io import find_scans, left_out, open_scan, why_no_file


@pytest.fixture
def folder(tmp_path):
    for name in ("b.h5", "a.h5", "c.HDF5", ".tmp-a.h5", "notes.txt", "sub/d.h5", "sub/e.h5"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "scans"


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_stands_for_its_scans(folder):
    """And for those of all folders below it."""
    assert names(find_scans([folder])) == ["a.h5", "b.h5", "c.HDF5", "sub/d.h5", "sub/e.h5"]


def test_what_lies_where_results_go_is_no_input(folder):
    for given in ([folder], [f"{folder}/[!n]*"]):
        got = find_scans(given, output=folder / "sub")
        assert names(got) == ["a.h5", "b.h5", "c.HDF5"]
    assert names(find_scans([folder / "sub"], output=folder / "sub")) == ["d.h5", "e.h5"]
    assert names(find_scans([folder / "sub" / "d.h5"], output=folder / "sub")) == ["d.h5"]


def test_a_glob_stands_for_what_it_matches(folder):
    assert names(find_scans([f"{folder}/[ab].h5"])) == ["a.h5", "b.h5"]
    assert names(find_scans([f"{folder}/**/*.h5"])) == ["a.h5", "b.h5", "d.h5", "e.h5"]
    assert names(find_scans([f"{folder}/s*"])) == ["d.h5", "e.h5"]


def test_a_pipe_is_no_scan(folder):
    os.mkfifo(folder / "f.h5")
    assert "f.h5" not in names(find_scans([folder]))
    assert why_no_file(folder / "f.h5")


def test_inputs_keep_their_order(folder):
    got = find_scans([folder / "b.h5", str(folder / "sub"), folder / "a.h5"])
    assert names(got) == ["b.h5", "d.h5", "e.h5", "a.h5"]


def test_a_file_is_passed_on_there_or_not(folder):
    assert names(find_scans([folder / "notes.txt", "gone.h5"])) == ["notes.txt", "gone.h5"]


def test_a_name_with_brackets_is_a_name_first(folder):
    (folder / "x[1].h5").touch()
    assert names(find_scans([folder / "x[1].h5"])) == ["x[1].h5"]


def test_nothing_found(folder):
    (folder / "empty").mkdir()
    with pytest.raises(ScanFormatError) as caught:
        find_scans([folder / "empty", f"{folder}/z*.h5"])
    assert all(name in str(caught.value) for name in (".hdf5", str(folder / "empty"), "z*.h5"))
    with pytest.raises(ScanFormatError):
        find_scans([])


def test_what_holds_no_scan_is_a_case_that_fails_among_others(folder):
    (folder / "a").mkdir()  # its name is no stem that could clash with a.h5
    got = find_scans([folder / "a", f"{folder}/?.*", f"{folder}/z*.h5", folder / "sub"])
    assert names(got) == ["a", "a.h5", "b.h5", "c.HDF5", "z*.h5", "d.h5", "e.h5"]
    for path in (got[0], got[4]):
        with pytest.raises(ScanFormatError) as caught:
            open_scan(path)
        assert str(caught.value) == why_no_file(path.path)
    assert why_no_file(got[1].path) is None


def test_a_stem_may_come_only_once(folder):
    """In one folder of outputs."""
    (folder / "sub" / "a.h5").touch()
    assert [scan.key for scan in find_scans([folder])] == ["a", "b", "c", "sub/a", "sub/d", "sub/e"]
    with pytest.raises(ConfigError) as caught:
        find_scans([folder], flat=True)
    assert all(str(path) in str(caught.value) for path in (folder / "a.h5", folder / "sub/a.h5"))


def test_what_a_folder_does_not_stand_for_is_named(folder, tmp_path):
    """Also beside a ParaVision scan, whose own files and those of its study are no others."""
    (folder / "old.7").touch()
    os.mkfifo(folder / "pipe.h5")
    (folder / "dir.h5").mkdir()
    (folder / "dir.h5" / "f.h5").touch()
    others = ["notes.txt", "old.7", "pipe.h5"]
    assert left_out(folder) == others
    for name in ("study/subject", "study/3/acqp", "study/3/method", "study/3/fid", "lost/acqp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert left_out(folder) == ["lost/acqp", *others]
    assert left_out(folder, folder / "lost") == others
    assert not left_out(folder / "study") and not left_out(folder / "study/3")
    assert "dir.h5" not in names(find_scans([folder])) and "dir.h5/f.h5" in names(
        find_scans([folder])
    )


def test_the_longest_name_of_a_file_is_a_name(tmp_path):
    """That of BART's other file would be longer than the system takes."""
    path = tmp_path / ("x" * 252 + ".h5")
    path.write_text("no scan")
    assert names(find_scans([path])) == [path.name]
    with pytest.raises(ScanFormatError):
        open_scan(path)
