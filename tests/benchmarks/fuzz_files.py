"""Damaged files of every kind that we load: each ends in a result or in one of our errors.

    python tests/benchmarks/fuzz_files.py [--cases 10000] [--seed 0] [--kind NAME] [--only CASE]

Small sound files (``sound_files.py``) are damaged (``damage.py``), a case after the other from the
seed, and loaded by processes that may use 1 GiB more than the library itself and 10 s of CPU a
case. A case fails if another error than MriAmbientError escapes, if its message has several lines,
if memory or time does not suffice, or if the process crashes. Prints every failure, then one JSON
line with the counts by kind; exits with 1 if there was one. Real scans (``--real FOLDER``) are
damaged too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from damage import damage, damage_bytes
from sound_files import KINDS, Kind, read_scan

from mri_ambient.errors import MriAmbientError

MEMORY, CPU_S, WALL_S, AT_ONCE = 2**30, 10, 60, 50
"""Limits of a case, and how many cases a process does."""


@dataclass(frozen=True)
class Sound:
    """A sound file, in a folder of its own."""

    name: str
    kind: Kind
    folder: Path
    path: Path

    def files(self) -> list[Path]:
        """Those that are damaged."""
        top = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        return [file for file in top if file.is_file() and file.name not in self.kind.others]


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "read", "refused", or the fault."""

    case: int
    kind: str
    what: str
    detail: str = ""


def sound_files(folder: Path, kinds: Sequence[str], real: Path | None = None) -> list[Sound]:
    """Write them, and check that they can be read."""
    found = []
    for i, name in enumerate(kinds):
        place = folder / str(i)
        place.mkdir(parents=True)
        found.append(Sound(name, KINDS[name], place, KINDS[name].write(place)))
    for entry in [] if real is None else sorted(real.iterdir()):
        place = folder / entry.name
        if entry.is_dir() or entry.suffix in (".h5", ".dat", ".mat", ".npy"):
            place.mkdir()
            copy = shutil.copytree if entry.is_dir() else shutil.copyfile
            copied = Path(copy(entry, place / entry.name))
            for file in place.rglob("*"):
                file.chmod(0o755)
            found.append(Sound(entry.name, Kind(lambda p: p, read_scan), place, copied))
    return found


def attempt(case: int, seed: int, sounds: Sequence[Sound], folder: Path) -> Outcome:
    """Damage a copy of a sound file, and read it."""
    sound = sounds[case % len(sounds)]
    rng = np.random.default_rng([seed, case])
    other = sounds[int(rng.integers(len(sounds)))].files()[0].read_bytes()
    shutil.copytree(sound.folder, folder)
    copy = Sound(sound.name, sound.kind, folder, folder / sound.path.relative_to(sound.folder))
    files = copy.files()
    damage(files[int(rng.integers(len(files)))], rng, other)
    if rng.random() < 0.1:
        damage_bytes(files[int(rng.integers(len(files)))], rng, other)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        sound.kind.read(copy.path)
    except MriAmbientError as error:
        if _ran_out_of_memory(error):
            return Outcome(case, sound.name, "memory", _place_of(error))
        if "\n" in str(error):
            return Outcome(case, sound.name, "several lines", _place_of(error))
        return Outcome(case, sound.name, "refused")
    except Exception as error:  # noqa: BLE001 -- this is what is looked for
        return Outcome(case, sound.name, type(error).__name__, _place_of(error))
    return Outcome(case, sound.name, "read")


def _ran_out_of_memory(error: BaseException | None) -> bool:
    while error is not None and "on disk image" not in str(error):  # HDF5 refuses these itself
        if isinstance(error, MemoryError) or re.search(
            "[Uu]nable to allocate|memory allocation failed|t allocate memory", str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place_of(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "mri_ambient" in f.filename]
    if not frames:
        frames = traceback.extract_tb(error.__traceback__)[-1:]
    lines = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[-3:]]
    return f"{' > '.join(lines)}: {' '.join(str(error).split())[:160]}"


def run_cases(cases: Sequence[int], seed: int, sounds: Sequence[Sound]) -> Iterator[Outcome]:
    """The outcomes of cases, done by processes that are forked from this one."""
    left = list(cases)
    while left:
        batch = left[:AT_ONCE]
        outcomes, status = _run_process(batch, seed, sounds)
        yield from outcomes
        left = left[len(outcomes) :]
        if len(outcomes) < len(batch):  # it did not survive the next case
            case, left = left[0], left[1:]
            name = signal.Signals(status).name if status else "exit"
            name = {"SIGPROF": "time", "SIGALRM": "time"}.get(name, name)
            yield Outcome(case, sounds[case % len(sounds)].name, name)


def _run_process(
    cases: Sequence[int], seed: int, sounds: Sequence[Sound]
) -> tuple[list[Outcome], int]:
    """Outcomes, and the signal that ended the process."""
    with tempfile.TemporaryDirectory() as scratch:
        note = Path(scratch) / "outcomes"
        note.touch()
        child = os.fork()
        if not child:
            _work(cases, seed, sounds, Path(scratch), note)
        status = os.waitpid(child, 0)[1]
        lines = note.read_text().splitlines()
    return [Outcome(**json.loads(line)) for line in lines], os.WTERMSIG(status)


def _work(
    cases: Sequence[int], seed: int, sounds: Sequence[Sound], scratch: Path, note: Path
) -> None:
    """The child: never returns."""
    try:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.chdir(scratch)
        with note.open("a") as out:
            for case in cases:
                folder = scratch / f"case-{case}"
                out.write(json.dumps(vars(attempt(case, seed, sounds, folder))) + "\n")
                out.flush()
                shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # noqa: BLE001 -- the process ends here
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


FINE = ("read", "refused")


def main() -> int:
    """Damage, load, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--only", type=int, help="number of a case, run here, with its traceback")
    parser.add_argument("--real", type=Path, help="folder with scans of scanners")
    args = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        sounds = sound_files(Path(scratch), args.kind or list(KINDS), args.real)
        for sound in sounds:
            copy = Path(scratch) / "copy"
            shutil.copytree(sound.folder, copy)
            sound.kind.read(copy / sound.path.relative_to(sound.folder))
            shutil.rmtree(copy)
        if args.only is not None:
            cases: Sequence[int] = [args.only]
        else:
            cases = range(args.cases)
        for outcome in run_cases(cases, args.seed, sounds):
            counts[outcome.kind][outcome.what] += 1
            if outcome.what not in FINE:
                text = f"case {outcome.case} ({outcome.kind}): {outcome.what} {outcome.detail}"
                print(text, flush=True)
    faults = sum(n for found in counts.values() for what, n in found.items() if what not in FINE)
    total = sum(sum(found.values()) for found in counts.values())
    figures = {"benchmark": "fuzz", "cases": total, "faults": faults, "kinds": counts}
    print(json.dumps(figures))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
