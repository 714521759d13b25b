"""Prepared files as training data: which slices there are, and batch n of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, ScanFormatError
from ..io import ScanFile, open_scan
from ..io.prepared import (
    PreparedFile,
    duplicate_acquisitions,
    duplicates_warning,
    mask_facts,
)
from ..io.reconstruction import read_samples
from ..physics.coverage import Coverage, MaskFacts, coverage, mask_group, sampling_densities
from ..physics.masks import calibration_block, is_line_mask, outer_samples
from ..priors.prior import scan_digest
from ..rng import rng_for
from ..scan import Batch

MIN_SIGMA = 0.002
"""Smallest noise level any prior is trained at, normalised units."""

WINDOW = 512
"""Whole files, in random order, make up so many slices; these are shuffled."""


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

    @property
    def patient(self) -> str:
        """Who was measured; where the file does not say it, the scan stands for itself."""
        return str(self.file.attributes.get("patient_id") or self.scan_id)

    @cached_property
    def acceleration(self) -> float:
        """The achieved acceleration."""
        return self.file.acceleration

    def read(self) -> Batch:
        """The slice as a batch of one."""
        return Batch.of([self.file[self.index]])

    def read_packed(self) -> Batch:
        """The slice with its maps as they are stored, to be unpacked on a device."""
        maps = self.file.read_packed_maps(self.index)
        return Batch.with_maps(self.file.without_maps(self.index), maps[None])


@dataclass(frozen=True)
class Group:
    """The slices of a batch that have one matrix size.

    Attributes:
        batch: their measurements.
        positions: the place of each in the whole batch, which seeds what is drawn for it.
        names: scan and number of each, for people.
    """

    batch: Batch
    positions: tuple[int, ...]
    names: tuple[str, ...]

    def to(self, device: torch.device) -> Group:
        """The group on another device."""
        return replace(self, batch=self.batch.to(device))


@dataclass(frozen=True)
class Draw:
    """A batch, or a process's part of one.

    Attributes:
        groups: its slices by matrix size.
        damaged: a sentence about every slice that could not be read and was left out.
    """

    groups: tuple[Group, ...]
    damaged: tuple[str, ...] = ()

    def pin_memory(self) -> Draw:
        """The batch in page-locked memory."""
        groups = (replace(group, batch=group.batch.pin_memory()) for group in self.groups)
        return replace(self, groups=tuple(groups))


@dataclass(frozen=True)
class Dataset:
    """Slices to learn from and slices to check on; patients are on one side, if there are enough.

    Attributes:
        train: slices to learn from, those of a file together.
        validation: slices of other scans, whose *measured* lines are checked.
        n_scans: number of prepared files.
        damaged: files that could not be read and were left out, and a sentence about each.
        images: folder with target images, ``<scan_id>.h5``, for objectives that learn from images.
    """

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    n_scans: int
    damaged: Mapping[Path, str] = field(default_factory=dict)
    images: Path | None = None

    @property
    def identity(self) -> dict[str, dict[str, str]]:
        """What training depends on: ``train`` and ``validation`` scans by name, and their files.

        Of each scan the hash of its raw file, and one of what is known before its samples are read.
        """
        parts = {"train": self.train, "validation": self.validation}
        files = {item.scan_id: item.file.path.name for item in self.train + self.validation}
        return {part: _digests(items) for part, items in parts.items()} | {"files": files}

    @property
    def mixes_patients(self) -> bool | None:
        """Whether somebody has scans on both sides, so that checks tell too good a tale.

        None where nothing is set aside, or files do not say who was measured.
        """
        aside = {item.patient for item in self.validation}
        if any(item.patient in aside for item in self.train):
            return True
        said = all(item.file.attributes.get("patient_id") for item in self.train + self.validation)
        return False if aside and said else None

    @cached_property
    def densities(self) -> dict[tuple[tuple[int, int], str], Tensor]:
        """How often the training scans sample each position, by matrix size and kind of mask."""
        return sampling_densities(_mask_facts(self.train))

    @cached_property
    def _orders(self) -> dict[tuple[int, int], list[int]]:
        return {}

    @cached_property
    def _files(self) -> list[list[int]]:
        """Training items by file."""
        files: dict[Path, list[int]] = {}
        for i, item in enumerate(self.train):
            files.setdefault(item.file.path, []).append(i)
        return list(files.values())

    def order(self, seed: int, epoch: int) -> list[int]:
        """Every training item once: files in random order, slices shuffled in a moving window."""
        rng = rng_for(seed, "epoch", epoch)
        chosen: list[int] = []
        window: list[int] = []
        for i in torch.randperm(len(self._files), generator=rng).tolist():
            window += self._files[i]
            if len(window) >= WINDOW:
                chosen += _shuffled(window, rng)
                window = []
        return chosen + _shuffled(window, rng)

    def indices(self, n: int, size: int, seed: int) -> list[int]:
        """Which training items batch ``n`` holds: every epoch is a permutation of its own."""
        total = len(self.train)
        chosen: list[int] = []
        first = n * size
        for position in range(first, first + size):
            epoch, place = divmod(position, total)
            if (seed, epoch) not in self._orders:
                self._orders.clear()
                self._orders[seed, epoch] = self.order(seed, epoch)
            chosen.append(self._orders[seed, epoch][place])
        return chosen

    def batch(self, n: int, size: int, seed: int, *, rank: int = 0, world: int = 1) -> Draw:
        """The part of batch ``n`` that is process ``rank``'s of ``world``, by matrix size.

        Maps are packed as they are stored; a batch on its device has them unpacked.
        """
        groups: dict[tuple[int, int], list[tuple[Batch, int, str]]] = {}
        damaged = []
        chosen = self.indices(n, size, seed)
        for position in range(rank, size, world):
            item = self.train[chosen[position]]
            try:
                part = self._read(item), position, f"{item.scan_id}/{item.index}"
                groups.setdefault(item.shape, []).append(part)
            except ScanFormatError as error:
                damaged.append(str(error))
        stacked = []
        for group in groups.values():
            batches, positions, names = zip(*group, strict=True)
            stacked.append(Group(Batch.stack(batches), positions, names))
        return Draw(tuple(stacked), tuple(damaged))

    def _read(self, item: Item) -> Batch:
        batch = item.read_packed()
        density = self.densities[mask_group(item.file.mask)].expand(1, 1, *item.shape)
        img = None
        if self.images is not None:
            img = read_samples(self.images / f"{item.scan_id}.h5", item.index)[None]
        return replace(batch, density=density, img=img)


def _digests(items: Sequence[Item]) -> dict[str, str]:
    return {item.scan_id: prepared_digest(item.file) for item in items}


def prepared_digest(file: PreparedFile) -> str:
    """The hash of its raw file, and one of what is known of how it was prepared."""
    facts = f"{file.shape}/{float(file.noise_std or 0):.9g}/{file.acceleration:.9g}"
    known = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"{scan_digest(file.source_sha256)}:{known}"


def _shuffled(indices: list[int], rng: torch.Generator) -> list[int]:
    return [indices[i] for i in torch.randperm(len(indices), generator=rng).tolist()]


def load_dataset(
    folder: Path,
    *,
    n_validation: int,
    seed: int,
    first: Collection[str] = (),
    never: Callable[[PreparedFile], bool] = lambda _: False,
    held: Collection[str] | None = None,
) -> Dataset:
    """List the prepared files of a folder and set scans aside for validation.

    All scans of a patient are set aside or none: the next slice, or another contrast, is too easy.
    Where whole patients are not half of what is wanted, single scans are.

    Files that cannot be read are left out and named in ``damaged``.

    Args:
        folder: where ``mri-ambient prep`` wrote to.
        n_validation: scans to set aside: about so many, as patients are whole, and never more than
            a fifth of all.
        seed: chooses them.
        first: scans that are set aside before others, by name.
        never: whether a scan must not be set aside, nor others of its patient.
        held: set exactly these aside instead: those of a run that goes on.

    Raises:
        ScanFormatError: no prepared files that can be read, a raw scan among them, or several files
            of one scan or one acquisition.
    """
    if not folder.is_dir():
        raise ScanFormatError(f"{folder}: no such folder")
    paths = sorted(folder.glob("[!.]*.h5"))
    scans, damaged = [], {}
    for path in paths:
        try:
            file = open_scan(path)
        except ScanFormatError as error:
            damaged[path] = str(error)
            continue
        scans.append(_items(file))
    if not scans and not held:
        reasons = f" that can be read ({min(damaged.values())})" if damaged else " (*.h5)"
        raise ScanFormatError(
            f"{folder}: no prepared scans{reasons}; run `mri-ambient prep INPUT... -o {folder}` "
            "first"
        )
    _refuse_namesakes(scans)
    for group in duplicate_acquisitions(items[0].file for items in scans):
        raise ScanFormatError(f"{folder}: {duplicates_warning(group)}")
    if held is None:
        most = min(n_validation, len(scans) // 5), len(scans) // 5
        held = _set_aside(scans, most, seed, first, never, lambda item: item.patient)
        if 2 * len(held) < most[0]:
            single = _set_aside(scans, most, seed, first, never, lambda item: item.scan_id)
            held = single if len(single) > len(held) else held
    return Dataset(
        train=tuple(item for items in scans for item in items if item.scan_id not in held),
        validation=tuple(item for items in scans for item in items if item.scan_id in held),
        n_scans=len(scans),
        damaged=damaged,
    )


def _set_aside(
    scans: Sequence[Sequence[Item]],
    wanted: tuple[int, int],
    seed: int,
    first: Collection[str],
    never: Callable[[PreparedFile], bool],
    whose: Callable[[Item], str],
) -> set[str]:
    """Names of scans for validation, from least to most as wanted: all of an owner's, or none.

    Owners are drawn by name, so that a file that breaks or is added leaves the others where they
    were.
    """
    owned: dict[str, list[Item]] = {}
    for items in scans:
        owned.setdefault(whose(items[0]), []).append(items[0])

    def turn(owner: str) -> tuple[bool, int]:
        known = any(item.scan_id in first for item in owned[owner])
        return not known, rng_for(seed, "validation", owner).initial_seed()

    (least, most), aside = wanted, set[str]()
    for owner in sorted(owned, key=turn):
        names = {item.scan_id for item in owned[owner]}
        if len(aside) >= least or any(never(item.file) for item in owned[owner]):
            continue
        if len(aside) + len(names) <= most:
            aside |= names
    return aside


def _refuse_namesakes(scans: Sequence[Sequence[Item]]) -> None:
    """Targets, splits and cards know a scan by its name."""
    paths: dict[str, Path] = {}
    for items in scans:
        path, scan_id = items[0].file.path, items[0].scan_id
        if scan_id in paths:
            raise ScanFormatError(
                f"{path}: holds scan {scan_id!r}, and so does {paths[scan_id].name}; take one of "
                "them away, or prepare the scans again under different file names"
            )
        paths[scan_id] = path


def _items(file: ScanFile) -> list[Item]:
    if not isinstance(file, PreparedFile):
        raise ScanFormatError(
            f"{file.path}: a raw scan ({file.format}), wanted a prepared one; "
            f"run `mri-ambient prep {file.path.parent} -o PREPARED` first"
        )
    if file.noise_std is None:
        raise ScanFormatError(f"{file.path}: does not say its noise; prepare it again")
    return [Item(file, i, float(file.noise_std)) for i in range(len(file))]


def measure_sigma_data(items: Sequence[Item], *, limit: int = 200) -> float:
    """Standard deviation per real channel of the images inside the support.

    From the measured samples alone: ||F S x||^2 = ||x||^2, the calibration block is complete, and
    outer samples count once for every position they stand for.
    """
    values = []
    for item in items[:: max(1, len(items) // limit)]:
        try:
            batch = item.read()
        except ScanFormatError:  # named when its turn comes in training
            continue
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


def smallest_sigma(items: Sequence[Item], margin: float) -> float:
    """max(0.002, 95th percentile of ``margin`` x sigma_n over the slices)."""
    return max(MIN_SIGMA, margin * float(np.quantile([item.noise_std for item in items], 0.95)))


def measure_coverage(items: Sequence[Item], *, warn: bool = True) -> list[Coverage]:
    """How well the masks of the scans cover k-space, by matrix size; warns about holes."""
    found = coverage(_mask_facts(items))
    for warning in (warning for group in found for warning in group.warnings if warn):
        warnings.warn(warning, stacklevel=2)
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


def _mask_facts(items: Sequence[Item]) -> list[MaskFacts]:
    files = {item.file.path: item.file for item in items}.values()
    return [mask_facts(file) for file in files]
