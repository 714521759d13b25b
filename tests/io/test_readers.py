"""Adding a format takes one file, with a reader and a sniffer, and one line of a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from mri_ambient import io
from mri_ambient.errors import ScanFormatError
from mri_ambient.io import READERS, Contents, ScanFile, find_scans, open_scan

SIZES = (2, 3, 6, 5)


class CflFile(ScanFile):
    """BART's format, as small as it gets: sizes as text in ``.hdr``, numbers in ``.cfl``."""

    format: ClassVar[str] = "bart"
    suffixes: ClassVar[tuple[str, ...]] = (".cfl",)

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        sizes = self.path.with_suffix(".hdr").read_text().split()
        self.shape = tuple(map(int, sizes))
        self.recon_shape, self.attributes = self.shape[2:], {}

    def _find_mask(self) -> Tensor:
        return torch.ones(1, *self.shape[2:], dtype=torch.bool)

    def read_ksp(self, index: int) -> Tensor:
        values = np.fromfile(self.path, np.complex64).reshape(self.shape)[index]
        return torch.from_numpy(values.copy())


def is_cfl(contents: Contents) -> bool:
    return contents.path.suffix == ".cfl" and contents.path.with_suffix(".hdr").exists()


@pytest.fixture
def opened(monkeypatch):
    """Every path that h5py is asked to open."""
    paths, real = [], h5py.File

    def note(path: object, *args: object, **options: object) -> h5py.File:
        paths.append(path)
        return real(path, *args, **options)

    monkeypatch.setattr(h5py, "File", note)
    return paths


@pytest.fixture
def cfl(tmp_path: Path) -> Path:
    (tmp_path / "scan.hdr").write_text(" ".join(map(str, SIZES)))
    np.arange(180, dtype=np.complex64).tofile(tmp_path / "scan.cfl")
    return tmp_path / "scan.cfl"


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_format_that_is_not_hdf5_is_one_line(cfl, opened, monkeypatch, place):
    with pytest.raises(ScanFormatError, match="is not an HDF5 file"):
        open_scan(cfl)
    line = {is_cfl: CflFile}
    monkeypatch.setattr(io, "READERS", line | READERS if place == "first" else READERS | line)
    opened.clear()
    assert find_scans([cfl.parent]) == [cfl]
    file = open_scan(cfl)
    assert isinstance(file, CflFile)
    assert file[1].ksp.flatten()[0] == 90
    assert len(opened) == (0 if place == "first" else 1)


def test_a_folder_names_the_suffixes_of_all_readers(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, is_cfl, CflFile)
    with pytest.raises(ScanFormatError, match=r"holds no \.h5 or \.hdf5 or \.cfl file"):
        open_scan(tmp_path)


def test_an_hdf5_file_is_opened_once_to_look_and_once_to_read(knee, opened):
    open_scan(knee)
    assert opened == [knee, knee]


def test_a_damaged_file_is_refused_with_its_damage_whatever_the_readers(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, is_cfl, CflFile)
    path = tmp_path / "scan.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(ScanFormatError, match=r"scan\.h5: is not an HDF5 file"):
        open_scan(path)
