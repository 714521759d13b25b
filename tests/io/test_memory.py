"""Slices are read one by one: memory does not grow with the volume."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import run_forked

from mri_ambient.io import build_header

SHAPE = (8, 8, 640, 372)
"""Part of a knee volume, 15 MB a slice."""

READ_ALL = """
import ctypes, json, resource, sys
from pathlib import Path
from mri_ambient.io import open_scan

# What is freed goes back at once, and nothing is taken that was free before.
M_MMAP_THRESHOLD = -3
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

file = open_scan(sys.argv[1])
before, after = resident_mb(), []
assert file.fully_sampled
searched, most = resident_mb() - before, 0.0
for index in range(len(file)):
    scan = file[index]
    most = max(most, resident_mb() - before)
    del scan
    after.append(resident_mb())
growth = after[-1] - after[2]
print(json.dumps({"slices": len(file), "searched": searched, "most": most, "growth": growth}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_reading_many_slices_takes_the_memory_of_one(tmp_path, server):
    path = tmp_path / "knee.h5"
    with h5py.File(path, "w") as file:
        file["ismrmrd_header"] = build_header(
            SHAPE[-2:], (320, 320), (280.0, 162.75), (140.0, 140.0), 4.5, SHAPE[0], SHAPE[1]
        )
        kspace = file.create_dataset(
            "kspace", SHAPE, "c8", chunks=(1, 1, *SHAPE[-2:]), compression="gzip"
        )
        # One coil image, compressed once, serves all of them.
        content = zlib.compress(np.full(SHAPE[-2:], 1 + 1j, np.complex64).tobytes())
        for index, coil in np.ndindex(SHAPE[:2]):
            kspace.id.write_direct_chunk((index, coil, 0, 0), content)
    assert path.stat().st_size < 20e6
    ran = run_forked(subprocess.run, [sys.executable, "-c", READ_ALL, path], check=True)
    got = json.loads(ran.stdout)
    assert got["slices"] == SHAPE[0]
    assert got["searched"] < 20
    assert got["growth"] < 6  # since the third slice: less than 1.2 MB for each one more
    # One slice of 15 MB was alive; the rest is code first used here, and what malloc keeps.
    assert got["most"] < 45
