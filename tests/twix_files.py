"""Siemens twix files of software VB and VD, written from lines with counters and flags."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COUNTERS = ("line", "average", "slice", "partition", "contrast", "phase", "repetition", "set")


@dataclass
class Line:
    """A readout: samples ``(coil, sample)``, where they belong, and flags by their bits."""

    samples: NDArray[np.complex64]
    counters: Mapping[str, int] = field(default_factory=dict)
    flags: Sequence[int] = ()
    center_line: int = 0
    center_partition: int = 0
    center_sample: int | None = None
    cut: tuple[int, int] = (0, 0)
    position: Sequence[float] = (0.0, 0.0, 0.0)
    quaternion: Sequence[float] = (1.0, 0.0, 0.0, 0.0)
    coils: Sequence[int] | None = None

    def counted(self) -> bytes:
        """From the number of samples to the centre of a readout, as in both versions."""
        n_coils, n_samples = self.samples.shape
        counts = [self.counters.get(name, 0) for name in COUNTERS] + [0] * 6
        center = n_samples // 2 if self.center_sample is None else self.center_sample
        return struct.pack("<2H14H2HH", n_samples, n_coils, *counts, *self.cut, center)

    @property
    def mask(self) -> int:
        return sum(1 << flag for flag in self.flags)

    @property
    def center(self) -> tuple[int, int]:
        return self.center_line, self.center_partition

    @property
    def place(self) -> bytes:
        return struct.pack("<7f", *self.position, *self.quaternion)

    @property
    def numbers(self) -> Sequence[int]:
        return range(len(self.samples)) if self.coils is None else self.coils


@dataclass
class Measurement:
    """Lines, and protocol values by name."""

    lines: Iterable[Line]
    protocol: Mapping[str, object]
    oversampling: float | None = 2.0
    end: bool = True

    def header(self) -> bytes:
        yaps = "\n".join(f"{name}\t = \t{value}" for name, value in self.protocol.items())
        meas = "" if self.oversampling is None else (
            f'<ParamDouble."flReadoutOSFactor"> {{ <Precision> 6  {self.oversampling:.6f} }}\n'
        )  # fmt: skip
        parts = {
            "Meas": f'<XProtocol>\n{{\n  <ParamLong."NSlc"> {{ 1 }}\n{meas}}}\n',
            "MeasYaps": f"### ASCCONV BEGIN ###\n{yaps}\n### ASCCONV END ###\n",
        }
        body = b"".join(
            name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode("latin-1")
            for name, text in parts.items()
        )
        size = -(-(8 + len(body)) // 32) * 32
        size = max(size, 10016)
        return struct.pack("<II", size, len(parts)) + body.ljust(size - 8, b"\0")


END = Line(np.zeros((1, 0), np.complex64), flags=(0,))
SYNC = 5


def vd_record(line: Line) -> bytes:
    """A head, then every coil with a head of its own; after the end mark or SYNC there is none."""
    n_coils, n_samples = line.samples.shape
    others = 0 in line.flags or SYNC in line.flags
    length = 352 if others else 192 + n_coils * (32 + 8 * n_samples)
    head = struct.pack("<IiIIIHH3iIQ", length, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, line.mask)
    head += line.counted() + struct.pack("<HfIHH", 0, 0.0, 0, *line.center) + line.place
    head = head.ljust(192, b"\0")
    if others:
        return head.ljust(length, b"\xaa")
    for number, samples in zip(line.numbers, line.samples, strict=True):
        head += struct.pack("<IiIIIIHHI", 0, 1, 1, 0, 0, 0, number, 0, 0)
        head += samples.astype("<c8").tobytes()
    return head


def vb_record(line: Line) -> bytes:
    """Every coil has the whole head."""
    n_samples = line.samples.shape[1]
    out = b""
    for number, samples in zip(line.numbers, line.samples, strict=True):
        head = struct.pack("<IiIIIQ", 128 + 8 * n_samples, 1, 1, 0, 0, line.mask) + line.counted()
        head += struct.pack("<HfIHH", 0, 0.0, 0, *line.center) + bytes(16) + line.place
        out += head + struct.pack("<HH", number, 0) + samples.astype("<c8").tobytes()
    return out


def write_vd(path: Path, measurements: Sequence[Measurement]) -> Path:
    """A file of software VD: a table of measurements, each at a multiple of 512 bytes."""
    blocks, entries, at = [], [], 10240
    for part in measurements:
        block = part.header() + b"".join(map(vd_record, part.lines))
        block += vd_record(END) if part.end else b""
        entries.append(struct.pack("<IIQQ64s64s", 1, 1, at, len(block), b"x", b"scan"))
        blocks.append(block.ljust(-(-len(block) // 512) * 512, b"\0"))
        at += len(blocks[-1])
    table = struct.pack("<II", 0, len(entries)) + b"".join(entries)
    path.write_bytes(table.ljust(10240, b"\0") + b"".join(blocks))
    return path


def write_vb(path: Path, measurements: Sequence[Measurement]) -> Path:
    """A file of software VB, which holds one measurement."""
    (part,) = measurements
    end = vb_record(END) if part.end else b""
    path.write_bytes(part.header() + b"".join(map(vb_record, part.lines)) + end)
    return path
