"""What takes the place of rendering where pictures are not what a test is about."""

from __future__ import annotations

from pathlib import Path


def touch(_: object, path: Path, **__: object) -> None:
    """In place of ``Figure.savefig``, which takes half the time of a short training run."""
    path.touch()
