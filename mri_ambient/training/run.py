"""The folder of a training run: what it is, how far it is, and what it said on the way.

============================ =====================================================
file                         content
============================ =====================================================
run.json                     identity: options, data, and what was measured on it
config.toml                  the options, for people to read
log.jsonl                    a line per step
checkpoint-IMAGES.safetensors weights, averages and optimiser state; the last two
prior.safetensors            the prior so far
best.safetensors             with patience, the prior of the smallest held-out error so far
curves.png, preview.png      losses; held-out reconstructions
============================ =====================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, MriAmbientError
from ..priors.checkpoint import read_header
from ..runtime.files import atomic_path

BEST = "best.safetensors"
"""The prior that patience goes back to."""

STATE_FORMAT = "train/1"
"""What the header of a checkpoint says it is."""


def read_identity(path: Path) -> dict[str, Any]:
    """What a run wrote down about itself in its run.json.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"config", "data", "measured"} <= set(stored):
            raise ValueError(f"it holds {sorted(stored)}")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent}: holds no training run (no {path.name})") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); train into another folder, or restore the file"
        ) from error
    return stored


def held_back(run: Path, stored: dict[str, Any]) -> list[str]:
    """The scans that a run set aside when it began.

    Args:
        run: its folder.
        stored: its identity.

    Raises:
        ConfigError: it does not say, as it was begun by an earlier version.
    """
    if not isinstance(stored["data"], dict) or "validation" not in stored["data"]:
        raise ConfigError(
            f"{run}: begun by an earlier version, which did not write down what it trains on; "
            f"train into another folder with --init {run / 'prior.safetensors'}"
        )
    return list(stored["data"]["validation"])


def check_data(
    run: Path,
    stored: dict[str, dict[str, str]],
    found: dict[str, dict[str, str]],
    damaged: Collection[str],
) -> None:
    """Refuse to go on with other scans; of those it began with, some may have broken since.

    Args:
        run: its folder.
        stored: the scans it began with, see :attr:`.data.Dataset.identity`.
        found: the scans there are.
        damaged: names of files that cannot be read.

    Raises:
        ConfigError: there are others, or some are gone that are not damaged.
    """
    began = stored["train"] | stored["validation"]
    there = found["train"] | found["validation"]
    files = stored.get("files", {})
    changed = {
        "new or changed": [name for name in there if there[name] != began.get(name)],
        "missing": [
            name
            for name in began
            if name not in there and files.get(name, f"{name}.h5") not in damaged
        ],
    }
    told = [
        f"{len(names)} {what} ({', '.join(names):.80})" for what, names in changed.items() if names
    ]
    if told:
        raise ConfigError(
            f"{run}: its scans are not those it began with: {', '.join(told)}; give the same "
            f"data, or train into another folder with --init {run / 'prior.safetensors'}"
        )


def checkpoint_path(run: Path, images: int) -> Path:
    """Where the state after this many images is kept."""
    return run / f"checkpoint-{images:09d}.safetensors"


def latest_checkpoint(run: Path) -> Path | None:
    """The newest training state of a run that can be read."""
    for path in sorted(run.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            header = read_header(path)
        except CheckpointError:
            continue
        if header.get("format") == STATE_FORMAT:
            return path
    return None


def images_seen(run: Path) -> int:
    """How far a run is; 0 where there is none."""
    checkpoint = latest_checkpoint(run)
    return 0 if checkpoint is None else int(checkpoint.stem.rpartition("-")[-1])


class Log:
    """log.jsonl: one line per step, cut back to the checkpoint on resuming."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, images: int) -> None:
        """Drop what was written after this many images."""
        if not self.path.exists():
            return
        kept = [line for line, record in self._records() if record["images"] <= images]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """Everything it says."""
        return [record for _, record in self._records()] if self.path.exists() else []

    def values(self, name: str) -> list[float]:
        """Every value of a figure, in order."""
        if not self.path.exists():
            return []
        return [record[name] for _, record in self._records() if record.get(name) is not None]

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Whole lines and what they say; the last line of a killed run may be torn."""
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if line.endswith("\n") and isinstance(record, dict) and "images" in record:
                yield line, record

    def write(self, **figures: float | None) -> None:
        """Add a line.

        Raises:
            MriAmbientError: it cannot be written.
        """
        record = {name: value if _finite(value) else None for name, value in figures.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise MriAmbientError(
                f"{self.path}: cannot be written ({error.strerror}); free space there and run the "
                "same command again. The last good checkpoint is untouched."
            ) from error


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
