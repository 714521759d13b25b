"""MRI reconstruction with diffusion priors learned from undersampled measurements alone.

Names load on first use, so that ``import mri_ambient`` and ``mri-ambient --help`` stay fast.

Example:
    Reconstruct a scan with the prior that ships with the package::

        import mri_ambient as ma

        rec = ma.reconstruct("scan.h5")
        rec.save("out/")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .data_prep import PrepConfig, SimulateConfig, prepare, simulate
    from .errors import MriAmbientError, NumericalWarning
    from .evaluation.folders import evaluate
    from .io import open_scan
    from .methods.presets import METHODS
    from .objectives import OBJECTIVES
    from .physics.mask_spec import MaskSpec
    from .physics.operators import SenseOp
    from .priors.checkpoint import load_prior, save_prior
    from .priors.prior import Prior
    from .recon.folder import Destination, reconstruct_folder
    from .recon.pipeline import reconstruct, reconstruct_many
    from .recon.recipe import Checks, Recipe
    from .recon.reconstruction import Reconstruction
    from .runtime.device import Runtime
    from .scan import Scan
    from .training.adapt import AdaptConfig
    from .training.adapt_scans import adapt
    from .training.config import TrainConfig
    from .training.loop import train

_MODULES = {
    "AdaptConfig": "training.adapt",
    "Checks": "recon.recipe",
    "Destination": "recon.folder",
    "METHODS": "methods.presets",
    "MaskSpec": "physics.mask_spec",
    "MriAmbientError": "errors",
    "NumericalWarning": "errors",
    "OBJECTIVES": "objectives",
    "PrepConfig": "data_prep",
    "Prior": "priors.prior",
    "Recipe": "recon.recipe",
    "Reconstruction": "recon.reconstruction",
    "Runtime": "runtime.device",
    "Scan": "scan",
    "SenseOp": "physics.operators",
    "SimulateConfig": "data_prep",
    "TrainConfig": "training.config",
    "adapt": "training.adapt_scans",
    "evaluate": "evaluation.folders",
    "load_prior": "priors.checkpoint",
    "open_scan": "io",
    "prepare": "data_prep",
    "reconstruct": "recon.pipeline",
    "reconstruct_folder": "recon.folder",
    "reconstruct_many": "recon.pipeline",
    "save_prior": "priors.checkpoint",
    "simulate": "data_prep",
    "train": "training.loop",
}

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "AdaptConfig",
    "Checks",
    "Destination",
    "MaskSpec",
    "MriAmbientError",
    "NumericalWarning",
    "PrepConfig",
    "Prior",
    "Recipe",
    "Reconstruction",
    "Runtime",
    "Scan",
    "SenseOp",
    "SimulateConfig",
    "TrainConfig",
    "__version__",
    "adapt",
    "evaluate",
    "load_prior",
    "open_scan",
    "prepare",
    "reconstruct",
    "reconstruct_folder",
    "reconstruct_many",
    "save_prior",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- PEP 562
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
