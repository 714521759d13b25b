"""Kill commands again and again at random moments: run again, they must end as if left alone.

    python tests/benchmarks/bench_kills.py [--kills 100] [--seed 0] [--quick]

``prep``, ``train``, ``reconstruct`` and ``adapt`` are started in turn in processes of their own and
killed (SIGKILL) up to five times, at random moments of the time that they take. Then the command
runs to its end. Its folder must hold the files of an undisturbed run and no others, equal to the
byte but for the seconds that they took. A kill counts if it hit: the process had not ended. Prints
one JSON line with the kills by command, and exits with 1 if a folder differs. ``--quick`` kills
``prep`` and ``reconstruct`` once each and renders no pictures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.priors.checkpoint import load_tensors
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import DEFAULT_NETWORK, NETWORKS

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["mri_ambient.cli.app", "mri_ambient.training.refit", "mri_ambient.recon.pipeline",
     "torch._dynamo", "matplotlib.figure"]
)  # fmt: skip

IN_A_ROW = 5
"""Kills of a command before it may end."""

NETWORK = UNetSpec(channels=(8, 12), blocks=1, embedding=16)


def commands(
    scratch: Path, images: int, steps: int, dds: Sequence[object] = ()
) -> dict[str, list[object]]:
    """Words of the command line by command, without the output; ``dds`` are more of them."""
    raw, prior = scratch / "raw", scratch / "first" / "prior.safetensors"
    sample = ["--prior", prior, "--method", "dds", "--samples", 1, *dds]
    train = ["train", scratch / "prepared", "--batch-size", 2, "--seed", 1]
    return {
        "prep": ["prep", raw],
        "train": [*train, "--images", images, "--save-every", 4, "--check-every", 16],
        "reconstruct": ["reconstruct", raw, *sample],
        "adapt": ["adapt", raw, "--prior", prior, "--until", steps],
    }


def outputs(name: str, folder: Path) -> list[object]:
    """Of a command."""
    return ["-o", folder / "prior.safetensors" if name == "adapt" else folder]


def run(words: Sequence[object], printed: Path, drawn: bool = True) -> None:
    """``mri-ambient *words``, single-threaded; what it prints goes to a file."""
    torch.set_num_threads(1)
    if not drawn:
        Figure.savefig = lambda _, path, **__: Path(path).touch()
    NETWORKS[DEFAULT_NETWORK] = NETWORK
    sys.argv = ["mri-ambient", *map(str, words)]
    with printed.open("w") as out:
        sys.stdout = sys.stderr = out
        runpy.run_module("mri_ambient.cli", run_name="__main__")


TIMED = ("status.jsonl", "summary.csv")
"""Files of which every line holds a time."""


def content(folder: Path) -> dict[str, Any]:
    """What every file holds, without seconds, and but for the lists of what took how long."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in TIMED)
    return {path.relative_to(folder).as_posix(): _content(path) for path in files}


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return _without_seconds(json.loads(path.read_bytes()))
    if path.suffix == ".safetensors":
        tensors, header = load_tensors(path)
        values = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        return values, _without_seconds(header)
    return path.read_bytes()


def _without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_seconds(v) for key, v in value.items() if key != "seconds"}
    return [_without_seconds(entry) for entry in value] if isinstance(value, list) else value


class Killed:
    """A command that is killed, and what it makes when it is not."""

    def __init__(self, name: str, words: list[object], scratch: Path, drawn: bool = True) -> None:
        self.name, self.words, self.scratch, self.drawn = name, words, scratch, drawn
        self.finish(scratch / name / "whole")
        self.whole = content(scratch / name / "whole")

    def start(self, folder: Path) -> BaseProcess:
        """Start it into a folder."""
        words = [*self.words, *outputs(self.name, folder)]
        child = PROCESSES.Process(target=run, args=(words, self.scratch / "printed", self.drawn))
        child.start()
        return child

    def finish(self, folder: Path) -> None:
        """Run it to its end, and note what it took."""
        started = time.monotonic()
        child = self.start(folder)
        child.join()
        self.seconds = time.monotonic() - started
        if child.exitcode:
            raise RuntimeError(f"{self.name}: {(self.scratch / 'printed').read_text()}")

    def kill(self, most: int, moments: random.Random) -> tuple[int, list[str]]:
        """Kill it up to so many times in one folder; hits, and files that differ in the end."""
        folder, seconds, n_hits = self.scratch / self.name / "killed", self.seconds, 0
        for _ in range(most):
            child = self.start(folder)
            child.join(moments.uniform(0.05, 0.8) * seconds)
            child.kill()
            child.join()
            n_hits += child.exitcode == -signal.SIGKILL
        self.finish(folder)
        found = content(folder)
        names = found.keys() | self.whole.keys()
        differing = [name for name in names if found.get(name) != self.whole.get(name)]
        shutil.rmtree(folder)
        return n_hits, sorted(differing)


def main() -> int:
    """Kill, run again, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n_scans, images, steps, in_a_row = (2, 8, 2, 1) if args.quick else (4, 32, 10, IN_A_ROW)
    wanted, moments = 2 if args.quick else args.kills, random.Random(args.seed)
    hits: Counter[str] = Counter()
    differing: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        shape = SimulateConfig(
            size=(32, 32), coils=3, acceleration=2.0, calib=8, noise=0.01,
            slices=1 if args.quick else 3,
        )  # fmt: skip
        prepare(simulate("phantom", scratch / "raw", shape, count=n_scans), scratch / "prepared")
        words = commands(scratch, images, steps, ["--steps", 2] if args.quick else [])
        train = [*words["train"], "--images", 4, "--force", "-o", scratch / "first"]
        first = PROCESSES.Process(target=run, args=(train, scratch / "printed", not args.quick))
        first.start()
        first.join()
        names = ("prep", "reconstruct") if args.quick else words
        killed = [Killed(name, words[name], scratch, not args.quick) for name in names]
        while hits.total() < wanted:
            for one in killed:
                most = min(in_a_row, wanted - hits.total())
                if not most:
                    break
                n_hits, names = one.kill(most, moments)
                hits[one.name] += n_hits
                print(f"{hits.total()} of {wanted} kills ({one.name})", file=sys.stderr)
                if names:
                    differing.setdefault(one.name, []).extend(names)
    figures = {"benchmark": "kills", "kills": hits, "differing": differing}
    print(json.dumps(figures))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
