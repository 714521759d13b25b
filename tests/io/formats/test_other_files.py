"""What is said about files that no reader takes."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import Contents, open_scan
from mri_ambient.io.formats.other_files import what_it_is

NUMBERS = bytes(range(256)) * 16


def packed(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a", "b")
    elif kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a"))
    else:
        Image.new("L", (9, 9)).save(out, kind)
    return out.getvalue()


def nifti() -> bytes:
    return nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)).to_bytes()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("image.dcm", bytes(128) + b"DICM" + bytes(100), "DICOM"),
        ("IM0001", bytes(128) + b"DICM" + bytes(100), "DICOM"),
        ("image.nii", nifti(), "NIfTI"),
        ("image.nii.gz", gzip.compress(nifti(), mtime=0), "NIfTI"),
        ("scan.npy.gz", gzip.compress(NUMBERS, mtime=0), "gunzip -k scan.npy.gz"),
        ("picture.png", packed("png"), "picture"),
        ("picture.jpg", packed("jpeg"), "picture"),
        ("picture.tif", packed("tiff"), "picture"),
        ("scans.zip", packed("zip"), "unzip scans.zip"),
        ("scans.tar", packed("tar"), "tar -xf scans.tar"),
        ("raw.list", b"# === DATA DESCRIPTION FILE ===\n", "philips_to_ismrmrd"),
        ("raw.data", NUMBERS, "philips_to_ismrmrd"),
        ("scan.raw", NUMBERS, "philips_to_ismrmrd"),
        ("scan.lab", NUMBERS, "philips_to_ismrmrd"),
        ("P12345.7", NUMBERS, "ge_to_ismrmrd"),
        ("prior.safetensors", b"\x02\0\0\0\0\0\0\0{}", "--prior"),
        ("net.pt", packed("zip"), "numpy.save"),
        ("net.pth", NUMBERS, "numpy.save"),
        ("meas.dat", NUMBERS, "twix"),
        ("scan.cfl", NUMBERS, ".hdr"),
        ("scan.hdr", b"# Dimensions\n3 3\n", "BART"),
        ("table.csv", b"a,b\n1,2\n", "text"),
        ("scan.h5", b"a,b\n1,2\n", "not an HDF5 file but a text file"),
        ("scan.h5", b"<!DOCTYPE html><html>", "web page"),
        ("scan.npy2", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_another_kind(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ScanFormatError) as caught:
        open_scan(path)
    assert str(caught.value).startswith(f"{path}: is ")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hdf5_without_k_space_lists_what_is_there(tmp_path):
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["group/image"] = np.ones((3, 5), np.float32)
    with pytest.raises(ScanFormatError) as caught:
        open_scan(tmp_path / "image.h5")
    assert all(word in str(caught.value) for word in ("group/image", "(3, 5)", "--dataset"))
    with h5py.File(tmp_path / "ScanArchive_1.h5", "w") as file:
        file["a"] = 1
    assert "ge_to_ismrmrd" in str(what_it_is(Contents(tmp_path / "ScanArchive_1.h5")))


@pytest.mark.parametrize("content", [NUMBERS, b""])
def test_what_is_not_known_is_not_named(tmp_path, content):
    (tmp_path / "scan").write_bytes(content)
    assert what_it_is(Contents(tmp_path / "scan")) is None
    assert what_it_is(Contents(tmp_path)) is None
    assert what_it_is(Contents(tmp_path / "gone")) is None


@pytest.mark.parametrize("name", ["scan.mat", "scan.npy", "scan.cfl", "scan"])
def test_what_is_not_there(tmp_path, name):
    with pytest.raises(ScanFormatError) as caught:
        open_scan(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: no such file"


def test_errors_about_files_say_what_to_do(tmp_path):
    (tmp_path / "5").mkdir()
    for name in ("acqp", "method", "fid"):
        (tmp_path / "5" / name).write_text("##TITLE=x\n")
    (tmp_path / "meas.dat").write_bytes(NUMBERS)
    np.savez(tmp_path / "real.npz", a=np.ones((4, 40, 40), np.float32))
    with h5py.File(tmp_path / "real.h5", "w") as file:
        file["magnitude"] = np.ones((4, 40, 40), np.float32)
    for name, *wanted in (
        ("5/acqp", f"give {tmp_path / '5'}"),
        ("5/method", f"give {tmp_path / '5'}"),
        ("meas.dat", "copy the file again"),
        ("real.npz", "a float32 (4, 40, 40)", "--axes"),
        ("real.h5", "magnitude float32 (4, 40, 40)", "--axes"),
    ):
        with pytest.raises(ScanFormatError) as error:
            open_scan(tmp_path / name)
        assert all(words in str(error.value) for words in wanted), error.value
