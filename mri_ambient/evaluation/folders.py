"""Folders of reconstructions against folders of references, paired by name as in fastMRI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from statistics import fmean
from typing import Any

import h5py
from numpy.typing import NDArray

from ..errors import ConfigError, MriAmbientError, ScanFormatError
from ..io.hdf5 import find_dataset, open_h5, read_real
from ..io.names import raw_file
from ..io.outputs.reconstruction import RECONSTRUCTION_FORMAT
from ..io.readers import ScanPath, find_scans
from ..io.scan_file import TARGETS, Contents
from ..recon.metrics import ReferenceKind, VolumeMetrics, evaluate_volume
from ..recon.reference import rss_volume
from ..runtime.executor import Executor, completed, executor_of

KIND_OF_TARGET: dict[str, ReferenceKind] = dict(zip(TARGETS, ("rss", "esc"), strict=True))
"""Datasets that hold a reference, and what it is."""


def evaluate(
    reconstructions: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    on_error: Callable[[Path, MriAmbientError], None] | None = None,
    jobs: int | Executor = 1,
    **options: Any,  # noqa: ANN401 -- of several readers
) -> dict[str, Any]:
    """NMSE, PSNR and SSIM of reconstructions, as the fastmri package computes them.

    Args:
        reconstructions: files that ``reconstruct`` wrote, folders of them, or globs.
        target: the fully sampled scan, or a folder of scans of the same stems, in any format. They
            hold one of :data:`KIND_OF_TARGET`; where they hold none, the RSS of their full k-space
            is computed.
        on_error: called with a reconstruction that cannot be scored and the error, and the others
            are scored; without it the error is raised.
        jobs: processes that share the volumes, or an executor.
        options: of the targets' readers, as :func:`~mri_ambient.open_scan` takes them, such as
            ``axes`` and ``dataset``.

    Returns:
        ``volumes``: the fields of :class:`VolumeMetrics` by file stem, or by path where files of
        several folders have the same stem; ``mean``: means over the volumes of ``nmse``, ``psnr``
        and ``ssim``, empty without volumes. Of several results of one scan, as of several methods,
        ``mean`` is empty and ``means`` has the means by input, or by folder of a single input.

    Raises:
        ScanFormatError: there is nothing to score, or see ``on_error``.
        ConfigError: two targets have the same stem, or the target is a reconstruction and the first
            input is none.
    """
    inputs = [reconstructions] if isinstance(reconstructions, (str, Path)) else [*reconstructions]
    files = find_reconstructions(inputs)
    if not files:
        raise ScanFormatError("no reconstruction was given; name files or folders")
    n_times = Counter(file.stem for file in files)
    _refuse_swapped(files[0], Path(target))
    pairs = pair_up(files, target, **options)
    failed = None if on_error is None else lambda pair, error: on_error(pair[0], error)
    scores = dict(completed(executor_of(jobs), _scored, pairs, failed))
    volumes: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for index in sorted(scores):
        path = pairs[index][0]
        name = path.stem if n_times[path.stem] == 1 else str(path.with_suffix(""))
        volumes[name] = asdict(scores[index])
        groups.setdefault(_group_of(path, inputs), {})[name] = volumes[name]
    targets = Counter(str(scan) for _, scan in pairs if scan is not None)
    if max(targets.values(), default=0) < 2:
        return {"volumes": volumes, "mean": mean_metrics(volumes)}
    means = {name: mean_metrics(some) for name, some in groups.items()}
    return {"volumes": volumes, "mean": {}, "means": means}


def _group_of(path: Path, inputs: Sequence[str | Path]) -> str:
    """The input of a reconstruction; of a single input, the folder in it."""
    above = [entry for entry in inputs if Path(entry) in (path, *path.parents)]
    if len(inputs) > 1 or not above:
        return str(above[0] if above else path.parent)
    below = path.relative_to(above[0]).parts
    return str(Path(above[0], *below[: len(below) > 1]))


def _scored(pair: tuple[Path, ScanPath | None]) -> VolumeMetrics:
    return score_pair(*pair)


def _refuse_swapped(file: Path, target: Path) -> None:
    """Refuse a scan as the reconstruction, and a reconstruction as its target."""
    first = next(target.rglob("[!.]*.h5"), target) if target.is_dir() else target
    tags = [Contents(path).tag == RECONSTRUCTION_FORMAT for path in (file, first)]
    if tags == [False, True]:
        raise ConfigError(
            f"{first}: is a reconstruction, and {file} is none: give the reconstructions first, "
            "and the fully sampled scans as the target (--target)"
        )


def refuse_reconstructions(inputs: Iterable[str | Path]) -> None:
    """Refuse what ``reconstruct`` wrote where scans are wanted; ConfigError."""
    for path in map(Path, inputs):
        files = path.rglob("[!.]*.h5") if path.is_dir() else [path]
        tags = (Contents(file).tag == RECONSTRUCTION_FORMAT for file in files)
        if next(tags, False) and all(tags):
            raise ConfigError(
                f"{path}: holds reconstructions, which are scored against fully sampled scans; "
                "give these as the target (--target)"
            )


def find_reconstructions(inputs: Iterable[str | Path]) -> list[Path]:
    """The files that ``reconstruct`` wrote, of files, folders with those below them, and globs.

    Raises:
        ScanFormatError: an input does not exist, or is a folder without any.
    """
    found: list[Path] = []
    for entry in inputs:
        # Path.glob takes no absolute patterns.
        there = [entry] if Path(entry).exists() else sorted(glob(str(entry), recursive=True))  # noqa: PTH207
        if not there:
            raise ScanFormatError(f"{entry}: no such file or folder")
        for path in map(Path, there):
            files = sorted(path.rglob("[!.]*.h5")) if path.is_dir() else [path]
            if not files:
                raise ScanFormatError(f"{path}: no reconstructions (*.h5) here")
            found += files
    return list(dict.fromkeys(found))


def pair_up(
    files: Sequence[Path],
    target: str | Path,
    **options: Any,  # noqa: ANN401 -- of several readers
) -> list[tuple[Path, ScanPath | None]]:
    """Reconstructions with the target of the same stem, None where there is none.

    Of several targets or reconstructions of this stem, those in folders of the same names belong
    together. A single reconstruction and a single target belong together, whatever they are called.
    Of several reconstructions, those that a single target is not for are left out.

    Args:
        files: the reconstructions.
        target: a scan, or a folder of scans.
        options: of the targets' readers, as :func:`~mri_ambient.open_scan` takes them.

    Raises:
        ScanFormatError: there is no target, or none for any of the reconstructions.
    """
    scans = find_scans([target], **options)
    if not any(scan.path.exists() for scan in scans):
        raise ScanFormatError(f"{target}: no such file or folder")
    is_file = raw_file(Path(target)).is_file()
    if is_file and len(files) == len(scans) == 1:
        return [(files[0], scans[0])]
    n_times = Counter(file.stem for file in files)
    pairs = [(file, _target_of(file, scans, n_times[file.stem] == 1)) for file in files]
    if not any(scan for _, scan in pairs):
        names = ", ".join([scan.key for scan in scans[:3]] + ["..."] * (len(scans) > 3))
        raise ScanFormatError(f"{target}: no reconstruction is called as a target here ({names})")
    return [(file, scan) for file, scan in pairs if scan] if is_file else pairs


def _target_of(file: Path, scans: Sequence[ScanPath], unique: bool) -> ScanPath | None:
    """The scan of the same stem in folders of the same names; in any, if both are ``unique``.

    The mean of repetitions is the target of each of them.
    """
    same = [scan for scan in scans if scan.is_target_of(file.stem)]
    if unique and len(same) == 1:
        return same[0]
    parts = file.absolute().with_suffix("").parts
    return next((s for s in same if parts[-len(Path(s.key).parts) :] == Path(s.key).parts), None)


def score_pair(reconstruction: Path, target: ScanPath | None) -> VolumeMetrics:
    """Score a file with the dataset ``reconstruction`` against a fully sampled scan.

    Raises:
        ScanFormatError: a file is damaged or holds no such image, there is no target, or the two
            do not fit.
        ConfigError: the target is one of several of the same stem.
    """
    if target is None:
        raise ScanFormatError(f"{reconstruction}: no target is called {reconstruction.stem!r}")
    if target.refused:
        raise ConfigError(target.refused)
    with open_h5(reconstruction) as file:
        volume = read_real(find_dataset(file, "reconstruction"))
    reference, kind = _reference(target)
    try:
        return evaluate_volume(volume, reference, reference=kind)
    except ScanFormatError as error:
        raise ScanFormatError(f"{reconstruction}: {error}") from error


def _reference(target: ScanPath) -> tuple[NDArray[Any], ReferenceKind]:
    """The reference that a scan holds, or the RSS of its full k-space."""
    single = not (target.volume or target.options.get("average"))
    stored = _stored_reference(target.path) if single else None
    if stored is not None:
        return stored
    none = f"holds no reference ({' or '.join(TARGETS)})"
    try:
        scan = target.open()
    except ScanFormatError as error:
        raise ScanFormatError(f"{error}; it {none} either") from error
    if scan.prepared or not scan.fully_sampled:
        found = "prepared" if scan.prepared else f"undersampled (R = {scan.acceleration:.2f})"
        raise ScanFormatError(
            f"{target}: {none}, and its k-space is {found}; give the fully sampled scan"
        )
    return rss_volume(scan).numpy(), "rss"


def _stored_reference(path: Path) -> tuple[NDArray[Any], ReferenceKind] | None:
    """The reference that an HDF5 file stores; None for any other file."""
    if Contents(path).error is not None:
        return None
    with open_h5(path) as file:
        name = _target_name(file)
        return None if name is None else (read_real(find_dataset(file, name)), KIND_OF_TARGET[name])


def _target_name(file: h5py.File) -> str | None:
    """The dataset that fastMRI scores against.

    Its emulated single coil for single-coil k-space, otherwise the root sum of squares; the other
    one where only that is there.
    """
    shape: tuple[int, ...] = getattr(file.get("kspace"), "shape", ())
    single = len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)
    names = reversed(TARGETS) if single else TARGETS
    return next((name for name in names if name in file), None)


def mean_metrics(volumes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Means over volumes; empty without any."""
    if not volumes:
        return {}
    return {key: fmean(row[key] for row in volumes.values()) for key in ("nmse", "psnr", "ssim")}
