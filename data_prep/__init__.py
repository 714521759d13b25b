"""From scanner files to prepared files: whitening, compression, maps, scale; and simulation.

Public: ``prepare``, ``prepare_file``, ``ScanResult``, ``MANIFEST`` (prepared_folder);
``plan_preparation``, ``PrepConfig``, ``Preparation`` (preparation); ``espirit_maps`` (espirit);
``simulate``, ``write_scan`` (simulation); ``ScanModel``, ``SimulateConfig`` (scan_model).
"""

from .espirit import espirit_maps
from .preparation import Preparation, PrepConfig, plan_preparation
from .prepared_folder import MANIFEST, ScanResult, prepare, prepare_file
from .scan_model import ScanModel, SimulateConfig
from .simulation import simulate, write_scan

__all__ = [
    "MANIFEST",
    "PrepConfig",
    "Preparation",
    "ScanModel",
    "ScanResult",
    "SimulateConfig",
    "espirit_maps",
    "plan_preparation",
    "prepare",
    "prepare_file",
    "simulate",
    "write_scan",
]
