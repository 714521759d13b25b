"""Adding a format takes one file with a reader, and one line of a dictionary."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import READERS, WRITERS, Contents, ScanFile, find_scans, open_scan, readers

SIZES = (2, 3, 6, 5)


class ToyFile(ScanFile):
    """A format as small as it gets: sizes as text in ``.sizes``, numbers in ``.toy``."""

    format = "toy"
    suffixes = (".toy",)

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return contents.path.suffix == ".toy" and contents.path.with_suffix(".sizes").exists()

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        sizes = self.path.with_suffix(".sizes").read_text().split()
        self.shape = tuple(map(int, sizes))
        self.recon_shape = self.shape[2:]

    def read_ksp(self, index: int) -> NDArray[np.complex64]:
        values = np.fromfile(self.path, np.complex64).reshape(self.shape)[index]
        return values.copy()


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
def toy(tmp_path: Path) -> Path:
    (tmp_path / "scan.sizes").write_text(" ".join(map(str, SIZES)))
    ksp = (1 + 1j) * np.arange(1, 181, dtype=np.complex64).reshape(SIZES)
    ksp[..., 3] = 0
    ksp.tofile(tmp_path / "scan.toy")
    return tmp_path / "scan.toy"


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_format_that_is_not_hdf5_is_one_line(toy, opened, monkeypatch, place):
    with pytest.raises(ScanFormatError):
        open_scan(toy)
    line = {"toy": ToyFile}
    monkeypatch.setattr(readers, "READERS", line | READERS if place == "first" else READERS | line)
    opened.clear()
    assert [scan.path for scan in find_scans([toy.parent])] == [toy]
    opened.clear()
    file = open_scan(toy)
    assert isinstance(file, ToyFile)
    assert file[1].ksp.flatten()[0] == 91 + 91j
    assert file.mask[0, 0].tolist() == [True, True, True, False, True]  # found from the samples
    assert (file.attributes, file.voxel_mm, file.prepared) == ({}, None, False)
    assert len(opened) == (0 if place == "first" else 1)


def test_a_folder_names_the_suffixes_of_all_readers(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, "toy", ToyFile)
    with pytest.raises(ScanFormatError) as caught:
        open_scan(tmp_path)
    assert all(suffix in str(caught.value) for suffix in (".h5", ".hdf5", ".toy"))


def test_an_hdf5_file_is_opened_once_to_look_and_once_to_read_and_for_each_slice(knee, opened):
    open_scan(knee)  # its two slices tell where k = 0 is
    assert opened == [knee] * 4


def test_a_damaged_file_is_refused_with_its_damage_whatever_the_readers(tmp_path, monkeypatch):
    path = tmp_path / "scan.h5"
    path.write_bytes(b"no HDF5")
    refusals = []
    for known in (READERS, READERS | {"toy": ToyFile}):
        monkeypatch.setattr(readers, "READERS", known)
        with pytest.raises(ScanFormatError) as caught:
            open_scan(path)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]
    assert "HDF5" in refusals[0]


def test_a_scan_file_shows_itself_in_one_line_without_reading_its_slices(knee):
    file = open_scan(knee)
    size = " x ".join(str(n) for n in file.shape)
    assert repr(file) == f"<FastmriFile {knee.name}, {size}>"
    rate = file.acceleration
    assert repr(file) == f"<FastmriFile {knee.name}, {size}, R = {rate:.2f}>"


def test_readers_and_writers_are_listed_by_format():
    assert all(reader.format == name for name, reader in READERS.items())
    assert next(iter(READERS)) == "prepared"
    assert "h5" not in WRITERS  # which is written while it is computed
