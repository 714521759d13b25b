"""Priors that ship with the package, each beside its card."""

from pathlib import Path

from ..errors import CheckpointError

DEFAULT = "brain-kspace-tiny"
"""The prior ``reconstruct`` uses unless told otherwise."""


def shipped_priors() -> list[Path]:
    """The prior files in this folder."""
    return sorted(Path(__file__).parent.glob("*.safetensors"))


def default_prior() -> Path:
    """The shipped default.

    Raises:
        CheckpointError: this installation has no weights.
    """
    path = Path(__file__).parent / f"{DEFAULT}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path}: the shipped prior is missing; name one with -m")
    return path
