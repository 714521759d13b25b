"""Retrospective undersampling: a fully sampled scan read through a mask."""

from __future__ import annotations

from torch import Tensor

from ..errors import ConfigError
from ..physics.masks import MaskSpec
from ..rng import rng_for
from .sampling import Sampling
from .scan_file import ScanFile
from .view import View


class Undersampled(View):
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
        super().__init__(full)
        self.full, self.given_mask = full, None
        drawn = spec.draw(full.shape[-2:], rng_for(seed, full.scan_id), full.acquired)
        self.sampling = Sampling(drawn & full.mask, full.acquired)

    def read_ksp(self, index: int) -> Tensor:
        """The selected samples of one slice, complex64 ``(coil, y, x)``."""
        return self.full.read_ksp(index).masked_fill_(~self.mask[0], 0)
