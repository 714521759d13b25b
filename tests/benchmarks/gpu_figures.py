"""All figures that need a GPU, by one command that may be interrupted and called again.

    python tests/benchmarks/gpu_figures.py WORK OUT [--train IMAGES.zip] [--val IMAGES.zip]
        [--scan SCAN.h5] [--minutes 9] [--only NAME]

runs the tests marked ``gpu``, then benchmarks with the ``base`` network at 320 x 320, the presets,
the training of the shipped prior and the objectives at 256 x 256, in this order, until the time is
up. The output of each goes to OUT/<name>.txt. Those that succeeded are not run again; training
resumes from WORK; ``--only NAME`` gives one of them all the time. Those without their images are
left out. ``--quick`` only lists the commands.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
FULL_SIZE = ("--preset", "base", "--size", "320", "--device", "cuda")


def script(name: str, *words: object) -> list[str]:
    """A benchmark's command."""
    return [sys.executable, str(HERE / name), *map(str, words)]


def commands(args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Name and command, the most wanted first."""
    yield "tests", [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", str(HERE.parent)]
    for name, more in (("", ()), ("-compiled", ("--compile",))):
        yield f"training{name}", script("bench_training.py", *FULL_SIZE, "--images", 200, *more)
        yield f"sampling{name}", script("bench_sampling.py", *FULL_SIZE, *more)
    yield "classical", script("bench_classical.py", "--device", "cuda")
    yield "espirit", script("bench_espirit.py", "--device", "cuda")
    scans = ["--scan", args.scan] if args.scan else []
    if args.val:
        yield "presets", script("bench_presets.py", args.val, args.work / "presets", *scans)
        yield "samplers", script("bench_samplers.py", args.val, *scans)
    if args.train:
        yield (
            "prior",
            script(
                "train_default_prior.py", args.train, args.work / "prior",
                "--time-limit", f"{max(1, args.minutes - 3):g}m",
            ),
        )  # fmt: skip
    if args.train and args.val:
        yield (
            "objectives",
            script(
                "bench_objectives.py",
                args.train,
                args.val,
                args.work / "objectives",
                *scans,
                "--setting",
                "R4-noisy-256",
                "--preset",
                "base",
            ),
        )


def run(words: list[str], path: Path, seconds: float) -> int | None:
    """Exit status, None where it ran out of time; what it printed is added to ``path``."""
    with path.open("a") as out:
        out.write(f"$ {shlex.join(words)}\n")
        out.flush()
        try:
            return subprocess.run(words, stdout=out, stderr=out, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            return None


def main() -> None:
    """Run what is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="?", type=Path, default=Path("work"))
    parser.add_argument("out", nargs="?", type=Path, default=Path("out"))
    parser.add_argument("--train", type=Path)
    parser.add_argument("--val", type=Path)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", action="append")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    started = time.monotonic()
    for name, words in commands(args):
        if args.only and name not in args.only:
            continue
        if args.quick:
            print(name, shlex.join(words))
            continue
        args.out.mkdir(parents=True, exist_ok=True)
        args.work.mkdir(parents=True, exist_ok=True)
        done = args.work / f"{name}.done"
        left = 60 * args.minutes - (time.monotonic() - started)
        if done.exists() or left < 5:
            continue
        status = run(words, args.out / f"{name}.txt", left)
        if status == 0:
            done.touch()
        print(name, "out of time" if status is None else f"exit status {status}", flush=True)


if __name__ == "__main__":
    main()
