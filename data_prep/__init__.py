"""From scanner files to training shards: whiten, compress, map, scale, and write."""

from .espirit import EspiritMaps, espirit_maps, second_map_share
from .prepare import Preparation, PrepConfig, plan
from .shards import PrepSummary, ScanResult, prepare_file, prepare_many
from .simulate import SimulateConfig, simulate_scans

__all__ = [
    "EspiritMaps",
    "PrepConfig",
    "PrepSummary",
    "Preparation",
    "ScanResult",
    "SimulateConfig",
    "espirit_maps",
    "plan",
    "prepare_file",
    "prepare_many",
    "second_map_share",
    "simulate_scans",
]
