"""What an ISMRMRD file holds, from its header and the heads of its records: no samples are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ..hdf5 import check_dataset, find_dataset, open_h5, read_text
from ..header import Header, parse_header
from ..scan_file import Contents
from .readouts import VOLUME_COUNTERS, Ints, Readouts, turned_centers

NOISE, CALIBRATION, CALIBRATION_AND_IMAGE, REVERSE, PHASE_CORRECTION = 19, 20, 21, 22, 24
"""Flags of a readout, numbered as in the standard."""

OTHERS = (23, 24, 26, 27, 28, 29, 30, 31)
"""Flags of readouts that belong to no image: navigator, phase correction, HP feedback, dummy scan,
RT feedback, surface coil correction, phase stabilisation and its reference."""

HEAD = (
    "flags", "active_channels", "number_of_samples", "center_sample", "discard_pre",
    "discard_post", "encoding_space_ref", "sample_time_us", "position", "read_dir", "phase_dir",
    "slice_dir", "idx",
)  # fmt: skip
COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "slice", *VOLUME_COUNTERS.values())
"""What is read of every record's head, and of the counters in it."""

BLOCK = 64
"""Records that are read together where only whole ones can be read."""

CENTRAL = 8
"""A volume without this many lines around k = 0 has no calibration lines of its own."""

FEWEST_MISSING = 8
"""More lines than so many are missed at an end of k-space."""

SAME_FIELD = 0.01
"""Fields of view that differ by a smaller share count as the same."""


@dataclass(frozen=True)
class MrdIndex:
    """The readouts of a group.

    Attributes:
        path: the file.
        group: name of the group.
        header: of the encoding space of the image.
        head: of every readout.
        readouts: those of images, of all volumes.
        calibration: calibration lines that belong to no image, or None.
        noise_rows: noise measurements.
    """

    path: Path
    group: str
    header: Header
    head: NDArray[np.void]
    readouts: Readouts
    calibration: Readouts | None
    noise_rows: Ints

    @classmethod
    def read(cls, path: Path, group: str) -> MrdIndex:
        """Read a group.

        Raises:
            ScanFormatError: it is damaged, or not Cartesian.
        """
        xml, head = _read_group(path, group)
        flags = head["flags"].astype(np.int64)
        noise = _has(flags, NOISE)
        used = ~noise & ~_has(flags, *OTHERS) & (head["number_of_samples"] > 0)
        only_calibration = used & _has(flags, CALIBRATION) & ~_has(flags, CALIBRATION_AND_IMAGE)
        image = used & ~only_calibration
        space = _space_of(path, head, image if image.any() else used)
        header = _parse(path, xml, space)
        _check_supported(path, header, flags)
        separate = _separate(header, head, image, only_calibration)
        rows, calibration_rows = np.flatnonzero(used & ~separate), np.flatnonzero(separate)
        readouts = _table(head, rows, header)
        calibration = None
        if len(calibration_rows):
            calibration = _calibration(path, xml, header, head, calibration_rows)
        return cls(path, group, header, head, readouts, calibration, np.flatnonzero(noise))

    def is_interleaved(self, volume: Readouts) -> bool:
        """Whether repetitions sample different lines, and only all of them the whole centre."""
        if self.header.calibration_mode != "interleaved" or self.calibration is not None:
            return False
        middle = self.header.encoded_shape[1] // 2
        central = set(range(middle - CENTRAL // 2, middle + CENTRAL // 2))
        return not central <= set(volume.column.tolist())

    def check_completeness(self, volume: Readouts, n_coils: int) -> None:
        """Warn where a volume lacks what the header announces.

        Warns:
            NumericalWarning: W-MISSING-SLICES, W-MISSING-LINES or W-HEADER-COUNTS.
        """
        name, header = self.path.name, self.header
        if header.n_coils not in (None, n_coils):
            text = f"the header announces {header.n_coils} coils, readouts have {n_coils}"
            warn("W-HEADER-COUNTS", f"{name}: {text}")
        slices = np.unique(volume.slice)
        announced, first = header.n_slices or 1, int(slices[0])
        if first + announced > int(slices[-1]) + 1 and first < announced:
            first = 0  # the first slices are missing
        if missing := sorted(set(range(first, first + announced)) - set(slices.tolist())):
            if not volume.is_3d:
                text = f"of {announced} slices that the header announces, {missing} are missing"
                warn("W-MISSING-SLICES", f"{name}: {text}")
        elif len(slices) > announced > 1:
            text = f"the header announces {announced} slices, readouts belong to {len(slices)}"
            warn("W-HEADER-COUNTS", f"{name}: {text}")
        columns = np.unique(volume.column)
        if lines := _missing_lines(columns, header.acceleration):
            steps = [line - header.first_column for line in lines]
            warn("W-MISSING-LINES", f"{name}: phase-encoding steps {steps} are missing")
        if header.limits_given and (ends := _missing_end(columns, header.padding)):
            first, last = (line - header.first_column for line in ends)
            warn(
                "W-MISSING-LINES",
                f"{name}: phase-encoding steps {first} to {last} of the header's limits are "
                "missing, as of a scan that was stopped, or of partial Fourier",
            )


def find_groups(path: Path, dataset: str | None = None) -> tuple[str, str | None]:
    """The group that holds the image, and one that holds only noise measurements for it, or None.

    Args:
        path: the file.
        dataset: name of the group with the image; None to find it.

    Raises:
        ScanFormatError: there is no such group, or there are several to choose from.
    """
    groups = Contents(path).groups_with("xml", "data")
    if dataset is not None:
        if dataset not in groups:
            raise ScanFormatError(
                f"{path}: no group {dataset!r} with readouts; found {', '.join(groups) or 'none'}"
            )
        return dataset, _noise_group(path, groups, dataset)
    if not groups:
        raise ScanFormatError(f"{path}: {_why_no_readouts(path)}")
    images = [group for group in groups if len(groups) == 1 or not _is_noise(path, group)]
    if len(images) != 1:
        raise ScanFormatError(
            f"{path}: holds {len(images)} measurements, {', '.join(images)}; one of them must be "
            "chosen by dataset (--dataset NAME)"
        )
    return images[0], _noise_group(path, groups, images[0])


def _noise_group(path: Path, groups: list[str], image: str) -> str | None:
    """A group of nothing but noise; None where there is none, or the image's group has noise."""
    others = [group for group in groups if group != image and _is_noise(path, group)]
    has_own = bool(others) and bool(_has(_flags(path, image), NOISE).any())
    return None if has_own or not others else others[0]


def _is_noise(path: Path, group: str) -> bool:
    return bool(_has(_flags(path, group), NOISE).all())


def _flags(path: Path, group: str) -> Ints:
    _, head = _read_group(path, group)
    flags: Ints = head["flags"].astype(np.int64)
    return flags


def _why_no_readouts(path: Path) -> str:
    with open_h5(path) as file:
        names = [f"{group}/{name}" for group in file for name in file[group] if "image" in name]
    if names:
        return f"holds images ({', '.join(names[:3])}), no k-space; give the scan they come from"
    return "holds an ISMRMRD header, but no readouts (dataset 'data'); export the scan again"


def _read_group(path: Path, group: str) -> tuple[bytes, NDArray[np.void]]:
    with open_h5(path, for_text=True) as file:
        xml = read_text(find_dataset(file, f"{group}/xml"))
        return xml, _read_heads(path, find_dataset(file, f"{group}/data"))


def _parse(path: Path, xml: bytes, space: int) -> Header:
    try:
        return parse_header(xml, space)
    except ScanFormatError as error:
        raise ScanFormatError(f"{path}: {error}") from error


def _read_heads(path: Path, data: h5py.Dataset) -> NDArray[np.void]:
    names = data.dtype.names or ()
    if not {"head", "data"} <= set(names) or data.ndim != 1 or data.shape[0] == 0:
        raise ScanFormatError(f"{path}: {data.name} holds no readouts")
    check_dataset(data, data.shape, data.dtype.itemsize, f"{path}: {data.name}")
    stored = data.dtype["head"].names or ()
    if not set(HEAD) <= set(stored) or not set(COUNTERS) <= set(data.dtype["head"]["idx"].names):
        raise ScanFormatError(
            f"{path}: readouts in {data.name} lack facts of ISMRMRD; found {', '.join(stored)}"
        )
    heads = _stored_heads(data)
    if heads is None:
        blocks = range(0, data.shape[0], BLOCK)
        heads = np.concatenate([data[start : start + BLOCK]["head"] for start in blocks])
    return heads


def _stored_heads(data: h5py.Dataset) -> NDArray[np.void] | None:
    """Heads of records from the bytes of the file; None if these are compressed, or not in chunks.

    HDF5 cannot read a part of a record without its samples, and does not return their memory.
    """
    if data.chunks is None or data.id.get_create_plist().get_nfilters():
        return None
    head, start = data.dtype.fields["head"][:2]
    n_bytes, length = data.id.get_type().get_size(), data.chunks[0]
    # Of samples, the record holds their number, and where they are.
    record = np.dtype({"names": ["head", "n_numbers"], "formats": [head, "<u4"],
                       "offsets": [start, data.dtype.fields["data"][1]],
                       "itemsize": n_bytes})  # fmt: skip
    if data.id.get_num_chunks() < -(-data.shape[0] // length):  # reading others is no error in HDF5
        raise ScanFormatError(
            f"{data.file.filename}: {data.name} holds fewer readouts than it says; the file is "
            "damaged, copy or export it again"
        )
    heads = np.empty(data.shape[0], head)
    n_numbers = np.empty(len(heads), np.int64)
    for first in range(0, len(heads), length):
        _, stored = data.id.read_direct_chunk((first,))
        part = np.frombuffer(stored, record)[: len(heads) - first]
        heads[first : first + length] = part["head"]
        n_numbers[first : first + length] = part["n_numbers"]
    announced = 2 * heads["active_channels"].astype(np.int64) * heads["number_of_samples"]
    if (n_numbers != announced).any():  # HDF5 would take memory for as many numbers as it says
        row = int(np.flatnonzero(n_numbers != announced)[0])
        raise ScanFormatError(
            f"{data.file.filename}: readout {row} holds {n_numbers[row]} numbers, its header says "
            f"{announced[row]} (real and imaginary); the file is damaged"
        )
    return heads


def _check_supported(path: Path, header: Header, flags: Ints) -> None:
    """Refuse what is not Cartesian, EPI (without its corrections it has ghosts), and multiband."""
    is_echo_train = _has(flags, REVERSE).any() and _has(flags, PHASE_CORRECTION).any()
    if header.trajectory == "epi" or is_echo_train:
        raise ScanFormatError(
            f"{path}: not supported: EPI without its corrections (phase correction, ramp "
            "sampling); correct the k-space with other software, and give that"
        )
    if header.multiband > 1:
        raise ScanFormatError(
            f"{path}: not supported: {header.multiband} slices excited at once (multiband); "
            "separate them with other software, and give that k-space"
        )
    if header.trajectory not in ("cartesian", ""):
        raise ScanFormatError(
            f"{path}: not supported: {header.trajectory}; only Cartesian readouts can be "
            "reconstructed"
        )


def _space_of(path: Path, head: NDArray[np.void], image: NDArray[np.bool_]) -> int:
    """The encoding space of the image."""
    spaces, counts = np.unique(head["encoding_space_ref"][image], return_counts=True)
    if len(spaces) > 1:
        found = ", ".join(f"{n} in space {k}" for k, n in zip(spaces, counts, strict=True))
        raise ScanFormatError(
            f"{path}: not supported: images of {len(spaces)} encoding spaces in one file "
            f"({found} readouts); write them into files of their own"
        )
    return int(spaces[0]) if len(spaces) else 0


def _separate(
    header: Header,
    head: NDArray[np.void],
    image: NDArray[np.bool_],
    candidates: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which calibration-only lines do not belong to the image.

    All, by the header's calibration mode, or if one of them lies where the image was measured too;
    otherwise those of another encoding space, contrast or length.
    """
    if header.calibration_mode in ("separate", "external"):
        return candidates
    if not image.any() or not candidates.any():
        return np.zeros_like(candidates)
    if _places(head[image]) & _places(head[candidates]):
        return candidates
    foreign = np.zeros_like(candidates)
    for values in (
        head["encoding_space_ref"], head["number_of_samples"], head["idx"]["contrast"],
    ):  # fmt: skip
        foreign |= ~np.isin(values, np.unique(values[image]))
    return candidates & foreign


def _places(head: NDArray[np.void]) -> set[tuple[int, ...]]:
    columns = [head["encoding_space_ref"], *(head["idx"][name] for name in COUNTERS)]
    return set(map(tuple, np.stack(columns, axis=1).tolist()))


def _table(head: NDArray[np.void], rows: Ints, header: Header) -> Readouts:
    head = head[rows]
    reverse = _has(head["flags"].astype(np.int64), REVERSE)
    n_samples = head["number_of_samples"].astype(int)
    center = head["center_sample"].astype(int)
    idx, nz = head["idx"], header.partitions.n_encoded
    return Readouts(
        row=rows,
        column=idx["kspace_encode_step_1"].astype(int) + header.first_column,
        slice=idx["slice"].astype(int),
        counters={name: idx[name].astype(int) for name in VOLUME_COUNTERS.values()},
        n_samples=n_samples,
        center=turned_centers(n_samples, center, reverse),
        reverse=reverse,
        position=head["position"].astype(float),
        normal=head["slice_dir"].astype(float) * (header.rise if nz > 1 else 1),
        read_dir=head["read_dir"].astype(float) * header.rise,
        phase_dir=head["phase_dir"].astype(float) * header.rise,
        partition=idx["kspace_encode_step_2"].astype(int) + header.partitions.first,
    )


def _calibration(
    path: Path, xml: bytes, image: Header, head: NDArray[np.void], rows: Ints
) -> Readouts | None:
    """Calibration lines in columns of the image; None, with a warning, if they do not fit it."""
    spaces = np.unique(head["encoding_space_ref"][rows])
    own = _parse(path, xml, int(spaces[0]))
    fields = image.encoded_fov_mm, own.encoded_fov_mm
    if len(spaces) > 1 or (fields[0] and fields[1] and not _same(fields[0], fields[1])):
        warn(
            "W-CALIBRATION-LINES",
            f"{path.name}: separate calibration lines have a field of view of {fields[1]} mm, the "
            f"image of {fields[0]} mm (readout, phase); they are not used",
        )
        return None
    lines = _table(head, rows, own)
    unset = (lines.center <= 0) | (lines.center >= lines.n_samples)
    lines = replace(
        lines,
        column=_recentred(lines.column, own.encoded_shape[1], image.encoded_shape[1]),
        partition=_recentred(lines.partition, own.partitions.n_encoded, image.partitions.n_encoded),
        center=np.where(unset, lines.n_samples // 2, lines.center),
    )
    ny, nx, nz = *image.encoded_shape, image.partitions.n_encoded
    inside = (lines.column >= 0) & (lines.column < nx)
    inside &= (lines.partition >= 0) & (lines.partition < max(nz, 1))
    fitting = lines[inside & (lines.n_samples <= ny)]
    if not len(fitting):
        warn(
            "W-CALIBRATION-LINES",
            f"{path.name}: no calibration line fits the matrix of the image, {ny} x {nx} (readouts "
            f"of {sorted(set(lines.n_samples.tolist()))} samples, lines "
            f"{lines.column.min(initial=nx)} to {lines.column.max(initial=0)}); they are not used",
        )
        return None
    return fitting


def _recentred(steps: Ints, n: int, n_image: int) -> Ints:
    """Steps of a calibration scan, k = 0 at ``n // 2``, on the axis of the image.

    Some scanners count the lines of a calibration scan from 0, whatever its limits say: where their
    middle is far from k = 0, that middle is k = 0.
    """
    low, high = int(steps.min()), int(steps.max())
    middle = (low + high + 1) // 2
    center = n // 2 if abs(middle - n // 2) <= (high - low + 1) / 4 else middle
    return steps - center + n_image // 2


def _same(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(abs(x - y) <= SAME_FIELD * x for x, y in zip(a, b, strict=True))


def _missing_lines(columns: Ints, step: int) -> list[int]:
    """Lines missing from a regular pattern; none if more than a tenth are: it is irregular."""
    residue = int(np.bincount(columns % step).argmax())
    wanted = [c for c in range(int(columns[0]), int(columns[-1]) + 1) if c % step == residue]
    missing = sorted(set(wanted) - set(columns.tolist()))
    return missing if 10 * len(missing) <= len(wanted) else []


def _missing_end(columns: Ints, limits: tuple[int, int]) -> tuple[int, int] | None:
    """First and last of the lines that are missing at one end, and not at the other; or None.

    So many may be left over by undersampling: twice the largest gap between lines.
    """
    few = max(FEWEST_MISSING, 2 * int(np.diff(columns, prepend=columns[0]).max()))
    before, behind = int(columns[0]) - limits[0], limits[1] - 1 - int(columns[-1])
    if (before > few) == (behind > few):
        return None
    if before > few:
        return limits[0], int(columns[0]) - 1
    return int(columns[-1]) + 1, limits[1] - 1


def _has(flags: NDArray[np.int64], *wanted: int) -> NDArray[np.bool_]:
    """Whether one of these flags, counted from 1, is set."""
    found: NDArray[np.bool_] = (flags & sum(1 << (flag - 1) for flag in wanted)) != 0
    return found
