"""Seconds for ESPIRiT maps, ours against ``sigpy.mri.app.EspiritCalib``, and whether they agree.

Both get the same simulated scan (a birdcage around a textured ellipse with noise), the same
calibration lines, kernel width, threshold, power iterations and threads; both are warmed up, and
agreement is the correlation |<S_ours, S_sigpy>| of every pixel of the object in the same run, and
that of ours, interpolated where they are smooth, with ours computed in every pixel. The full size
is 15 coils at 320 x 320 with 24 calibration lines. Prints one line of JSON; fails when the maps
disagree and, at full size, when ours are not at least ten times faster.

    python tests/benchmarks/bench_espirit.py [--quick] [--threads 2] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

Maps = TypeVar("Maps")

MIN_CORRELATION = 0.99
MIN_RATIO = 10.0
CALIB, KERNEL, THRESHOLD = 24, 6, 0.02


def main() -> int:
    args = parse()
    if args.quick:
        args.threads = 1
    # BLAS libraries read these when they are loaded, so before numpy and torch are.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    report = run(args)
    print(json.dumps(report))
    return 0 if report["passed"] else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small size and one thread")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="where ours run; sigpy's run on the CPU")
    return parser.parse_args()


def run(args: argparse.Namespace) -> dict[str, object]:
    import numpy as np
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sigpy
        import sigpy.mri

    from mri_ambient.data_prep.espirit import CROP, N_ITER, espirit_maps
    from mri_ambient.physics.fourier import fft2c
    from mri_ambient.rng import complex_normal, rng_for

    torch.set_num_threads(args.threads)
    n_coils, n, repeats = (6, 64, 1) if args.quick else (15, 320, args.repeats)
    rng = rng_for(0, "bench_espirit")
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n)] * 2, indexing="ij")
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 1, 16, 16, generator=rng), (n, n), mode="bilinear", align_corners=True
    )[0, 0]
    img = ((y**2 + (1.2 * x) ** 2) < 0.64) * torch.polar(0.5 + texture, x * y)
    coils = torch.from_numpy(sigpy.mri.birdcage_maps((n_coils, n, n), dtype=np.complex64))
    ksp = fft2c(coils * img) + 0.02 * complex_normal((n_coils, n, n), rng)
    on_device = ksp[None].to(args.device)

    def ours(crop: float = CROP) -> torch.Tensor:
        maps = espirit_maps(
            on_device, (CALIB, CALIB), kernel_width=KERNEL, threshold=THRESHOLD, crop=crop,
        ).maps[0].cpu()  # fmt: skip
        return maps

    def theirs() -> torch.Tensor:
        app = sigpy.mri.app.EspiritCalib(
            ksp.numpy(), CALIB, THRESHOLD, KERNEL, crop=0, max_iter=N_ITER, show_pbar=False
        )
        return torch.from_numpy(app.run())

    before = current_mib()
    (a, seconds, cpu), peak = timed(ours, repeats), peak_mib() - before
    (b, sigpy_seconds, sigpy_cpu), sigpy_peak = timed(theirs, repeats), peak_mib() - before
    rss = img.abs()  # the birdcage has unit norm
    match = (a.conj() * b).sum(dim=0).abs()[rss > 0.05 * rss.max()]
    every_pixel = ours(crop=0.0)  # without a support, nothing is interpolated
    interpolated = (a.conj() * every_pixel).sum(dim=0).abs()[(a != 0).any(dim=0)]
    ratio = sigpy_seconds / seconds
    agree = bool(match.min() > MIN_CORRELATION)
    return {
        "benchmark": "espirit",
        "quick": args.quick,
        "shape": [n_coils, n, n],
        "calib": CALIB,
        "kernel_width": KERNEL,
        "n_iter": N_ITER,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "device": str(on_device.device),
        "threads": args.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "sigpy": sigpy.__version__,
        },
        "repeats": args.repeats,
        "seconds": round(seconds, 4),
        "sigpy_seconds": round(sigpy_seconds, 4),
        "cpu_seconds": round(cpu, 4),  # of all threads: what a busy machine does not change
        "sigpy_cpu_seconds": round(sigpy_cpu, 4),
        "ratio": round(ratio, 2),
        "correlation_min": round(float(match.min()), 6),
        "correlation_q01": round(float(match.quantile(0.01)), 6),
        "pixels": match.numel(),
        "correlation_min_to_every_pixel": round(float(interpolated.min()), 6),
        "peak_mib": round(peak, 1),
        "sigpy_peak_mib": round(sigpy_peak, 1),
        "passed": agree and (args.quick or ratio >= MIN_RATIO),
    }


def timed(function: Callable[[], Maps], repeats: int) -> tuple[Maps, float, float]:
    """The result, and the median seconds and CPU seconds, after one call to warm up."""
    result = function()
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = function()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return result, statistics.median(seconds), statistics.median(cpu_seconds)


def peak_mib() -> float:
    """The peak memory of this process so far, so the code that needs less runs first."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def current_mib() -> float:
    """The memory of this process now (on Linux; elsewhere its peak so far)."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 -- not a file on disk
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except FileNotFoundError:
        return peak_mib()


if __name__ == "__main__":
    sys.exit(main())
