"""What the header of a Siemens measurement says: matrix, field of view, trajectory, oversampling.

Protocol values stand in the part "MeasYaps" as lines ``name = value``; the readout oversampling
stands in "Meas" or "Dicom", in Siemens' XProtocol.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ScanFormatError

TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral", 8: "propeller"}
"""Values of ``sKSpace.ucTrajectory``."""

REFERENCE_LINES = {2: "integrated", 4: "separate", 8: "separate"}
"""Values of ``sPat.ucRefScanMode``; others acquire no lines of their own."""


@dataclass(frozen=True)
class Protocol:
    """Values of a header, and what follows from them; lengths in mm.

    Attributes:
        values: by name, as text.
        oversampling: of the readout.
    """

    values: Mapping[str, str]
    oversampling: float

    def number(self, name: str, default: float = math.nan) -> float:
        """A value; ``default`` where it is missing.

        Raises:
            ScanFormatError: it is missing without a default, or is no number.
        """
        text = self.values.get(name)
        try:
            found = default if text is None else _number(text)
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise ScanFormatError(
                f"the Siemens header gives {text!r} for {name}, wanted a number; it is damaged, or "
                "of software that is not known"
            )
        return found

    def integer(self, name: str, default: int | None = None) -> int:
        """A value as a whole number; see :meth:`number`."""
        return round(self.number(name, math.nan if default is None else default))

    @property
    def trajectory(self) -> str:
        """By name; "cartesian" where it is not given."""
        number = self.integer("sKSpace.ucTrajectory", 1)
        return TRAJECTORIES.get(number, f"trajectory {number}")

    @property
    def is_3d(self) -> bool:
        """Whether partitions are phase encoded."""
        return self.integer("sKSpace.ucDimension", 2) == 4

    @property
    def epi_factor(self) -> int:
        """Readouts after an excitation; above 1 with EPI."""
        return self.integer("sFastImaging.lEPIFactor", 1)

    @property
    def n_bands(self) -> int:
        """Slices excited at once."""
        return self.integer("sSliceAcceleration.lMultiBandFactor", 1)

    @property
    def reference_lines(self) -> str:
        """How lines for parallel imaging were measured: "integrated", "separate" or "other"."""
        return REFERENCE_LINES.get(self.integer("sPat.ucRefScanMode", 1), "other")

    @property
    def base_resolution(self) -> int:
        """Samples of the final image along the readout."""
        return self._matrix("sKSpace.lBaseResolution")

    @property
    def n_lines(self) -> int:
        """Phase-encoding lines of the encoded matrix, phase oversampling included."""
        return self._matrix("sKSpace.lPhaseEncodingLines")

    @property
    def n_partitions(self) -> int:
        """Partitions of the encoded matrix of a 3-D scan, slice oversampling included."""
        return self._matrix("sKSpace.lPartitions")

    @property
    def phase_oversampling(self) -> float:
        """Encoded over final field of view along the phase encoding."""
        return 1.0 + self.number("sKSpace.dPhaseOversamplingForDialog", 0.0)

    @property
    def slice_oversampling(self) -> float:
        """Encoded over final field of view along the partitions."""
        return 1.0 + self.number("sKSpace.dSliceOversamplingForDialog", 0.0)

    @property
    def fov_mm(self) -> tuple[float, float, float] | None:
        """Final field of view along readout and phase encoding, thickness of slice or slab."""
        names = ("dReadoutFOV", "dPhaseFOV", "dThickness")
        found = [self.number(f"sSliceArray.asSlice[0].{name}", 0.0) for name in names]
        return (found[0], found[1], found[2]) if min(found) > 0 else None

    @property
    def dwell_us(self) -> float | None:
        """Time of a sample of the image's readouts, oversampling included."""
        found = self.number("sRXSPEC.alDwellTime[0]", 0.0)
        return found / 1000 if found > 0 else None

    def _matrix(self, name: str) -> int:
        n = self.integer(name)
        if not 1 <= n <= 16384:
            raise ScanFormatError(f"the Siemens header gives a matrix of {n} for {name}")
        return n


def parse_protocol(parts: Mapping[str, str]) -> Protocol:
    """Read the parts of a header.

    Raises:
        ScanFormatError: there is no protocol in it.
    """
    text = parts.get("MeasYaps") or next(
        (part for part in parts.values() if "### ASCCONV BEGIN" in part), ""
    )
    found = re.findall(r"^[ \t]*([A-Za-z_][\w.\[\]]*)[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    values = {name: value.strip().strip('"') for name, value in found}
    if not values:
        found_parts = ", ".join(parts) or "nothing"
        raise ScanFormatError(
            f"the Siemens header holds no protocol (MeasYaps); found {found_parts}"
        )
    return Protocol(values, _oversampling(parts))


def _oversampling(parts: Mapping[str, str]) -> float:
    """``flReadoutOSFactor``; 2 where it is missing, as Siemens sequences have it."""
    for name in ("Meas", "Dicom"):
        pattern = r'"flReadoutOSFactor">\s*\{(?:\s*<Precision>\s*\d+)?\s*(\d+(?:\.\d*)?)\s*\}'
        match = re.search(pattern, parts.get(name, ""))
        if match and 1 <= (factor := float(match.group(1))) <= 16:
            return factor
    return 2.0


def _number(text: str) -> float:
    text = text.split("#")[0].strip()
    return float(int(text, 16)) if text.lower().startswith("0x") else float(text)
