"""From scanner files to prepared files: whitening, compression, maps, scale; and simulation."""

from .espirit import EspiritMaps, espirit_maps, second_map_share
from .preparation import Preparation, PrepConfig, plan_preparation
from .prepared_folder import MANIFEST, PrepSummary, ScanResult, prepare, prepare_file
from .scan_model import ScanModel, SimulateConfig
from .simulation import simulate, write_scan

__all__ = [
    "MANIFEST",
    "EspiritMaps",
    "PrepConfig",
    "PrepSummary",
    "Preparation",
    "ScanModel",
    "ScanResult",
    "SimulateConfig",
    "espirit_maps",
    "plan_preparation",
    "prepare",
    "prepare_file",
    "second_map_share",
    "simulate",
    "write_scan",
]
