"""From what a user names (files, folders, globs) to opened scans."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MriAmbientError, ScanFormatError, collected
from ..runtime.warning_log import WarningLog
from .formats.bart import CflFile, cfl_path
from .formats.bruker import BrukerFile
from .formats.fastmri import FastmriFile
from .formats.hdf5_arrays import CalgaryFile, Hdf5File
from .formats.mask_file import read_mask
from .formats.matlab import MatFile
from .formats.mrd import MrdFile
from .formats.named_axes import NamedArrayFile
from .formats.numpy_files import NumpyFile
from .formats.other_files import what_it_is
from .formats.prepared import PreparedFile
from .formats.twix import TwixFile
from .names import (
    as_text,
    name_of,
    raw_file,
    series_of,
    stem_of,
    without_repetition,
)
from .outputs.reconstruction import RECONSTRUCTION_FORMAT, SAMPLES_FORMAT
from .scan_file import Contents, ScanFile
from .views.acs import LinesBeside, corrected_with, lines_beside
from .views.averaged import Averaged
from .views.averages import check_averages
from .views.corrected import corrected

READERS: dict[str, type[ScanFile]] = {
    reader.format: reader
    for reader in (
        PreparedFile, MatFile, CalgaryFile, FastmriFile, MrdFile, TwixFile, BrukerFile, Hdf5File,
        CflFile, NumpyFile,
    )
}  # fmt: skip
"""Readers by format; the first that recognises a file reads it."""


@dataclass(frozen=True)
class ScanPath:
    """A scan on disk that is not opened yet.

    Attributes:
        path: the file.
        options: of its reader, as :func:`open_scan` takes them; the volume of a file with several.
        folder: where it lies below the folder that the user named; outputs lie there too.
        refused: why it is not opened, whatever the file holds; otherwise empty.
    """

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    refused: str = ""

    @property
    def name(self) -> str:
        """Of the file, with the folder it lies in, and of the volume."""
        return f"{self.folder / name_of(self.path)} {self.volume}".rstrip()

    @property
    def volume(self) -> str:
        """Name of the volume; empty for the only one of a file."""
        return self.options.get("volume") or ""

    @property
    def stem(self) -> str:
        """What outputs are named after: the stem of the file, and the volume."""
        return _stem(self.path, self.options)

    @property
    def key(self) -> str:
        """What tells it from other scans of one call: folder and stem, e.g. ``site-a/head``."""
        return (self.folder / self.stem).as_posix()

    @property
    def reading(self) -> dict[str, str]:
        """See :attr:`ScanFile.reading`."""
        return _reading(self.options)

    def is_target_of(self, stem: str) -> bool:
        """Whether a reconstruction of this stem is of the scan, or of a repetition it averages."""
        averages = self.options.get("average")
        return stem == self.stem or bool(
            averages and self.stem in (series_of(stem), without_repetition(stem))
        )

    def open(self) -> ScanFile:
        """See :func:`open_scan`; ConfigError if it is refused."""
        if self.refused:
            raise ConfigError(self.refused)
        return open_scan(self.path, **self.options)

    def __str__(self) -> str:
        return f"{self.path} {self.volume}".rstrip()

    def __fspath__(self) -> str:
        return str(self.path)


def open_scan(path: str | Path, **options: Any) -> ScanFile:  # noqa: ANN401 -- of several readers
    """Open a scan of any format in :data:`READERS`.

    Args:
        path: the file, or the folder of a ParaVision scan.
        options: of the reader of its format (see ``options`` of :class:`ScanFile`), such as
            ``volume="con-1_rep-2"``; for arrays ``mask``, a file with the mask of what was
            measured; ``acs``, a file of calibration lines, as ``FILE:DATASET`` if it holds several
            arrays, or a folder with files that are called as the scans; ``average``, True to
            average the repetitions in the file, or a list of files, to average them; and ``centre``
            as :func:`~mri_ambient.io.views.corrected.corrected` takes it. Those that are None count
            as not given.

    Raises:
        ScanFormatError: the file is missing, unreadable, truncated, damaged, of another format, or
            holds several volumes, which the message names.
        ConfigError: the reader of this format has no such option.
    """
    path = raw_file(Path(path))
    given = {name: value for name, value in options.items() if value is not None}
    if average := given.pop("average", False):
        with WarningLog().noting() as warnings:
            mean = _averaged(path, average, given)
        mean.warnings, mean.reading = tuple(warnings), _reading(options)
        return mean
    contents = Contents(path)
    reader = _reader_of(contents)
    centre, acs = given.pop("centre", "auto"), given.pop("acs", None)
    if unknown := sorted(given.keys() - reader.options):
        raise ConfigError(
            f"{contents.path}: is a file of format {reader.format}, for which {unknown[0]} means "
            f"nothing; options: {', '.join(sorted(reader.options)) or 'none'}"
        )
    mask = given.pop("mask", None)
    with WarningLog().noting() as warnings:
        file = _opened(reader, path, given)
        if mask is not None and isinstance(file, NamedArrayFile):
            file.take_mask(read_mask(Path(mask)), str(mask))
        check_averages(file)
        lines = lines_beside(file, contents) if acs is None else _lines_of(file, str(acs), given)
        file = corrected(file, centre) if lines is None else corrected_with(file, lines, centre)
    file.warnings, file.reading = tuple(warnings), _reading(options)
    return file


def _reading(options: Mapping[str, Any]) -> dict[str, str]:
    """Options of :func:`open_scan` that change the samples, but not the hash of the file.

    Those at their defaults are left out, so are those that name the volume.
    """
    found = {}
    for name in ("axes", "dataset", "centre"):
        value = options.get(name)
        if value not in (None, "auto"):
            words = value.split(",") if isinstance(value, str) else map(str, value)
            found[name] = ",".join(word.strip() for word in words)
    if (mask := options.get("mask")) is not None:
        content = np.ascontiguousarray(read_mask(Path(mask)) != 0)
        found["mask"] = hashlib.sha256(f"{content.shape}".encode() + content.tobytes()).hexdigest()
    acs = str(options.get("acs") or "")
    if ":" in acs and not Path(acs).exists():  # the hash has what the file of lines holds
        found["acs"] = acs.rpartition(":")[2]
    return found


def _averaged(path: Path, average: bool | Sequence[Path], given: dict[str, Any]) -> ScanFile:
    """The mean of the repetitions in a file, or of several files; the scan itself if it is one."""
    name = _stem(path, {**given, "average": average})
    if not isinstance(average, bool):
        files = [open_scan(one, **given) for one in average]
        return Averaged(files, files[0].volume, name)
    names = _volume_names(path, given)
    wanted = given.pop("volume", None)
    groups = {group: [n for n in names if without_repetition(n) == group]
              for group in map(without_repetition, names)}  # fmt: skip
    wanted = next(iter(groups)) if wanted is None and len(groups) == 1 else wanted
    if wanted not in groups:
        raise ScanFormatError(
            f"{path}: averaged, it holds the volumes {', '.join(groups)}, and no {wanted!r}; "
            "choose one of them by volume (--volume NAME)"
        )
    files = [open_scan(path, **given, volume=name or None) for name in groups[wanted]]
    return files[0] if len(files) == 1 else Averaged(files, wanted, name)


def _stem(path: Path, options: Mapping[str, Any]) -> str:
    """What outputs of a scan that is opened with these options are named after."""
    stem = stem_of(path)
    if isinstance(options.get("average"), Sequence):
        stem = series_of(stem) or stem
    return "_".join(filter(None, [stem, options.get("volume")]))


def _lines_of(scan: ScanFile, acs: str, given: Mapping[str, Any]) -> ScanFile:
    """The calibration lines of ``FILE``, ``FILE:DATASET``, or the file of a folder."""
    if scan.prepared:
        raise ConfigError(f"{scan.path}: is prepared already; give the scan it was made from")
    name, _, dataset = ("", "", "") if Path(acs).exists() else acs.rpartition(":")
    path = raw_file(Path(name or acs))
    if path.is_dir():
        same = [entry for entry in _files_in(path) if stem_of(entry) == stem_of(scan.path)]
        path = same[0] if same else path / scan.path.name
    if dataset and isinstance(scan, FastmriFile) and path.exists() and path.samefile(scan.path):
        return LinesBeside(scan, dataset)
    reader = _reader_of(Contents(path))
    axes = given.get("axes")
    if axes is None and reader in (Hdf5File, MatFile, NumpyFile):  # which else would guess
        axes = scan.ksp.axes if isinstance(scan, NamedArrayFile) else ("slice", "coil", "y", "x")
    options = {"axes": axes, "dataset": dataset or None}
    known = {key: value for key, value in options.items() if value and key in reader.options}
    if scan.volume and scan.volume in reader.volumes_in(path, **known):
        known["volume"] = scan.volume
    with collected():
        lines = _opened(reader, path, known)
    if lines.prepared:
        raise ConfigError(f"{lines.path}: is prepared; wanted calibration lines as measured")
    return lines


def _opened(reader: type[ScanFile], path: str | Path, given: Mapping[str, Any]) -> ScanFile:
    try:
        return reader(path, **given)
    except OSError as error:
        raise ScanFormatError(f"{path}: cannot be read ({error.strerror or error})") from error


def _reader_of(contents: Contents) -> type[ScanFile]:
    path = contents.path
    try:
        for reader in READERS.values():
            if reader.recognises(contents):
                return reader
    except OSError as error:
        raise ScanFormatError(f"{path}: cannot be read ({error.strerror})") from error
    if reason := why_no_file(path):
        raise ScanFormatError(reason)
    if sentence := what_it_is(contents):
        raise ScanFormatError(f"{path}: {sentence}")
    if contents.error is not None:
        raise contents.error
    if contents.tag == RECONSTRUCTION_FORMAT:
        raise ScanFormatError(f"{path}: is a reconstruction; give the scan it was made from")
    found = f"format {contents.tag!r}" if contents.tag else f"found {list(contents.names)}"
    known = ", ".join(READERS)
    raise ScanFormatError(f"{path}: no known format; {found}; known formats: {known}")


def find_scans(
    inputs: str | Path | Sequence[str | Path | ScanPath],
    *,
    output: str | Path | None = None,
    flat: bool = False,
    results: bool = False,
    **options: Any,  # noqa: ANN401 -- of several readers
) -> list[ScanPath]:
    """Expand files, folders and globs, in the order given; each volume of a file is a scan.

    A folder stands for the files in it and in all folders below it with a suffix of one of the
    readers, and for the ParaVision scans that are such folders; sorted, hidden ones left out, and
    what we reconstructed before. The folder of a ParaVision scan stands for the scan. What does not
    exist or holds no scan is kept if there are other inputs, and so are scans of one stem if a
    folder was named: opening them fails, and the other scans go on.

    Args:
        inputs: what the user named; scans found before are kept as they are.
        output: where results go; a folder above it does not stand for what lies there.
        flat: outputs of all scans go into one folder, wherever these lie.
        results: keep what we reconstructed or sampled before.
        options: of the readers, as :func:`open_scan` takes them.

    Raises:
        ScanFormatError: there are only folders and globs that hold no scan.
        ConfigError: two scans have the same stem, after which outputs are named, and no folder was
            named, or outputs are ``flat``.
    """
    search = _Search({name: v for name, v in options.items() if v is not None}, output, results)
    entries = [inputs] if isinstance(inputs, str | Path) else inputs
    scans = [scan for entry in entries for scan in search.scans(entry)]
    scans = _in_series(scans) if options.get("average") else scans
    if flat:
        scans = [replace(scan, folder=Path()) for scan in scans]
    reasons = [why_no_file(scan.path) for scan in scans]
    found = [scan for scan, reason in zip(scans, reasons, strict=True) if reason is None]
    if not found:
        given = "; ".join(reason for reason in reasons if reason)
        raise ScanFormatError(given or "no scan was given; name files, folders or globs")
    clashes = _clashes(scan for scan in found if not scan.refused)
    named = not any(isinstance(entry, str | Path) and Path(entry).is_dir() for entry in entries)
    if clashes and (flat or named):
        n_more = len(clashes) - SHOWN
        others = f"; and {n_more} more such stems" if n_more > 0 else ""
        raise ConfigError("; ".join(list(clashes.values())[:SHOWN]) + others + RENAME)
    return [
        replace(scan, refused=clashes[scan.key] + RENAME) if scan.key in clashes else scan
        for scan in scans
    ]


SHOWN = 3
"""So many stems that come twice are named."""

RENAME = (
    "; rename them (links of other names will do), or run them one by one into different folders"
)


def _clashes(scans: Iterable[ScanPath]) -> dict[str, str]:
    """What is wrong, by key, with those that come more than once."""
    same: dict[str, list[ScanPath]] = {}
    for scan in scans:
        same.setdefault(scan.key, []).append(scan)
    return {
        key: f"{len(group)} inputs have the stem {key!r}, after which outputs are named: "
        + ", ".join(map(str, group))
        for key, group in same.items()
        if len(group) > 1
    }


@dataclass(frozen=True)
class _Search:
    """What scans are looked for.

    Attributes:
        given: options of the readers.
        output: where results go, or None.
        results: whether what we reconstructed or sampled counts.
    """

    given: Mapping[str, Any]
    output: str | Path | None
    results: bool

    def scans(self, entry: str | Path | ScanPath) -> list[ScanPath]:
        """The volumes of the files an input stands for."""
        if isinstance(entry, ScanPath):
            return [entry]
        found = _expand(entry, self.output)
        results = self.results or found == [(Path(entry), Path())]
        scans = [scan for path, folder in found for scan in self._volumes(path, folder, results)]
        return scans or [ScanPath(path, self.given, folder) for path, folder in found]

    def _volumes(self, path: Path, folder: Path, results: bool) -> list[ScanPath]:
        """The volumes of a file; the file itself where they cannot be listed, or one is chosen."""
        given = self.given
        names: Sequence[str] = ("",)  # opening it tells why, where they cannot be listed
        if not ("volume" in given or why_no_file(path)):
            try:
                contents = Contents(path)
                if contents.tag in (RECONSTRUCTION_FORMAT, SAMPLES_FORMAT) and not results:
                    return []
                names = _volume_names(path, given, contents)
                if given.get("average"):
                    names = list(dict.fromkeys(map(without_repetition, names)))
            except (MriAmbientError, OSError):
                pass
        options = ({**given, "volume": name} if name else given for name in names)
        return [ScanPath(path, option, folder) for option in options]


def _volume_names(
    path: Path, given: Mapping[str, Any], contents: Contents | None = None
) -> tuple[str, ...]:
    """The volumes of a file; options that its reader does not have are left out."""
    reader = _reader_of(contents or Contents(path))
    known = {name: given[name] for name in given.keys() & reader.options - {"volume"}}
    return reader.volumes_in(path, **known)


def _in_series(scans: Sequence[ScanPath]) -> list[ScanPath]:
    """Files of the repetitions of one scan as one; the others as they are."""
    groups: dict[tuple[Path, str, str], list[ScanPath]] = {}
    for scan in scans:
        series = series_of(stem_of(scan.path)) or scan.path.name
        groups.setdefault((scan.path.parent, series, scan.volume), []).append(scan)
    return [
        replace(same[0], options={**same[0].options, "average": tuple(s.path for s in same)})
        if len(same) > 1
        else same[0]
        for same in groups.values()
    ]


def why_no_file(path: Path) -> str | None:
    """Why a path is no file but a folder, or a glob without a match; None for any other path."""
    if path.is_dir():
        if _expand(path) != [(path, Path())]:
            return f"{path}: is a folder, wanted one of the files in it"
        return f"{path}: the folder holds no scan ({', '.join(_suffixes())})"
    if glob.has_magic(str(path)) and not path.exists():
        return f"{path}: no file matches"
    if path.is_fifo() or path.is_socket():
        return f"{path}: is no file on a disk"
    return None


def _expand(entry: str | Path, output: str | Path | None = None) -> list[tuple[Path, Path]]:
    """The files an input stands for, each with its folder below it, or itself if there are none."""
    path = Path(entry)
    found: list[tuple[Path, Path]] = []
    if path.is_dir():
        folders = _folders(path, output)
        below = {sub: Path(as_text(str(sub.relative_to(path)))) for sub in folders}
        found = [(file, below[sub]) for sub in folders for file in _files_in(sub)]
    elif glob.has_magic(str(entry)) and not path.exists():
        # Path.glob takes no absolute patterns.
        matches = sorted(glob.glob(str(entry), recursive=True))  # noqa: PTH207
        if output is not None:
            there = Path(output).resolve()
            matches = [match for match in matches if Path(match).resolve() != there]
        found = [file for match in matches for file in _expand(match, output)]
    return found or [(cfl_path(path) or path, Path())]


def _folders(top: Path, output: str | Path | None = None) -> list[Path]:
    """A folder and those below it, sorted.

    Left out are hidden ones, those of ParaVision scans, and ``output`` with those below it.
    """
    found, seen = [], {top.resolve()}
    if output is not None:
        seen.add(Path(output).resolve())
    for name, below, _ in os.walk(top, onerror=_refuse_folder, followlinks=True):
        found.append(Path(name))
        folders = {sub: (Path(name) / sub) for sub in below if not sub.startswith(".")}
        scans = {sub for sub, folder in folders.items() if raw_file(folder) != folder}
        # What a link leads back to is not visited again.
        new = {sub for sub, folder in folders.items() if folder.resolve() not in seen} - scans
        seen |= {folders[sub].resolve() for sub in new}
        below[:] = [] if raw_file(top) != top else sorted(new)
    return sorted(found)


def _refuse_folder(error: OSError) -> None:
    """Its scans would be left out without a word."""
    raise ScanFormatError(
        f"{error.filename}: cannot be read ({error.strerror}); change its permissions, or name the "
        "other folders"
    ) from error


def _files_in(folder: Path) -> list[Path]:
    if (raw := raw_file(folder)) != folder:
        return [raw]
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    named = [entry for entry in entries if entry.suffix.lower() in _suffixes()]
    files = [e for e in named if not (e.is_dir() or e.is_fifo() or e.is_socket())]
    scans = [raw for entry in entries if (raw := raw_file(entry)) != entry]
    return files + sorted(scans, key=_number_of_folder)


def left_out(entry: str | Path, output: str | Path | None = None) -> list[str]:
    """Names of the files in a folder that it does not stand for; none of any other input.

    Hidden files, those that belong to a scan, and those in ``output`` do not count.
    """
    top = Path(entry)
    if not top.is_dir() or raw_file(top) != top:
        return []
    others = [path for sub in _folders(top, output) for path in _others_in(sub)]
    return sorted(str(path.relative_to(top)) for path in others)


def _others_in(folder: Path) -> list[Path]:
    """Files that are no scans; those of a ParaVision study that have no suffix belong to it."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    is_study = any(raw_file(path) != path for path in entries)
    known = set(_files_in(folder))
    return [
        path
        for path in entries
        if not (path.is_dir() or path in known or cfl_path(path) or (is_study and not path.suffix))
    ]


def _number_of_folder(file: Path) -> tuple[int, str]:
    """By which ParaVision's folders are sorted: scan 10 comes after scan 9."""
    name = file.parent.name
    return (int(name) if name.isdecimal() else 0, name)


def _suffixes() -> list[str]:
    return list(dict.fromkeys(suffix for reader in READERS.values() for suffix in reader.suffixes))
