"""Files that appear completely or not at all, their hashes, and JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mri_ambient.errors import ConfigError, MriAmbientError, OutputExistsError, ScanFormatError
from mri_ambient.runtime.files import (
    as_json,
    atomic_folder,
    atomic_path,
    file_sha256,
    json_text,
    make_folder,
    require_space,
    size_text,
    write_json,
)


@pytest.fixture
def file_limit():
    """No file of this process may grow beyond 100 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestAtomicFolder:
    def make(self, path: Path, *names: str) -> None:
        with atomic_folder(path, "*.dcm") as temporary:
            for name in names:
                (temporary / name).write_text("new")

    def test_a_folder_is_replaced_as_a_whole(self, tmp_path):
        self.make(tmp_path / "a" / "b", "1.dcm", "2.dcm")
        self.make(tmp_path / "a" / "b", "3.dcm")
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "3.dcm"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_an_existing_folder_survives_an_interruption(self, tmp_path, error):
        self.make(tmp_path / "b", "1.dcm")
        with pytest.raises(error), atomic_folder(tmp_path / "b", "*.dcm") as temporary:
            (temporary / "2.dcm").touch()
            raise error
        assert [path.name for path in tmp_path.rglob("*")] == ["b", "1.dcm"]

    def test_what_others_wrote_is_not_replaced(self, tmp_path):
        (tmp_path / "file").touch()
        self.make(tmp_path / "b", "1.dcm")
        (tmp_path / "b" / "c.dcm").mkdir()
        for path in (tmp_path / "file", tmp_path / "b"):
            with pytest.raises(OutputExistsError):
                self.make(path, "2.dcm")
        assert (tmp_path / "file").is_file() and (tmp_path / "b" / "1.dcm").exists()


class TestAtomicPath:
    def test_a_file_appears_when_it_is_complete(self, tmp_path):
        path = tmp_path / "new" / "scan.nii.gz"
        with atomic_path(path) as temporary:
            temporary.write_text("complete")
            assert temporary.parent == path.parent
            assert temporary.name.startswith(".")
            assert temporary.suffixes[-2:] == [".nii", ".gz"]
            assert not path.exists()
        assert [file.name for file in path.parent.iterdir()] == ["scan.nii.gz"]
        assert path.read_text() == "complete"

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
    def test_an_existing_file_survives_an_interruption(self, tmp_path, error):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(error), atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_full_disk_is_one_clear_line(self, tmp_path):
        """/dev/full answers every write as a full disk does."""
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")
        with pytest.raises(MriAmbientError) as caught, atomic_path(path) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"new")
        assert str(path) in str(caught.value) and os.strerror(errno.ENOSPC) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_full_disk_is_said_of_the_scan_not_of_its_parts(self, tmp_path):
        part = tmp_path / ".a.b.unfinished" / "00000.safetensors"
        with pytest.raises(MriAmbientError) as found, atomic_path(part):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert str(found.value).startswith(f"{tmp_path / 'a.b'}: ")
        assert part.name not in str(found.value)

    def test_a_file_that_outgrows_a_limit_is_one_clear_line(self, tmp_path, file_limit):
        with pytest.raises(MriAmbientError) as caught:
            write_json(tmp_path / "a.json", "a" * 200_000)
        assert os.strerror(errno.EFBIG) in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_read_only_folder_is_one_clear_line(self, tmp_path, monkeypatch):
        """Raised here as the system does: root, who may run the tests, can write anywhere."""

        def denied(self, *_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

        monkeypatch.setattr(Path, "write_text", denied)
        with pytest.raises(MriAmbientError) as caught:
            write_json(tmp_path / "a.json", {})
        assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")
        assert os.strerror(errno.EACCES) in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_errors_without_a_number_are_quoted_in_one_line(self, tmp_path):
        with pytest.raises(MriAmbientError) as caught, atomic_path(tmp_path / "a"):
            raise OSError("several\nlines\n  of HDF5")
        assert "(several lines of HDF5)" in str(caught.value)

    @pytest.mark.parametrize("where", ["file/a.json", "."])
    def test_a_path_that_cannot_be_a_file_is_one_clear_line(self, tmp_path, where):
        (tmp_path / "file").write_text("")
        path = tmp_path / where
        with pytest.raises(MriAmbientError) as caught:
            write_json(path, {})
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == ["file"]


class TestFoldersAndSpace:
    def test_a_folder_and_its_parents_are_created_once(self, tmp_path):
        for _ in range(2):
            make_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()

    def test_a_file_in_place_of_a_folder_is_refused(self, tmp_path):
        (tmp_path / "a").write_text("")
        for path in (tmp_path / "a", tmp_path / "a" / "b"):
            with pytest.raises(ConfigError) as refused:
                make_folder(path)
            assert str(path) in str(refused.value)

    def test_a_folder_that_cannot_be_written_is_refused(self, tmp_path, monkeypatch):
        def denied(**_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        make_folder(tmp_path)
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setattr("mri_ambient.runtime.files.TemporaryFile", denied)
        with pytest.raises(ConfigError) as refused:
            make_folder(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert os.strerror(errno.EACCES) in str(refused.value)

    def test_a_disk_without_room_is_refused_with_both_sizes(self, tmp_path):
        require_space(tmp_path / "a.h5", 1)
        with pytest.raises(MriAmbientError) as refused:
            require_space(tmp_path / "a.h5", 10**18)
        assert "1000000000.00 GB" in str(refused.value) and str(tmp_path) in str(refused.value)


class TestHash:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
    @given(content=st.binary(max_size=300))
    def test_sha256_is_that_of_the_bytes(self, tmp_path, content):
        path = tmp_path / "a"
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()

    def test_a_large_file_is_hashed(self, tmp_path):
        content = bytes(range(256)) * 5000
        (tmp_path / "a").write_bytes(content)
        assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, name):
        with pytest.raises(ScanFormatError) as refused:
            file_sha256(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)


class TestJson:
    def test_tensors_arrays_and_paths_become_plain_values(self, tmp_path):
        path = tmp_path / "report.json"
        content = {
            "text": "Größe",
            "figures": (1, 2.5, None, True),
            "tensor": torch.tensor([1.0, float("nan")]),
            "array": np.arange(2),
            "scalar": np.float32(0.5),
            "path": tmp_path,
            3: float("inf"),
        }
        write_json(path, content)
        assert as_json(content) == json.loads(path.read_text(encoding="utf-8"))
        assert as_json(content) == {
            "text": "Größe",
            "figures": [1, 2.5, None, True],
            "tensor": [1.0, None],
            "array": [0, 1],
            "scalar": 0.5,
            "path": str(tmp_path),
            "3": None,
        }

    @pytest.mark.parametrize(
        "value",
        [math.nan, math.inf, -math.inf, torch.tensor(math.nan), np.float64("nan"),
         np.array([math.inf])[0]],
    )  # fmt: skip
    def test_nan_and_inf_are_null(self, value):
        assert json_text({"a": [value]}) == '{"a": [null]}'

    def test_floats_keep_all_their_digits(self):
        value = 0.1 + 0.2
        tensor = torch.tensor(value, dtype=torch.float64)
        assert json.loads(json_text({"a": value, "b": tensor})) == {"a": value, "b": value}

    def test_values_without_a_json_form_are_refused_and_leave_no_file(self, tmp_path):
        with pytest.raises(TypeError, match="object"):
            write_json(tmp_path / "a.json", {"a": object()})
        assert list(tmp_path.iterdir()) == []


def test_sizes_are_said_in_a_unit_that_suits_them():
    sizes = [0, 1499, 2_340_000, 1.25e9]
    assert [size_text(n) for n in sizes] == ["0 kB", "1 kB", "2.3 MB", "1.25 GB"]
