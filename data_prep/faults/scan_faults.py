"""What is wrong with the samples of a scan: detectors that see all slices, and their warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import NumericalWarning
from ...io import ScanFile, name_of
from ...physics.crop import center_crop
from ...physics.patterns import is_line_mask
from ...runtime.prefetch import in_order
from ...scan import Scan
from ..whiten import mix_coils
from .altered import Altered, altered, altered_warnings
from .cut_off import cut_off_warnings, energies
from .equal_lines import equal_lines, equal_warnings
from .interference import Interference, interference_of, interference_warnings
from .interpolated import interpolated_warnings, spread, whole_corners
from .line_energies import sample_energies
from .line_misfit import misfit_warnings
from .line_order import middles, order_warnings
from .line_phase import backwards_warnings, line_phase_warnings
from .line_steps import line_steps, step_warnings
from .lost_coils import coil_energies, lost_coil_warnings
from .missed_line import missed_line, missed_warnings
from .noise_coils import noise_coil_warnings, without_coils
from .seams import coils_differ, largest_seam, seam_warnings
from .spikes import spike_warnings
from .stray_lines import stray_lines, stray_warnings
from .unequal_noise import noise_of_slice, unequal_noise_warnings

FEW_BLOCKS = 5
"""Slices whose lines are compared."""

STRIP = 48
"""Samples, in the middle of each, of the lines that are compared with others."""


class ScanFaults:
    """Collects what shows faults of a volume, slice by slice.

    Args:
        file: the scan.
        n_rows: rows without readout oversampling.
        n_at_once: slices that may be compared at once.

    Attributes:
        compared: slices whose lines, and whose noise with that of a noise scan, are compared.
    """

    def __init__(self, file: ScanFile, n_rows: int, n_at_once: int) -> None:
        self.file, self.n_rows, self.n_at_once = file, n_rows, n_at_once
        self.strip = min(STRIP, n_rows), file.shape[3]
        n = len(file)
        self.compared = {n // 4, n // 2, 3 * n // 4}
        self._every = max(1, n // FEW_BLOCKS)
        self.own_noise: dict[int, float | None] = {}
        self.strips: dict[str, list[Tensor]] = {"columns": [], "rows": []}
        self.spikes: dict[int, Tensor] = {}
        self.altered: dict[int, Altered] = {}
        self.coil_energies: dict[int, Tensor] = {}
        self.stray: dict[str, dict[int, dict[int, float]]] = {"columns": {}, "rows": {}}
        self.missed: dict[str, dict[int, int | None]] = {"columns": {}, "rows": {}}
        self.middles: dict[str, dict[int, tuple[int, ...]]] = {"columns": {}, "rows": {}}
        self.equal: dict[str, dict[int, tuple[int, ...]]] = {"columns": {}, "rows": {}}
        self.interference: dict[int, Interference] = {}
        self.profiles: list[Tensor] = []
        self.corners: list[Tensor] = []

    def add(
        self, scan: Scan, cut: Scan, spikes: Mapping[int, Tensor], filled: Sequence[int]
    ) -> None:
        """Add slices.

        Args:
            scan: as read, without spikes.
            cut: the same without readout oversampling.
            spikes: where they were, by index.
            filled: places in ``scan`` of the slices that are not empty.
        """
        self.spikes |= spikes
        if not self.file.is_3d:  # where rows are no readout
            self.interference |= interference_of(cut)
        for place in filled:
            index, ksp, mask = scan.slices[place], scan.ksp[place], scan.mask[0]
            self.altered[index] = altered(ksp)
            self.coil_energies[index] = coil_energies(ksp, mask)
            if self.file.noise is None and index % self._every == 0:
                self.own_noise[index] = noise_of_slice(self.file, ksp)
            if index not in self.compared:
                continue
            if (one := whole_corners(ksp, mask)) is not None:
                self.corners.append(one)
            if scan.calib is None:
                self.profiles.append(energies(ksp))
            if not self.file.is_3d:
                self._add_lines(index, ksp, mask)
            if scan.calib is None and not self.file.is_3d:
                whole = ksp.shape[1], min(STRIP, ksp.shape[2])
                self.strips["columns"].append(center_crop(cut.ksp[place], self.strip).clone())
                self.strips["rows"].append(center_crop(ksp, whole).clone())

    def _add_lines(self, index: int, ksp: Tensor, mask: Tensor) -> None:
        """The energies of the columns and of the rows of a slice."""
        power = sample_energies(ksp)
        planes = {"columns": (ksp, power, mask), "rows": (ksp.mT, power.mT, mask.mT)}
        for axis, (samples, power, sampled) in planes.items():
            self.stray[axis][index] = stray_lines(power, sampled)
            self.middles[axis][index] = middles(samples, power, sampled)
            self.equal[axis][index] = equal_lines(samples)
            if len(ksp) > 1:
                self.missed[axis][index] = missed_line(power, sampled)

    def warnings(
        self, calib: Sequence[Tensor], to_virtual: Tensor, noise_only: tuple[int, ...]
    ) -> list[NumericalWarning]:
        """What is questionable about the samples.

        Args:
            calib: calibration blocks ``(coil, cy, cx)`` of the slices that are not empty.
            to_virtual: whitens and compresses coils, ``(virtual coil, coil)``.
            noise_only: coils that hold loud noise alone.
        """
        name = name_of(self.file.path)
        corners = [mix_coils(without_coils(one, noise_only), to_virtual) for one in self.corners]
        (ny, nx), (rows, columns) = self.file.shape[2:], self.file.recon_shape
        return [
            *noise_coil_warnings(name, noise_only),
            *_one_coil_warnings(name, len(to_virtual)),
            *unequal_noise_warnings(name, self.own_noise),
            *spike_warnings(name, self.spikes),
            *altered_warnings(name, self.altered),
            *interpolated_warnings(name, [spread(one) for one in corners]),
            *lost_coil_warnings(name, self.coil_energies),
            *cut_off_warnings(name, self.profiles, (rows / ny, columns / nx)),
            *self._about_lines(calib, to_virtual, noise_only),
            *interference_warnings(name, self.interference),
        ]

    def _about_lines(
        self, calib: Sequence[Tensor], to_virtual: Tensor, noise_only: tuple[int, ...]
    ) -> list[NumericalWarning]:
        """The first explanation of lines that do not belong together; none of 3-D scans."""
        if self.file.is_3d:
            return []
        name = name_of(self.file.path)
        few = calib[:: max(1, len(calib) // FEW_BLOCKS)]
        few = [mix_coils(block, to_virtual) for block in few]
        strips = {
            axis: [mix_coils(without_coils(one, noise_only), to_virtual) for one in kept]
            for axis, kept in self.strips.items()
        }
        explained = (
            order_warnings(name, self.middles["columns"], "columns")
            or order_warnings(name, self.middles["rows"], "rows")
            or backwards_warnings(name, few)
            or line_phase_warnings(name, few)
        )
        if not explained and not self.interference:
            width = calib[0].shape[-1]
            explained = (
                equal_warnings(name, self.equal["columns"], "columns")
                or equal_warnings(name, self.equal["rows"], "rows")
                or stray_warnings(name, self.stray["columns"], "columns")
                or stray_warnings(name, self.stray["rows"], "rows")
                or missed_warnings(name, self.missed["columns"], "columns")
                or missed_warnings(name, self.missed["rows"], "rows")
                or self._steps(width, strips["columns"])
                or self._seams(width, strips, few)
                or misfit_warnings(name, few)
            )
        return explained

    def _steps(self, width: int, strips: Sequence[Tensor]) -> list[NumericalWarning]:
        """W-LINES for lines beside the calibration block."""
        measured = self._measured_columns().numpy()
        slices = [line_steps(strip, measured, width) for strip in strips]
        return step_warnings(name_of(self.file.path), slices, self.file.shape[3]) if slices else []

    def _seams(
        self, width: int, strips: Mapping[str, Sequence[Tensor]], blocks: Sequence[Tensor]
    ) -> list[NumericalWarning]:
        """W-LINES for lines that do not follow each other: of blocks, where no strip is whole."""
        mask = torch.from_numpy(self.file.mask)
        parts: dict[str, list[tuple[Tensor, Tensor | None]]]
        if is_line_mask(mask) and strips["rows"]:
            middle = mask.shape[1], min(width, STRIP, mask.shape[2])
            columns = self._measured_columns()
            rows = center_crop(mask, middle)[0].all(dim=1)
            parts = {
                "columns": [(strip, columns) for strip in strips["columns"]],
                "rows": [(center_crop(strip, middle).mT, rows) for strip in strips["rows"]],
            }
        else:
            parts = {
                "columns": [(block, None) for block in blocks],
                "rows": [(block.mT, None) for block in blocks],
            }
        found = []
        for axis, lines in parts.items():
            if not coils_differ([block if axis == "columns" else block.mT for block in blocks]):
                continue
            seams = list(in_order(lambda one: largest_seam(*one), lines, self.n_at_once))
            found += seam_warnings(name_of(self.file.path), seams, axis)
        return found

    def _measured_columns(self) -> Tensor:
        """Columns with samples in all rows of the strips, bool ``(x,)``."""
        mask = torch.from_numpy(self.file.mask[:, : self.n_rows])
        return center_crop(mask, self.strip)[0].all(dim=0)


def _one_coil_warnings(name: str, n_coils: int) -> list[NumericalWarning]:
    """W-ONE-COIL for scans of one virtual coil."""
    if n_coils != 1:
        return []
    text = (
        f"{name}: a single coil: what was not measured comes from the prior, which must be "
        "trained on scans with many different masks"
    )
    return [NumericalWarning("W-ONE-COIL", text)]
