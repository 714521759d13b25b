"""Kill a training run again and again at random moments: it must end as if left alone.

    python tests/benchmarks/bench_resume.py [--kills 100] [--quick]

Starts a run in a process of its own, kills it (SIGKILL) at a random moment of its training, starts
it again, until ``--kills`` kills have hit it before its end, and compares weights, optimiser state
and log with an undisturbed run, to the bit. Prints one JSON line and exits with 1 if anything
differs, or if the run ended before so many kills hit it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import warnings
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.priors.checkpoint import load_tensors
from mri_ambient.runtime.device import Runtime
from mri_ambient.training.config import TrainConfig
from mri_ambient.training.loop import train
from mri_ambient.training.run import RunFolder

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mri_ambient.training.loop", "torch._dynamo"])


def run(data: Path, folder: Path, images: int, config: TrainConfig) -> None:
    """Train, single-threaded and without warnings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train(data, folder, config, images=images, runtime=Runtime("cpu"))


def same(a: Path, b: Path) -> bool:
    """Whether two runs hold the same state, prior and log."""
    checkpoint = RunFolder(a).latest_checkpoint
    for name in ("prior.safetensors", "" if checkpoint is None else checkpoint.name):
        left, right = load_tensors(a / name)[0], load_tensors(b / name)[0]
        if left.keys() != right.keys() or not all(torch.equal(left[k], right[k]) for k in left):
            return False
    return (a / "log.jsonl").read_text() == (b / "log.jsonl").read_text()


def main() -> int:
    """Kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    kills, images = args.kills, 60 + 40 * args.kills
    if args.quick:
        kills, images, args.seed = 1, 20, 1  # killed early
    config = TrainConfig(batch_size=2, check_every=8, save_every=4, n_validation=2, warmup_images=4)
    moments, n_hits = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        data, whole = Path(scratch) / "data", Path(scratch) / "whole"
        killed = RunFolder(Path(scratch) / "killed")
        scans = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, noise=0.01)
        prepare(simulate("phantom", Path(scratch) / "raw", scans, count=10), data)

        def start(folder: Path) -> BaseProcess:
            child = PROCESSES.Process(target=run, args=(data, folder, images, config))
            child.start()
            return child

        start(whole).join()
        while n_hits < kills and killed.images_seen < images:
            # It trains some images beyond its newest checkpoint, which a kill takes away.
            wanted = killed.images_seen + 2 * moments.randint(1, 10)
            child = start(killed.path)
            while child.is_alive() and wanted > max(killed.log.values("images"), default=0):
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 0.1))
            child.kill()
            child.join()
            # A kill after the last checkpoint hits nothing.
            n_hits += child.exitcode == -signal.SIGKILL and killed.images_seen < images
        start(killed.path).join()
        equal = same(whole, killed.path)
    print(json.dumps({"benchmark": "resume", "kills": n_hits, "images": images, "equal": equal}))
    return 0 if equal and n_hits == kills else 1


if __name__ == "__main__":
    sys.exit(main())
