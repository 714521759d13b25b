"""Files that appear completely or not at all, JSON, and hashes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from mri_ambient.errors import MriAmbientError, ScanFormatError
from mri_ambient.runtime.files import atomic_path, file_sha256, write_json


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "scan.nii.gz"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.suffixes[-2:] == [".nii", ".gz"]
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["scan.nii.gz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_older_file_survives_a_failure(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.h5", tmp_path):
        with pytest.raises(MriAmbientError) as caught:
            write_json(path, {})
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_json_holds_plain_values(tmp_path):
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
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "text": "Größe",
        "figures": [1, 2.5, None, True],
        "tensor": [1.0, None],
        "array": [0, 1],
        "scalar": 0.5,
        "path": str(tmp_path),
        "3": None,
    }


def test_json_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_file(tmp_path):
    path = tmp_path / "a"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ScanFormatError):
        file_sha256(tmp_path / "b")
