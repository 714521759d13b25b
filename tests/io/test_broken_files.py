"""Files that are no scans, or not whole: one clear line each, and nothing else ever escapes."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mri_ambient.errors import MriAmbientError, NumericalWarning, ScanFormatError
from mri_ambient.io import build_header, open_scan

HEADER = build_header((12, 10), (12, 10), (12.0, 10.0), (12.0, 10.0), 3.0, 2, 3)


def read_everything(path: Path) -> None:
    """Whatever the rest of the library may ask a file for."""
    file = open_scan(path)
    for scan in file:
        assert scan.ksp.isfinite().all()
    assert file.acceleration >= 1
    assert file.readout_oversampling >= 1
    file.read_target("reconstruction_rss")


def refusal(path: Path) -> str:
    """The one line a file is refused with."""
    with pytest.raises(ScanFormatError) as caught:
        read_everything(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no HDF5 at all", "is not an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "damaged"),
    ],
)
def test_no_hdf5(tmp_path, content, message):
    path = tmp_path / "scan.h5"
    path.write_bytes(content)
    assert message in refusal(path)


def test_no_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "scan.h5")
    assert "no file matches" in refusal(tmp_path / "z*.h5")
    assert "the folder holds no .h5 or .hdf5 file" in refusal(tmp_path)
    (tmp_path / "scan.h5").touch()
    assert "is a folder, wanted one of the files in it" in refusal(tmp_path)


def test_no_permission(write_scan, small_ksp, monkeypatch):
    path = write_scan(kspace=small_ksp)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")  # a superuser may read everything

    monkeypatch.setattr(h5py, "File", refuse)
    assert "permission denied" in refusal(path)


def test_a_truncated_file(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp, ismrmrd_header=HEADER)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "truncated; copy or download it again" in refusal(path)


def test_no_known_layout(write_scan, small_ksp):
    message = refusal(write_scan(data=small_ksp, other=1))
    assert "found ['data', 'other']" in message
    assert "known formats: prepared, fastmri" in message
    tagged = write_scan(kspace=small_ksp, attrs={"mri_ambient_format": "samples/1"})
    assert "format 'samples/1'" in refusal(tagged)
    ours = write_scan(kspace=small_ksp, attrs={"mri_ambient_format": "reconstruction/1"})
    assert "is a reconstruction already" in refusal(ours)


@pytest.mark.parametrize(
    ("kspace", "message"),
    [
        (np.ones((2, 3, 12, 10), np.float32), "kspace is float32 (2, 3, 12, 10), wanted complex"),
        (np.ones((2, 3, 12, 10), np.int16), "kspace is int16"),
        (np.ones((2, 12, 10), "S4"), "wanted complex numbers"),
        (np.ones((2, 12, 10), [("r", "f4")]), "wanted complex numbers"),
        (np.ones((2, 12, 10), [("r", "f4"), ("i", "i4")]), "wanted complex numbers"),
        (np.ones((12, 10), np.complex64), "kspace has 2 axes (12, 10)"),
        (np.ones((1, 2, 3, 12, 10), np.complex64), "kspace has 5 axes"),
        (np.complex64(1), "kspace has 0 axes"),
        (h5py.Empty("c8"), "kspace has 0 axes"),
        (np.ones((2, 0, 12, 10), np.complex64), "kspace is empty, its shape is (2, 0, 12, 10)"),
        (np.ones((0, 3, 12, 10), np.complex64), "kspace is empty"),
        (np.zeros((2, 3, 12, 10), np.complex64), "holds nothing but zeros"),
        (h5py.SoftLink("/nowhere"), "'kspace' cannot be opened"),
        (h5py.ExternalLink("gone.h5", "k"), "'kspace' cannot be opened"),
    ],
)
def test_kspace_that_is_none(write_scan, kspace, message):
    assert message in refusal(write_scan(kspace=kspace, ismrmrd_header=HEADER))


def test_kspace_that_is_a_group(write_scan):
    path = write_scan(**{"kspace/data": np.ones(3), "ismrmrd_header": HEADER})
    assert "'kspace' is a Group, wanted a dataset" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf * 1j])
def test_kspace_with_nan_or_inf(write_scan, small_ksp, value):
    small_ksp[1, 2, 3, 4] = value
    message = refusal(write_scan(kspace=small_ksp, ismrmrd_header=HEADER))
    assert "slice 1 of kspace holds NaN or Inf in 1 of 360 places" in message


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_beyond_single_precision(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp.numpy().astype(complex) * 1e200, ismrmrd_header=HEADER)
    assert "NaN or Inf" in refusal(path)


def test_a_shape_that_the_file_cannot_fill(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (2**40, 3, 12, 10), "c8", chunks=(1, 3, 12, 10))[0] = 1
    assert "only 2880 were ever written" in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (2, 3, 2**20, 2**20), "c8", chunks=(1, 1, 64, 64))
    assert "would take 24576 GiB" in refusal(path)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"mask": np.ones(9)}, "mask has shape (9,), wanted (10,) or (12, 10)"),
        ({"mask": np.ones((10, 12))}, "mask has shape (10, 12)"),
        ({"mask": np.float32(1)}, "mask has shape ()"),
        ({"mask": h5py.Empty("f4")}, "mask is empty"),
        ({"mask": np.full(10, np.nan)}, "mask holds NaN or Inf"),
        ({"mask": np.full(10, 0.5)}, "mask holds other values than 0 and 1"),
        ({"mask": np.zeros(10)}, "belongs to other data"),
        ({"mask": np.ones(10, complex)}, "mask holds complex128, wanted real numbers"),
        ({"mask": np.ones(10, "S1")}, "wanted real numbers"),
        ({"mask/plane": np.ones(10)}, "'mask' is a Group"),
        ({"ismrmrd_header": "no XML"}, "the ISMRMRD header is not XML"),
        ({"ismrmrd_header": HEADER.replace("<x>12</x>", "<x>0</x>")}, "matrix of 0 x 10"),
        ({"ismrmrd_header": np.ones(3)}, "ismrmrd_header holds float64 (3,), wanted one text"),
        ({"ismrmrd_header": np.void(b"x")}, "ismrmrd_header holds |V1 (), wanted one text"),
        ({"ismrmrd_header": h5py.Empty("S1")}, "ismrmrd_header is empty"),
        ({"ismrmrd_header": None, "ismrmrd_header/a": 1}, "'ismrmrd_header' is a Group"),
        ({"ismrmrd_header": h5py.SoftLink("/gone"), "x": 1}, "'ismrmrd_header' cannot be opened"),
        ({"noise": np.ones((2, 99), complex)}, "'noise' has shape (2, 99), wanted (3, samples)"),
        ({"noise": np.eye(3, dtype=complex)}, "more than 3 samples"),
        ({"noise": np.full((3, 9), np.nan * 1j)}, "'noise' holds NaN or Inf"),
        ({"reconstruction_rss": np.ones((3, 12, 10))}, "wanted (2, h, w)"),
        ({"reconstruction_rss": np.ones((2, 12))}, "wanted (2, h, w)"),
        ({"reconstruction_rss": np.full((2, 12, 10), np.nan)}, "rss holds NaN or Inf"),
        ({"reconstruction_rss": np.ones((2, 12, 10), complex)}, "wanted real numbers"),
    ],
)
def test_what_comes_with_kspace_is_wrong(write_scan, small_ksp, datasets, message):
    path = write_scan(**{"kspace": small_ksp, "ismrmrd_header": HEADER, **datasets})
    assert message in refusal(path)


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
    assert torch.equal(open_scan(path).read_ksp(0), small_ksp[0])
    assert "slice 1 of kspace cannot be read, the file is damaged there" in refusal(path)


def test_a_damaged_text_heap_does_not_hang(write_scan, small_ksp):
    path = write_scan(kspace=small_ksp, ismrmrd_header=HEADER, attrs={"acquisition": "AXT2"})
    content = path.read_bytes()
    after_header = content.index(b"</ismrmrdHeader>") + len("</ismrmrdHeader>")
    path.write_bytes(content[:after_header] + bytes(64) + content[after_header + 64 :])
    assert f"damaged (text at byte {content.index(b'GCOL')})" in refusal(path)


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
    with pytest.warns(NumericalWarning, match="wanted numbers or text") as caught:
        got = open_scan(path).attributes
    assert got == {"acquisition": "AXT2"}
    assert len(caught) == len(names)
    assert all(any(f"attribute {name!r}" in str(w.message) for w in caught) for name in names)


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
    # In a process of its own: where the value is read without a look at its type, h5py segfaults.
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


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut a file short, flip bits, or overwrite a stretch with noise."""
    kind = rng.choice(["cut", "flip", "flip", "noise"])
    if kind == "cut":
        return content[: rng.randrange(len(content))]
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 3, 10])):
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    if kind == "noise":
        start = rng.randrange(len(content))
        damaged[start : start + 32] = rng.randbytes(32)
    return bytes(damaged)


@pytest.mark.parametrize("chunked", [False, True])
def test_only_our_errors_escape_from_damaged_files(tmp_path, small_ksp, chunked):
    path = tmp_path / "scan.h5"
    layout = {"chunks": (1, 1, 12, 10), "compression": "gzip"} if chunked else {}
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=small_ksp.numpy(), **layout)
        file["ismrmrd_header"] = HEADER
        file["mask"] = np.ones(10, bool)
        file["reconstruction_rss"] = np.ones((2, 12, 10), np.float32)
        file.attrs.update({"acquisition": "AXT2", "max": 1.0, "patient_id": "ab" * 32})
    content = path.read_bytes()
    rng, n_refused = random.Random(1), 0
    for _ in range(150):
        path.write_bytes(damage(content, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            try:
                read_everything(path)
            except MriAmbientError as error:
                n_refused += 1
                assert "\n" not in str(error)
    assert n_refused > 30
