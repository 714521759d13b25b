"""A volume from file to file: seconds and memory of whole processes, ours, BART's and sigpy's.

    python tests/benchmarks/bench_volume.py [--threads 2] [--repeats 3] [--no-sigpy]

One simulated head (fastMRI layout, not compressed; 16 slices of 320 x 320, 16 coils, R = 4 random
lines, 24 calibration lines) is reconstructed by ``mri-ambient reconstruct`` with its defaults, by
BART (a shell that runs ``ecalib -m1 -r24`` and ``pics -l1 -r0.005 -i50`` on every slice, each
reading and writing .cfl files, which are made beforehand) and by sigpy (``EspiritCalib`` and
``L1WaveletRecon`` with the same weight and iterations). The three take turns, ``--repeats`` times;
printed are medians of wall and CPU seconds, the median ratios to ours, the largest resident memory,
and the PSNR (dB) against the noise-free image, each image scaled to fit, so that speed is not
bought with quality. On a machine that also does other work, trust CPU seconds and
ratios. BART is left out where it is not installed. One line of JSON; ``--quick`` is small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np

CALIB, LAMBDA, N_ITER = 24, 0.005, 50

BART = """
set -e
for slice in "$1"/ksp_*.cfl; do
  name=$(basename "$slice" .cfl)
  bart ecalib -m1 -r24 "$1/$name" "$2/maps_$name" >/dev/null
  bart pics -l1 -r0.005 -i50 "$1/$name" "$2/maps_$name" "$2/$name" >/dev/null
done
"""

SIGPY = """
import sys, warnings
warnings.simplefilter("ignore")
import h5py, numpy, sigpy, sigpy.mri.app as app
calib, lam, n_iter = int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
images = []
with h5py.File(sys.argv[1]) as file:
    for ksp in file["kspace"]:
        ksp /= abs(sigpy.ifft(ksp, axes=(-2, -1))).max()  # BART scales by itself
        maps = app.EspiritCalib(ksp, calib, show_pbar=False).run()
        images.append(app.L1WaveletRecon(ksp, maps, lam, max_iter=n_iter, show_pbar=False).run())
numpy.save(sys.argv[2] + "/images.npy", numpy.stack(images))
"""


@dataclass(frozen=True)
class Run:
    """What one process took: wall and CPU seconds, and memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def main() -> int:
    """Simulate, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-sigpy", action="store_true", help="leave out the slowest")
    parser.add_argument("--quick", action="store_true", help="a small volume, ours and BART only")
    args = parser.parse_args()
    size, coils, slices = (112, 4, 1) if args.quick else (320, 16, 16)
    threads = 1 if args.quick else args.threads
    with tempfile.TemporaryDirectory() as folder:
        # A process counts the memory of the one that started it, so this one stays small.
        with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as other:
            truth = other.submit(simulate, Path(folder), size, coils, slices).result()
        commands = tool_commands(Path(folder), with_sigpy=not (args.no_sigpy or args.quick))
        runs = {name: [] for name in commands}
        for _ in range(1 if args.quick else args.repeats):
            for name, words in commands.items():
                runs[name].append(run(words, threads))
        scores = {name: psnr(images(Path(folder), name), truth) for name in commands}
    print(json.dumps({
        "benchmark": "volume",
        "shape": [slices, coils, size, size],
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "threads": threads,
        "load": os.getloadavg()[0],
        **{name: figures(runs[name], runs["ours"]) | {"psnr": scores[name]} for name in commands},
    }))  # fmt: skip
    return 0


def simulate(folder: Path, size: int, coils: int, slices: int) -> np.ndarray:
    """Write ``scan.h5`` and a .cfl for every slice; returns the noise-free RSS images."""
    import torch
    from bench_alias import write_cfl

    from mri_ambient.data_prep import ScanModel, SimulateConfig
    from mri_ambient.data_prep.simulation.images import open_images
    from mri_ambient.physics.fourier import ifft2c
    from mri_ambient.rng import rng_for

    config = SimulateConfig(size=(size, size), coils=coils, slices=slices, calib=CALIB, noise=0.01)
    anatomy = open_images("phantom").read("bench", config.size, slices, rng_for(0, "bench_volume"))
    model = ScanModel(anatomy, config, "bench")
    for name in ("cfl", "ours", "bart", "sigpy"):
        (folder / name).mkdir()
    measured = np.stack([model.measure(index).numpy() for index in range(slices)])
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"], file["mask"] = measured, model.mask[0, 0].numpy()
    for index, ksp in enumerate(measured / np.abs(measured).max()):
        write_cfl(folder / "cfl" / f"ksp_{index:03d}", torch.from_numpy(ksp))
    clean = [ifft2c(model.clean(index)).norm(dim=0) for index in range(slices)]
    return torch.stack(clean).numpy()


def tool_commands(folder: Path, *, with_sigpy: bool) -> dict[str, list[str]]:
    """The command line of every tool."""
    scan, settings = str(folder / "scan.h5"), [str(CALIB), str(LAMBDA), str(N_ITER)]
    ours = [sys.executable, "-m", "mri_ambient.cli", "reconstruct", scan, "--overwrite", "-q"]
    commands = {"ours": [*ours, "-o", str(folder / "ours")]}
    if shutil.which("bart"):
        commands["bart"] = ["sh", "-c", BART, "sh", str(folder / "cfl"), str(folder / "bart")]
    if with_sigpy:
        words = [sys.executable, "-c", SIGPY, scan, str(folder / "sigpy"), *settings]
        commands["sigpy"] = words
    return commands


def run(words: list[str], threads: int) -> Run:
    """Run a command to its end."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    started = time.perf_counter()
    process = subprocess.Popen(words, env=os.environ | {name: str(threads) for name in names})
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{words[:4]} ended with status {os.waitstatus_to_exitcode(status)}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def images(folder: Path, tool: str) -> np.ndarray:
    """Magnitude images that a tool wrote, ``(slice, y, x)``."""
    from mri_ambient.io.formats.bart import read_cfl

    if tool == "ours":
        with h5py.File(folder / "ours" / "scan.h5") as file:
            return file["reconstruction"][:]
    if tool == "sigpy":
        return np.abs(np.load(folder / "sigpy" / "images.npy"))
    written = sorted((folder / "bart").glob("ksp_*.cfl"))
    return np.abs(np.stack([read_cfl(path).squeeze() for path in written]))


def psnr(img: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of a volume, scaled to fit the truth."""
    error = img * (img * truth).sum() / np.square(img).sum() - truth
    return round(float(20 * np.log10(truth.max()) - 10 * np.log10(np.square(error).mean())), 3)


def figures(runs: list[Run], ours: list[Run]) -> dict[str, float]:
    """Medians, ratios to ours, turn by turn, and the most memory."""
    pairs = list(zip(runs, ours, strict=True))
    return {
        "seconds": round(statistics.median(r.seconds for r in runs), 2),
        "cpu_seconds": round(statistics.median(r.cpu_seconds for r in runs), 2),
        "ratio": round(statistics.median(a.seconds / b.seconds for a, b in pairs), 2),
        "cpu_ratio": round(statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs), 2),
        "peak_mib": round(max(r.peak_mib for r in runs), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
