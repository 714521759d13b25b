"""Files: written completely or not at all, hashed, and JSON as reports need it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from ..errors import BusyError, ConfigError, MriAmbientError, OutputExistsError, ScanFormatError

LOCK = ".tmp-lock-"
"""Begin of the names of locks."""

PARTS = (".unfinished", ".compared")
"""Ends of the names of hidden folders, ``.<stem>.unfinished``; messages name the stem instead."""

MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
"""Of the names of temporary files: which machine uses them."""

_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{6})-(\d+)-")
_IN_USE: set[str] = set()
_CLEANED: set[Path] = set()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to ``path`` when the block ends without error.

    An error or Ctrl-C removes the temporary file and leaves an existing ``path`` unchanged. The
    temporary name keeps the suffixes, on which some writers depend. Missing folders are created.

    Raises:
        MriAmbientError: the file cannot be written (disk full, read-only folder, ...).
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with _explaining(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _IN_USE.discard(temporary.name)


@contextmanager
def atomic_folder(path: Path, pattern: str) -> Iterator[Path]:
    """The same of a folder; an existing one is replaced if it holds nothing but such files.

    Args:
        path: the folder.
        pattern: of the names of the files that will be in it, e.g. ``slice-*.dcm``.

    Raises:
        OutputExistsError: there is something else under this name, or in that folder.
        MriAmbientError: it cannot be written.
    """
    _refuse_others(path, pattern)
    temporary, old = _temporary(path), _temporary(path)
    try:
        with _explaining(path):
            temporary.mkdir(parents=True)
            yield temporary
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _IN_USE.difference_update((temporary.name, old.name))


@contextmanager
def locked(path: Path, settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Keep other processes from making the same file meanwhile; on disks without locks, nothing.

    Args:
        path: of the file.
        settings: what decides the file, which other processes are told.

    Raises:
        BusyError: another process is making it.
        MriAmbientError: the folder cannot be written.
    """
    lock = path.with_name(f"{LOCK}{path.name}")
    with _explaining(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file(lock)
    with file or nullcontext():
        if file is None:
            raise BusyError(
                f"{path}: another process is making it; wait until it has ended, or give each "
                "process an output or inputs of its own (-o, --shard)",
                _settings_in(lock),
            )
        file.truncate(0)  # what a killed process left
        file.write(json.dumps(as_json(settings or {})))
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _settings_in(lock: Path) -> dict[str, Any] | None:
    """What the process that holds a lock says; None if it has not yet, or has ended."""
    with suppress(OSError, ValueError):
        found = json.loads(lock.read_text())
        return found if isinstance(found, dict) and found else None
    return None


def lock_file(path: Path) -> IO[str] | None:
    """An open file that is locked until it is closed; None if another process holds it."""
    file = path.open("a")
    if _lock(file):
        return file
    file.close()
    return None


def _lock(file: IO[str]) -> bool:
    """Lock a file; False if another process holds it, or has just removed it."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the disk has no locks
        return True
    return os.fstat(file.fileno()).st_nlink > 0


def _temporary(path: Path) -> Path:
    """A name beside ``path`` that says which process uses it."""
    _remove_torn_once(path.parent)
    name = f".tmp-{MACHINE}-{os.getpid()}-{secrets.token_hex(2)}-{path.name}"
    _IN_USE.add(name)
    return path.with_name(name)


def remove_torn(*folders: Path) -> None:
    """Remove what killed processes of this machine left in folders."""
    for entry in (entry for folder in folders for entry in folder.glob(".tmp-*")):
        if _is_torn(entry):
            shutil.rmtree(entry, ignore_errors=True)
            with suppress(OSError):
                entry.unlink()


def _remove_torn_once(folder: Path) -> None:
    """The same, the first time only, as it takes a look at all files."""
    if (folder := folder.absolute()) not in _CLEANED:
        _CLEANED.add(folder)
        remove_torn(folder)


def _is_torn(entry: Path) -> bool:
    """Whether no process uses it any more; False where that cannot be known."""
    if entry.name.startswith(LOCK):
        with suppress(OSError), entry.open("a") as file:
            return _lock(file)
    found = _TEMPORARY.match(entry.name)
    if found is None or found[1] != MACHINE:
        return False
    if int(found[2]) == os.getpid():  # an earlier process may have had this number
        return entry.name not in _IN_USE
    return not is_alive(int(found[2]))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that was killed may stay in the list until its parent looks."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with suppress(OSError):  # no such list on this system
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """OSError as MriAmbientError."""
    try:
        yield
    except OSError as error:
        # The strerror of HDF5 is pages long.
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        is_part = path.parent.suffix in PARTS
        shown = path.parent.with_name(path.parent.stem.removeprefix(".")) if is_part else path
        raise MriAmbientError(
            f"{shown}: cannot be written ({reason}); free space there or choose another output"
        ) from error


def _refuse_others(path: Path, pattern: str) -> None:
    there = list(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    for entry in there:
        if not (entry.is_file() and entry.match(pattern)):
            raise OutputExistsError(
                f"{entry}: was not written by mri-ambient, and is never overwritten; choose "
                "another output folder"
            )


def make_folder(path: Path) -> None:
    """Create an output folder and its parents, unless it exists, and try to write a file in it.

    Raises:
        ConfigError: it cannot be created or written.
    """
    _check_name(path)
    verb = "created as a folder"
    try:
        path.mkdir(parents=True, exist_ok=True)
        verb = "written"
        with TemporaryFile(dir=path, prefix=".tmp-"):
            _remove_torn_once(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be {verb} ({error.strerror}); choose another output"
        ) from error


def check_writable(path: Path, *, inside: bool = False) -> None:
    """Raise ConfigError if a file or folder cannot be made there; nothing is made.

    Args:
        path: the file or folder.
        inside: it is a folder, which may exist, and files are made in it.
    """
    _check_name(path)
    places = [path.absolute(), *path.absolute().parents]
    there = next(place for place in places[not inside :] if _exists(place))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        reason = "may not be written to" if there.is_dir() else "is a file, wanted a folder"
        raise ConfigError(f"{path}: cannot be written ({there} {reason}); choose another output")


def _check_name(path: Path) -> None:
    """Raise ConfigError if the bytes of a name are not UTF-8, which safetensors cannot write."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}: cannot be written (the name is not UTF-8); choose another output"
        ) from None


def _exists(path: Path) -> bool:
    """Whether it exists, as far as this user may know."""
    try:
        return path.exists()
    except PermissionError:
        return False


@contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """A folder that can be written (see :func:`make_folder`); one that stays empty is removed."""
    is_new = not _exists(path)
    make_folder(path)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):  # something was written
                path.rmdir()


def append_line(path: Path, line: str, first: str = "") -> None:
    """Append a line to a text file at once, so that several processes may do so.

    Args:
        path: the file.
        line: without its end.
        first: the first line of a file that is not there yet, such as headings.

    Raises:
        MriAmbientError: it cannot be written.
    """
    with _explaining(path):
        if first:
            with suppress(FileExistsError), path.open("x", encoding="utf-8", newline="") as file:
                file.write(first)
        with path.open("a", encoding="utf-8", newline="") as file:
            _wait_for_lock(file)
            file.write(line + "\n")


def _wait_for_lock(file: IO[str]) -> None:
    """Lock a file until it is closed: on network disks, appending alone is not enough."""
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):  # the disk has no locks
            fcntl.flock(file, fcntl.LOCK_EX)


def require_space(path: Path, n_bytes: int) -> None:
    """Raise MriAmbientError unless the disk has ``n_bytes`` free for a file."""
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise MriAmbientError(
            f"{path}: needs {size_text(n_bytes)}, but only {size_text(free)} are free; free space "
            "there or choose another output"
        )


def size_text(n_bytes: int) -> str:
    """A size for people: ``12 kB``, ``3.4 MB`` or ``1.25 GB``."""
    if n_bytes < 1e6:
        return f"{n_bytes / 1e3:.0f} kB"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.2f} GB"


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ScanFormatError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON of plain values, tensors, arrays, paths and containers; NaN and Inf become null.

    It can be written: characters that stand for bytes of names that are not UTF-8 are escaped.
    """
    text = json.dumps(_jsonable(content), indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def content_sha256(content: object) -> str:
    """The sha256 of :func:`json_text`, which is the same before and after writing it to a file."""
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        ValueError: it holds something else, or is nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"holds {str(found)[:40]!r}, wanted an object")
    return found


def write_json(path: str | Path, content: object) -> None:
    """Write readable JSON (see :func:`json_text`), completely or not at all."""
    text = json_text(content, indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def as_json(values: Mapping[Any, Any]) -> dict[str, Any]:
    """The values as they come back from JSON that :func:`json_text` wrote."""
    return {str(name): _jsonable(entry) for name, entry in values.items()}


def _jsonable(value: Any) -> Any:  # noqa: ANN401 -- any content of a report
    if isinstance(value, Mapping):
        return as_json(value)
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if hasattr(value, "tolist"):  # of numpy or torch, which is slow to import
        return _jsonable(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"cannot write a {type(value).__name__} to a JSON file")
