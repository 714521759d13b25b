"""Speed and memory of reading and converting scanner formats, beside the speed of the disk.

    python tests/benchmarks/bench_formats.py [--slices 40] [--folder DIR]

writes an ISMRMRD file of a 2-D volume with interleaved slices (15 coils, 640 x 320 with 2-fold
readout oversampling) and of a 3-D volume of the same size (640 x 320 lines of ``--slices``
partitions). In a process of its own each is opened, its sampling found and every slice read once
more; the 2-D volume is also converted to fastMRI layout. Prints one JSON line a case: MB of k-space
per second, and per second of computing (other programs may share the machine), the largest resident
memory, and what the disk copies in the same minute. Ends with 1 if memory exceeds 2 GiB, or a speed
is below both 100 MB/s and half of the disk's.
``--quick`` uses 4 coils, 64 x 32 and 4 slices, leaves the first case out and judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import ismrmrd
import ismrmrd.hdf5
import numpy as np

MEMORY_MIB, SPEED_MB = 2048, 100

READ = """
import sys, time
from pathlib import Path
from mri_ambient.io import convert_scan, open_scan
started, used = time.perf_counter(), time.process_time()
if sys.argv[2] == "convert":
    convert_scan(open_scan(sys.argv[1]), Path(sys.argv[3]), "fastmri")
else:
    file = open_scan(sys.argv[1])
    assert file.fully_sampled
    for index in range(len(file)):
        file[index]
seconds = time.perf_counter() - started
status = Path("/proc/self/status").read_text()
print(seconds, time.process_time() - used, int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""
"""Prints seconds and the peak of this process alone; getrusage would start with its parent's."""

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions>
<encoding><encodedSpace><matrixSize><x>{0}</x><y>{1}</y><z>{2}</z></matrixSize>
<fieldOfView_mm><x>440</x><y>220</y><z>160</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{3}</x><y>{1}</y><z>{2}</z></matrixSize>
<fieldOfView_mm><x>220</x><y>220</y><z>160</z></fieldOfView_mm></reconSpace>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def write_volume(path: Path, shape: tuple[int, int, int, int], *, is_3d: bool) -> None:
    """An ISMRMRD file of noise ``(slice or partition, coil, readout, phase)``, interleaved."""
    n_slices, n_coils, ny, nx = shape
    file = ismrmrd.Dataset(str(path), "dataset")
    file.write_xml_header(HEADER.format(ny, nx, n_slices if is_3d else 1, ny // 2).encode())
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n_slices, 2 * n_coils * ny), np.float32)
    line = noise[0].view(np.complex64).reshape(n_coils, ny)
    file.append_acquisition(ismrmrd.Acquisition.from_array(line))
    file.close()
    with h5py.File(path, "a") as opened:
        data = opened["dataset/data"]
        data.resize(n_slices * nx, axis=0)
        records = np.repeat(data[:1], n_slices)
        for index, record in enumerate(records):
            record["head"]["idx"]["kspace_encode_step_2" if is_3d else "slice"] = index
            record["data"] = noise[index]
        for column in range(nx):
            records["head"]["idx"]["kspace_encode_step_1"] = column
            data[column * n_slices : (column + 1) * n_slices] = records


def measure(path: Path, what: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of computing and peak memory in MiB of reading or converting one file."""
    ran = subprocess.run(
        [sys.executable, "-c", READ, path, what, folder], capture_output=True, text=True, check=True
    )
    seconds, computing, peak = ran.stdout.split()
    return float(seconds), float(computing), float(peak)


def disk_speed(path: Path) -> float:
    """MB/s of a copy of the file, with what the system has in memory written out."""
    copy = path.with_suffix(".copy")
    started = time.perf_counter()
    with path.open("rb") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 2**22)
        os.fsync(target.fileno())
    seconds = time.perf_counter() - started
    copy.unlink()
    return path.stat().st_size / 1e6 / seconds


def main() -> int:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--folder", help="where to write; the temporary folder by default")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    shape = (4, 4, 64, 32) if args.quick else (args.slices, 15, 640, 320)
    megabytes, failed = 8 * float(np.prod(shape)) / 1e6, False
    cases = (("2-D", "read"), ("2-D", "convert"), ("3-D", "read"))
    for case, what in cases[args.quick :]:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / "scan.h5"
            write_volume(path, shape, is_3d=case == "3-D")
            disk = disk_speed(path)
            (Path(folder) / "out").mkdir()
            seconds, computing, peak = measure(path, what, Path(folder) / "out")
        speed = megabytes / seconds
        row = {
            "benchmark": "formats", "format": "ismrmrd", "case": case, "what": what,
            "shape": shape, "mb": round(megabytes), "seconds": round(seconds, 2),
            "mb_per_s": round(speed),
            "mb_per_s_computing": round(megabytes / computing),
            "disk_copy_mb_per_s": round(disk), "peak_mib": round(peak),
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        failed |= peak > MEMORY_MIB or speed < min(SPEED_MB, disk / 2)
    return 1 if failed and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
