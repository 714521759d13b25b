"""Slices of a reconstruction that are done, each a file of its own until all of them are."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..priors.checkpoint import load_tensors, read_header, save_tensors
from ..runtime.files import json_text
from ..scan import Reconstruction, Scan
from .engine import to_file_units

MOST_WAITING = 4
"""Results that wait to be written."""


class Finished:
    """Slices of a reconstruction that are done, each a file of its own, written by a thread.

    Args:
        folder: where they are kept.
        settings: what they were made with; slices made with others, or with None, are dropped.
        keep_samples: whether samples are kept beside their mean.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any] | None, *, keep_samples: bool
    ) -> None:
        self.folder, self.settings, self.keep_samples = folder, settings, keep_samples
        self.done: set[int] = set()
        for path in sorted(folder.glob("*.safetensors")):
            try:
                header = read_header(path)
            except CheckpointError:  # of a write that was cut off
                continue
            if settings is None or header.get("settings") != settings:
                self.remove()
                return
            self.done.add(int(header["slice"]))

    @staticmethod
    def others(folder: Path, settings: dict[str, Any]) -> tuple[int, list[str]]:
        """How many slices a call with other settings left there, and which of these differ."""
        n_others, differing = 0, set()
        for path in folder.glob("*.safetensors"):
            try:
                found = read_header(path).get("settings") or {}
            except CheckpointError:
                continue
            keys = {key for key in settings if settings[key] != found.get(key)}
            n_others += bool(keys)
            differing |= keys
        return n_others, sorted(differing)

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

    def add(self, scan: Scan, result: Reconstruction, noise_std: float, doubts: list[str]) -> None:
        """Keep the slices of a result; raises what went wrong with earlier ones.

        Of a disk that is slower than the device, a few results are waited for: memory is finite.
        """
        while self.writing and (self.writing[0].done() or len(self.writing) >= MOST_WAITING):
            self.writing.pop(0).result()
        self.writing.append(self.thread.submit(self._write, scan, result, noise_std, doubts))
        self.done.update(scan.slices)

    def _write(
        self, scan: Scan, result: Reconstruction, noise_std: float, doubts: list[str]
    ) -> None:
        tensors = {"img": to_file_units(result.img, scan)}
        if result.std is not None:
            tensors["std"] = to_file_units(result.std, scan)
        if result.samples is not None and self.keep_samples:
            samples = [to_file_units(images, scan) for images in result.samples]
            tensors["samples"] = torch.stack(samples, dim=1)
        for i, index in enumerate(scan.slices):
            header = {
                "settings": self.settings,
                "slice": index,
                "check": {"slice": index, **result.checks[i]},
                "doubts": doubts,
                "facts": json.loads(json_text(_facts(scan, result, noise_std))),
                "seconds": result.provenance["seconds"] / len(scan.slices),
            }
            parts = {name: tensor[i] for name, tensor in tensors.items()}
            save_tensors(self.folder / f"{index:05d}.safetensors", parts, header)

    def read(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Images of a slice in file units, and its header."""
        return load_tensors(self.folder / f"{index:05d}.safetensors")

    @property
    def provenance(self) -> dict[str, Any]:
        """How the last of the images was made."""
        found: dict[str, Any] = self.read(max(self.done))[1]["facts"]["provenance"]
        return found

    def report(self) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
        """The checks of all slices, facts about scan and method, and doubts, each told once."""
        headers = [self.read(index)[1] for index in sorted(self.done)]
        facts: dict[str, Any] = headers[-1]["facts"]
        facts["provenance"]["seconds"] = sum(header["seconds"] for header in headers)
        doubts = dict.fromkeys(doubt for header in headers for doubt in header["doubts"])
        return [header["check"] for header in headers], facts, list(doubts)

    def remove(self) -> None:
        """Forget all of them."""
        self.done.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _facts(prepared: Scan, result: Reconstruction, noise_std: float) -> dict[str, Any]:
    """What the report says of the scan as it was prepared, and of how the image was made."""
    return {
        "coils": prepared.n_coils,
        "matrix": list(prepared.shape),
        "recon_shape": list(prepared.recon_shape),
        "sigma_n": prepared.noise_std,
        "noise_std": noise_std,
        "noise_source": prepared.noise_source,
        "scale": prepared.scale,
        "steps": list(prepared.steps),
        "provenance": result.provenance,
    }
