"""Damaged files of every kind, as tests/benchmarks/fuzz_files.py makes them: 700 of them."""

from __future__ import annotations

import io
import os
import signal
import zipfile

import h5py
import pytest
from damage import deflated
from helpers import load_script

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import open_scan

fuzz = load_script("fuzz_files")

SLOW = ("run", "reconstruction", "finished slices")
"""Kinds that are read by whole commands: a few of them are enough here."""

OFTEN = (*["bruker"] * 5, *["twix VD", "twix VB"] * 2, *["prepared"] * 4)
"""Kinds whose files have many places that matter, as often as they are damaged once more."""

N_PARTS = 4

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    kinds = [name for name in fuzz.KINDS if name not in SLOW]
    found = fuzz.sound_files(tmp_path_factory.mktemp("quick"), kinds)
    by_name = {sound.name: sound for sound in found}
    return [*found, *(by_name[name] for name in OFTEN)]


@pytest.mark.parametrize("part", range(N_PARTS))
def test_damaged_files_end_in_a_result_or_in_one_of_our_errors(part, quick):
    """Every kind 9 times, or more; a part is an own test, so that they run side by side."""
    cases = range(part, 9 * len(quick), N_PARTS)
    outcomes = list(fuzz.run_cases(cases, 0, quick))
    assert len(outcomes) == len(cases)
    assert [one for one in outcomes if one.what not in fuzz.FINE] == []
    whats = [one.what for one in outcomes]
    assert min(whats.count("read"), whats.count("refused")) > len(whats) / 5


def test_damaged_results_end_so_too(tmp_path):
    sounds = fuzz.sound_files(tmp_path, SLOW)
    outcomes = list(fuzz.run_cases(range(10), 0, sounds))
    assert len(outcomes) == 10
    assert [one for one in outcomes if one.what not in fuzz.FINE] == []


@pytest.mark.parametrize("fault", ["error", "memory", "time", "crash"])
def test_the_faults_that_are_looked_for_are_found(fault, tmp_path, monkeypatch):
    """A reader with a fault is not passed over."""

    def read(_: object) -> None:
        if fault == "error":
            raise ValueError("of ours")
        if fault == "memory":
            bytearray(2**31)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            pass

    monkeypatch.setattr(fuzz, "CPU_S", 0.2)
    kind = fuzz.Kind(fuzz.KINDS["npy"].write, read)
    monkeypatch.setitem(fuzz.KINDS, "faulty", kind)
    (outcome,) = fuzz.run_cases([0], 0, fuzz.sound_files(tmp_path / "s", ["faulty"]))
    wanted = {
        "error": "ValueError",
        "memory": "MemoryError",
        "crash": "SIGKILL",
        "time": "time",
    }
    assert outcome.what == wanted[fault]


def test_sizes_are_refused_before_memory_is_taken(tmp_path):
    """3 GiB in an archive of 3 MiB, and 10^12 samples in a file of a few kB."""
    bomb = tmp_path / "scan.npz"
    bomb.write_bytes(deflated("kspace.npy"))
    with zipfile.ZipFile(io.BytesIO(bomb.read_bytes())) as archive:
        assert archive.infolist()[0].file_size > 3 * 2**30
    with pytest.raises(ScanFormatError, match="would take 3 GiB"):
        open_scan(bomb)
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        shape = (10**4, 10, 10**4, 10**3)
        file.create_dataset("data", shape, "c8", chunks=(1, 1, 64, 64), compression="gzip")
    with pytest.raises(ScanFormatError):
        open_scan(path)
