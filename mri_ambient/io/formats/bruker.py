"""Raw data of Bruker ParaVision 5, 6, 7 and 360: a folder with ``fid`` or ``rawdata.job0``.

The parameters beside it (``acqp``, ``method``) say how its readouts are ordered, from the fastest:
lines of an echo train (``ACQ_phase_factor``), objects (slices and echoes, ``ACQ_obj_order``),
groups of lines, partitions, repetitions. ``PVM_EncSteps1`` holds the phase-encoding step of every
line, 0 at the centre of k-space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError
from ..names import RAW_FILES
from ..scan_file import Contents
from .jcamp import Parameters, read_parameters
from .readouts import VOLUME_COUNTERS, Matrix, ReadoutFile, Readouts

PARAMETERS = ("acqp", "method")

NOT_SUPPORTED = {
    "EPI": "EPI without its corrections",
    "EPSI": "spectroscopy",
    "SPIRAL": "spiral",
    "UTE": "radial",
    "ZTE": "radial",
    "RADIAL": "radial",
    "CSI": "spectroscopy",
    "PRESS": "spectroscopy",
    "STEAM": "spectroscopy",
    "ISIS": "spectroscopy",
    "SPECT": "spectroscopy",
    "SINGLEPULSE": "spectroscopy",
    "FIELDMAP": "the order of a field map",
}
"""What is not a Cartesian image, by a part of the name of its method or pulse program."""

WORDS = {
    "GO_32BIT_SGN_INT": "i4", "GO_16BIT_SGN_INT": "i2", "GO_32BIT_FLOAT": "f4",
    "STORE_32bit_signed": "i4", "STORE_64bit_float": "f8", "_32_BIT": "i4", "_16_BIT": "i2",
}  # fmt: skip

TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""From ParaVision's coordinates of the subject (R to L, P to A, F to H by their names: left,
front and head) to those of DICOM."""

SUBJECT_OF_MAGNET = {
    "Head_Supine": np.diag([-1.0, 1.0, -1.0]),
    "Head_Prone": np.diag([1.0, -1.0, -1.0]),
    "Head_Left": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]]),
    "Head_Right": np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]]),
    "Foot_Supine": np.eye(3),
    "Foot_Prone": np.diag([-1.0, -1.0, 1.0]),
    "Foot_Left": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    "Foot_Right": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}
"""From coordinates of the magnet, in which ParaVision 360 writes directions, to the subject's."""

OFFSETS = (
    ("ACQ_read_offset", "PVM_ReadOffset"),
    ("ACQ_phase1_offset", "PVM_Phase1Offset"),
    ("ACQ_slice_offset", "PVM_SliceOffset"),
)
"""Names of the offsets of every slice along readout, phase encoding and slice direction."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class BrukerFile(ReadoutFile):
    """A volume of a ParaVision scan.

    Args:
        path: its raw data (``fid`` or ``rawdata.job0``), with ``acqp`` and ``method`` beside it.
        volume: name of the volume, if there are several, e.g. ``rep-2``.

    Raises:
        ScanFormatError: the files are damaged or incomplete, the scan is not Cartesian, or holds
            several volumes.
    """

    format = "bruker"
    suffixes = ()
    options = frozenset({"volume"})

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        """Whether the file has the name of ParaVision's raw data."""
        return contents.path.name in RAW_FILES and contents.path.is_file()

    @classmethod
    def volumes_in(cls, path: Path, **_: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Names of the volumes of a scan, ``("",)`` for a single one."""
        return tuple(_Scan.read(path).readouts.volumes())

    def __init__(self, path: str | Path, volume: str | None = None) -> None:
        """Read the parameters, no samples."""
        super().__init__(path)
        scan = _Scan.read(self.path)
        self._scan, self._shift, self.readouts = scan, _shift(scan), scan.readouts
        self.choose_volume(volume)
        self.lay_out(scan.matrix, scan.storage.n_coils)
        if name := scan.parameters.text("ACQ_protocol_name") or scan.method:
            self.attributes["acquisition"] = name
        thickness_mm = scan.parameters.number("PVM_SliceThick", 0.0)
        if not self.is_3d and thickness_mm > 0:
            self.attributes["thickness_mm"] = thickness_mm

    def read_samples(self, rows: Sequence[int]) -> Iterator[NDArray[np.complex64]]:
        """The samples of readouts, each ``(coil, sample)``, moved to the planned field of view."""
        storage = self._scan.storage
        stored = storage.open(self.path)
        for row in rows:
            parts = np.asarray(stored[row, : storage.n_coils * 2 * storage.n_samples])
            parts = parts.astype(np.float32).reshape(storage.n_coils, storage.n_samples, 2)
            yield parts.view(np.complex64)[..., 0] * self._shift[row]


@dataclass(frozen=True)
class _Storage:
    """How samples lie in the file.

    Attributes:
        word: of a number.
        n_samples: complex samples of a readout.
        n_coils: receivers; their samples stand one after the other.
        n_words: numbers of a readout of all coils, with what fills up its block.
        n_readouts: in the file.
    """

    word: np.dtype[Any]
    n_samples: int
    n_coils: int
    n_words: int
    n_readouts: int

    def open(self, path: Path) -> NDArray[Any]:
        """The numbers of every readout, ``(readout, number)``, left on disk."""
        try:
            return np.memmap(path, self.word, "r", shape=(self.n_readouts, self.n_words))
        except (OSError, ValueError) as error:
            raise ScanFormatError(f"{path}: cannot be read ({error})") from error


@dataclass(frozen=True)
class _Scan:
    """The parameters of a scan, and what follows from them.

    Attributes:
        parameters: of ``acqp`` and ``method``.
        n_lines: phase-encoding lines that were measured.
        n_partitions: partitions that were measured; 1 in a 2-D scan.
        n_repetitions: complete ones.
        storage: of the samples.
    """

    parameters: Parameters
    n_lines: int
    n_partitions: int
    n_repetitions: int
    storage: _Storage

    @classmethod
    def read(cls, path: Path) -> _Scan:
        files = [path.parent / name for name in PARAMETERS]
        found = read_parameters(path, *files)
        _check_supported(path, found)
        size = found.integers("ACQ_size")
        is_3d = found.integer("ACQ_dim") == 3
        counts = found.integers("PVM_EncMatrix") if path.name != "fid" else size
        if len(counts) < 2 + is_3d:
            raise ScanFormatError(f"{path}: the parameters give no size for every dimension")
        n_lines, n_partitions = counts[1], counts[2] if is_3d else 1
        per_repetition = n_lines * n_partitions * found.integer("NI", 1)
        storage = _storage(path, found)
        n, rest = divmod(storage.n_readouts, max(per_repetition, 1))
        if per_repetition < 1 or n < 1 or rest:
            raise ScanFormatError(
                f"{path}: holds {storage.n_readouts} readouts, a repetition has {per_repetition} "
                "by its parameters; the file was cut off, or is of another scan"
            )
        return cls(found, n_lines, n_partitions, n, storage)

    @property
    def method(self) -> str:
        """Without the name of its maker."""
        return self.parameters.text("Method").rpartition(":")[2]

    @property
    def n_slices(self) -> int:
        return max(self.parameters.integer("NSLICES", 1), 1)

    def steps(self, axis: int) -> Ints:
        """Phase-encoding steps of lines (1) or partitions (2), 0 at the centre of k-space."""
        n = self.n_lines if axis == 1 else self.n_partitions
        steps = self.parameters.integers(f"PVM_EncSteps{axis}")
        if not steps:
            return np.arange(n) - n // 2
        if len(steps) != n:
            raise ScanFormatError(
                f"{self.parameters.path}: PVM_EncSteps{axis} has {len(steps)} steps for {n} "
                "measured ones"
            )
        return np.array(steps)

    @cached_property
    def matrix(self) -> Matrix:
        """What was encoded. Zero filling of ParaVision is left out."""
        found, n_dims = self.parameters, 2 + (self.n_partitions > 1)
        wider = _of_axes(found, "PVM_AntiAlias", n_dims)
        final = found.numbers("PVM_Matrix")
        planned = [0.0] * 3
        if len(final) >= n_dims:
            filled = _of_axes(found, "PVM_EncZf", n_dims)
            planned[:n_dims] = final[:n_dims] * wider[:n_dims] / filled[:n_dims]
        encoded = [self.storage.n_samples, 1, 1]
        for axis in range(1, n_dims):
            steps = self.steps(axis)
            encoded[axis] = max(-2 * int(steps.min()), 2 * int(steps.max()) + 1)
        for axis, share in enumerate(_shares(found, n_dims)):
            # Where lines were skipped, the outermost ones may be missing.
            if share > 1.0 and encoded[axis] < planned[axis] <= 3 * encoded[axis]:
                encoded[axis] = 2 * ceil(planned[axis] / 2 - 1e-6)
        recon = [max(round(n / w), 1) for n, w in zip(encoded, wider, strict=True)]
        return Matrix(
            (encoded[0], encoded[1], encoded[2]),
            (recon[0], recon[1], recon[2]),
            self._voxel_mm(encoded),
            float(wider[0]),
        )

    @property
    def fov_mm(self) -> Floats | None:
        """Encoded field of view along readout, lines and partitions; None if it is not given."""
        n_dims = 2 + (self.n_partitions > 1)
        fov_mm = self.parameters.numbers("PVM_Fov")
        if len(fov_mm) < n_dims or fov_mm[:n_dims].min() <= 0:
            return None
        return fov_mm[:n_dims] * _of_axes(self.parameters, "PVM_AntiAlias", n_dims)[:n_dims]

    def _voxel_mm(self, encoded: Sequence[int]) -> tuple[float, float, float] | None:
        if (fov_mm := self.fov_mm) is None:
            return None
        depth_mm = (
            self.parameters.number("PVM_SliceThick", 0.0) if len(fov_mm) < 3
            else float(fov_mm[2]) / encoded[2]
        )  # fmt: skip
        if depth_mm <= 0:
            return None
        return float(fov_mm[0]) / encoded[0], float(fov_mm[1]) / encoded[1], depth_mm

    @cached_property
    def readouts(self) -> Readouts:
        """From the order of readouts in the file."""
        found = self.parameters
        n_train = max(found.integer("ACQ_phase_factor", 1), 1)
        n_objects = max(found.integer("NI", 1), 1)
        if self.n_lines % n_train or n_objects % self.n_slices:
            raise ScanFormatError(
                f"{found.path}: {self.n_lines} lines do not divide into echo trains of {n_train}, "
                f"or {n_objects} objects into {self.n_slices} slices"
            )
        shape = self.n_repetitions, self.n_partitions, self.n_lines // n_train, n_objects, n_train
        repetition, partition, group, place, echo = (
            index.ravel() for index in np.indices(shape, dtype=np.int64)
        )
        matrix = self.matrix.encoded
        per_slice = n_objects // self.n_slices
        number = _order(found, n_objects, per_slice)[place]
        is_movie = found.integer("ACQ_n_echo_images", 1) == 1
        if self.n_partitions > 1:
            partition = self.steps(2)[partition] + matrix[2] // 2
        counters = {name: np.zeros(prod(shape), np.int64) for name in VOLUME_COUNTERS.values()}
        counters["repetition"] = repetition
        counters["phase" if is_movie else "contrast"] = number % per_slice
        # Gradient echoes of a train alternate in direction unless every other one is left out.
        alternates = not is_movie and found.text("EchoAcqMode") == "allEchoes"
        reverse = (number % per_slice % 2 == 1) & alternates
        n = self.storage.n_samples
        center = matrix[0] // 2 - (matrix[0] - n)
        poses = _poses(self)[number // per_slice]
        return Readouts(
            row=np.arange(prod(shape)),
            column=self.steps(1)[group * n_train + echo] + matrix[1] // 2,
            slice=number // per_slice,
            counters=counters,
            n_samples=np.full(prod(shape), n),
            center=np.where(reverse, n - 1 - center, center),
            reverse=reverse,
            position=poses[:, 0],
            read_dir=poses[:, 1],
            phase_dir=poses[:, 2],
            normal=poses[:, 3],
            partition=partition,
        )


def _storage(path: Path, found: Parameters) -> _Storage:
    if path.name == "fid":
        n_coils = found.integer("PVM_EncNReceivers", 1)
        n_numbers = found.integer("ACQ_size") * n_coils
        word = WORDS.get(found.text("GO_raw_data_format") or found.text("ACQ_word_size"))
        fills_up = found.text("GO_block_size") == "Standard_KBlock_Format"
    else:
        settings = found.records("ACQ_ScanPipeJobSettings")
        jobs = found.records("ACQ_jobs")
        n_coils = _count_receivers(found)
        n_numbers = int(jobs[0][0]) * n_coils if jobs and jobs[0][0].isdigit() else 0
        name = settings[0][1] if settings and len(settings[0]) > 1 else found.text("ACQ_word_size")
        word, fills_up = WORDS.get(name), False
    order = {"little": "<", "big": ">"}.get(found.text("BYTORDA"))
    if word is None or order is None or n_numbers < 2 * n_coils or n_coils < 1:
        raise ScanFormatError(
            f"{path}: the parameters do not say how its samples are stored; they are damaged, or "
            "of software that is not known"
        )
    dtype = np.dtype(order + word)
    n_bytes = n_numbers * dtype.itemsize
    if fills_up:
        n_bytes = -(-n_bytes // 1024) * 1024
    n_readouts, rest = divmod(path.stat().st_size, n_bytes)
    if rest:
        raise ScanFormatError(
            f"{path}: ends after {n_readouts} readouts and {rest} of {n_bytes} bytes of the next; "
            "the file was cut off, copy it again"
        )
    n_samples = n_numbers // (2 * n_coils)
    return _Storage(dtype, n_samples, n_coils, n_bytes // dtype.itemsize, n_readouts)


def _count_receivers(found: Parameters) -> int:
    selected = found.words("ACQ_ReceiverSelectPerChan") or found.words("ACQ_ReceiverSelect")
    n = sum(word in ("Yes", "On") for word in selected)
    return n or found.integer("PVM_EncNReceivers", 1)


def _order(found: Parameters, n_objects: int, per_slice: int) -> Ints:
    """Number of each object in the order acquired: slice by slice, echoes of a slice together."""
    for name in ("ACQ_obj_order", "PVM_ObjOrderList"):
        order = np.array(found.integers(name), np.int64)
        if len(order) * per_slice == n_objects and per_slice > 1:
            order = (order[:, None] * per_slice + np.arange(per_slice)).ravel()
        if len(order) == n_objects and sorted(order) == list(range(n_objects)):
            return order
    return np.arange(n_objects)


def _shift(scan: _Scan) -> NDArray[np.complex64]:
    """Phase of every readout that moves the image to the field of view that was planned.

    Readouts are demodulated at the planned centre, phase encodes are not: their centre is that of
    the gradients. As ParaVision's methods have it, the image moves by ``PVM_EffPhase1Offset``
    towards rising x, and by ``PVM_EffPhase2Offset``, minus the offset of the slab, along the
    partitions.
    """
    readouts, fov_mm = scan.readouts, scan.fov_mm
    if fov_mm is None:
        return np.ones(len(readouts), np.complex64)
    planned = _offsets(scan)
    turns = np.zeros(len(readouts))
    for axis, place, other in ((1, readouts.column, planned[:, 1]),
                               (2, readouts.partition, -planned[:, 2])):  # fmt: skip
        if axis < len(fov_mm):
            given = scan.parameters.numbers(f"PVM_EffPhase{axis}Offset")
            offsets = given if len(given) == scan.n_slices else other
            step = place - scan.matrix.encoded[axis] // 2
            turns += step * offsets[readouts.slice] / fov_mm[axis]
    phases: NDArray[np.complex64] = np.exp(-2j * np.pi * turns).astype(np.complex64)
    return phases


def _offsets(scan: _Scan) -> Floats:
    """Of every slice along readout, phase encoding and slice direction in mm, ``(slice, 3)``."""
    table = np.zeros((scan.n_slices, 3))
    for axis, names in enumerate(OFFSETS):
        for name in names:
            found = scan.parameters.numbers(name)
            if len(found) >= scan.n_slices:
                table[:, axis] = found[: scan.n_slices]
                break
    return table


def _poses(scan: _Scan) -> Floats:
    """Position, and directions of rising y, x and partition of every slice, ``(slice, 4, 3)``.

    Directions are zero where the parameters do not say.
    """
    found, poses = scan.parameters, np.zeros((scan.n_slices, 4, 3))
    turns = _gradient_directions(scan)
    to_lps = TO_LPS
    if found.text("ACQ_sw_version").removeprefix("<").startswith(("PV-360", "PV 360")):
        subject = SUBJECT_OF_MAGNET.get(found.text("ACQ_patient_pos"))
        to_lps = TO_LPS @ subject if subject is not None else np.zeros((3, 3))
    if turns is None:
        return poses
    directions = turns @ to_lps.T  # rows are read, phase and slice direction
    poses[:, 0] = np.einsum("so,sod->sd", _offsets(scan), directions)
    # With the inverse FFT, images rise against the gradients within a slice.
    poses[:, 1:] = directions * np.array([-1, -1, 1])[:, None]
    return poses


def _gradient_directions(scan: _Scan) -> Floats | None:
    """Read, phase and slice direction of every slice, rows of ``(slice, 3, 3)``."""
    found, n = scan.parameters, scan.n_slices
    turns = found.numbers("ACQ_grad_matrix")
    if len(turns) and len(turns) % 9 == 0 and len(turns) // 9 >= n:
        turns = turns.reshape(-1, 3, 3)
        order = _order(found, len(turns), 1)
        return turns[np.argsort(order)][:: len(turns) // n][:n]
    turns = found.numbers("PVM_SPackArrGradOrient")
    counts = found.integers("PVM_SPackArrNSlices") or [n]
    if len(turns) != 9 * len(counts) or sum(counts) != n:
        return None
    return np.repeat(turns.reshape(-1, 3, 3), counts, axis=0)


def _of_axes(found: Parameters, name: str, n_dims: int) -> Floats:
    """A factor of every axis (readout, lines, partitions); 1 where it is not given."""
    factors, given = np.ones(3), found.numbers(name)[:n_dims]
    factors[: len(given)] = np.where(given > 0, given, 1.0)
    return factors


def _shares(found: Parameters, n_dims: int) -> list[float]:
    """By how much fewer steps were measured along every axis: partial Fourier, acceleration."""
    parts = [_of_axes(found, name, n_dims) for name in ("PVM_EncPft", "PVM_EncPpi")]
    return [float(share) for share in parts[0] * parts[1]]


def _check_supported(path: Path, found: Parameters) -> None:
    n_dims, kinds = found.integer("ACQ_dim"), found.words("ACQ_dim_desc")
    names = f"{found.text('Method')} {found.text('PULPROG')}".upper()
    reason = next((what for part, what in NOT_SUPPORTED.items() if part in names), None)
    if "Spectroscopic" in kinds or found.text("PVM_EncSpectroscopy") == "Yes" or n_dims < 2:
        reason = "spectroscopy"
    if found.integer("NPro", 0) > 0:
        reason = "radial"
    if found.text("SelfGating") == "Yes":
        reason = "self-gated acquisition"
    if found.text("AQ_mod") == "qf":
        reason = "samples without imaginary part"
    if reason:
        method = found.text("Method") or found.text("PULPROG")
        raise ScanFormatError(
            f"{path}: not supported: {reason} (method {method}); only Cartesian images can be "
            "reconstructed"
        )
