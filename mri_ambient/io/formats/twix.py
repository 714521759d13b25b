"""Siemens raw data ("twix", ``meas_*.dat``) of software VB, VD, VE and XA.

Used are the readouts of the image, integrated reference lines, the noise measurement, and the
positions in the records. Phase correction, navigators, phase stabilisation, dummy scans and
separate reference lines are left out.

A file may hold several measurements, adjustments first; the image is that of the last one with an
image, unless one is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ..hdf5 import check_finite
from ..scan_file import Contents
from . import twix_records as twix
from .readouts import VOLUME_COUNTERS, Matrix, ReadoutFile, Readouts, turned_centers
from .twix_protocol import Protocol, parse_protocol

NOISE_BANDWIDTH = 0.793
"""Share of the noise power that the receiver's filters leave in a noise measurement
(``relativeReceiverNoiseBandwidth`` as siemens_to_ismrmrd sets it for every scanner)."""

NOISE_HZ_PER_PIXEL = 130.0
"""Bandwidth of noise measurements, per sample of a readout without oversampling (ibid.)."""

Floats = NDArray[np.float64]


class TwixFile(ReadoutFile):
    """A volume of a Siemens twix file.

    Args:
        path: the file.
        volume: name of the volume, if there are several, e.g. ``con-1_rep-2``. ``meas-1`` before it
            or alone takes the first measurement of the file, instead of the last with an image.

    Raises:
        ScanFormatError: the file is damaged or was cut off, is not Cartesian, or holds several
            volumes.
    """

    format = "siemens"
    suffixes = (".dat",)
    options = frozenset({"volume"})

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether the file has the name of a twix file and no other format, or its first bytes."""
        if not contents.path.is_file():
            return False
        with contents.path.open("rb") as file:
            start = file.read(64)
        named = contents.path.suffix.lower() == ".dat" and contents.error is not None
        return named or twix.is_table(start) or twix.is_header(start)

    @classmethod
    def volumes_in(cls, path: Path, **_: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Names of the volumes of the last measurement, ``("",)`` for a single one."""
        return tuple(_read_index(path, None).readouts.volumes())

    def __init__(self, path: str | Path, volume: str | None = None) -> None:
        """Read header and counters, no samples but those of noise."""
        super().__init__(path)
        number, name = _split(volume)
        self._index = _read_index(self.path, number)
        self.readouts, self.calibration = self._index.readouts, self._index.calibration
        self.choose_volume(name)
        if number is not None:
            self.volume = volume or ""
            self.scan_id = self.output_stem
        channels = self._index.records.heads["channels"]
        n_coils = np.unique(channels[self.readouts.row]).tolist()
        if len(n_coils) > 1:
            raise ScanFormatError(
                f"{self.path}: readouts have {n_coils} coils, wanted one number of coils"
            )
        self._check_calibration_fits(int(n_coils[0]))
        self.lay_out(self._index.matrix, int(n_coils[0]))
        if not self.is_3d and (fov_mm := self._index.protocol.fov_mm):
            self.attributes["thickness_mm"] = fov_mm[2]
        if name := self._index.protocol.values.get("tProtocolName"):
            self.attributes["acquisition"] = name
        self.noise = self.noise_of_mean(self._read_noise())

    def _check_calibration_fits(self, n_coils: int) -> None:
        """Leave out separate calibration lines of another matrix or other coils."""
        if self.calibration is None:
            return
        lines, encoded = self.calibration, self._index.matrix.encoded
        coils = np.unique(self._index.records.heads["channels"][lines.row]).tolist()
        steps = ((lines.column, encoded[1]), (lines.partition, encoded[2]))
        fits = coils == [n_coils] and int(lines.n_samples.max()) <= encoded[0]
        if not fits or any(step.min() < 0 or step.max() >= n for step, n in steps):
            warn(
                "W-CALIBRATION-LINES",
                f"{self.path.name}: separate reference lines have another matrix than the image, "
                "or other coils; they are not used",
            )
            self.calibration = None

    def read_samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """The samples of records, each ``(coil, sample)``."""
        for samples in self._index.records.samples(rows):
            check_finite(samples, f"{self.path}: a readout")
            yield samples

    def _read_noise(self) -> NDArray[np.complex64] | None:
        """Noise measurements, scaled to the bandwidth of the image's readouts.

        That of this measurement, otherwise the last one before with the same coils. The power of
        noise is inversely proportional to the dwell time of a sample.
        """
        records = self._index.records
        coils = records.channels(int(self.readouts.row[0]))
        for part in (records, *self._index.before):
            noise = np.flatnonzero(part.has(twix.NOISE)).tolist()
            rows = [row for row in noise if part.channels(row) == coils]
            if not rows:
                continue
            samples = np.concatenate(list(part.samples(rows)), axis=1)
            check_finite(samples, f"{self.path}: noise measurement")
            if samples.shape[1] <= len(coils):
                continue
            own_us = _noise_dwell_us(part, rows[0])
            image_us = self._index.protocol.dwell_us
            scale = np.sqrt(own_us / (image_us * NOISE_BANDWIDTH)) if image_us else 1.0
            samples *= np.float32(scale)
            return samples
        return None


@dataclass(frozen=True)
class _Index:
    """What a measurement holds, without samples.

    Attributes:
        protocol: its header.
        matrix: that was encoded.
        records: all of its readouts.
        readouts: those of images, of all volumes.
        calibration: reference lines that some images lack, or None.
        before: records of the measurements before it, the nearest first.
    """

    protocol: Protocol
    matrix: Matrix
    records: twix.Records
    readouts: Readouts
    calibration: Readouts | None
    before: tuple[twix.Records, ...]


def _split(volume: str | None) -> tuple[int | None, str | None]:
    """Number of the measurement and name of the volume in it; None where they are not given."""
    match = re.fullmatch(r"meas-(\d+)(?:_(.+))?", volume or "")
    return (int(match[1]), match[2]) if match else (None, volume)


def _read_index(path: Path, number: int | None) -> _Index:
    try:
        stat = path.stat()
        return _index_of(path, number, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise ScanFormatError(f"{path}: cannot be read ({error.strerror})") from error


@lru_cache(maxsize=4)  # volumes of a file are opened one after the other
def _index_of(path: Path, number: int | None, *_: int) -> _Index:
    measurements = twix.find_measurements(path)
    if number is not None and not 1 <= number <= len(measurements):
        raise ScanFormatError(
            f"{path}: has {len(measurements)} measurements, wanted one of these, got {number}"
        )
    found = [part.records() for part in measurements[: number or len(measurements)]]
    chosen = len(found) - 1 if number else _last_image(path, found)
    records, before = found[chosen], found[:chosen]
    try:
        protocol = parse_protocol(records.measurement.header())
        _check_supported(protocol)
        return _index_from(path, protocol, records, tuple(reversed(before)))
    except ScanFormatError as error:
        if str(error).startswith(str(path)):
            raise
        raise ScanFormatError(f"{path}: {error}") from error


def _last_image(path: Path, found: Sequence[twix.Records]) -> int:
    """The last measurement with an image, unless a later one was cut off."""
    last = max((i for i, part in enumerate(found) if _is_image(part).any()), default=-1)
    broken = [i + 1 for i, part in enumerate(found) if i > last and not part.complete]
    if broken:
        others = f"; the volume meas-{last + 1} is there" if last >= 0 else ""
        raise ScanFormatError(
            f"{path}: was cut off: nothing of an image is left of measurement {broken[0]} of "
            f"{len(found)}{others}; copy the file again"
        )
    if last < 0:
        raise ScanFormatError(f"{path}: holds no readouts of an image")
    return last


def _index_from(
    path: Path, protocol: Protocol, records: twix.Records, before: tuple[twix.Records, ...]
) -> _Index:
    image, marked = _is_image(records), records.has(twix.CALIBRATION, twix.CALIBRATION_AND_IMAGE)
    reference_row = np.flatnonzero(marked & image)
    if protocol.reference_lines == "separate":
        image &= ~marked | records.has(twix.CALIBRATION_AND_IMAGE)
    row = np.flatnonzero(image)
    if not len(row):
        raise ScanFormatError(f"{path}: holds no readouts of an image")
    _check_whole(path, records, row, protocol)
    heads = records.heads[row]
    if len(np.unique(heads["line"])) * len(np.unique(heads["partition"])) < 2:
        raise ScanFormatError(
            f"{path}: not supported: spectroscopy or projections; there is a single line of k-space"
        )
    matrix = _matrix(path, heads, protocol)
    readouts = _readouts(records, row, matrix)
    _check_not_epi(path, readouts)
    reference = _readouts(records, reference_row, matrix)
    held = [np.isin(reference_row, volume.row) for volume in readouts.volumes().values()]
    # Those of no image, or some images without: measured apart, or in the first repetition only.
    is_needed = len(reference) > 0 and not (
        np.any(held, axis=0).all() and np.any(held, axis=1).all()
    )
    return _Index(protocol, matrix, records, readouts, reference if is_needed else None, before)


def _readouts(records: twix.Records, row: NDArray[np.int64], matrix: Matrix) -> Readouts:
    heads, reverse = records.heads[row], records.has(twix.REVERSE)[row]
    n_samples, center = heads["samples"].astype(int), heads["center_sample"].astype(int)
    _, nx, nz = matrix.encoded
    places = [_steps(heads, "line", nx) + nx // 2, 0 * n_samples]
    if nz > 1:
        places[1] = _steps(heads, "partition", nz) + nz // 2
    phase, read, normal = directions(heads["quaternion"])
    # With the inverse FFT, images rise against the directions of encoding that Siemens gives.
    return Readouts(
        row=row,
        column=places[0],
        slice=heads["slice"].astype(int),
        counters={name: heads[name].astype(int) for name in VOLUME_COUNTERS.values()},
        n_samples=n_samples,
        center=turned_centers(n_samples, center, reverse),
        reverse=reverse,
        position=heads["position"].astype(float),
        normal=-normal if matrix.encoded[2] > 1 else normal,
        read_dir=-read,
        phase_dir=-phase,
        partition=places[1],
    )


def _matrix(path: Path, heads: NDArray[np.void], protocol: Protocol) -> Matrix:
    """What was encoded: a few lines more than the protocol says, if they were measured."""
    base = protocol.base_resolution
    ny = round(base * protocol.oversampling)
    longest = int(heads["samples"].max())
    if longest > ny and longest % base == 0:
        ny = longest
    nx = _n_steps(path, heads, "line", protocol.n_lines)
    nz = _n_steps(path, heads, "partition", protocol.n_partitions) if protocol.is_3d else 1
    wider = protocol.phase_oversampling, protocol.slice_oversampling if protocol.is_3d else 1.0
    voxel_mm = None
    if fov_mm := protocol.fov_mm:
        voxel_mm = (fov_mm[0] / base, fov_mm[1] * wider[0] / nx, fov_mm[2] * wider[1] / nz)
    recon = base, round(nx / wider[0]), round(nz / wider[1])
    return Matrix((ny, nx, nz), recon, voxel_mm, ny / base)


def _n_steps(path: Path, heads: NDArray[np.void], name: str, n: int) -> int:
    """Size of a phase-encoding axis on which all steps have a place, k = 0 at ``n // 2``."""
    steps = _steps(heads, name, n)
    low, high = int(steps.min()), int(steps.max())
    needed = max(-2 * low, 2 * high + 1)
    if needed > max(1.25 * n, n + 2):
        raise ScanFormatError(
            f"{path}: {name}s lie {low} to {high} from the centre of k-space, the header gives an "
            f"encoded matrix of {n} {name}s; the header belongs to other data"
        )
    return max(n, needed)


def _steps(heads: NDArray[np.void], name: str, n: int) -> NDArray[np.int64]:
    """Phase-encoding steps, 0 at the centre of k-space; of lines or partitions, ``n`` in all.

    Some sequences leave the number of the central one at zero: then it is ``n // 2``.
    """
    number, center = heads[name].astype(np.int64), heads[f"center_{name}"].astype(np.int64)
    is_unset = not center.any() and n // 2 < int(number.max(initial=0)) < n
    return number - (n // 2 if is_unset else center)


def directions(quaternion: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Directions of phase encoding, readout and slice, each ``(..., 3)``.

    Args:
        quaternion: of a record, scalar first, ``(..., 4)``; the columns of its rotation matrix are
            the directions in patient coordinates (sagittal, coronal, transverse = L, P, S).

    Returns:
        Unit vectors; zero where the quaternion is not of unit length, so that nothing is known.
    """
    given = np.asarray(quaternion, np.float64)
    length = np.linalg.norm(given, axis=-1, keepdims=True)
    is_known = np.abs(length - 1) < 1e-2
    w, x, y, z = np.moveaxis(np.where(is_known, given / np.where(is_known, length, 1), 0), -1, 0)
    phase = np.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=-1
    )  # fmt: skip
    read = np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], axis=-1)
    normal = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=-1)
    return phase * is_known, read * is_known, normal * is_known


def _is_image(records: twix.Records) -> NDArray[np.bool_]:
    image: NDArray[np.bool_] = ~records.has(*twix.NO_IMAGE) & (records.heads["samples"] > 0)
    return image


def _noise_dwell_us(records: twix.Records, row: int) -> float:
    """Dwell time of a noise measurement, by its number of samples (siemens_to_ismrmrd).

    VD and later round it down to 0.1 us.
    """
    n = int(records.heads["samples"][row])
    exact_us = 1e6 / (n * NOISE_HZ_PER_PIXEL)
    return exact_us if records.measurement.layout is twix.VB else int(76800 / n) / 10


def _check_supported(protocol: Protocol) -> None:
    if protocol.trajectory != "cartesian":
        raise ScanFormatError(
            f"not supported: {protocol.trajectory}; only Cartesian readouts can be reconstructed"
        )
    if protocol.epi_factor > 1:
        raise ScanFormatError("not supported: EPI without its corrections")
    if protocol.n_bands > 1:
        raise ScanFormatError("not supported: simultaneous slices (multiband)")


def _check_not_epi(path: Path, readouts: Readouts) -> None:
    """Lines of one image in both directions need the corrections of EPI."""
    for part in readouts.volumes().values():
        if part.reverse.any() and not part.reverse.all():
            raise ScanFormatError(
                f"{path}: not supported: EPI without its corrections; readouts of one image were "
                "acquired in both directions"
            )


def _check_whole(
    path: Path, records: twix.Records, row: NDArray[np.int64], protocol: Protocol
) -> None:
    """Refuse a file that was cut off before the last readout of its image."""
    if records.complete:
        return
    n_wanted = protocol.integer("lRepetitions", 0) + 1
    n_found = int(records.heads["repetition"][row].max()) + 1
    if records.has(twix.LAST_IN_MEASUREMENT)[row[-1]] and n_found >= n_wanted:
        return
    end = records.measurement.end
    missing = max(end - records.n_bytes, 0)
    size = f"{missing} of {end - records.measurement.start} bytes are missing; " if missing else ""
    raise ScanFormatError(
        f"{path}: was cut off after {len(row)} readouts of the image ({n_found} of {n_wanted} "
        f"repetitions begun); {size}copy it again"
    )
