"""Prepared files as training data: which slices there are, and batch n of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .batch import Batch
from .coverage import Coverage, MaskFacts, coverage
from .errors import ConfigError, NumericalWarning, ScanFormatError
from .io import open_scan
from .io.prepared import PreparedFile
from .masks import calibration_block, is_line_mask, outer_samples
from .rng import rng_for

MIN_SIGMA = 0.002
"""Smallest noise level any prior is trained at, normalised units."""


@dataclass(frozen=True)
class Item:
    """One slice of a prepared file, whose facts stay in memory and whose samples do not."""

    file: PreparedFile
    index: int
    noise_std: float

    @property
    def scan_id(self) -> str:
        """Name of the scan."""
        return self.file.scan_id

    @property
    def shape(self) -> tuple[int, int]:
        """Matrix ``(y, x)``."""
        return self.file.shape[-2:]

    @cached_property
    def acceleration(self) -> float:
        """The achieved acceleration."""
        return self.file.acceleration

    def read(self) -> Batch:
        """The slice as a batch of one."""
        return Batch.of([self.file[self.index]])


@dataclass(frozen=True)
class Dataset:
    """Slices to learn from and slices to check on; a volume is never split between them.

    Attributes:
        train: slices to learn from.
        validation: slices of other scans, whose *measured* lines are checked.
        n_scans: number of prepared files.
        fingerprint: changes with anything that would change the training.
    """

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    n_scans: int
    fingerprint: str

    def indices(self, n: int, size: int, seed: int) -> list[int]:
        """Which training items batch ``n`` holds: every epoch is a permutation of its own."""
        total = len(self.train)
        chosen: list[int] = []
        first = n * size
        for position in range(first, first + size):
            epoch, place = divmod(position, total)
            if not chosen or place == 0:
                order = torch.randperm(total, generator=rng_for(seed, "epoch", epoch))
            chosen.append(int(order[place]))
        return chosen

    def batch(self, n: int, size: int, seed: int, *, augment: bool = False) -> list[Batch]:
        """Batch ``n`` of ``size`` slices, stacked by matrix size."""
        groups = stack([self.train[i] for i in self.indices(n, size, seed)])
        if not augment:
            return groups
        return [group.augmented(rng_for(seed, "augment", n, i)) for i, group in enumerate(groups)]


def stack(items: Sequence[Item]) -> list[Batch]:
    """Read items and stack those of equal matrix size, in order of first appearance."""
    groups: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        groups.setdefault(item.shape, []).append(item)
    return [Batch.of([item.file[item.index] for item in group]) for group in groups.values()]


def load_dataset(folder: Path, *, n_validation: int, seed: int) -> Dataset:
    """List the prepared files of a folder and set scans aside for validation.

    Args:
        folder: where ``mri-ambient prep`` wrote to.
        n_validation: scans to set aside; at most a fifth of all.
        seed: chooses them.

    Raises:
        ConfigError: no prepared files, or too few.
    """
    paths = sorted(folder.glob("*.h5")) if folder.is_dir() else []
    if not paths:
        raise ConfigError(
            f"{folder}: no prepared scans (*.h5); run `mri-ambient prep INPUT... -o {folder}` first"
        )
    scans = [_items(path) for path in paths]
    order = torch.randperm(len(scans), generator=rng_for(seed, "validation")).tolist()
    n_validation = min(n_validation, len(scans) // 5)
    held = set(order[:n_validation])
    train = [item for i, items in enumerate(scans) if i not in held for item in items]
    validation = [item for i in order[:n_validation] for item in scans[i]]
    names = "\n".join(
        f"{item.scan_id}/{item.index}/{item.shape}/{item.noise_std:.9g}/{item.acceleration:.9g}"
        for items in scans
        for item in items
    )
    return Dataset(
        train=tuple(train),
        validation=tuple(validation),
        n_scans=len(scans),
        fingerprint=hashlib.sha256(names.encode()).hexdigest()[:16],
    )


def _items(path: Path) -> list[Item]:
    file = open_scan(path)
    if not isinstance(file, PreparedFile):
        raise ScanFormatError(
            f"{path}: a raw scan ({file.format}), wanted a prepared one; "
            f"run `mri-ambient prep {path.name} -o PREPARED` first"
        )
    if file.noise_std is None:
        raise ScanFormatError(f"{path}: does not say its noise; prepare it again")
    return [Item(file, i, float(file.noise_std)) for i in range(len(file))]


def measure_sigma_data(items: Sequence[Item], *, limit: int = 200) -> float:
    """Standard deviation per real channel of the images inside the support.

    From the measured samples alone: ||F S x||^2 = ||x||^2, the calibration block is complete, and
    outer samples count once for every position they stand for.
    """
    values = []
    for item in items[:: max(1, len(items) // limit)]:
        batch = item.read()
        mask, outer = batch.mask[0], outer_samples(batch.mask[0])
        energy = batch.ksp[0].abs().square() - 2 * item.noise_std**2
        n_positions = mask[..., 0].numel() * int(batch.acquired[0].sum())
        n_center = int(mask.sum()) - int(outer.sum())
        stands_for = (n_positions - n_center) / max(int(outer.sum()), 1)
        total = (energy * (mask & ~outer)).sum() + stands_for * (energy * outer).sum()
        n_support = int(batch.op.support[0].sum())
        if n_support:
            values.append(max(float(total), 0.0) / (2 * n_support))
    if not values or not any(values):
        raise ConfigError("the training scans hold no signal above their noise")
    return float(np.sqrt(np.mean(values)))


def smallest_sigma(items: Sequence[Item], margin: float = 1.2) -> float:
    """max(0.002, 95th percentile of ``margin`` x sigma_n over the slices)."""
    return max(MIN_SIGMA, margin * float(np.quantile([item.noise_std for item in items], 0.95)))


def measure_coverage(items: Sequence[Item]) -> list[Coverage]:
    """How well the masks of the scans cover k-space, by matrix size; warns about holes."""
    files = {item.file.path: item.file for item in items}.values()
    facts = [MaskFacts(file.mask, file.acquired, file.shape[1]) for file in files]
    found = coverage(facts)
    for doubt in (doubt for group in found for doubt in group.doubts):
        warnings.warn(doubt, NumericalWarning, stacklevel=2)
    return found


def typical_mask(items: Sequence[Item], *, limit: int = 200) -> tuple[str, float, int]:
    """Kind, median rate and median calibration width of the training masks.

    Lines of whatever kind count as random lines; a data set is 2-D Poisson where most masks vary
    along both axes.
    """
    chosen = items[:: max(1, len(items) // limit)]
    in_plane = [not is_line_mask(item.file.mask) for item in chosen]
    kind = "poisson" if sum(in_plane) > len(chosen) / 2 else "random"
    rates = [item.acceleration for item in chosen]
    calibs = [calibration_block(item.file.mask)[1] for item in chosen]
    return kind, float(np.median(rates)), int(np.median(calibs))
