"""From scanner files to prepared files: whitening, compression, maps, scale; and simulation."""

from .espirit import EspiritMaps, espirit_maps, second_map_share
from .prepare import Preparation, PrepConfig, plan_preparation
from .prepared_folder import MANIFEST, PrepSummary, ScanResult, prepare_file, prepare_many
from .scan_model import ScanModel, SimulateConfig
from .simulate import simulate_scans

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
    "prepare_file",
    "prepare_many",
    "second_map_share",
    "simulate_scans",
]
