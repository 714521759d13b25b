"""From scanner files to prepared files: whitening, compression, maps, scale; and simulation.

``faults/`` finds what is wrong with the samples, ``simulation/`` makes scans of images.

Public: ``prepare``, ``prepare_file``, ``ScanResult``, ``MANIFEST`` (prepared_folder);
``plan_preparation``, ``PrepConfig``, ``Preparation`` (preparation); ``espirit_maps`` (espirit);
``simulate``, ``write_scan`` (simulation.files); ``ScanModel``, ``SimulateConfig``
(simulation.scan_model).
"""

from .espirit import espirit_maps
from .preparation import Preparation, PrepConfig, plan_preparation
from .prepared_folder import MANIFEST, ScanResult, prepare, prepare_file
from .simulation.files import simulate, write_scan
from .simulation.scan_model import ScanModel, SimulateConfig

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
