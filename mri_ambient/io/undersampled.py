"""Retrospective undersampling: a fully sampled scan read through a mask."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from ..errors import ConfigError
from ..physics.masks import MaskSpec
from ..rng import rng_for
from .sampling import Sampling
from .scan_file import ScanFile


class Undersampled(ScanFile):
    """A raw, fully sampled file of which only the samples under a drawn mask can be read.

    The mask applies directly after reading: noise, coil compression, maps, scale and reconstruction
    depend on the selected samples alone. ``seed`` and the scan's name seed the draw.

    Raises:
        ConfigError: the scan is prepared, or undersampled already.
    """

    def __init__(self, full: ScanFile, spec: MaskSpec, seed: int) -> None:
        if full.prepared:
            raise ConfigError(
                f"{full.path}: prepared already, with maps and scale from all of its samples; a "
                "retrospective mask needs the raw scan"
            )
        if not full.fully_sampled:
            raise ConfigError(
                f"{full.path}: undersampled already (R = {full.acceleration:.2f}); a retrospective "
                "mask (--retrospective) needs a fully sampled scan"
            )
        self.full = full
        for name in (
            "format", "path", "volume", "scan_id", "shape", "recon_shape", "voxel_mm",
            "geometry", "nominal_oversampling", "noise", "header_xml", "attributes",
            "calib_mask", "is_3d",
        ):  # fmt: skip
            setattr(self, name, getattr(full, name))
        drawn = spec.draw(full.shape[-2:], rng_for(seed, full.scan_id), full.acquired)
        self.sampling = Sampling(drawn & full.mask, full.acquired)

    @cached_property
    def sha256(self) -> str:
        """Hash of the fully sampled file."""
        return self.full.sha256

    def read_ksp(self, index: int) -> Tensor:
        """The selected samples of one slice, complex64 ``(coil, y, x)``."""
        return self.full.read_ksp(index).masked_fill_(~self.mask[0], 0)

    def read_maps(self, index: int) -> Tensor | None:
        """See :meth:`ScanFile.read_maps`."""
        return self.full.read_maps(index)

    def read_calib(self, index: int) -> Tensor | None:
        """See :meth:`ScanFile.read_calib`; a mask of the image does not apply to it."""
        return self.full.read_calib(index)
