"""MRI reconstruction with diffusion priors learned from undersampled measurements alone.

Names load on first use, so that ``import mri_ambient`` and ``mri-ambient --help`` stay fast.

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
    from .io import open_scan
    from .methods.presets import METHODS
    from .priors.checkpoint import load_prior, save_prior
    from .priors.prior import Prior
    from .recon.checks import Checking
    from .recon.engine import Options, to_file_units
    from .recon.pipeline import reconstruct_raw
    from .scan import Reconstruction, Scan
    from .training.config import TrainConfig

_WHERE = {
    "Checking": "recon.checks",
    "METHODS": "methods.presets",
    "Options": "recon.engine",
    "Prior": "priors.prior",
    "Reconstruction": "scan",
    "Scan": "scan",
    "TrainConfig": "training.config",
    "load_prior": "priors.checkpoint",
    "open_scan": "io",
    "reconstruct_raw": "recon.pipeline",
    "save_prior": "priors.checkpoint",
    "to_file_units": "recon.engine",
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
