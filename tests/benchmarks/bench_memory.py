"""Memory of data preparation on a long volume against a short one.

    python tests/benchmarks/bench_memory.py [--slices 40]

simulates knee-sized volumes (15 coils, 640 x 372 encoded, 320 x 372 after oversampling) of 2 and of
``--slices`` slices, prepares each in a process of its own, and prints the largest resident memory
of both as one JSON line. Ends with 1 if the long one takes more than 1.1 times the short one, or
2 GiB. ``--quick`` uses 4 coils, 96 x 64 and 6 slices.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mri_ambient.data_prep import SimulateConfig, simulate

PREP = """
import sys
from pathlib import Path
from mri_ambient.data_prep import prepare
assert not prepare(sys.argv[1], sys.argv[2]).failed
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""
"""Prints the peak of this process alone; getrusage would start with that of its parent."""


def measure(folder: Path, config: SimulateConfig) -> tuple[float, float]:
    """Peak memory in MiB and seconds of preparing one simulated volume."""
    (scan,) = simulate("phantom", folder / "raw", config, count=1)
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", PREP, scan, folder / "prepared"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(ran.stdout), time.perf_counter() - started


def main() -> int:
    """Measure both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    size, coils, slices = ((320, 372), 15, args.slices) if not args.quick else ((48, 64), 4, 6)
    row: dict[str, object] = {
        "benchmark": "memory",
        "coils": coils,
        "matrix": [2 * size[0], size[1]],
    }
    peaks = []
    for n_slices in (2, slices):
        config = SimulateConfig(
            size=size, coils=coils, acceleration=4, calib=24 if not args.quick else 12,
            readout_oversampling=2, slices=n_slices, seed=n_slices,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            peak, seconds = measure(Path(folder), config)
        peaks.append(peak)
        row |= {f"peak_mib_{n_slices}": round(peak), f"seconds_{n_slices}": round(seconds, 1)}
    print(json.dumps(row | {"ratio": round(peaks[1] / peaks[0], 3)}))
    return 0 if peaks[1] <= min(1.1 * peaks[0], 2048) else 1


if __name__ == "__main__":
    sys.exit(main())
