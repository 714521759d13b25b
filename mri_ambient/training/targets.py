"""Images to learn from where no scan is fully sampled: reconstructions of the training scans.

A folder of targets holds ``<scan_id>.h5`` for every prepared scan, dataset ``samples`` complex64
``(slice, y, x)``, normalised as the scan is, with the digest of that scan. A scan whose file is
there is not reconstructed again, unless the file is damaged.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, ScanFormatError, StoppedError
from ..io.formats.prepared import PreparedFile
from ..io.hdf5 import open_h5, read_attributes
from ..io.outputs.reconstruction import write_samples
from ..methods import BASELINES, Method, StepInfo
from ..priors.checkpoint import load_tensors, save_tensors
from ..recon.engine import Engine
from ..recon.recipe import ResolvedRecipe, method_options
from ..runtime.config import time_text
from ..runtime.device import Runtime
from ..runtime.files import as_json, json_object, write_json
from ..runtime.process_group import ProcessGroup
from .config import Hooks
from .dataset import Item, files_of, prepared_digest

TOGETHER, PIXELS_TOGETHER = 16, 2**18
"""Slices, and pixels, of scans that are reconstructed together, at most: enough for a GPU, and few
enough to stop soon. Neither memory nor the device decides it: every process makes the same groups.
"""

MADE_BY = "made-by.json"
"""Names the method, its options, the seed and the prior that made the images of a folder."""


def target_method(name: str) -> Method:
    """The method of this name that makes targets, or a ConfigError."""
    if name not in BASELINES:
        raise ConfigError(f"targets {name!r} are unknown; choose from full, {', '.join(BASELINES)}")
    return BASELINES[name]()


@dataclass(frozen=True)
class TargetFolder:
    """A folder of target images, all made in one way: by method, prior and seed of ``recipe``."""

    path: Path
    recipe: ResolvedRecipe
    runtime: Runtime

    def _made_by(self) -> dict[str, Any]:
        method = self.recipe.method
        made_by = {
            "method": method.name,
            "options": method_options(method),
            "seed": self.recipe.seed,
        }
        if method.needs_prior:
            made_by |= {"prior_sha256": self.recipe.prior_sha256, "bf16": self.runtime.bf16}
        return as_json(made_by)

    def check(self, *, finished: bool = False) -> None:
        """Refuse a folder whose images were made in another way.

        The precision does not matter if the folder is ``finished``: no image will be added.

        Raises:
            ConfigError: the method, its options, the prior or the seed differ.
        """
        path = self.path / MADE_BY
        if not path.exists():
            return
        made_by = self._made_by()
        try:
            stored = json_object(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: damaged ({error}); delete this folder, to make the images again"
            ) from error
        if finished:
            made_by.pop("bf16", None)
        differing = sorted(key for key in made_by if stored.get(key, made_by[key]) != made_by[key])
        if differing:
            raise ConfigError(
                f"{self.path}: holds images that were made in another way "
                f"({', '.join(differing)}); use another folder, or delete it"
            )

    def missing(self, items: Sequence[Item]) -> list[PreparedFile]:
        """The scans whose images are not there, or in a damaged file."""
        return [file for file in files_of(items) if not self._holds(file)]

    def make(
        self,
        items: Sequence[Item],
        *,
        shard: tuple[int, int] | None = None,
        hooks: Hooks | None = None,
        deadline: float = math.inf,
    ) -> bool:
        """Reconstruct every scan, one image a slice.

        Scans of one matrix size, number of coils and of sets are reconstructed together. The groups
        do not depend on what is there already, nor on who makes them, and so neither do the images.
        The processes of a ``torch.distributed`` group share the work.

        Args:
            items: slices of prepared scans; whole scans are reconstructed.
            shard: do part i of N of these groups only, counted from 1.
            hooks: on_target, on_damaged and should_stop are called.
            deadline: when to stop, also before a first image is finished; as ``time.monotonic``
                counts.

        Returns:
            Whether all were made; False if it was stopped, in whichever process.

        Raises:
            ConfigError: see :meth:`check`, or the folder holds images of other scans.
            StoppedError: the deadline came; what is finished is kept.
        """
        hooks = hooks or Hooks()
        self.check()
        if not (self.path / MADE_BY).exists():
            write_json(self.path / MADE_BY, self._made_by())
        groups = list(_groups(files_of(items)))
        processes = ProcessGroup.current()
        part, n_parts = shard or (processes.rank + 1, processes.size)
        groups = groups[part - 1 :: n_parts]
        stopped, done, total = False, 0, sum(len(group) for group in groups)
        watch = _Watch(hooks, deadline, total)
        engine = Engine(self.recipe, self.runtime, watch.on_step)
        for files in (files for group in groups for files in _calls(group, engine)):
            missing = {file.scan_id for file in files if not self._holds(file)}
            stopped = bool(missing) and hooks.should_stop()
            if stopped:
                break
            if missing:
                watch.begin(done, files, self.recipe.method.n_steps)
                try:
                    self._make(files, missing, engine, hooks.on_damaged)
                except StoppedError:
                    stopped = True
                    break
            for _ in files:
                done += 1
                hooks.on_target(done, total)
        whole = not processes.any(stopped, self.runtime.torch_device)  # waits for all of them
        if watch.is_late:
            raise watch.error(self.path)
        return whole

    def _make(
        self,
        files: list[PreparedFile],
        missing: set[str],
        engine: Engine,
        on_damaged: Callable[[str], None],
    ) -> None:
        if len(files) == 1:  # it may be long, and is never held as a whole
            made = self._long_scan(files[0], engine, on_damaged)
        else:
            made = _short_scans(files, missing, engine, on_damaged)
        for file, images in made:
            facts = {"scan_id": file.scan_id, "made_of": prepared_digest(file)}
            facts["method"] = self.recipe.method.name
            write_samples(self.path / f"{file.scan_id}.h5", images, facts)

    def _long_scan(
        self, file: PreparedFile, engine: Engine, on_damaged: Callable[[str], None]
    ) -> Iterator[tuple[PreparedFile, Tensor]]:
        """A scan with its images ``(slice, y, x)``, made in parts.

        Finished parts are kept in a hidden folder until all are there.
        """
        n_slices = engine.slices_at_once(file.shape[-2:])
        folder, parts = self.path / f".{file.scan_id}.unfinished", []
        for first in range(0, len(file), n_slices):
            path, stop = folder / f"{first}.safetensors", min(first + n_slices, len(file))
            facts = {"slices": [first, stop], "of": prepared_digest(file), "by": self._made_by()}
            part = _kept(path, facts)
            if part is None:
                try:
                    part = engine([file[first:stop]])[0].img
                except ScanFormatError as error:
                    on_damaged(str(error))
                    break
                if stop - first < len(file):
                    save_tensors(path, {"img": part}, facts)
            parts.append(part)
        else:
            yield file, torch.cat(parts)
        shutil.rmtree(folder, ignore_errors=True)

    def _holds(self, file: PreparedFile) -> bool:
        path, digest = self.path / f"{file.scan_id}.h5", prepared_digest(file)
        if not path.exists():
            return False
        try:
            with open_h5(path, for_text=True) as stored:
                # Files of earlier versions do not name their scan's digest.
                found = read_attributes(stored).get("made_of", digest)
        except ScanFormatError:
            return False
        if found != digest:
            raise ConfigError(
                f"{path}: is the image of another scan of this name, or of one that was prepared "
                "in another way; delete its folder, or choose another"
            )
        return True


class _Watch:
    """Tells how far a group is while its samples are drawn, and stops when it is late."""

    def __init__(self, hooks: Hooks, deadline: float, total: int) -> None:
        self.hooks, self.deadline, self.total = hooks, deadline, total
        self.done = self.n_scans = self.n_taken = self.n_steps = 0
        self.slices, self.started, self.is_late = 0.0, time.monotonic(), False

    def error(self, folder: Path) -> StoppedError:
        """Says how far the images of a folder are, and what a slice takes by the steps so far."""
        seconds = (time.monotonic() - self.started) / self.slices
        return StoppedError(
            f"{folder}: the time limit ended when {self.done} of {self.total} scans had their "
            f"images; a slice takes about {time_text(seconds)}. Finished slices are kept, and the "
            "same command goes on"
        )

    def begin(self, done: int, files: list[PreparedFile], n_steps: int) -> None:
        """The next steps are those of some scans, after so many others."""
        self.done, self.n_scans, self.n_taken = done, len(files), 0
        self.n_steps = n_steps * sum(len(file) for file in files)

    def on_step(self, info: StepInfo) -> None:
        """A step of a sampler is taken for some slices."""
        self.n_taken += info.n_images
        self.slices += info.n_images / info.n_steps
        if time.monotonic() > self.deadline:
            self.is_late = True
            raise StoppedError("late")
        if self.n_taken < self.n_steps:  # the end is told when the images are written
            share = self.n_taken / self.n_steps
            self.hooks.on_target(self.done + self.n_scans * share, self.total)


def _groups(files: list[PreparedFile]) -> Iterator[list[PreparedFile]]:
    """Files that are reconstructed together, a long one alone."""
    waiting: dict[tuple[int, ...], list[PreparedFile]] = {}
    for file in files:
        size = (*file.shape[1:], file.n_sets)
        group = waiting.setdefault(size, [])
        most = min(TOGETHER, PIXELS_TOGETHER // (file.shape[-2] * file.shape[-1]))
        if group and sum(len(other) for other in group) + len(file) > most:
            yield group
            group = waiting[size] = []
        group.append(file)
    yield from waiting.values()


def _calls(group: list[PreparedFile], engine: Engine) -> Iterator[list[PreparedFile]]:
    """Scans of a group that the device computes at once; one that is longer, alone."""
    files: list[PreparedFile] = []
    for file in group:
        n_slices = sum(len(other) for other in files) + len(file)
        if files and n_slices > engine.slices_at_once(file.shape[-2:]):
            yield files
            files = []
        files.append(file)
    yield files


def _kept(path: Path, facts: dict[str, Any]) -> Tensor | None:
    """Images of some slices that an earlier call has finished, if it made them in this way."""
    with suppress(CheckpointError, KeyError):
        tensors, header = load_tensors(path)
        if {name: header.get(name) for name in facts} == facts:
            return tensors["img"]
    return None


def _short_scans(
    group: list[PreparedFile],
    missing: set[str],
    engine: Engine,
    on_damaged: Callable[[str], None],
) -> Iterator[tuple[PreparedFile, Tensor]]:
    """The missing scans that can be read, with their images ``(slice, y, x)``.

    All scans of the group are reconstructed with them: their calls of the method are shared.
    """
    files, scans = [], []
    for file in group:
        try:
            scans.append(file[:])
            files.append(file)
        except ScanFormatError as error:
            on_damaged(str(error))
    if any(file.scan_id in missing for file in files):
        for file, result in zip(files, engine(scans), strict=True):
            if file.scan_id in missing:
                yield file, result.img
