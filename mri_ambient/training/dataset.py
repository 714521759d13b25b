"""Prepared files as training data: which slices there are, and batch n of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ScanFormatError, with_remedy
from ..io import open_scan
from ..io.formats.prepared import PreparedFile, duplicate_acquisitions, mask_facts
from ..io.outputs.reconstruction import read_samples
from ..physics.coverage import mask_group, sampling_densities
from ..priors.prior import Prior, name_digest, scan_digest, validation_names
from ..rng import rng_for
from ..scan import Batch

WINDOW = 512
"""Slices that are shuffled together: those of whole files, which come in random order."""


@dataclass(frozen=True)
class Item:
    """One slice of a prepared file; its k-space stays on disk.

    Attributes:
        file, index: the prepared file, and which of its slices.
    """

    file: PreparedFile
    index: int

    @property
    def scan_id(self) -> str:
        """Name of the scan."""
        return self.file.scan_id

    @property
    def name(self) -> str:
        """Scan and number of the slice."""
        return f"{self.scan_id}/{self.index}"

    @property
    def shape(self) -> tuple[int, int]:
        """Matrix ``(y, x)``."""
        return self.file.shape[-2:]

    @property
    def noise_std(self) -> float:
        """sigma_n per real channel, normalised units."""
        return float(self.file.noise_std or 0)

    @cached_property
    def acceleration(self) -> float:
        """The achieved acceleration."""
        return self.file.acceleration

    def read(self) -> Batch:
        """The slice as a batch of one."""
        return Batch.of([self.file[self.index]])


@dataclass(frozen=True)
class SizeGroup:
    """The slices of a batch that have one matrix size.

    Attributes:
        batch, names: their measurements; scan and number of each.
        positions: the place of each in the whole batch, which seeds its random numbers.
    """

    batch: Batch
    positions: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class TrainingBatch:
    """A batch, or a process's part of one: its slices by matrix size.

    ``damaged`` has a sentence about every slice that could not be read and was left out.
    """

    groups: tuple[SizeGroup, ...]
    damaged: tuple[str, ...] = ()

    def pin_memory(self) -> TrainingBatch:
        """The batch in page-locked memory."""
        groups = (replace(group, batch=group.batch.pin_memory()) for group in self.groups)
        return replace(self, groups=tuple(groups))


@dataclass(frozen=True)
class Dataset:
    """Slices to train on and slices for validation.

    Attributes:
        train: slices to train on, those of a file together.
        validation: slices of other scans, whose *measured* lines are predicted.
        damaged: a sentence about every file that could not be read and was left out.
        images: folder with target images, ``<scan_id>.h5``, for objectives that learn from images.
    """

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    damaged: Mapping[Path, str] = field(default_factory=dict)
    images: Path | None = None

    @property
    def identity(self) -> dict[str, dict[str, str]]:
        """The ``train`` and ``validation`` scans with their digests, and the names of ``files``."""
        train, validation = files_of(self.train), files_of(self.validation)
        return {
            "train": {file.scan_id: prepared_digest(file) for file in train},
            "validation": {file.scan_id: prepared_digest(file) for file in validation},
            "files": {file.scan_id: file.path.name for file in train + validation},
        }

    @property
    def mixes_patients(self) -> bool | None:
        """Whether a patient has scans on both sides, so that held-out errors are optimistic.

        None where nothing is set aside, or files do not name their patients.
        """
        train, validation = files_of(self.train), files_of(self.validation)
        patients = {patient_of(file) for file in validation}
        if any(patient_of(file) in patients for file in train):
            return True
        named = all(file.attributes.get("patient_id") for file in train + validation)
        return False if patients and named else None

    @cached_property
    def densities(self) -> dict[tuple[tuple[int, int], str], Tensor]:
        """How often the training scans sample each position, by matrix size and kind of mask."""
        return sampling_densities(mask_facts(file) for file in files_of(self.train))

    def read(self, item: Item) -> Batch:
        """A slice as a batch of one, with its maps as they are stored and its target image."""
        maps = torch.from_numpy(item.file.read_packed_maps(item.index))
        batch = Batch.with_maps(item.file.without_maps(item.index), maps[None])
        density = self.densities[mask_group(item.file.mask)].expand(1, 1, *item.shape)
        img = None
        if self.images is not None:
            path = self.images / f"{item.scan_id}.h5"
            img = torch.from_numpy(read_samples(path, item.index))[None]
        return replace(batch, density=density, img=img)


@dataclass(frozen=True)
class BatchSequence(torch.utils.data.Dataset[TrainingBatch]):
    """The batches of a training: ``batches[n]`` is a process's part of batch n.

    Maps are packed as they are stored; :meth:`Batch.to` unpacks them.

    Attributes:
        dataset: the scans.
        size: slices of a batch, over all processes.
        seed: of their order.
        rank, world: of the process, and number of processes.
    """

    dataset: Dataset
    size: int
    seed: int
    rank: int = 0
    world: int = 1

    @cached_property
    def _orders(self) -> dict[int, list[int]]:
        return {}

    def order(self, epoch: int) -> list[int]:
        """Every training item once: files in random order, slices shuffled in a moving window."""
        items, rng = self.dataset.train, rng_for(self.seed, "epoch", epoch)
        files = [list(group) for _, group in groupby(range(len(items)), lambda i: items[i].file)]
        chosen: list[int] = []
        window: list[int] = []
        for i in torch.randperm(len(files), generator=rng).tolist():
            window += files[i]
            if len(window) >= WINDOW:
                chosen += _shuffled(window, rng)
                window = []
        return chosen + _shuffled(window, rng)

    def indices(self, n: int) -> list[int]:
        """Which training items batch ``n`` holds: every epoch is a permutation of its own."""
        chosen: list[int] = []
        for position in range(n * self.size, (n + 1) * self.size):
            epoch, place = divmod(position, len(self.dataset.train))
            if epoch not in self._orders:
                self._orders.clear()
                self._orders[epoch] = self.order(epoch)
            chosen.append(self._orders[epoch][place])
        return chosen

    def __getitem__(self, n: int) -> TrainingBatch:
        groups: dict[tuple[int, int], list[tuple[Batch, int, str]]] = {}
        damaged = []
        chosen = self.indices(n)
        for position in range(self.rank, self.size, self.world):
            item = self.dataset.train[chosen[position]]
            try:
                part = self.dataset.read(item), position, item.name
                groups.setdefault(item.shape, []).append(part)
            except ScanFormatError as error:
                damaged.append(str(error))
        stacked = []
        for group in groups.values():
            batches, positions, names = zip(*group, strict=True)
            stacked.append(SizeGroup(Batch.stack(batches), positions, names))
        return TrainingBatch(tuple(stacked), tuple(damaged))


def files_of(items: Iterable[Item]) -> list[PreparedFile]:
    """The files of slices, each once."""
    return list({item.file.path: item.file for item in items}.values())


def patient_of(file: PreparedFile) -> str:
    """The patient; where the file does not say it, the scan's own name."""
    return str(file.attributes.get("patient_id") or file.scan_id)


def prepared_digest(file: PreparedFile) -> str:
    """A hash of the raw file, and one of the facts of the prepared file."""
    facts = f"{file.shape}/{float(file.noise_std or 0):.9g}/{file.acceleration:.9g}"
    facts += f"/{file.n_sets} sets" if file.n_sets > 1 else ""
    known = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"{scan_digest(file.source_sha256)}:{known}"


def _shuffled(indices: list[int], rng: torch.Generator) -> list[int]:
    return [indices[i] for i in torch.randperm(len(indices), generator=rng).tolist()]


def load_dataset(
    folder: Path,
    *,
    n_validation: int,
    seed: int,
    parents: Sequence[Prior] = (),
    validation_scans: Collection[str] | None = None,
) -> Dataset:
    """List the prepared files of a folder and set scans aside for validation.

    All scans of a patient are set aside or none: another slice or contrast of a training patient
    would be too easy. Only where whole patients give less than half of the wanted number are single
    scans set aside.

    Args:
        folder: output folder of ``mri-ambient prep``.
        n_validation: scans to set aside: about so many, as patients are whole, and at most a fifth
            of all.
        seed: chooses them.
        parents: priors that the new one learns from. Their validation scans are set aside before
            others; their training scans never, nor others of these patients.
        validation_scans: set exactly these aside instead: those of a run that is resumed.

    Raises:
        ScanFormatError: no prepared files that can be read, a raw scan among them, or several files
            of one scan or one acquisition.
    """
    if not folder.is_dir():
        raise ScanFormatError(f"{folder}: no such folder")
    files, damaged = _read_folder(folder)
    if not files and not validation_scans:
        reasons = f" that can be read ({min(damaged.values())})" if damaged else " (*.h5)"
        raise ScanFormatError(
            f"{folder}: no prepared scans{reasons}; run `mri-ambient prep INPUT... -o {folder}` "
            "first"
        )
    _check_different(files)
    if validation_scans is None:
        validation_scans = _choose_validation(files, n_validation, seed, parents)
    parts: tuple[list[Item], list[Item]] = ([], [])
    for file in files:
        items = (Item(file, index) for index in range(len(file)))
        parts[file.scan_id in validation_scans].extend(items)
    return Dataset(tuple(parts[0]), tuple(parts[1]), damaged)


def _read_folder(folder: Path) -> tuple[list[PreparedFile], dict[Path, str]]:
    """The prepared files, and a sentence about every file that cannot be read."""
    files, damaged = [], {}
    for path in sorted(folder.glob("[!.]*.h5")):
        try:
            file = open_scan(path)
        except ScanFormatError as error:
            damaged[path] = f"{error}; it is left out"
            continue
        if not isinstance(file, PreparedFile):
            raise ScanFormatError(
                f"{path}: a raw scan ({file.format}), wanted a prepared one; "
                f"run `mri-ambient prep {folder} -o PREPARED` first"
            )
        if file.noise_std is None:
            raise ScanFormatError(f"{path}: noise_std is missing; prepare it again")
        files.append(file)
    return files, damaged


def _check_different(files: Sequence[PreparedFile]) -> None:
    """Refuse two files of one scan name, after which targets are named, or of one acquisition."""
    paths: dict[str, Path] = {}
    for file in files:
        if file.scan_id in paths:
            raise ScanFormatError(
                f"{file.path}: holds scan {file.scan_id!r}, and so does "
                f"{paths[file.scan_id].name}; remove one of them, or prepare the scans again under "
                "different file names"
            )
        paths[file.scan_id] = file.path
    for warning in duplicate_acquisitions(files):
        text = with_remedy(warning.code, warning.text)
        raise ScanFormatError(f"{files[0].path.parent}: {text}")


def _choose_validation(
    files: Sequence[PreparedFile], n_validation: int, seed: int, parents: Sequence[Prior]
) -> set[str]:
    """Names of scans: of whole patients, if these give at least half of the wanted number.

    Patients (or scans) are taken by their rank, so that a file that is damaged or added changes no
    other's part.
    """
    most = len(files) // 5
    least = min(n_validation, most)
    preferred = {name for parent in parents for name in validation_names(parent.facts.card)}

    def is_known(file: PreparedFile) -> bool:
        return any(parent.was_trained_on(file.source_sha256) for parent in parents)

    def draw(owner_of: Callable[[PreparedFile], str]) -> set[str]:
        owned: dict[str, list[PreparedFile]] = {}
        for file in files:
            owned.setdefault(owner_of(file), []).append(file)

        def rank(owner: str) -> tuple[bool, int]:
            is_late = all(name_digest(f.scan_id) not in preferred for f in owned[owner])
            return is_late, rng_for(seed, "validation", owner).initial_seed()

        chosen: set[str] = set()
        for owner in sorted(owned, key=rank):
            names = {file.scan_id for file in owned[owner]}
            if len(chosen) >= least or any(is_known(file) for file in owned[owner]):
                continue
            if len(chosen) + len(names) <= most:
                chosen |= names
        return chosen

    whole = draw(patient_of)
    if 2 * len(whole) >= least:
        return whole
    single = draw(lambda file: file.scan_id)
    return single if len(single) > len(whole) else whole
