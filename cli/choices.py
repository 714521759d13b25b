"""Names that options take, known without the library behind them: a typo then costs no time.

The tests compare these with the library's dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mri_ambient.errors import ConfigError, ScanFormatError, close_to, unknown_name

T = TypeVar("T")

METHODS = ("aos", "dds", "msm", "pula", "adps", "zero-filled", "cg-sense", "l1-wavelet")
PRESETS = ("fast", "balanced", "quality")
PRECISIONS = ("auto", "fp32", "bf16")
FORMATS = ("h5", "nifti", "dicom", "bids", "ismrmrd", "png", "report")
OBJECTIVES = ("kspace", "ambient", "gsure", "consistency", "equivariant", "ssdu", "supervised")
NETWORKS = ("tiny", "tiny16", "tiny16-momentum", "small", "base")
WRAPPERS = ("plain", "conditioned", "unguided", "inconsistent")


def one_of(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def known(what: str, *names: str) -> Callable[[str | None], str | None]:
    """What refuses, as an option is read, a name or a list of names that there are not."""

    def check(value: str | None) -> str | None:
        for name in (value or "").split(","):
            if name.strip() not in (*names, ""):
                raise unknown_name(what, name.strip(), names)
        return value

    return check


def readable(parse: Callable[[T], object]) -> Callable[[T], T]:
    """What refuses, as an option is read, a value that cannot be parsed."""

    def check(value: T) -> T:
        if value is not None:
            parse(value)
        return value

    return check


def there(inputs: list[str]) -> list[str]:
    """What refuses inputs of which none exists."""
    if not any(map(_is_there, inputs)):
        raise ScanFormatError("; ".join(map(_not_there, inputs)))
    return inputs


def _is_there(entry: str) -> bool:
    path = Path(entry)
    if path.exists() or any(char in entry for char in "*?["):
        return True
    return any(Path(stem).with_suffix(".cfl").exists() for stem in (entry, f"{entry}.cfl"))


def _not_there(entry: str) -> str:
    path = Path(entry)
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{entry}: no such file or folder{close_to(path.name, names)}"


def folder_there(path: Path) -> Path:
    """What refuses a folder of prepared scans that is a file, or does not exist."""
    if path.is_file():
        raise ConfigError(f"{path}: is a file, wanted the folder of prepared scans that holds it")
    if not path.exists():
        raise ScanFormatError(_not_there(str(path)))
    return path


def shipped_or_there(path: Path | None) -> Path | None:
    """What refuses a prior that does not exist and is not the name of a shipped one."""
    from mri_ambient.priors.weights import find_prior, no_such_prior

    if path is not None and not find_prior(path).exists():
        raise no_such_prior(path)
    return path
