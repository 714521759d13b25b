"""Priors and training states on disk: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError, DeviceError
from ..runtime.files import atomic_path, content_sha256, file_sha256
from .denoisers import Denoiser
from .facts import PriorFacts
from .prior import Prior
from .prior_file import (
    HASHES,
    HEADER,
    NOT_USABLE,
    PRIOR_FORMAT,
    Stored,
    check_content,
    content_hash,
    facts_in,
    not_finite,
    not_usable,
    prior_file,
    read_hashed_header,
)


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to a temporary name, then rename.

    Raises:
        MriAmbientError: the file could not be written; what was there before is untouched.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = content_hash(map(_stored, stored, stored.values()))
    hashes = {"header": content_sha256(header), "tensors": content}
    text = json.dumps({**header, HASHES: hashes})
    with atomic_path(path) as temporary:
        # save_file would write to a temporary name of its own, which stays when it is killed.
        temporary.write_bytes(save(stored, metadata={HEADER: text}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and JSON header; see :func:`read_header`."""
    header, hashes = read_hashed_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            # Copied to where torch puts tensors: some CPUs round by the place of a matrix.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    check_content(path, hashes, map(_stored, tensors, tensors.values()))
    return tensors, header


def _stored(name: str, tensor: Tensor) -> Stored:
    content = tensor.reshape(-1).view(torch.uint8).numpy().data
    return Stored(name, str(tensor.dtype), tuple(tensor.shape), content)


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
    path = prior_file(Path(path))
    tensors, header = load_tensors(path)
    facts = facts_in(path, header)
    try:
        net = _with_weights(facts, {name: tensor.float() for name, tensor in tensors.items()})
        card = {**facts.card, "sha256": file_sha256(path)}
        prior = Prior(net, replace(facts, card=card))
    except NOT_USABLE as error:
        raise not_usable(path, error) from error
    if not all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values()):
        raise not_finite(path)
    net.requires_grad_(False).eval()
    try:
        return prior.to(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{path}: does not fit into the free memory of {device}; free some, or use the device "
            "cpu (--device cpu)"
        ) from error


def _with_weights(facts: PriorFacts, weights: dict[str, Tensor]) -> Denoiser:
    """A network of these weights; RuntimeError, before memory is allocated, if sizes differ."""
    with torch.device("meta"):
        net = facts.build()
    net.load_state_dict(weights, assign=True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it was built
    return net
