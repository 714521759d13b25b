"""Priors and training states on disk: safetensors with a JSON header, never pickle.

The header holds hashes of itself and of the tensors, so that a damaged file is never used. Files of
earlier versions have none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError, ConfigError, DeviceError
from ..physics.masks import MaskSpec
from ..runtime.files import atomic_path, content_sha256, file_sha256, json_object
from .denoisers import Denoiser
from .prior import SCALE_RULE, Prior, PriorFacts
from .unet import UNetSpec
from .weights import find_prior, no_such_prior

HEADER = "mri_ambient"
PRIOR_FORMAT = "prior/1"
HASHES = "hashes"
"""Entry of the header."""
DAMAGED = "damaged: its content is not what was written; copy it again, or delete it"


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to a temporary name, then rename.

    Raises:
        MriAmbientError: the file could not be written; what was there before is untouched.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    hashes = {"header": content_sha256(header), "tensors": _tensors_hash(stored)}
    text = json.dumps({**header, HASHES: hashes})
    with atomic_path(path) as temporary:
        # save_file would write to a temporary name of its own, which stays when it is killed.
        temporary.write_bytes(save(stored, metadata={HEADER: text}))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of one of our files.

    Raises:
        CheckpointError: the file is missing, damaged, or not ours.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The header, and the hashes; these are empty in a file of an earlier version."""
    try:
        with safe_open(path, framework="pt") as file:
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


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and JSON header; see :func:`read_header`."""
    header, hashes = _read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    if hashes and hashes.get("tensors") != _tensors_hash(tensors):
        raise CheckpointError(f"{path}: {DAMAGED}")
    return tensors, header


def _tensors_hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_prior(prior: Prior, path: str | Path, *, half: bool = False) -> None:
    """Write a prior file, see :func:`save_tensors`; ``half`` stores float16 weights."""
    header = {"format": PRIOR_FORMAT, "facts": asdict(prior.facts)}
    state = prior.net.state_dict()
    if half:
        state = {name: tensor.half() for name, tensor in state.items()}
    save_tensors(Path(path), state, header)


def load_prior(path: Path | str, device: torch.device | str = "cpu") -> Prior:
    """Read a prior; its sha256 goes into the card.

    Args:
        path: prior file, run folder, or the name of a shipped prior.
        device: where its network goes.

    Raises:
        CheckpointError: missing, damaged, foreign, or made by an incompatible version.
        DeviceError: the device has no memory left for it.
    """
    path = find_prior(Path(path))
    if not path.exists():
        raise no_such_prior(path)
    if path.is_dir():
        path = path / "prior.safetensors"
        if not path.exists():
            raise CheckpointError(
                f"{path.parent}: a folder without prior.safetensors, so no training run; name a "
                "run or a prior file"
            )
    tensors, header = load_tensors(path)
    if header.get("format") != PRIOR_FORMAT:
        raise CheckpointError(
            f"{path}: holds {header.get('format')!r}, wanted a prior ({PRIOR_FORMAT!r}). "
            "Training states (checkpoint-*.safetensors) lie beside their prior.safetensors."
        )
    try:
        facts = _facts_from(header["facts"])
        net = _with_weights(facts, {name: tensor.float() for name, tensor in tensors.items()})
        card = {**facts.card, "sha256": file_sha256(path)}
        prior = Prior(net, replace(facts, card=card))
    except (
        AttributeError, KeyError, TypeError, ValueError, RuntimeError, ConfigError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:100]  # torch lists all tensors that do not fit
        raise CheckpointError(
            f"{path}: does not hold a prior this version can use ({reason}); train it again, or "
            "use the version of mri-ambient that made it"
        ) from error
    if not all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values()):
        raise CheckpointError(f"{path}: holds weights that are NaN or Inf; get the file again")
    if facts.scale_rule != SCALE_RULE:
        raise CheckpointError(
            f"{path}: a prior for another kind of data: it needs scans normalised by "
            f"{facts.scale_rule!r}, this version normalises by {SCALE_RULE!r}"
        )
    net.requires_grad_(False).eval()
    try:
        return prior.to(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{path}: does not fit into the free memory of {device}; free some, or use --device cpu"
        ) from error


def _with_weights(facts: PriorFacts, weights: dict[str, Tensor]) -> Denoiser:
    """A network of these weights; RuntimeError, before memory is allocated, if sizes differ."""
    with torch.device("meta"):
        net = facts.build()
    net.load_state_dict(weights, assign=True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it was built
    return net


def _facts_from(stored: dict[str, Any]) -> PriorFacts:
    card = stored.get("card", {})
    if isinstance(old := card.get("calibration"), dict):  # older files: one entry per method
        entries = [{"method": name, **entry} for name, entry in old.items()]
        stored = {**stored, "card": {**card, "calibration": entries}}
    network = stored["network"]
    spec = UNetSpec(**{**network, "channels": tuple(network["channels"])})
    return PriorFacts(**{**stored, "network": spec, "mask": MaskSpec(**stored["mask"])})
