"""Priors that ship with the package, each beside its card."""

from pathlib import Path

from ...errors import CheckpointError, close_to

DEFAULT = "brain-kspace-deep"
"""The prior ``reconstruct`` uses by default. That of earlier versions remains, by its name."""


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
        raise CheckpointError(f"{DEFAULT}: the shipped prior is missing; give another (-m)")
    return path


def find_prior(path: Path) -> Path:
    """The file of a shipped prior, given its name; any other path unchanged."""
    shipped = {file.stem: file for file in shipped_priors()}
    return path if path.exists() else shipped.get(str(path), path)


def no_such_prior(path: Path) -> CheckpointError:
    """Says that there is no such file, and what can be given instead."""
    shipped = [file.stem for file in shipped_priors()]
    names, hint = ", ".join(shipped) or "none", close_to(str(path), shipped)
    return CheckpointError(
        f"{path}: there is no such file{hint}; give a prior file, a run folder, or the name of a "
        f"prior that ships with the package ({names})"
    )
