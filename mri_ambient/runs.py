"""The folder of a training run: what it is, how far it is, and what it said on the way.

============================ =====================================================
file                         content
============================ =====================================================
run.json                     identity: options, data, and what was measured on it
config.toml                  the options, for people to read
log.jsonl                    a line per step
checkpoint-IMAGES.safetensors weights, averages and optimiser state; the last two
prior.safetensors            the prior so far
curves.png, preview.png      losses; held-out reconstructions
============================ =====================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .atomic import atomic_path
from .checkpoint import load_tensors
from .errors import CheckpointError, MriAmbientError


def read_identity(path: Path) -> dict[str, Any]:
    """What a run wrote down about itself in its run.json.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); train into another folder, or restore the file"
        ) from error
    return stored


def checkpoint_path(run: Path, images: int) -> Path:
    """Where the state after this many images is kept."""
    return run / f"checkpoint-{images:09d}.safetensors"


def latest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run that can be read at all."""
    for path in sorted(run.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            load_tensors(path)
        except CheckpointError:
            continue
        return path
    return None


class Log:
    """log.jsonl: one line per step, cut back to the checkpoint on resuming."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, images: int) -> None:
        """Drop what was written after this many images."""
        if not self.path.exists():
            return
        kept = [line for line in self._lines() if json.loads(line)["images"] <= images]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept))

    def values(self, name: str) -> list[float]:
        """Every value of a figure, in order."""
        if not self.path.exists():
            return []
        records = (json.loads(line) for line in self._lines())
        return [record[name] for record in records if record.get(name) is not None]

    def _lines(self) -> Iterator[str]:
        for line in self.path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # the last line of a killed run may be torn
                yield line

    def write(self, **figures: float | None) -> None:
        """Add a line.

        Raises:
            MriAmbientError: it cannot be written.
        """
        record = {name: value if _finite(value) else None for name, value in figures.items()}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise MriAmbientError(
                f"{self.path}: cannot be written ({error.strerror}); free space there and run the "
                "same command again. The last good checkpoint is untouched."
            ) from error


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
