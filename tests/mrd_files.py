"""ISMRMRD files that the package ismrmrd writes, which knows nothing of our readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import ismrmrd
import ismrmrd.hdf5
import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = tuple[float, float, float]


@dataclass
class Line:
    """A readout: samples ``(coil, sample)``, where they belong, and flags."""

    samples: NDArray[np.complex64]
    step1: int = 0
    slice: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    flags: tuple[int, ...] = ()
    center: int | None = None
    position: Vector = (0.0, 0.0, 0.0)
    dwell_us: float = 5.0
    encoding: int = 0
    directions: Sequence[ArrayLike] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def encoding(
    encoded: Sequence[int],
    recon: Sequence[int],
    encoded_mm: Sequence[float],
    recon_mm: Sequence[float],
    limits: dict[str, tuple[int, int]] | None = None,
    extra: str = "",
) -> str:
    """One encoding of a header; axes are (readout, step 1, step 2).

    ``limits`` are (maximum, centre) by name, e.g. ``{"slice": (2, 0)}``.
    """

    def space(name: str, sizes: Sequence[int], fov_mm: Sequence[float]) -> str:
        parts = [
            f"<{what}><x>{v[0]}</x><y>{v[1]}</y><z>{v[2]}</z></{what}>"
            for what, v in (("matrixSize", sizes), ("fieldOfView_mm", fov_mm))
        ]
        return f"<{name}>{''.join(parts)}</{name}>"

    bounds = "".join(
        f"<{name}><minimum>0</minimum><maximum>{high}</maximum><center>{center}</center></{name}>"
        for name, (high, center) in (limits or {}).items()
    )
    return (
        f"<encoding>{space('encodedSpace', encoded, encoded_mm)}"
        f"{space('reconSpace', recon, recon_mm)}<encodingLimits>{bounds}</encodingLimits>"
        f"<trajectory>cartesian</trajectory>{extra}</encoding>"
    )


def document(*encodings: str, n_coils: int | None = None) -> str:
    """A header."""
    channels = f"<receiverChannels>{n_coils}</receiverChannels>" if n_coils else ""
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<acquisitionSystemInformation>{channels}</acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz>"
        f"</experimentalConditions>{''.join(encodings)}</ismrmrdHeader>"
    )


def write(path: Path, lines: Iterable[Line], xml: str, group: str = "dataset") -> Path:
    """Write a group, into a file that may have others."""
    acquisitions = [_acquisition(line) for line in lines]
    file = ismrmrd.Dataset(str(path), group)
    file.write_xml_header(xml.encode())
    file.append_acquisition(acquisitions[0])
    file.close()
    with h5py.File(path, "a") as opened:  # the package takes 4 ms for each
        data = opened[f"{group}/data"]
        records = np.zeros(len(acquisitions), data.dtype)
        for record, acquisition in zip(records, acquisitions, strict=True):
            head = np.frombuffer(acquisition.getHead(), ismrmrd.hdf5.acquisition_header_dtype)[0]
            values = acquisition.data.view(np.float32).ravel()
            record["head"], record["data"], record["traj"] = head, values, values[:0]
        data.resize(len(records), axis=0)
        data[...] = records
    return path


def _acquisition(line: Line) -> ismrmrd.Acquisition:
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(line.samples))
    n_samples = line.samples.shape[1]
    acquisition.center_sample = n_samples // 2 if line.center is None else line.center
    acquisition.idx.kspace_encode_step_1, acquisition.idx.slice = line.step1, line.slice
    for name, value in line.counters.items():
        setattr(acquisition.idx, name, value)
    for flag in line.flags:
        acquisition.set_flag(flag)
    acquisition.position[:] = line.position
    for name, value in zip(("read_dir", "phase_dir", "slice_dir"), line.directions, strict=True):
        getattr(acquisition, name)[:] = value
    acquisition.sample_time_us = line.dwell_us
    acquisition.encoding_space_ref = line.encoding
    return acquisition


@dataclass(frozen=True)
class Blobs:
    """An object with a known k-space: Gaussian blobs at places in the patient.

    Attributes:
        centers: in mm, patient coordinates (L, P, S), ``(blob, 3)``.
        heights: of each.
        width_mm: standard deviation of all of them.
    """

    centers: NDArray[np.float64]
    heights: NDArray[np.float64]
    width_mm: float

    def at(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """The object at places ``(..., 3)``."""
        squares = ((places[..., None, :] - self.centers) ** 2).sum(axis=-1)
        found: NDArray[np.float64] = np.exp(-squares / (2 * self.width_mm**2)) @ self.heights
        return found

    def signal(
        self,
        position: ArrayLike,
        directions: ArrayLike,
        grid: Sequence[NDArray[np.float64]],
    ) -> NDArray[np.complex128]:
        """The signal sum rho exp(-2 pi i k r), r from ``position`` in mm.

        Args:
            position: k-space's origin of r.
            directions: of readout, step 1 and slice, rows of ``(3, 3)``.
            grid: k in 1/mm along readout, step 1 and, of a 3-D scan, step 2.

        Returns:
            K-space ``(readout, step 1)``, of the plane through ``position``, or
            ``(readout, step 1, step 2)``.
        """
        offsets = (self.centers - np.asarray(position)) @ np.asarray(directions, float).T
        weights = self.heights * (2 * np.pi * self.width_mm**2) ** (len(grid) / 2)
        if len(grid) == 2:
            weights = weights * np.exp(-(offsets[:, 2] ** 2) / (2 * self.width_mm**2))
        parts = [
            np.exp(-2j * np.pi * np.outer(k, r) - 2 * (np.pi * self.width_mm * k[:, None]) ** 2)
            for k, r in zip(grid, offsets.T, strict=False)
        ]
        if len(grid) == 2:
            return np.einsum("b,yb,xb->yx", weights, *parts)
        return np.einsum("b,yb,xb,zb->yxz", weights, *parts)


def k_grid(n: int, fov_mm: float) -> NDArray[np.float64]:
    """K of an axis in 1/mm, 0 at ``n // 2``."""
    return (np.arange(n) - n // 2) / fov_mm
