"""The binary layout of Siemens twix files: measurements, their header text, and records.

A record is a readout of all coils with counters and flags, or something else that the scanner
wrote in between (physiology, the end mark). VD, VE and XA files begin with a table of measurements;
a VB file is a single measurement.

References:
    The layout as pymapvbvd (W. Clarke), twixtools (P. Ehses) and siemens_to_ismrmrd agree on it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError

ACQEND, RT_FEEDBACK, HP_FEEDBACK, SYNC = 0, 1, 2, 5
LAST_IN_MEASUREMENT, PHASE_STAB_REF, PHASE_STAB = 11, 14, 15
PHASE_CORRECTION, CALIBRATION, CALIBRATION_AND_IMAGE, REVERSE, NOISE = 21, 22, 23, 24, 25
DUMMY = 51
"""Flags of a record, by the number of their bit."""

NO_IMAGE = (RT_FEEDBACK, HP_FEEDBACK, PHASE_STAB_REF, PHASE_STAB, PHASE_CORRECTION, NOISE, DUMMY)
"""Flags of readouts that belong to no image."""

COUNTERS = ("line", "average", "slice", "partition", "contrast", "phase", "repetition", "set")


def _head(size: int, mask: int, counts: int, center: int, place: int) -> np.dtype[np.void]:
    """A record's head; arguments are offsets of groups of fields in bytes."""
    fields: list[tuple[str, Any, int]] = [
        ("length", "<u4", 0), ("flags", "<u8", mask), ("samples", "<u2", mask + 8),
        ("channels", "<u2", mask + 10), ("pre", "<u2", counts + 28), ("post", "<u2", counts + 30),
        ("center_sample", "<u2", counts + 32), ("center_line", "<u2", center),
        ("center_partition", "<u2", center + 2), ("position", ("<f4", (3,)), place),
        ("quaternion", ("<f4", (4,)), place + 12),
        *((name, "<u2", counts + 2 * i) for i, name in enumerate(COUNTERS)),
    ]  # fmt: skip
    names, formats, offsets = (list(part) for part in zip(*fields, strict=True))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


@dataclass(frozen=True)
class Layout:
    """Where things stand in the records of a software version; sizes in bytes.

    Attributes:
        head: of a record.
        before: what stands before the coils: the head in VD, nothing in VB.
        channel: what stands before the samples of each coil: its own head.
        channel_id: where the number of the coil stands in that.
    """

    head: np.dtype[np.void]
    before: int
    channel: int
    channel_id: int

    def length(self, head: NDArray[np.void]) -> int:
        """Of a record in bytes."""
        if _has(head["flags"], ACQEND, SYNC):
            return int(head["length"]) % 2**25
        # The stored length is wrong in some files, those of readouts follow from their samples.
        return self.before + int(head["channels"]) * (self.channel + 8 * int(head["samples"]))


VB = Layout(_head(128, 20, 32, 76, 96), 0, 128, 124)
VD = Layout(_head(192, 40, 52, 96, 100), 192, 32, 24)


@dataclass(frozen=True)
class Measurement:
    """A measurement of a file.

    Attributes:
        path: the file.
        layout: of its records.
        start: where it begins in the file, in bytes.
        end: where it ends by the file's table; beyond the file if that was cut off.
    """

    path: Path
    layout: Layout
    start: int
    end: int

    def check_start(self) -> None:
        """Refuse a measurement that lies beyond the end of the file.

        Raises:
            ScanFormatError: the file was cut off before it.
        """
        size = self.path.stat().st_size
        if self.start + 8 > size:
            raise ScanFormatError(
                f"{self.path}: was cut off: it holds {size} bytes, and a measurement begins at "
                f"{self.start}; copy the file again"
            )

    def header(self) -> dict[str, str]:
        """The parts of its header text by name ("MeasYaps", "Meas", ...).

        Raises:
            ScanFormatError: the header is damaged or cut off.
        """
        self.check_start()
        with self.path.open("rb") as file:
            file.seek(self.start)
            size, n_parts = _read(file.read(8), "<II", self.path)
            data = file.read(max(size - 8, 0))
        if len(data) < size - 8:
            raise _damaged_header(self.path)
        parts, at = {}, 0
        for _ in range(n_parts):
            end = data.find(b"\0", at, at + 64)
            if end < 0 or end + 5 > len(data):
                break
            (length,) = struct.unpack_from("<I", data, end + 1)
            name = data[at:end].decode("latin-1")
            at = end + 5 + length
            parts[name] = data[end + 5 : at].decode("latin-1")
        return parts

    def records(self) -> Records:
        """The readouts, without their samples."""
        self.check_start()
        size = self.layout.head.itemsize
        heads, offsets, complete = [], [], False
        with self.path.open("rb") as file, _mapped(file, self.path) as data:
            at = self.start + int(_read(data[self.start : self.start + 4], "<I", self.path)[0])
            while at + size <= len(data):
                text = data[at : at + size]
                head = np.frombuffer(text, self.layout.head)[0]
                length = self.layout.length(head)
                if complete := _has(head["flags"], ACQEND):
                    break
                if length <= size or at + length > len(data):
                    break  # zeros instead of a head, or cut off
                if not _has(head["flags"], SYNC):
                    heads.append(text)
                    offsets.append(at)
                at += length
            size_now = len(data)
        table = np.frombuffer(b"".join(heads), self.layout.head)
        return Records(self, table, np.array(offsets, np.int64), complete, size_now)


@dataclass(frozen=True)
class Records:
    """The readouts of a measurement.

    Attributes:
        measurement: which.
        heads: of every readout.
        offsets: where each begins in the file, in bytes.
        complete: whether the end mark was reached.
        n_bytes: size of the file.
    """

    measurement: Measurement
    heads: NDArray[np.void]
    offsets: NDArray[np.int64]
    complete: bool
    n_bytes: int

    def has(self, *flags: int) -> NDArray[np.bool_]:
        """Whether a readout has one of these flags."""
        found: NDArray[np.bool_] = _mask_of(self.heads["flags"], flags)
        return found

    def samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """Of readouts, each ``(coil, sample)``, with zeros where the receiver was blanked."""
        layout = self.measurement.layout
        with self.measurement.path.open("rb") as file:
            for row in rows:
                head = self.heads[row]
                shape = int(head["channels"]), 8 * int(head["samples"])
                file.seek(int(self.offsets[row]) + layout.before)
                data = file.read(shape[0] * (layout.channel + shape[1]))
                blocks = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
                samples = blocks[:, layout.channel :].copy().view("<c8").astype(np.complex64)
                samples[:, : int(head["pre"])] = 0
                samples[:, samples.shape[1] - int(head["post"]) :] = 0
                yield samples

    def channels(self, row: int) -> list[int]:
        """Numbers of the coils of a readout."""
        layout, head = self.measurement.layout, self.heads[row]
        step = layout.channel + 8 * int(head["samples"])
        with self.measurement.path.open("rb") as file:
            numbers: list[int] = []
            for coil in range(int(head["channels"])):
                start = int(self.offsets[row]) + layout.before + coil * step
                file.seek(start + layout.channel_id)
                numbers.append(*struct.unpack("<H", file.read(2)))
        return numbers


def find_measurements(path: Path) -> list[Measurement]:
    """The measurements of a file, in the order acquired.

    Raises:
        ScanFormatError: the file is no twix file, or was cut off before its data.
    """
    with path.open("rb") as file:
        start = file.read(10240)
    size = path.stat().st_size
    if not is_table(start):
        if not is_header(start):
            raise ScanFormatError(
                f"{path}: is no Siemens raw data (twix): its first bytes are no header; copy the "
                "file again, or give the .dat file that the scanner exported (twix, meas_*.dat)"
            )
        return [Measurement(path, VB, 0, size)]
    (n,) = struct.unpack_from("<I", start, 4)
    if len(start) < 8 + 152 * n:
        raise ScanFormatError(f"{path}: was cut off in its table of {n} measurements")
    entries = [struct.unpack_from("<QQ", start, 8 + 152 * i + 8) for i in range(n)]
    return [Measurement(path, VD, at, at + length if length else size) for at, length in entries]


def is_table(start: bytes) -> bool:
    """Whether a file of these first bytes is a VD, VE or XA file: a table of measurements."""
    if len(start) < 24:
        return False
    first, n, _, at = struct.unpack_from("<IIQQ", start)
    return bool(first < 10000 and 1 <= n <= 64 and 168 <= at < 2**40)


def is_header(start: bytes) -> bool:
    """Whether a file of these first bytes is a VB file: size and parts of a header, then text."""
    if len(start) < 32:
        return False
    size, n_parts = struct.unpack_from("<II", start)
    name = start[8:40].split(b"\0")[0]
    fits = 10000 <= size < 2**27 and 1 <= n_parts <= 64
    return bool(fits and name.isalpha() and len(name) >= 4)


def _read(data: bytes, layout: str, path: Path) -> tuple[int, ...]:
    if len(data) < struct.calcsize(layout):
        raise _damaged_header(path)
    return struct.unpack_from(layout, data)


def _mapped(file: Any, path: Path) -> mmap.mmap:  # noqa: ANN401
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ScanFormatError(f"{path}: cannot be read ({error})") from error


def _damaged_header(path: Path) -> ScanFormatError:
    return ScanFormatError(f"{path}: its header is damaged or was cut off; copy the file again")


def _mask_of(values: Any, flags: Sequence[int]) -> Any:  # noqa: ANN401 -- a number or an array
    return (values & np.uint64(sum(1 << flag for flag in flags))) != 0


def _has(value: Any, *flags: int) -> bool:  # noqa: ANN401
    return bool(_mask_of(value, flags))
