"""The fully sampled scan that a reconstruction is scored against."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..data_prep import Preparation
from ..errors import WRONG_SAMPLES, ScanFormatError, collected, warn
from ..io.names import name_of
from ..io.scan_file import ScanFile
from ..physics.crop import image_crop
from ..physics.fourier import ifft2c
from ..physics.map_sets import magnitude
from ..scan import Batch
from .engine import to_file_units
from .metrics import ReferenceKind, evaluate_volume


def rss_volume(file: ScanFile, preparation: Preparation | None = None) -> Tensor:
    """Root sum of squares of the coil images ``(slice, y, x)`` of raw k-space, as fastMRI's.

    With the scan's preparation, without its spikes and coils of loud noise.
    """
    scans = file if preparation is None else map(preparation.cleaned, file)
    images = (ifft2c(scan.ksp).abs().square().sum(dim=-3).sqrt() for scan in scans)
    return torch.cat([image_crop(img, file.recon_shape) for img in images])


@dataclass(frozen=True)
class Reference:
    """The fully sampled scan, for metrics and nothing else.

    Attributes:
        file: the scan without a retrospective mask.
        preparation: of that scan, for maps from the full data.
    """

    file: ScanFile
    preparation: Preparation

    def volumes(self) -> dict[ReferenceKind, Tensor]:
        """Reference magnitudes ``(slice, y, x)`` in file units, RSS first.

        RSS is the file's own target, or computed as fastMRI does; prepared files, which have other
        coils, have none. Single-coil files have their emulated single coil (ESC) instead, as in
        fastMRI. SENSE is ``|S^H F^H k|`` with maps (and their number of sets) from the full data.
        """
        return self._from_coils() | {"sense": self._sense()}

    def main(self) -> tuple[ReferenceKind, Tensor]:
        """The first of :meth:`volumes`; the others are not computed."""
        (first,) = (self._from_coils() or {"sense": self._sense()}).items()
        return first

    def score(self, magnitude: Tensor) -> dict[str, Any]:
        """FastMRI's metrics of a volume, against RSS if there is one, and against SENSE.

        W-NOT-SCORED, and no metrics, if samples of the scan may be wrong or the reference is not
        usable.
        """
        name = name_of(self.file.path)
        found = (*self.file.warnings, *self.preparation.warnings)
        if any(warning.code in WRONG_SAMPLES for warning in found):
            warn(
                "W-NOT-SCORED", f"{name}: not scored: an image of all its samples may be wrong too"
            )
            return {}
        try:
            scores = [
                asdict(evaluate_volume(magnitude.numpy(), volume.numpy(), reference=kind))
                for kind, volume in self.volumes().items()
            ]
        except ScanFormatError as error:
            warn("W-NOT-SCORED", f"{name}: not scored: {error}")
            return {}
        return {"metrics": scores[0], "metrics_sense": scores[-1]}

    def _from_coils(self) -> dict[ReferenceKind, Tensor]:
        """What is made of the coil images alone: nothing for a prepared file."""
        if self.file.prepared:
            return {}
        esc = self._stored("reconstruction_esc") if self.file.shape[1] == 1 else None
        if esc is not None:
            return {"esc": esc}
        stored = self._stored("reconstruction_rss")
        return {"rss": rss_volume(self.file, self.preparation) if stored is None else stored}

    def _sense(self) -> Tensor:
        images = []
        for scan in self.file:
            with collected():  # preparing the scan itself gives the same warnings
                prepared = self.preparation.apply(scan)
            full = Batch.of([prepared])
            img = full.op.adjoint(full.ksp)
            images.append(to_file_units(img, prepared, magnitude(img, full.n_sets)))
        return torch.cat(images)

    def _stored(self, name: str) -> Tensor | None:
        """The file's own reference; None if there is none or, with W-REFERENCE, it is unusable."""
        wanted = (len(self.file), *self.file.recon_shape)
        try:
            stored = self.file.read_target(name)
            if stored is None:
                return None
            if stored.shape == wanted and stored.any():
                return torch.from_numpy(stored)
            reason = f"is {stored.shape}, wanted {wanted}" if stored.any() else "is zero"
        except ScanFormatError as error:
            reason = f"cannot be used ({error})"
        warn(
            "W-REFERENCE",
            f"{name_of(self.file.path)}: its {name} {reason}",
        )
        return None
