"""Memory and time of data preparation on a long volume against a short one.

    python tests/benchmarks/bench_memory.py [--slices 40] [--coils 15] [--keep N] [--size Y X]

simulates a knee-sized volume (15 coils, 640 x 372 encoded, 320 x 372 after oversampling, R = 4) of
2 slices, repeats them up to ``--slices``, prepares both in a process of their own (noise from the
samples, whitening, compression to ``--keep`` virtual coils or none, maps, scale), and prints the
largest resident memory and the CPU seconds as one JSON line. Ends with 1 if the long one takes more
than 1.1 times the memory of the short one, or 2 GiB. ``--quick`` uses 4 coils, 96 x 64, 6 slices.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py

from mri_ambient.data_prep import SimulateConfig, simulate

PREP = """
import sys, time
from pathlib import Path
from mri_ambient.data_prep import PrepConfig, prepare
keep = int(sys.argv[3]) or None
started = time.process_time()
assert not prepare(sys.argv[1], sys.argv[2], PrepConfig(n_coils=keep), pictures=False).failed
seconds = time.process_time() - started
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024, seconds)
"""
"""Prints the peak of this process alone; getrusage would start with that of its parent."""


def repeat(scan: Path, n_slices: int) -> None:
    """Make a file longer by repeating its slices."""
    with h5py.File(scan, "a") as file:
        slices = file["kspace"][:]
        del file["kspace"]
        shape = (n_slices, *slices.shape[1:])
        out = file.create_dataset("kspace", shape, "complex64", chunks=(1, *shape[1:]))
        for index in range(n_slices):
            out[index] = slices[index % len(slices)]


def measure(scan: Path, prepared: Path, keep: int) -> tuple[float, float]:
    """Peak memory in MiB and CPU seconds of preparing a volume."""
    ran = subprocess.run(
        [sys.executable, "-c", PREP, scan, prepared, str(keep)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, seconds = map(float, ran.stdout.split())
    return peak, seconds


def main() -> int:
    """Measure both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--keep", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 372))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.size, args.coils, args.slices = (48, 64), 4, 6
    row: dict[str, object] = {
        "benchmark": "memory",
        "coils": args.coils,
        "virtual_coils": args.keep or args.coils,
        "matrix": [2 * args.size[0], args.size[1]],
    }
    config = SimulateConfig(
        tuple(args.size), args.coils, acceleration=4, calib=24 if not args.quick else 12,
        readout_oversampling=2, slices=2,
    )  # fmt: skip
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        (scan,) = simulate("phantom", Path(name) / "raw", config, count=1)
        for n_slices in (2, args.slices):
            repeat(scan, n_slices)
            peak, seconds = measure(scan, Path(name) / str(n_slices), args.keep)
            peaks.append(peak)
            row |= {f"peak_mib_{n_slices}": round(peak), f"cpu_s_{n_slices}": round(seconds, 1)}
    print(json.dumps(row | {"ratio": round(peaks[1] / peaks[0], 3)}))
    return 0 if peaks[1] <= min(1.1 * peaks[0], 2048) else 1


if __name__ == "__main__":
    sys.exit(main())
