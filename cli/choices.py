"""Names that options take, known without the library behind them: a typo then costs no time.

The tests compare these with the library's dictionaries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mri_ambient.errors import ConfigError, ScanFormatError, close_to, unknown_name

from .parse import parse_list, parse_pairs

T = TypeVar("T")

METHODS = ("aos", "dds", "msm", "pula", "adps", "zero-filled", "cg-sense", "l1-wavelet")
PRESETS = ("fast", "balanced", "quality")
PRECISIONS = ("auto", "fp32", "bf16")
FORMATS = ("h5", "nifti", "dicom", "bids", "ismrmrd", "png", "report")
OBJECTIVES = ("kspace", "ambient", "gsure", "consistency", "equivariant", "ssdu", "supervised")
NETWORKS = ("tiny", "tiny16", "tiny16-momentum", "tiny16-momentum-6", "small", "base")
DEFAULT_NETWORK = "tiny16-momentum"
WRAPPERS = ("plain", "conditioned", "unguided", "inconsistent")
SCAN_FORMATS = ("fastmri", "ismrmrd", "cfl")
ADAPT_PER = ("slice", "volume", "folder")
PARTS = ("mag", "phase", "std")
PRIOR_METHODS = METHODS[:5]
METHOD_OPTIONS = (
    "n_steps", "n_cg", "n_iter", "final_dc", "eta", "start", "sigma_max", "renoise", "n_masks",
    "gamma", "step_size", "lam", "wavelet",
)  # fmt: skip
OBJECTIVE_OPTIONS = (
    "remove", "fresh_masks", "noise_domain", "noise_correction", "weights", "law", "margin",
    "max_weight", "max_unseen", "thin", "n_cg", "divergence", "epsilon", "max_inverse", "base",
    "weight", "rotation", "shift", "images",
)  # fmt: skip
AXES = (
    "slice", "coil", "y", "x", "z", "avg", "con", "rep", "phs", "set", "time", "1", "contrast",
    "repetition", "phase", "echo", "slices", "coils", "channel", "average",
)  # fmt: skip
CONTRASTS = ("FLAIR", "T2starw", "T1w", "T2w", "PDw")

CENTRE = r"auto|header|\s*\d+\s*,\s*\d+\s*(,\s*\d+\s*,\s*\d+\s*)?"
BIDS_NAME = (
    r"(?P<subject>sub-[0-9A-Za-z]+)(?:[/_](?P<session>ses-[0-9A-Za-z]+))?"
    rf"(?:[/_](?P<contrast>{'|'.join(CONTRASTS)}))?/?"
)
"""How two texts are written."""


def one_of(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def known(what: str, *names: str) -> Callable[[str | None], str | None]:
    """What refuses, as an option is read, a name that there is not."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise unknown_name(what, value, names)
        return value

    return check


def known_method(value: str | None) -> str | None:
    """What refuses, as an option is read, a method that there is not."""
    if value in PRESETS:
        raise ConfigError(f"{value} is a preset, a method with its options: --preset {value}")
    return known("method", *METHODS)(value)


def known_list(what: str, *names: str) -> Callable[[str], str]:
    """What refuses, as an option is read, a list that holds a name that there is not."""
    check = known(what, *names)

    def check_each(value: str) -> str:
        for name in parse_list(value):
            check(name)
        return value

    return check_each


def known_axes(text: str | None) -> str | None:
    """What refuses names of axes that there are not, or lack y or x; capitals do not count."""
    if text is not None:
        check, names = known("axis", *AXES), [name.strip() for name in text.lower().split(",")]
        for name in names:
            check(name)
        if not {"y", "x"} <= set(names):
            raise ConfigError(f"--axes names every axis, y and x among them; got {text!r}")
    return text


def readable(parse: Callable[[T], object]) -> Callable[[T], T]:
    """What refuses, as an option is read, a value that cannot be parsed."""

    def check(value: T) -> T:
        if value is not None:
            parse(value)
        return value

    return check


def written(pattern: str, wanted: str) -> Callable[[str | None], str | None]:
    """What refuses, as an option is read, a text of another form."""

    def check(value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise ConfigError(f"{wanted}; got {value!r}")
        return value

    return check


def named_values(what: str, names: Sequence[str]) -> Callable[[list[str] | None], object]:
    """What refuses, as an option is read, other texts than ``NAME=VALUE`` with these names."""

    def check(texts: list[str] | None) -> object:
        for name in parse_pairs(texts):
            if name not in names:
                raise unknown_name(what, name, names)
        return texts

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


def file_there(path: Path | None) -> Path | None:
    """What refuses a file or folder that an option names and that does not exist."""
    if path is not None and not _is_there(str(path)):
        raise ConfigError(_not_there(str(path)))
    return path


def acs_there(text: str | None) -> str | None:
    """The same of ``FILE`` or ``FILE:DATASET``."""
    if text is not None and not _is_there(text):
        file_there(Path(text.rpartition(":")[0] or text))
    return text


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
