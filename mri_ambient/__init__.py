"""MRI reconstruction with diffusion priors learned from undersampled measurements alone.

Names load on first use, so that ``import mri_ambient`` and ``mri-ambient --help`` stay fast.
Functions named like their module are imported from it: ``from mri_ambient.reconstruct import
reconstruct``, ``from mri_ambient.train import train``.

Example:
    Reconstruct a raw scan with the prior that ships with the package::

        from mri_ambient import reconstruct_raw

        report = reconstruct_raw("scan.h5", "out/")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .checkpoint import load_prior, save_prior
    from .data_prep.raw import reconstruct_raw
    from .doubts import Checking
    from .io import open_scan
    from .methods import METHODS
    from .prior import Prior
    from .reconstruct import Options, to_file_units
    from .scan import Reconstruction, Scan
    from .train_config import TrainConfig

_WHERE = {
    "Checking": "doubts",
    "METHODS": "methods",
    "Options": "reconstruct",
    "Prior": "prior",
    "Reconstruction": "scan",
    "Scan": "scan",
    "TrainConfig": "train_config",
    "load_prior": "checkpoint",
    "open_scan": "io",
    "reconstruct_raw": "data_prep.raw",
    "save_prior": "checkpoint",
    "to_file_units": "reconstruct",
}

__all__ = [
    "METHODS",
    "Checking",
    "Options",
    "Prior",
    "Reconstruction",
    "Scan",
    "TrainConfig",
    "__version__",
    "load_prior",
    "open_scan",
    "reconstruct_raw",
    "save_prior",
    "to_file_units",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- PEP 562
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
