"""The folder of a training run.

============================== ================================================================
file                           content
============================== ================================================================
run.json                       identity: options, scans, and what was measured on them
config.toml                    the options, for people to read
log.jsonl                      one line per step
ends.jsonl                     one line per call, of its last validation
checkpoint-IMAGES.safetensors  weights, their average and the optimiser's state; the last two
prior.safetensors              the prior so far
best.safetensors               with patience, the prior of the smallest held-out error so far
targets/                       images to learn from, if they are made by the run
references.json                errors of the classical methods on the validation slices
curves.png, preview.png        losses; held-out reconstructions
============================== ================================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError, MriAmbientError
from ..priors.checkpoint import load_tensors, save_tensors
from ..priors.prior_file import read_header
from ..runtime.config import write_toml
from ..runtime.files import (
    as_json,
    atomic_path,
    content_sha256,
    json_object,
    locked,
    make_folder,
    write_json,
)
from .config import TrainConfig, TrainJob

STATE_FORMAT = "train/1"
"""Format in the header of a checkpoint."""


MAY_CHANGE = frozenset({"save_every", "check_every", "patience"})
"""Options of a run that may be others when it is resumed."""


@dataclass(frozen=True)
class Identity:
    """What a run is, as its ``run.json`` holds it.

    Attributes:
        config, init: as :meth:`TrainJob.settings` gives them.
        data, folder: its scans, see :attr:`.dataset.Dataset.identity`, and where they were (None if
            an earlier version wrote the file).
        measured: what was measured on them, see :mod:`~mri_ambient.training.card`.
    """

    config: dict[str, Any]
    init: str | None
    data: dict[str, dict[str, str]]
    measured: dict[str, Any]
    folder: str | None = None

    def validation_scans(self, run: Path) -> list[str]:
        """The scans that were set aside when the run began, or a ConfigError."""
        if not isinstance(self.data, dict) or "validation" not in self.data:
            raise ConfigError(
                f"{run}: an earlier version began this run and did not write down its scans; train "
                f"into another folder with init (--init {run / 'prior.safetensors'})"
            )
        return list(self.data["validation"])

    def option(self, name: str) -> Any:  # noqa: ANN401 -- any option
        """An option; its default where the run is older than the option."""
        return self.config.get(name, getattr(TrainConfig, name))


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run, which need not exist yet."""

    path: Path

    @property
    def prior(self) -> Path:
        """The prior so far."""
        return self.path / "prior.safetensors"

    @property
    def best_prior(self) -> Path:
        """With patience, the prior of the smallest held-out error so far."""
        return self.path / "best.safetensors"

    @property
    def references(self) -> Path:
        """Errors of the classical methods on the validation slices."""
        return self.path / "references.json"

    @property
    def log(self) -> Log:
        """One line per step."""
        return Log(self.path / "log.jsonl")

    @property
    def ends(self) -> Log:
        """The last validation of every call, which an undisturbed run would not have made."""
        return Log(self.path / "ends.jsonl")

    @property
    def has_begun(self) -> bool:
        """Whether there is a run."""
        return (self.path / "run.json").exists()

    @property
    def identity(self) -> Identity:
        """What was written at the start of the run.

        Raises:
            CheckpointError: there is no run, or the file cannot be read.
        """
        path = self.path / "run.json"
        try:
            stored = json_object(path.read_bytes())
            needed = {name: stored[name] for name in ("config", "data", "measured")}
            if "sha256" in stored and stored.pop("sha256") != content_sha256(stored):
                raise ValueError("its content is not what was written")
            return Identity(**needed, init=stored.get("init"), folder=stored.get("folder"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path}: holds no training run (no run.json)") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path}: damaged ({error}); train into another folder, or restore the file"
            ) from error

    def check_settings(self, identity: Identity, job: TrainJob) -> None:
        """Refuse (ConfigError) to resume the run with other options or another initial prior.

        A run of an earlier version lacks the options that came later: it had their defaults. When
        it is validated and saved, and what ends it, may change: no weight depends on this.
        """
        defaults = as_json(TrainConfig(type(job.config.objective)()).as_dict())
        objective = defaults["objective"] | identity.config.get("objective", {})
        stored = defaults | identity.config | {"objective": objective, "init": identity.init}
        settings = job.settings()
        given = settings["config"] | {"init": settings["init"]}
        differing = sorted(
            f"{name} {stored.get(name)!s:.40}, not {given[name]!s:.40}"
            for name in given.keys() - MAY_CHANGE
            if given[name] != stored.get(name)
        )
        if differing:
            raise ConfigError(
                f"{self.path}: holds a run with other settings ({'; '.join(differing)}); give the "
                "same ones to resume it, or choose another folder"
            )

    def check_scans(
        self, identity: Identity, found: dict[str, dict[str, str]], damaged: Collection[str]
    ) -> None:
        """Refuse (ConfigError) to resume the run with other scans.

        Those there are, ``found`` (see :attr:`.dataset.Dataset.identity`), may lack some that were
        damaged since; ``damaged`` has the names of the files that cannot be read.
        """
        stored = identity.data["train"] | identity.data["validation"]
        present = found["train"] | found["validation"]
        files = identity.data.get("files", {})
        changed = {
            "new or changed": [name for name in present if present[name] != stored.get(name)],
            "missing": [
                name
                for name in stored
                if name not in present and files.get(name, f"{name}.h5") not in damaged
            ],
        }
        listed = [
            f"{len(ids)} {what} ({', '.join(sorted(ids)[:3])}{', ...' * (len(ids) > 3)})"
            for what, ids in changed.items()
            if ids
        ]
        if listed:
            raise ConfigError(
                f"{self.path}: its scans are not those it began with: {', '.join(listed)}; give "
                f"the same scans, or train into another folder with init (--init {self.prior})"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other processes from training in it.

        Raises:
            ConfigError: the folder cannot be made or written.
            MriAmbientError: another process trains in it.
        """
        make_folder(self.path)
        with locked(self.path / "run.json"):
            yield

    def begin(self, identity: Identity) -> None:
        """Write the identity, unless the run has begun."""
        make_folder(self.path)
        if not self.has_begun:
            write_toml(self.path / "config.toml", identity.config)
            content = asdict(identity)
            write_json(self.path / "run.json", content | {"sha256": content_sha256(content)})

    @property
    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that can be read."""
        for path in sorted(self.path.glob("checkpoint-*.safetensors"), reverse=True):
            try:
                header = read_header(path)
            except CheckpointError:
                continue
            if header.get("format") == STATE_FORMAT:
                return path
        return None

    @property
    def images_seen(self) -> int:
        """Images seen at the newest checkpoint; 0 where there is none."""
        checkpoint = self.latest_checkpoint
        return 0 if checkpoint is None else int(checkpoint.stem.rpartition("-")[-1])

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and header of the newest checkpoint."""
        checkpoint = self.latest_checkpoint
        return None if checkpoint is None else load_tensors(checkpoint)

    def save_checkpoint(
        self, images: int, tensors: dict[str, Tensor], header: dict[str, Any]
    ) -> None:
        """Write a checkpoint; keep the one before it and no more."""
        path = self.path / f"checkpoint-{images:09d}.safetensors"
        try:
            save_tensors(path, tensors, {"format": STATE_FORMAT, **header})
        except MriAmbientError as error:
            raise MriAmbientError(f"{error}. The last good checkpoint is untouched.") from error
        for old in sorted(self.path.glob("checkpoint-*.safetensors"))[:-2]:
            old.unlink()


class Log:
    """Lines of JSON about the run after so many images, cut back to the checkpoint on resuming."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, images: int) -> None:
        """Remove what was written after this many images."""
        if not self.path.exists():
            return
        kept = [record for record in self.records() if record["images"] <= images]
        with atomic_path(self.path) as temporary:
            lines = (json.dumps(record) + "\n" for record in kept)
            temporary.write_text("".join(lines), encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """All whole lines; the last one of a killed run may be torn."""
        found = []
        content = self.path.read_bytes() if self.path.exists() else b""
        for line in content.splitlines(keepends=True):
            try:
                record = json_object(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and _is_ours(record):
                found.append(record)
        return found

    def values(self, name: str) -> list[float]:
        """Every value of a figure, in order."""
        return [record[name] for record in self.records() if record.get(name) is not None]

    def write(self, **figures: float | None) -> None:
        """Add a line; figures that are not finite become null."""
        record = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in figures.items()
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise MriAmbientError(
                f"{self.path}: cannot be written ({error.strerror}); free space there and run the "
                "same command again. The last good checkpoint is untouched."
            ) from error


def _is_ours(record: dict[str, Any]) -> bool:
    """Whether a line is one that we wrote."""
    numbers = all(value is None or isinstance(value, (int, float)) for value in record.values())
    return numbers and isinstance(record.get("images"), int)
