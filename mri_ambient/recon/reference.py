"""The fully sampled scan that a reconstruction is scored against."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..data_prep.prepare import Preparation, PrepConfig, plan
from ..errors import NumericalWarning, ScanFormatError
from ..io.scan_file import ScanFile
from ..physics.fourier import ifft2c, image_crop
from ..scan import Batch
from .engine import to_file_units
from .metrics import Reference as ReferenceKind
from .metrics import evaluate_volume


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
        """Reference magnitudes ``(slice, y, x)`` in file units, RSS first if it can be had.

        Single-coil files are scored as fastMRI scores them, against their emulated single coil
        (ESC). RSS is the file's own target, or computed as fastMRI does; a prepared file no longer
        has the measured coils. SENSE is ``|S^H F^H k|`` with maps from the full data.
        """
        sense = []
        for scan in self.file:
            with warnings.catch_warnings():  # doubts were told when the scan itself was prepared
                warnings.simplefilter("ignore", NumericalWarning)
                prepared = self.preparation.apply(scan)
            full = Batch.of([prepared])
            sense.append(to_file_units(full.op.adjoint(full.ksp).abs(), prepared))
        volumes: dict[ReferenceKind, Tensor] = {}
        if self.file.format != "prepared":
            single = self.file.shape[1] == 1
            stored = self._stored("reconstruction_esc") if single else None
            if stored is not None:
                volumes["esc"] = stored
            else:
                stored = self._stored("reconstruction_rss")
                volumes["rss"] = self._rss() if stored is None else stored
        return volumes | {"sense": torch.cat(sense)}

    def _stored(self, name: str) -> Tensor | None:
        """The file's own target, or None, with a warning if there is one of no use."""
        wanted = (len(self.file), *self.file.recon_shape)
        try:
            stored = self.file.read_target(name)
            if stored is None or (tuple(stored.shape) == wanted and bool(stored.any())):
                return stored
            reason = f"is {tuple(stored.shape)}, wanted {wanted}" if stored.any() else "is zero"
        except ScanFormatError as error:
            reason = f"cannot be used ({error})"
        warnings.warn(
            f"{self.file.path.name}: its {name} {reason}; scored against the RSS of "
            "its k-space instead",
            NumericalWarning,
            stacklevel=2,
        )
        return None

    def _rss(self) -> Tensor:
        images = (ifft2c(scan.ksp).abs().square().sum(dim=-3).sqrt() for scan in self.file)
        return torch.cat([image_crop(img, self.file.recon_shape) for img in images])


def score(magnitude: Tensor, reference: Reference) -> dict[str, Any]:
    """FastMRI's numbers, against RSS where it can be had, and against SENSE."""
    scores = [
        asdict(evaluate_volume(magnitude.numpy(), volume.numpy(), reference=kind))
        for kind, volume in reference.volumes().items()
    ]
    return {"metrics": scores[0], "metrics_sense": scores[-1]}


def plan_reference(
    file: ScanFile,
    config: PrepConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    cpu_fallback: bool = False,
    made: Preparation | None = None,
) -> Reference | None:
    """What the images of a retrospectively undersampled scan are scored against.

    Args:
        file: the scan without the retrospective mask.
        config: options of the chain.
        device: where ESPIRiT works.
        cpu_fallback: let it work on the CPU where the device has no room.
        made: its preparation, where there is one already.

    Returns:
        None for a scan that is not fully sampled.
    """
    if not file.fully_sampled:
        return None
    with warnings.catch_warnings():  # doubts are told where the scan itself is prepared
        warnings.simplefilter("ignore", NumericalWarning)
        if made is None:
            made = plan(file, config, device=device, cpu_fallback=cpu_fallback)
        return Reference(file, made)
