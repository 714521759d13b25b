"""Damaged files and files that are not scans: one ScanFormatError each, of one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from codes import warns

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import READERS, build_header, open_scan

HEADER = build_header((12, 10), (12, 10), (12.0, 10.0), (12.0, 10.0), 3.0, 2, 3)


def read_everything(path: Path) -> None:
    """All that the rest of the library reads from a file."""
    file = open_scan(path)
    for scan in file:
        assert scan.ksp.isfinite().all()
    assert file.acceleration >= 1
    assert file.readout_oversampling >= 1
    file.read_target("reconstruction_rss")


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ScanFormatError) as caught:
        read_everything(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"no HDF5 at all", "not an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "damaged"),
    ],
)
def test_no_hdf5(tmp_path, content, cause):
    path = tmp_path / "scan.h5"
    path.write_bytes(content)
    assert cause in refusal(path)


def test_no_file(tmp_path):
    missing = refusal(tmp_path / "scan.h5")
    without_match, without_scan = refusal(tmp_path / "z*.h5"), refusal(tmp_path)
    (tmp_path / "scan.h5").touch()
    with_scan = refusal(tmp_path)
    causes = [text.split(": ", 1)[1] for text in (missing, without_match, without_scan, with_scan)]
    assert len(set(causes)) == 4
    assert ".hdf5" in without_scan


def test_no_permission(write_scan, small_ksp, monkeypatch):
    path = write_scan(kspace=small_ksp)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")  # a superuser may read everything

    monkeypatch.setattr(h5py, "File", refuse)
    assert "permission denied" in refusal(path)


def test_a_truncated_file(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp, ismrmrd_header=HEADER)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "truncated" in refusal(path)


def test_no_known_format(write_scan, small_ksp):
    tagged = write_scan(kspace=small_ksp, attrs={"mri_ambient_format": "samples/1"})
    message = refusal(tagged)
    assert "'samples/1'" in message
    assert ", ".join(READERS) in message
    ours = write_scan(kspace=small_ksp, attrs={"mri_ambient_format": "reconstruction/1"})
    assert "reconstruction" in refusal(ours)


@pytest.mark.parametrize(
    ("kspace", "fact"),
    [
        (np.ones((2, 3, 12, 10), np.float32), "kspace is float32 (2, 3, 12, 10)"),
        (np.ones((2, 3, 12, 10), np.int16), "kspace is int16"),
        (np.ones((2, 12, 10), "S4"), "kspace is |S4"),
        (np.ones((2, 12, 10), [("r", "f4")]), "kspace is [('r', '<f4')]"),
        (np.ones((2, 12, 10), [("r", "f4"), ("i", "i4")]), "('i', '<i4')"),
        (np.ones((12, 10), np.complex64), "2 axes"),
        (np.ones((1, 2, 3, 12, 10), np.complex64), "5 axes"),
        (np.complex64(1), "0 axes"),
        (h5py.Empty("c8"), "0 axes"),
        (np.ones((2, 0, 12, 10), np.complex64), "(2, 0, 12, 10)"),
        (np.ones((0, 3, 12, 10), np.complex64), "(0, 3, 12, 10)"),
        (np.zeros((2, 3, 12, 10), np.complex64), "zeros"),
        (h5py.SoftLink("/nowhere"), "'kspace'"),
        (h5py.ExternalLink("gone.h5", "k"), "'kspace'"),
    ],
)
def test_kspace_of_the_wrong_kind(write_scan, kspace, fact):
    assert fact in refusal(write_scan(kspace=kspace, ismrmrd_header=HEADER))


def test_kspace_that_is_a_group(write_scan):
    path = write_scan(**{"kspace/data": np.ones(3), "ismrmrd_header": HEADER})
    assert "'kspace' is a Group" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf * 1j])
def test_kspace_with_nan_or_inf(write_scan, small_ksp, value):
    small_ksp[1, 2, 3, 4] = value
    message = refusal(write_scan(kspace=small_ksp, ismrmrd_header=HEADER))
    assert all(fact in message for fact in ("slice 1", "1 of 360"))


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_beyond_single_precision(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp.numpy().astype(complex) * 1e200, ismrmrd_header=HEADER)
    assert "360 of 360" in refusal(path)


def test_a_shape_that_the_file_cannot_fill(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (2**40, 3, 12, 10), "c8", chunks=(1, 3, 12, 10))[0] = 1
    assert " 2880 " in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (2, 3, 2**20, 2**20), "c8", chunks=(1, 1, 64, 64))
    assert "24576 GiB" in refusal(path)


@pytest.mark.parametrize(
    ("datasets", "fact"),
    [
        ({"mask": np.ones(9)}, "mask has shape (9,), wanted (10,) or (12, 10)"),
        ({"mask": np.ones((10, 12))}, "mask has shape (10, 12)"),
        ({"mask": np.float32(1)}, "mask has shape ()"),
        ({"mask": h5py.Empty("f4")}, "mask is empty"),
        ({"mask": np.full(10, np.nan)}, "10 of 10"),
        ({"mask": np.full(10, 0.5)}, "0 and 1"),
        ({"mask": np.zeros(10)}, "0 of the 0"),
        ({"mask": np.ones(10, complex)}, "mask holds complex128"),
        ({"mask": np.ones(10, "S1")}, "mask holds |S1"),
        ({"mask/plane": np.ones(10)}, "'mask' is a Group"),
        ({"ismrmrd_header": "no XML"}, "not XML"),
        ({"ismrmrd_header": HEADER.replace("<x>12</x>", "<x>0</x>")}, "0 x 10"),
        ({"ismrmrd_header": np.ones(3)}, "ismrmrd_header holds float64 (3,)"),
        ({"ismrmrd_header": np.void(b"x")}, "ismrmrd_header holds |V1 ()"),
        ({"ismrmrd_header": h5py.Empty("S1")}, "ismrmrd_header is empty"),
        ({"ismrmrd_header": None, "ismrmrd_header/a": 1}, "'ismrmrd_header' is a Group"),
        ({"ismrmrd_header": h5py.SoftLink("/gone"), "x": 1}, "'ismrmrd_header'"),
        ({"noise": np.ones((2, 99), complex)}, "'noise' has shape (2, 99), wanted (3, samples)"),
        ({"noise": np.eye(3, dtype=complex)}, "'noise' has shape (3, 3)"),
        ({"noise": np.full((3, 9), np.nan * 1j)}, "27 of 27"),
        ({"reconstruction_rss": np.ones((3, 12, 10))}, "(3, 12, 10)"),
        ({"reconstruction_rss": np.ones((2, 12))}, "(2, 12)"),
        ({"reconstruction_rss": np.full((2, 12, 10), np.nan)}, "240 of 240"),
        ({"reconstruction_rss": np.ones((2, 12, 10), complex)}, "complex128"),
    ],
)
def test_what_comes_with_kspace_is_wrong(write_scan, small_ksp, datasets, fact):
    path = write_scan(**{"kspace": small_ksp, "ismrmrd_header": HEADER, **datasets})
    assert fact in refusal(path)


def test_damage_in_the_middle_names_the_slice(tmp_path, small_ksp):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        ksp = file.create_dataset(
            "kspace", data=small_ksp.numpy(), chunks=(1, 3, 12, 10), compression="gzip"
        )
        file["ismrmrd_header"] = HEADER
        chunk = ksp.id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    assert np.array_equal(open_scan(path).read_ksp(0), small_ksp[0])
    assert "slice 1 of kspace" in refusal(path)


@pytest.mark.parametrize("far", [False, True])
def test_a_damaged_text_heap_does_not_hang(write_scan, small_ksp, far):
    # Also where it lies between large datasets, far from both ends of the file.
    large = {name: np.ones((2, 3, 12, 30_000 if far else 1), np.complex64) for name in ("a", "b")}
    path = write_scan(kspace=small_ksp, a=large["a"], ismrmrd_header=HEADER, b=large["b"])
    content = path.read_bytes()
    assert (content.index(b"GCOL") > 2**23) == far
    after_header = content.index(b"</ismrmrdHeader>") + len("</ismrmrdHeader>")
    path.write_bytes(content[:after_header] + bytes(64) + content[after_header + 64 :])
    assert f"text at byte {content.index(b'GCOL')}" in refusal(path)


def test_attributes_that_are_neither_numbers_nor_text_are_left_out(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp, ismrmrd_header=HEADER, attrs={"acquisition": "AXT2"})
    lists = np.empty(2, object)
    lists[:] = [np.arange(3), np.arange(2)]
    with h5py.File(path, "a") as file:
        file.attrs.create("lists", lists, dtype=h5py.vlen_dtype(np.int32))
        file.attrs["reference"] = file["kspace"].ref
        file.attrs["opaque"] = np.void(b"abc")
        file.attrs["pair"] = np.array((1, 2.0), [("a", "i4"), ("b", "f4")])
        file.attrs["pair with text"] = np.array(
            (1.0, "x"), [("a", "f4"), ("b", h5py.string_dtype())]
        )
    names = ("lists", "reference", "opaque", "pair", "pair with text")
    with warns("W-ATTRIBUTE") as found:
        got = open_scan(path).attributes
    assert got == {"acquisition": "AXT2"}
    assert all(repr(name) in found[0].text for name in names)


READ_IT = """
import sys, warnings
from mri_ambient.errors import MriAmbientError
from mri_ambient.io import open_scan

warnings.simplefilter("ignore")
content = bytearray(open(sys.argv[1], "rb").read())
for position in map(int, sys.argv[2:]):
    for bit in range(8):  # one of them makes the text a list
        damaged = content.copy()
        damaged[position] ^= 1 << bit
        open(sys.argv[1], "wb").write(damaged)
        try:
            open_scan(sys.argv[1])
        except MriAmbientError:
            pass
print("read")
"""


def test_text_whose_type_is_damaged_does_not_crash_the_process(write_scan, small_ksp):
    # In a process of its own: h5py crashes if it reads the value without a check of its type.
    path = write_scan(
        kspace=small_ksp,
        ismrmrd_header=HEADER,
        attrs={"acquisition": "AXT2", "mri_ambient_format": "", "list": ["a", "b"]},
    )
    content = path.read_bytes()
    text_type = b"\x19\x01\x01\x00\x10\x00\x00\x00"  # HDF5's code of text of variable length
    found = [match.start() for match in re.finditer(re.escape(text_type), content)]
    assert len(found) == 4
    ran = subprocess.run(
        [sys.executable, "-c", READ_IT, path, *(str(start + 1) for start in found)],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "read\n", "")
