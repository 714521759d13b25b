"""Retrospective undersampling: a fully sampled scan read through a mask."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ..sampling import Ksp, Sampling
from ..scan_file import ScanFile, zero_outside
from .view import View

if TYPE_CHECKING:
    from ...physics.mask_spec import MaskSpec


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
        if not full.ends_known:
            raise ConfigError(
                f"{full.path}: rows or columns beyond one end of k-space may be missing; a "
                "retrospective mask needs a scan of which this is known: say by centre (--centre "
                "Y,X, or Y,X,NY,NX)"
            )
        if not full.fully_sampled:
            raise ConfigError(
                f"{full.path}: undersampled already (R = {full.acceleration:.2f}); a retrospective "
                "mask (--retrospective) needs a fully sampled scan"
            )
        import torch  # masks are drawn with its random numbers

        from ...rng import rng_for

        super().__init__(full)
        self.full, self.given_mask = full, None
        self.reading = {**full.reading, "retrospective": {**asdict(spec), "seed": seed}}
        rng, acquired = rng_for(seed, full.scan_id), torch.from_numpy(full.acquired)
        drawn = spec.draw(full.shape[-2:], rng, acquired).numpy()
        self.sampling = Sampling(drawn & full.mask, full.acquired)

    def read_ksp(self, index: int) -> Ksp:
        """The selected samples of one slice, complex64 ``(coil, y, x)``."""
        return zero_outside(self.mask[0], self.full.read_ksp(index))
