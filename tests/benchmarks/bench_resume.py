"""Kill a training run again and again at random moments: it must end as if left alone.

    python tests/benchmarks/bench_resume.py [--kills 100] [--quick]

Starts a run in a process of its own, kills it (SIGKILL) after a random time, starts it again, until
it was killed ``--kills`` times, and compares weights, optimiser state and log with an undisturbed
run, to the bit. Prints one JSON line and exits with 1 if anything differs, or if the run always
ended before it could be killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mri_ambient.data_prep import SimulateConfig, prepare_many, simulate_scans
from mri_ambient.priors.checkpoint import load_tensors
from mri_ambient.training.run import latest_checkpoint

CHILD = """
import sys, warnings
from pathlib import Path
import torch
from mri_ambient.train_config import TrainConfig
from mri_ambient.train import train
torch.set_num_threads(1)
warnings.simplefilter("ignore")
config = TrainConfig(batch_size=2, check_every=8, save_every=4, n_validation=2, warmup_images=4)
train(Path(sys.argv[1]), Path(sys.argv[2]), config, images=int(sys.argv[3]))
"""


def start(data: Path, run: Path, images: int) -> subprocess.Popen[bytes]:
    """One training process, single-threaded."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, data, run, str(images)], env=environment)


def same(a: Path, b: Path) -> bool:
    """Whether two runs hold the same state, prior and log."""
    names = (latest_checkpoint(a).name, "prior.safetensors")
    for name in names:
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
    kills, images, longest = args.kills, 60 + 20 * args.kills, 4.0
    if args.quick:
        kills, images, longest = 2, 60, 1.0
    moments = random.Random(args.seed)
    n_killed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        config = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, noise=0.01)
        prepare_many(simulate_scans("phantom", work / "raw", config, count=10), work / "data")
        start(work / "data", work / "whole", images).wait()
        while n_killed < kills:
            child = start(work / "data", work / "killed", images)
            while not (work / "killed/run.json").exists() and child.poll() is None:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, longest))
            child.send_signal(signal.SIGKILL)
            if child.wait() != -signal.SIGKILL:
                break  # it had finished
            n_killed += 1
        start(work / "data", work / "killed", images).wait()
        equal = same(work / "whole", work / "killed")
    print(json.dumps({"benchmark": "resume", "kills": n_killed, "images": images, "equal": equal}))
    return 0 if equal and n_killed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
