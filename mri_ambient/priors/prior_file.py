"""Files of priors and training states, and what a prior's file holds, without torch.

The header holds hashes of itself and of the tensors, so that a damaged file is never used. Files of
earlier versions have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError, ConfigError
from ..runtime.files import content_sha256, file_sha256, json_object
from .facts import SCALE_RULE, UNTRAINED, PriorFacts
from .weights import find_prior, no_such_prior

HEADER = "mri_ambient"
PRIOR_FORMAT = "prior/1"
HASHES = "hashes"
"""Entry of the header."""
DAMAGED = "damaged: its content is not what was written; copy it again, or delete it"

NOT_USABLE = (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ConfigError)
"""What facts and networks raise that are damaged, or of a later version."""


class Stored(NamedTuple):
    """A tensor of a file: its type as torch writes it (``torch.float16``), and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: memoryview


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of one of our files.

    Raises:
        CheckpointError: the file is missing, damaged, or not ours.
    """
    return read_hashed_header(path)[0]


def read_hashed_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The header, and the hashes; these are empty in a file of an earlier version."""
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(HEADER)
        header = None if text is None else json_object(text)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}). Priors are safetensors with a "
            "JSON header; pickled checkpoints (.pt, .pkl) are never opened."
        ) from error
    if header is None:
        raise CheckpointError(f"{path}: a safetensors file without a header of mri-ambient")
    if HASHES not in header:
        return header, {}
    hashes = header.pop(HASHES)
    if not isinstance(hashes, dict) or hashes.get("header") != content_sha256(header):
        raise CheckpointError(f"{path}: {DAMAGED}")
    return header, hashes


def content_hash(tensors: Iterable[Stored]) -> str:
    """Hash of the tensors of a file."""
    digest = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.content)
    return digest.hexdigest()


def check_content(path: Path, hashes: dict[str, str], tensors: Iterable[Stored]) -> None:
    """Refuse tensors that are not those that were written, where the file has hashes."""
    if hashes and hashes.get("tensors") != content_hash(tensors):
        raise CheckpointError(f"{path}: {DAMAGED}")


def prior_file(path: Path) -> Path:
    """The file of a prior, given it, its run folder, or the name of a shipped prior.

    Raises:
        CheckpointError: there is none.
    """
    path = find_prior(path)
    if not path.exists():
        raise no_such_prior(path)
    if not path.is_dir():
        return path
    if not (path / "prior.safetensors").exists():
        raise CheckpointError(
            f"{path}: a folder without prior.safetensors, so no training run; name a run or a "
            "prior file"
        )
    return path / "prior.safetensors"


def facts_in(path: Path, header: dict[str, Any]) -> PriorFacts:
    """The facts in the header of a prior's file.

    Raises:
        CheckpointError: it is no prior, or none that this version can use.
    """
    if header.get("format") != PRIOR_FORMAT:
        raise CheckpointError(
            f"{path}: holds {header.get('format')!r}, wanted a prior ({PRIOR_FORMAT!r}). "
            "Training states (checkpoint-*.safetensors) lie beside their prior.safetensors."
        )
    try:
        facts = PriorFacts.from_stored(header["facts"])
    except NOT_USABLE as error:
        raise not_usable(path, error) from error
    if facts.scale_rule != SCALE_RULE:
        raise CheckpointError(
            f"{path}: a prior for another kind of data: it needs scans normalised by "
            f"{facts.scale_rule!r}, this version normalises by {SCALE_RULE!r}"
        )
    return facts


def describe_prior(path: Path) -> tuple[PriorFacts, int]:
    """The facts of a prior, as :func:`~mri_ambient.priors.checkpoint.load_prior` has them.

    Args:
        path: prior file, run folder, or the name of a shipped prior.

    Returns:
        The facts, and the number of trained weights.

    Raises:
        CheckpointError: missing, damaged, foreign, or made by an incompatible version. That the
            weights are those of such a network is not checked.
    """
    path = prior_file(path)
    header, hashes = read_hashed_header(path)
    facts = facts_in(path, header)
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, AttributeError) as error:  # of types it lacks
        raise CheckpointError(f"{path}: cannot be read ({error}); get the file again") from error
    check_content(path, hashes, map(_stored, arrays, arrays.values()))
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise not_finite(path)
    trained = (array.size for name, array in arrays.items() if not name.endswith(UNTRAINED))
    card = {**facts.card, "sha256": file_sha256(path)}
    return replace(facts, card=card), sum(trained)


def _stored(name: str, array: np.ndarray[Any, Any]) -> Stored:
    content = array.reshape(-1).view(np.uint8).data
    return Stored(name, f"torch.{array.dtype}", array.shape, content)


def not_usable(path: Path, error: Exception) -> CheckpointError:
    """Says that a file holds another kind of prior, or network."""
    reason = " ".join(str(error).split())[:100]  # torch lists all tensors that do not fit
    return CheckpointError(
        f"{path}: does not hold a prior this version can use ({reason}); train it again, or use "
        "the version of mri-ambient that made it"
    )


def not_finite(path: Path) -> CheckpointError:
    """Says that weights are damaged."""
    return CheckpointError(f"{path}: holds weights that are NaN or Inf; get the file again")
