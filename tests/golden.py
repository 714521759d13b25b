"""Does a new source tree give the same outputs as an old commit?

A script, not a test: call it before and after a restructuring that must not change results.

    python tests/golden.py [--old COMMIT] [--new COMMIT-or-path] [--quick] [--only PART]
                           [--keep FOLDER] [--rounding SIZE]

Both trees run the same command lines (`COMMANDS`, by part) side by side on this machine, a process
and a thread each, on the CPU. Every file that the old tree writes is then compared with that of the
new one:

- arrays (HDF5 datasets and numeric attributes, tensors, pixels) must be equal to the bit, and so
  must their names, kinds and shapes;
- facts (JSON, TOML, headers, attributes of text): every old key must have the same value, numbers
  exactly. What may change is left out: versions, dates, seconds, hashes, and sentences (any text
  with a space in it).

New files, arrays and keys are allowed. With ``--rounding``, arrays and numbers may differ by so
much (NRMSE), as after a change of the order of sums.

Differences that are wanted are listed in `DELIBERATE`. The exit code is 1 if there are others, or
if a command failed, else 0.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from safetensors import safe_open

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = REPOSITORY.parent / "shared" / "data" / "kspace"
"""Real scans; where they are missing, the command lines do without."""

OLD = "9208bbe"
"""The commit before the restructuring."""

PRIOR = "brain-kspace-tiny"
"""The same in both trees, whichever is their default."""

DELIBERATE: dict[str, str] = {
    "poisson/*": "the generator of poisson masks is another one",
    "*.png": "pictures are drawn in another style",
    "rest/info-json.stdout.json:readers": "there are more readers",
}
"""Differences that are wanted: pattern of FILE or FILE:KEY, and why."""

COMMANDS: dict[str, str] = {
    "simulate": """
        + simulate phantom -o simulate/full --full --scans 1 --slices 2 --size 96 96 --coils 4
          --seed 11
        + simulate phantom -o simulate/under --scans 1 --slices 2 --size 96 96 --coils 5
          --acceleration 3 --calib-lines 14 --seed 12
        + simulate phantom -o simulate/train --scans 12 --size 40 40 --coils 4 --acceleration 2:4
          --mask-type random:0.6,equispaced:0.2,gaussian:0.2 --calib-lines 8 --noise 0.01:0.03
          --seed 13
        simulate phantom -o simulate/whole --full --scans 12 --size 40 40 --coils 4
          --noise 0.01:0.03 --jitter --seed 14
        simulate phantom -o simulate/other --scans 2 --size 64 48 --coils 4 --acceleration 2.5
          --calib-lines 10 --readout-oversampling 2 --jitter --mask-type gaussian --seed 15
        simulate pictures -o simulate/drawn --size 64 64 --coils 3 --acceleration 2 --calib-lines 14
          --mask-type equispaced --seed 16
    """,
    "prep": """
        + prep simulate/train -o prep/train
        prep simulate/whole -o prep/whole --no-pictures
        prep simulate/full {full} {measured} -o prep/full
        prep simulate/under -o prep/coils --coils 3 --calib-width 12
        prep simulate/other -o prep/energy --energy 0.98
        prep simulate/drawn -o prep/noise --noise-std 2e-6
    """,
    "demo": "demo -o demo --train-time 0s",
    "reconstruct": """
        reconstruct simulate/full {full} --retrospective 4 --method zero-filled
          -o reconstruct/full-zero-filled
        reconstruct simulate/full {full} --retrospective 4 --method cg-sense
          -o reconstruct/full-cg-sense
        + reconstruct simulate/full {full} --retrospective 4 --method l1-wavelet
          -o reconstruct/full-l1-wavelet
        + reconstruct simulate/full {full} --retrospective 4 {prior} --method aos
          -o reconstruct/full-aos
        + reconstruct simulate/full {full} --retrospective 4 {prior} --method dds --steps 3
          --samples 2 -o reconstruct/full-dds
        reconstruct simulate/full {full} --retrospective 4 {prior} --method msm --steps 2
          --samples 2 -o reconstruct/full-msm
        reconstruct simulate/full {full} --retrospective 4 {prior} --method pula --steps 3
          --samples 2 -o reconstruct/full-pula
        reconstruct simulate/full {full} --retrospective 4 {prior} --method adps --steps 2
          --samples 2 -o reconstruct/full-adps
        reconstruct simulate/under {measured} --method zero-filled -o reconstruct/under-zero-filled
        reconstruct simulate/under {measured} --method cg-sense -o reconstruct/under-cg-sense
        reconstruct simulate/under {measured} --method l1-wavelet -o reconstruct/under-l1-wavelet
        reconstruct simulate/under {measured} {prior} --method aos -o reconstruct/under-aos
        reconstruct simulate/under {measured} {prior} --method dds --steps 3 --samples 2
          -o reconstruct/under-dds
        reconstruct simulate/under {measured} {prior} --method msm --steps 2 --samples 2
          -o reconstruct/under-msm
        reconstruct simulate/under {measured} {prior} --method pula --steps 3 --samples 2
          -o reconstruct/under-pula
        reconstruct simulate/under {measured} {prior} --method adps --steps 2 --samples 2
          -o reconstruct/under-adps
        reconstruct simulate/full {full} --retrospective 4 {prior} --preset fast -o reconstruct/fast
        reconstruct simulate/under {prior} --preset balanced --samples 2 -o reconstruct/balanced
        reconstruct simulate/under {prior} --method dds --steps 3 --samples 3 --keep-samples
          --seed 5 -o reconstruct/keep-samples
        reconstruct simulate/under {measured} {prior} --method aos --holdout 2 --warn -v
          -o reconstruct/warn-aos
        reconstruct simulate/under {prior} --method dds --steps 3 --samples 2 --warn -v
          -o reconstruct/warn-dds
        reconstruct simulate/under --method cg-sense --lambda 0.05 -o reconstruct/lambda-cg-sense
        reconstruct simulate/under --method l1-wavelet --lambda 0.01 -O wavelet=haar
          -o reconstruct/lambda-l1-wavelet
        reconstruct simulate/under {espirit} {prior} --method aos --noise-std 2e-6 --coils 4
          -o reconstruct/noise-std
        reconstruct simulate/under {prior} --method dds --steps 3 --samples 2 -O start=aos
          -O eta=0.8 --batch-size 1 -o reconstruct/start-aos
        reconstruct simulate/under {prior} --method dds --steps 3 --samples 2 -O renoise=diffpir
          --no-final-dc -o reconstruct/diffpir
        reconstruct simulate/under {prior} --method msm --steps 3 --samples 2 -O n_masks=2
          -o reconstruct/masks
        reconstruct simulate/under {prior} --method pula --steps 3 --samples 2 -O start=noise
          -O gamma=0.3 -o reconstruct/gamma
        reconstruct simulate/under {prior} --method aos --precision bf16 -o reconstruct/bf16
        reconstruct simulate/full --retrospective 4 --mask-type equispaced {prior} --method aos
          -o reconstruct/equispaced
        reconstruct simulate/full {full} --retrospective 4 --mask-type gaussian {prior} --method aos
          -o reconstruct/gaussian
        reconstruct simulate/full --retrospective 3 --calib-lines 12 --seed 7 {prior} --method dds
          --steps 3 --samples 2 -o reconstruct/calib-lines
        reconstruct simulate/other simulate/drawn {prior} --method aos -o reconstruct/sources
        reconstruct prep/coils {prior} --method dds --steps 3 --samples 2 -o reconstruct/prepared
    """,
    "train": """
        + train prep/train -o train/ambient --objective ambient --images 200 --check-every 96
        train prep/train -o train/kspace --objective kspace --images 200 --check-every 96
          --save-every 96
        train prep/train -o train/gsure --objective gsure --images 200
        train prep/train -o train/consistency --objective consistency --images 48
        train prep/train -o train/ssdu --objective ssdu --images 200
        train prep/whole -o train/supervised --objective supervised --images 200
        train prep/train -o train/l1-wavelet --objective supervised --targets l1-wavelet
          --images 200
        train prep/train -o train/plain --wrapper plain --images 96 -O noise_domain=image --seed 3
        train prep/train -o train/patches --patches --images 96
        train prep/train -o train/init --objective ambient --init train/ambient --images 48
          -O noise_correction=true --learning-rate 5e-4
        train prep/train -o train/two-calls --objective ambient --images 100
        train prep/train -o train/two-calls --objective ambient --images 200
        train prep/train -o train/patience --objective ambient --images 120 --patience 1
          --check-every 40 --batch-size 4
    """,
    "rest": """
        + sample -o rest/sample --samples 2 --size 48 48 --steps 4
          --maps-from simulate/under/phantom_00000.h5
        sample -o rest/guidance --samples 1 --size 48 48 --steps 3 --guidance 0.5 --seed 4
        sample -o rest/sample-plain -m train/supervised --samples 2 --size 48 48 --steps 4
        refit train/ambient -o rest/refit --rounds 2 --images 48 --steps 3
        refit train/kspace -o rest/refit-pula --rounds 1 --images 24 --steps 3 --method pula
          --patches
        sample -o rest/sample-refit -m rest/refit --samples 2 --size 48 48 --steps 4
        reconstruct simulate/other -m train/kspace -o rest/kspace
        reconstruct simulate/other -m train/gsure -o rest/gsure
        reconstruct simulate/other -m train/consistency -o rest/consistency
        reconstruct simulate/other -m train/ssdu -o rest/ssdu
        reconstruct simulate/other -m train/patches -o rest/patches
        reconstruct simulate/other -m train/supervised -O n_steps=4 --samples 2 -o rest/supervised
        reconstruct simulate/other -m rest/refit -O n_steps=4 --samples 2 -o rest/refitted
        reconstruct simulate/full --retrospective 3 --method cg-sense -o rest/scored
        evaluate rest/scored --target simulate/full --json
        + evaluate simulate/under {named} --method dds --steps 3 --samples 2 --json
        evaluate simulate/under {named} --method aos --holdout 3 --json
        evaluate simulate/other --method l1-wavelet --json --seed 2
        + audit memorization train/ambient prep/train -o rest/memorization --samples 3 --steps 4
          --json
        audit stability simulate/under/phantom_00000.h5 -o rest/stability-aos {named} --method aos
          --iterations 4 --json
        audit stability simulate/full/phantom_00000.h5 -o rest/stability-dds {named} --method dds
          --steps 2 --iterations 3 --retrospective 4 --slice 0 --k 2 --json
        audit calibration train/kspace simulate/whole -o rest/calibration --samples 3 --steps 3
          --json
        reconstruct simulate/other -m rest/calibration/prior.safetensors --method dds --steps 3
          --samples 3 -o rest/calibrated
        + info --json
        + info simulate/under/phantom_00000.h5 --json
        + info train/ambient --json
        info prep/full --json
        info brain-kspace-tiny --json
        info rest/kspace --json
        info rest/sample/samples.h5 --json
    """,
    "poisson": """
        simulate phantom -o poisson/scans --scans 6 --size 64 64 --coils 4 --acceleration 3:5
          --mask-type poisson --calib-lines 14 --seed 21
        simulate phantom -o poisson/mixed --scans 3 --size 64 64 --coils 4 --acceleration 3
          --mask-type random:0.5,poisson:0.5 --calib-lines 14 --seed 22
        prep poisson/scans -o poisson/prepared
        train poisson/prepared -o poisson/train --images 48 --force
        reconstruct poisson/scans {prior} --method aos -o poisson/aos
        reconstruct simulate/full {full} --retrospective 6 --mask-type poisson {prior} --method aos
          -o poisson/retrospective-aos
        reconstruct simulate/full --retrospective 6 --mask-type poisson {prior} --method dds
          --steps 3 --samples 2 -o poisson/retrospective-dds
    """,
}
"""Command lines by part; those with a plus are run by --quick too. {full} and {measured} are real
scans, fully and under-sampled, {espirit} is one of the former, {named} is :data:`PRIOR`, and
{prior} the same in single precision: the rounding of bf16 networks hides all other differences."""

NEEDS: dict[str, tuple[str, ...]] = {
    "prep": ("simulate",),
    "reconstruct": ("simulate", "prep"),
    "train": ("simulate", "prep"),
    "rest": ("simulate", "prep", "train"),
    "poisson": ("simulate",),
}
"""Parts whose outputs a part reads."""

CHANGING = re.compile(r"(mri_ambient_)?version|torch|seconds|at|date|\w*sha256")
"""Keys whose values may change."""

SENTENCES = ("doubts", "flags", "limits")
"""Keys of sentences, however many."""

HASH = re.compile(r"[0-9a-f]{12,64}(:[0-9a-f]{8})?")
"""Hashes of priors, and of simulated files, which name the version that made them."""

TEXT = "(text)"
"""Stands for a sentence or hash in a list."""

PROBE = """
import pkgutil, sys
import mri_ambient, mri_ambient.cli.app
loaded = [module for name, module in sys.modules.items() if name.split('.')[0] == 'mri_ambient']
for module in loaded:
    print(getattr(module, '__file__', None) or list(module.__path__)[0])
for found in pkgutil.walk_packages(mri_ambient.__path__, 'mri_ambient.'):
    print(found.module_finder.path)
"""
"""Prints where the package's modules come from."""

N_SHOWN = 5
"""Differences of a file that are shown."""


# ---------------------------------------------------------------------------- what is run


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        part: the part it belongs to.
        line: as it is in `COMMANDS`.
        args: what the command is given.
    """

    part: str
    line: str
    args: tuple[str, ...]

    @property
    def answer(self) -> str:
        """Name of the file that keeps what it prints, if that is JSON."""
        return f"{self.part}/{re.sub(r'[^a-z0-9_.]+', '-', self.line.lower())}.stdout.json"


def commands(part: str, *, quick: bool) -> list[Command]:
    """The command lines of a part."""
    given = real_scans() | {"named": f"-m {PRIOR}", "prior": f"-m {PRIOR} --precision fp32"}
    found: list[Command] = []
    for line in joined_lines(COMMANDS[part]):
        wanted, line = not quick or line.startswith("+ "), line.removeprefix("+ ")
        if wanted:
            found.append(Command(part, line, tuple(shlex.split(line.format(**given)))))
    return found


def joined_lines(text: str) -> list[str]:
    """Command lines; those that are indented further go on with the one before."""
    lines: list[str] = []
    for line in text.strip("\n").splitlines():
        if line.startswith(10 * " "):
            lines[-1] += f" {line.strip()}"
        elif line.strip():
            lines.append(line.strip())
    return lines


def real_scans() -> dict[str, str]:
    """What stands for the real scans: their paths, or nothing."""
    paths = {
        name: shlex.quote(str(path))
        for name in ("alias", "espirit", "poisson")
        if (path := REAL / f"{name}_brain8.h5").exists()
    }
    alias, espirit, poisson = (paths.get(name, "") for name in ("alias", "espirit", "poisson"))
    return {"full": f"{alias} {espirit}", "measured": poisson, "espirit": espirit}


def with_needs(parts: list[str]) -> list[str]:
    """Parts and those they read from, in the order of `COMMANDS`."""
    wanted = set(parts) | {need for part in parts for need in NEEDS.get(part, ())}
    return [part for part in COMMANDS if part in wanted]


# ---------------------------------------------------------------------------- running it


@dataclass
class Side:
    """One of the two trees, and the folder its command lines are run in.

    Attributes:
        name: old or new.
        tree: root of its source.
        folder: where its outputs go.
        seconds: time of every part.
        failed: command lines that ended with another exit code than 0.
        stopped: whether to begin no other command.
    """

    name: str
    tree: Path
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """Variables that choose this tree, one thread and the CPU."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return os.environ | threads | {"PYTHONPATH": str(self.tree), "CUDA_VISIBLE_DEVICES": ""}

    def check_tree(self) -> None:
        """End the script if Python takes the package, or some of it, from elsewhere."""
        told = self._python("-c", PROBE)
        if told.returncode:
            sys.exit(f"{self.tree}: its command line cannot be imported:\n{told.stderr}")
        places = {Path(line).resolve() for line in told.stdout.splitlines()}
        if strange := sorted(str(p) for p in places if not p.is_relative_to(self.tree)):
            sys.exit(f"{self.tree}: these modules come from elsewhere: {', '.join(strange)}")

    def run(self, todo: list[Command]) -> None:
        """Run command lines one after another."""
        draw_pictures(self.folder / "pictures")
        for command in todo:
            if self.stopped:
                return
            began = time.monotonic()
            done = self._python("-m", "mri_ambient.cli.app", *command.args)
            seconds = time.monotonic() - began
            self.seconds[command.part] = self.seconds.get(command.part, 0.0) + seconds
            print(f"{self.name} {seconds:6.1f} s  {command.line}", file=sys.stderr, flush=True)
            if done.returncode:
                told = f"exit code {done.returncode}: {command.line}"
                self.failed.append(f"{told}\n    {complaint(done.stderr)}")
            elif is_json(done.stdout):
                answer = self.folder / command.answer
                answer.parent.mkdir(parents=True, exist_ok=True)
                answer.write_text(done.stdout, encoding="utf-8")

    def _python(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )


def run_both(sides: list[Side], todo: list[Command]) -> None:
    """Run both sides at once; whoever stops the script stops both after their present command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as politely as Ctrl-C
    with ThreadPoolExecutor(2) as both:
        running = [both.submit(side.run, todo) for side in sides]
        try:
            for one in running:
                one.result()
        finally:
            for side in sides:
                side.stopped = True


def complaint(text: str) -> str:
    """What went wrong: the first error of what a command said, or its last line."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in lines if line.lower().startswith("error:")), lines[-1])


def is_json(text: str) -> bool:
    """Whether a command printed JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def draw_pictures(folder: Path) -> None:
    """Two grey pictures to simulate scans from."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[-1:1:72j, -1:1:72j]
    for index, turn in enumerate((0.3, 1.1)):
        across = x * math.cos(turn) + y * math.sin(turn)
        picture = (np.hypot(x, 1.2 * y) < 0.8) * (150 + 90 * np.sin(12 * across))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"disc{index}.png")


def tree_of(given: str, folder: Path, stack: ExitStack) -> Path:
    """The source tree of a path, or of a commit: a worktree that is removed in the end."""
    if Path(given).is_dir():
        return Path(given).resolve()
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    added = subprocess.run(
        [*git, "add", "--detach", str(folder), given], capture_output=True, text=True
    )
    if added.returncode:
        sys.exit(f"{given}: neither a folder nor a commit:\n{added.stderr}")
    stack.callback(subprocess.run, [*git, "remove", "--force", str(folder)], check=False)
    return folder.resolve()


# ---------------------------------------------------------------------------- reading outputs


@dataclass(frozen=True)
class Content:
    """What a file holds: arrays by name, and facts as JSON has them."""

    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    facts: Any = field(default_factory=dict)

    def digest(self) -> str:
        """Sha256 of arrays (names, kinds, shapes, bytes) and facts."""
        total = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            total.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

    def lasting(self) -> Content:
        """Without what may change."""
        arrays = {name: array for name, array in self.arrays.items() if not changes(name)}
        return Content(arrays, lasting(self.facts))


def lasting(facts: Any) -> Any:
    """Facts without what may change."""
    if isinstance(facts, dict):
        return {key: lasting(one) for key, one in facts.items() if not changes(key, one)}
    if isinstance(facts, list):
        return [TEXT if may_change(one) else lasting(one) for one in facts]
    return facts


def changes(key: str, value: Any = None) -> bool:
    """Whether what has this key (of a file or, after an @, an attribute) may change."""
    key = key.rpartition("@")[2]
    if key in SENTENCES:
        return not isinstance(value, bool)
    return CHANGING.fullmatch(key) is not None or (key != "patient_id" and may_change(value))


def may_change(value: Any) -> bool:
    """Whether a value is a sentence or a hash, or a list of nothing else."""
    if isinstance(value, list):
        return bool(value) and all(may_change(one) for one in value)
    if not isinstance(value, str):
        return False
    return " " in value.strip() or HASH.fullmatch(value) is not None


def read(path: Path, home: Path) -> Content:
    """Read a file; its own folder's name in texts becomes a point."""
    if path.suffix == ".h5":
        return read_h5(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".png":
        return Content({"pixels": np.asarray(Image.open(path))})
    data = path.read_bytes()
    text = data.decode(errors="replace").replace(str(home), ".")
    if path.suffix == ".json":
        return Content(facts=json.loads(text))
    if path.suffix == ".jsonl":
        return Content(facts=[json.loads(line) for line in text.splitlines()])
    if path.suffix == ".toml":
        return Content(facts=tomllib.loads(text))
    if path.suffix == ".csv":
        rows = csv.DictReader(text.splitlines())
        return Content(facts=[{key: from_text(cell) for key, cell in row.items()} for row in rows])
    return Content({"bytes": np.frombuffer(data, np.uint8)})


def read_safetensors(path: Path) -> Content:
    """Tensors and header."""
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata() or {}
    return Content(tensors, {name: from_text(text) for name, text in header.items()})


def read_h5(path: Path) -> Content:
    """Datasets and attributes; those that are numbers count as arrays."""
    content = Content()
    # A file that is read from memory needs no lock.
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        nodes: list[tuple[str, Any]] = [("", file)]
        file.visititems(lambda name, node: nodes.append((name, node)))
        for name, node in nodes:
            if isinstance(node, h5py.Dataset):
                content.arrays[name] = as_array(node[()])
            for key, value in node.attrs.items():
                if isinstance(value, str):
                    content.facts[f"{name}@{key}"] = from_text(value)
                else:
                    content.arrays[f"{name}@{key}"] = as_array(value)
    return content


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """Numbers as they are, texts as bytes."""
    array = np.asarray(value)
    if array.dtype != object and array.dtype.kind not in "SU":
        return array
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel()]
    return np.frombuffer(b"\0".join(texts), np.uint8)


def from_text(text: str) -> Any:
    """What JSON says, or the text itself."""
    return json.loads(text) if is_json(text) else text


# ---------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class Difference:
    """Where two files differ.

    Attributes:
        key: of the array or fact; empty for the whole file.
        text: how.
        nrmse: of arrays, the root mean square of the difference over that of the old; NaN where
            there is none.
    """

    key: str
    text: str
    nrmse: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """What was found about one output file."""

    name: str
    sha256: str
    unwanted: list[Difference]
    deliberate: list[Difference]

    @property
    def word(self) -> str:
        """Equal, or how it is not."""
        return "DIFFERENT" if self.unwanted else "deliberate" if self.deliberate else "equal"


def judge(name: str, old: Side, new: Side, rounding: float) -> Verdict:
    """Compare a file of the old tree with that of the new one."""
    wanted = read(old.folder / name, old.folder).lasting()
    if (new.folder / name).exists():
        found = compare(wanted, read(new.folder / name, new.folder).lasting())
    else:
        found = [Difference("", "missing in the new tree")]
    found = [one for one in found if not one.nrmse <= rounding]  # NaN is no rounding
    meant = [one for one in found if why_deliberate(name, one.key)]
    return Verdict(name, wanted.digest(), [one for one in found if one not in meant], meant)


def compare(old: Content, new: Content) -> list[Difference]:
    """How the new content differs, the largest difference of arrays first."""
    if old.digest() == new.digest():
        return []
    found = [one for name in old.arrays if (one := compare_array(name, old, new))]
    found.sort(key=lambda one: math.inf if math.isnan(one.nrmse) else one.nrmse, reverse=True)
    return found + list(compare_facts("", old.facts, new.facts))


def compare_array(name: str, old: Content, new: Content) -> Difference | None:
    """How an array differs, if it does."""
    if name not in new.arrays:
        return Difference(name, "missing in the new tree")
    a, b = old.arrays[name], new.arrays[name]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Difference(name, f"{a.dtype} {a.shape} -> {b.dtype} {b.shape}")
    if a.tobytes() == b.tobytes():
        return None
    if not a.shape:
        return Difference(name, f"{a} -> {b}", nrmse(a, b))
    return Difference(name, f"NRMSE {nrmse(a, b):.3g}, {np.mean(a != b):.1%} differ", nrmse(a, b))


def nrmse(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference, relative to that of the old array."""
    kind = np.complex128 if np.iscomplexobj(old) else np.float64
    a, b = old.astype(kind), new.astype(kind)
    size = float(np.linalg.norm(a.ravel()))
    apart = float(np.linalg.norm((b - a).ravel()))
    return apart / size if size else math.inf if apart else 0.0


def compare_facts(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Where facts differ; new ones do not count."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in old.items():
            inner = f"{key}.{name}".lstrip(".")
            if name in new:
                yield from compare_facts(inner, value, new[name])
            else:
                yield Difference(inner, "missing in the new tree")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from compare_facts(f"{key}[{index}]", a, b)
    elif old != TEXT and not same(old, new):
        size = nrmse(np.asarray(old), np.asarray(new)) if numbers(old, new) else math.nan
        yield Difference(key, f"{shown(old)} -> {shown(new)}", size)


def same(old: Any, new: Any) -> bool:
    """Whether two values are equal; NaN is NaN, and true is not 1."""
    if numbers(old, new) and math.isnan(old) and math.isnan(new):
        return True
    return isinstance(old, bool) == isinstance(new, bool) and old == new


def numbers(*values: object) -> bool:
    """Whether all are numbers."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def shown(value: Any) -> str:
    """A value in little room."""
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def why_deliberate(name: str, key: str) -> str | None:
    """Why a difference is wanted; None if it is not."""
    for pattern, reason in DELIBERATE.items():
        if fnmatch(name, pattern) or fnmatch(f"{name}:{key}", pattern):
            return reason
    return None


# ---------------------------------------------------------------------------- telling


def outputs(folder: Path) -> list[str]:
    """Every file of every part."""
    paths = [path for part in COMMANDS for path in (folder / part).rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in paths)


def tell(verdict: Verdict) -> None:
    """A line about a file, and some about where it differs."""
    print(f"{verdict.word:10} {verdict.sha256[:12]}  {verdict.name}")
    found = verdict.unwanted + verdict.deliberate
    for one in found[:N_SHOWN]:
        print(f"           {one.key or '(file)'}: {one.text}")
    if len(found) > N_SHOWN:
        print(f"           and {len(found) - N_SHOWN} more")


def tell_deliberate(verdicts: list[Verdict]) -> None:
    """The wanted differences by reason, with the largest of arrays and numbers."""
    for pattern, reason in DELIBERATE.items():
        sizes = [
            one.nrmse
            for verdict in verdicts
            for one in verdict.deliberate
            if why_deliberate(verdict.name, one.key) == reason and not math.isnan(one.nrmse)
        ]
        largest = f", at most {max(sizes):.3g} (NRMSE)" if sizes else ""
        print(f"deliberate: {pattern}: {reason}: {len(sizes)} numbers or arrays differ{largest}")


def tell_all(verdicts: list[Verdict], old: Side, new: Side) -> bool:
    """Report everything; whether nothing is wrong."""
    for verdict in verdicts:
        tell(verdict)
    print()
    for part in old.seconds:
        mine = [verdict.word for verdict in verdicts if verdict.name.split("/")[0] == part]
        times = f"old {old.seconds[part]:.0f} s, new {new.seconds.get(part, 0.0):.0f} s"
        print(f"{part:12} {mine.count('equal')} of {len(mine)} files equal ({times})")
    tell_deliberate(verdicts)
    added = len(set(outputs(new.folder)) - {verdict.name for verdict in verdicts})
    for side in (old, new):
        for line in side.failed:
            print(f"{side.name}: {line}")
    words = [verdict.word for verdict in verdicts]
    n_failed = len(old.failed) + len(new.failed)
    right = "DIFFERENT" not in words and not n_failed and bool(words)
    print(
        f"{'SAME' if right else 'NOT THE SAME'}: of {len(words)} files {words.count('equal')} are "
        f"equal, {words.count('deliberate')} differ deliberately, {words.count('DIFFERENT')} "
        f"differ; {added} are new; {n_failed} commands failed"
    )
    return right


def main() -> None:
    """Run both trees, compare, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--old", default=OLD, help="commit (or folder) to compare with")
    parser.add_argument("--new", default=str(REPOSITORY), help="commit or folder; this checkout")
    parser.add_argument("--quick", action="store_true", help="a subset, in about a minute")
    parser.add_argument(
        "--only", action="append", choices=[*COMMANDS], help="part; may be repeated"
    )
    parser.add_argument(
        "--rounding", type=float, default=0.0, help="largest NRMSE that counts as equal; 0"
    )
    parser.add_argument("--keep", type=Path, help="new folder for the outputs of both trees")
    given = parser.parse_args()
    if given.keep and given.keep.exists():
        parser.error(f"{given.keep} is there already; choose a new folder")

    todo = [
        command
        for part in with_needs(given.only or [*COMMANDS])
        for command in commands(part, quick=given.quick)
    ]
    if not all(real_scans().values()):
        print(f"no real scans in {REAL}: simulated ones only")
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golden-"))).resolve()
        where = (given.keep or room / "outputs").resolve()
        sides = []
        for name, source in (("old", given.old), ("new", given.new)):
            (where / name).mkdir(parents=True)
            sides.append(Side(name, tree_of(source, room / name, stack), where / name))
            sides[-1].check_tree()
        run_both(sides, todo)
        old, new = sides
        verdicts = [judge(name, old, new, given.rounding) for name in outputs(old.folder)]
        right = tell_all(verdicts, old, new)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
