"""Finished slices of a volume, in a file each until all are there, or in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import CheckpointError, NumericalWarning
from ..priors.checkpoint import load_tensors, save_tensors
from ..runtime.files import as_json
from ..scan import Scan
from .engine import SliceImages, to_file_units
from .recipe import settings_that_differ

MAX_WAITING = 4
"""Results that wait to be written; more would fill the memory if the disk is slow."""

HEADER_KEYS = {"settings", "slice", "check", "warnings", "facts", "seconds"}
"""What the header of a finished slice holds."""


@dataclass(frozen=True)
class StoredSlice:
    """A finished slice.

    Attributes:
        images: "img", and where there are several samples "std" and "samples", in file units.
        header: its checks, warnings, and facts about scan and method.
    """

    images: dict[str, Tensor]
    header: dict[str, Any]


class SliceStore:
    """Finished slices of a volume, written by a thread.

    Args:
        folder: where they are kept; None keeps them in memory.
        settings: what decides them; slices in the folder that were made with other settings are
            removed. With None, so are all.
        keep_samples: whether samples are kept beside their mean.
    """

    def __init__(
        self,
        folder: Path | None = None,
        settings: dict[str, Any] | None = None,
        *,
        keep_samples: bool = False,
    ) -> None:
        self.folder, self.settings, self.keep_samples = folder, settings, keep_samples
        self.done: set[int] = set()
        self.memory: dict[int, StoredSlice] = {}
        for header in [] if folder is None else _headers(folder):
            if settings is None or header.get("settings") != settings:
                self.remove()
                return
            if header.keys() >= HEADER_KEYS:  # others are of another version, and done again
                self.done.add(int(header["slice"]))

    @staticmethod
    def other_settings(folder: Path, settings: dict[str, Any]) -> list[str]:
        """Names of settings that differ from those of slices in a folder."""
        found = (header.get("settings") or {} for header in _headers(folder))
        return sorted(set().union(*(settings_that_differ(settings, one) for one in found)))

    def __contains__(self, index: int) -> bool:
        return index in self.done

    def __len__(self) -> int:
        return len(self.done)

    def __enter__(self) -> Self:
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.writing: list[Future[None]] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.thread.shutdown(wait=True)
        for future in self.writing if kind is None else []:
            future.result()

    def add(
        self, scan: Scan, result: SliceImages, noise_std: float, given: Sequence[NumericalWarning]
    ) -> None:
        """Keep the slices of a prepared scan; an earlier failure to write raises here.

        ``noise_std`` is that of the measured coils, in file units; ``given`` are warnings.
        """
        while self.writing and (self.writing[0].done() or len(self.writing) >= MAX_WAITING):
            self.writing.pop(0).result()
        args = (scan, result, noise_std, [warning.as_dict() for warning in given])
        self.writing.append(self.thread.submit(self._keep, *args))
        self.done.update(scan.slices)

    def _keep(
        self, scan: Scan, result: SliceImages, noise_std: float, given: list[dict[str, str]]
    ) -> None:
        images = {"img": to_file_units(result.img, scan)}
        if result.std is not None:
            images["std"] = _std_in_file_units(result, scan)
        if result.samples is not None and self.keep_samples:
            samples = [to_file_units(sample, scan) for sample in result.samples]
            images["samples"] = torch.stack(samples, dim=1)
        facts = as_json(
            {
                "coils": scan.n_coils,
                **({"map_sets": scan.n_sets} if scan.n_sets > 1 else {}),
                "matrix": scan.shape,
                "recon_shape": scan.recon_shape,
                "sigma_n": scan.noise_std,
                "noise_std": noise_std,
                "noise_source": scan.noise_source,
                "scale": scan.scale,
                "steps": scan.steps,
                "provenance": result.provenance,
            }
        )
        for i, index in enumerate(scan.slices):
            header = {
                "settings": self.settings,
                "slice": index,
                "check": {"slice": index, **result.checks[i]},
                "warnings": given,
                "facts": facts,
                "seconds": result.provenance["seconds"] / len(scan.slices),
            }
            of_slice = {name: tensor[i] for name, tensor in images.items()}
            if self.folder is None:
                self.memory[index] = StoredSlice(of_slice, header)
            else:
                save_tensors(_path(self.folder, index), of_slice, header)

    def read(self, index: int) -> StoredSlice:
        """A finished slice."""
        if self.folder is None:
            return self.memory[index]
        return StoredSlice(*load_tensors(_path(self.folder, index)))

    def report(self) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, str]]]:
        """The checks of all slices, facts about scan and method, and warnings, each once."""
        headers = [self.read(index).header for index in sorted(self.done)]
        facts = dict(headers[-1]["facts"])
        seconds = sum(header["seconds"] for header in headers)
        facts["provenance"] = {**facts["provenance"], "seconds": seconds}
        given = {entry["text"]: entry for header in headers for entry in header["warnings"]}
        return [header["check"] for header in headers], facts, list(given.values())

    def remove(self) -> None:
        """Delete all of them."""
        self.done.clear()
        self.memory.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _std_in_file_units(result: SliceImages, scan: Scan) -> Tensor:
    """Standard deviation of the samples' magnitude; with several sets each has its own weights."""
    if result.samples is None or scan.n_sets == 1:
        return to_file_units(result.img, scan, result.std)
    sizes = torch.stack([to_file_units(sample, scan).abs() for sample in result.samples])
    std: Tensor = result.provenance["std_factor"] * sizes.std(dim=0)
    return std


def _headers(folder: Path) -> Iterator[dict[str, Any]]:
    """Headers of the slices in a folder, without those that are damaged."""
    for path in sorted(folder.glob("*.safetensors")):
        with suppress(CheckpointError):
            yield load_tensors(path)[1]


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"
