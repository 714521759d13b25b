"""The ISMRMRD header that fastMRI-layout files carry as XML text.

The header calls the readout x and the phase encode y; here, as everywhere else, y are the readout
rows and x the phase-encode columns, so every pair is swapped once, in this file only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ..errors import ScanFormatError

PARALLEL = "parallelImaging/accelerationFactor"


MOST_STEPS = 65535
"""Counters of readouts have 16 bits."""


@dataclass(frozen=True)
class PartitionAxis:
    """The second phase encode of a 3-D scan; of a 2-D scan it has one entry.

    Attributes:
        n_encoded: size of the matrix that was encoded.
        n_recon: size of the scanner's final matrix.
        encoded_mm: thickness of the slab that was encoded.
        first: entry that holds step 0.
        padding: ``(low, high)``: only entries ``low <= z < high`` are ever acquired.
    """

    n_encoded: int = 1
    n_recon: int = 1
    encoded_mm: float | None = None
    first: int = 0
    padding: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Header:
    """What we use of an ISMRMRD header; sizes are ``(y, x)`` = (readout, phase encode).

    Attributes:
        encoded_shape: matrix that was encoded.
        recon_shape: the scanner's final matrix.
        encoded_fov_mm: field of view that was encoded (readout oversampling included).
        recon_fov_mm: field of view of the final image.
        slice_mm: slice thickness.
        padding: ``(left, right)``: only columns ``left <= x < right`` are ever acquired.
        limits_given: whether the header has limits, so that these columns were to be measured.
        xml: the text it was read from.
        first_column: column of the encoded matrix that holds phase-encoding step 0.
        trajectory: "cartesian", "spiral", ..., in small letters; empty if it is not given.
        calibration_mode: "embedded", "interleaved", "separate", ...; empty if it is not given.
        noise_bandwidth: share of the noise power that the receiver's filters leave in a noise
            measurement (``relativeReceiverNoiseBandwidth``).
        partitions: along the second phase encode of a 3-D scan.
        n_slices: slices that were to be measured, by the limits; None where they are not given.
        n_coils: receive channels; None where they are not given.
        acceleration: of regular undersampling along the phase encode, calibration not counted.
        vendor: of the scanner, in small letters; empty if it is not given.
        protocol: name of the protocol, in small letters; empty if it is not given.
        multiband: number of slices that were excited at once.
    """

    encoded_shape: tuple[int, int]
    recon_shape: tuple[int, int]
    encoded_fov_mm: tuple[float, float] | None
    recon_fov_mm: tuple[float, float] | None
    slice_mm: float | None
    padding: tuple[int, int]
    xml: str
    limits_given: bool = False
    first_column: int = 0
    trajectory: str = ""
    calibration_mode: str = ""
    noise_bandwidth: float = 1.0
    partitions: PartitionAxis = field(default_factory=lambda: PartitionAxis())
    n_slices: int | None = None
    n_coils: int | None = None
    acceleration: int = 1
    vendor: str = ""
    protocol: str = ""
    multiband: int = 1

    @property
    def rise(self) -> int:
        """1 if images of the inverse FFT rise along the directions of the readouts, or -1.

        Siemens means the other sign of the Fourier transform, and ``siemens_to_ismrmrd`` passes its
        directions on (mrpro #828, #833; docs/decisions/scanner-formats.md).
        """
        return -1 if "siemens" in self.vendor else 1

    @property
    def readout_oversampling(self) -> float:
        """Encoded over final field of view along y; over the matrix where no field is given.

        1.0 for ratios that are not meant as oversampling.
        """
        ratio = self.encoded_shape[0] / self.recon_shape[0]
        if self.encoded_fov_mm and self.recon_fov_mm:
            ratio = self.encoded_fov_mm[0] / self.recon_fov_mm[0]
        return ratio if 1.05 < ratio <= 4 else 1.0

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Voxel size ``(y, x, slice)`` on the encoded grid, which reconstruction keeps."""
        fov_mm, shape = self.encoded_fov_mm, self.encoded_shape
        if fov_mm is None:
            fov_mm, shape = self.recon_fov_mm, self.recon_shape
        if fov_mm is None or self.slice_mm is None:
            return None
        return fov_mm[0] / shape[0], fov_mm[1] / shape[1], self.slice_mm

    @property
    def final_matrix(self) -> tuple[int, int]:
        """The scanner's final matrix, in pixels of the encoded grid.

        A scanner that made fewer, larger pixels of the same field of view cut nothing off.
        """
        if not (self.encoded_fov_mm and self.recon_fov_mm):
            return self.recon_shape
        y, x = (
            fov_mm * n / encoded_mm
            for fov_mm, n, encoded_mm in zip(
                self.recon_fov_mm, self.encoded_shape, self.encoded_fov_mm, strict=True
            )
        )
        rows, columns = self.recon_shape
        return (
            rows if rows > 0.9 * y else round(y),
            columns if columns > 0.9 * x else round(x),
        )


def parse_header(xml: bytes | str, space: int = 0) -> Header:
    """Read a header, whatever prefix its namespace has.

    A missing final matrix is taken to be the encoded one. Raises ScanFormatError if the text is not
    an ISMRMRD header, names no encoded matrix, or holds a number that cannot be right.

    Args:
        xml: the text.
        space: which of the encodings, as ``encoding_space_ref`` counts them.
    """
    root = _parse_xml(xml)
    encoding = _encoding(root, space)
    encoded, recon = _child(encoding, "encodedSpace"), _child(encoding, "reconSpace")
    encoded_shape = _matrix(encoded)
    if encoded_shape is None:
        raise ScanFormatError("the ISMRMRD header names no encodedSpace/matrixSize")
    first_column, padding = _limits(encoding, "kspace_encoding_step_1", encoded_shape[1])
    limits = _child(encoding, "encodingLimits/kspace_encoding_step_1")
    last_slice = _number(encoding, "encodingLimits/slice/maximum")
    n_coils = _number(root, "acquisitionSystemInformation/receiverChannels")
    return Header(
        encoded_shape=encoded_shape,
        recon_shape=_matrix(recon) or encoded_shape,
        encoded_fov_mm=_fov_mm(encoded),
        recon_fov_mm=_fov_mm(recon),
        slice_mm=_slice_mm(recon) or _slice_mm(encoded),
        padding=padding,
        xml=xml.decode("utf-8", errors="replace") if isinstance(xml, bytes) else xml,
        limits_given=None not in (_number(limits, "center"), _number(limits, "maximum")),
        first_column=first_column,
        trajectory=_text(encoding, "trajectory"),
        calibration_mode=_text(encoding, "parallelImaging/calibrationMode"),
        noise_bandwidth=_noise_bandwidth(root),
        partitions=_partitions(encoding),
        n_slices=None if last_slice is None else int(last_slice) + 1,
        n_coils=None if n_coils is None else int(n_coils),
        acceleration=max(1, int(_number(encoding, f"{PARALLEL}/kspace_encoding_step_1") or 1)),
        vendor=_text(root, "acquisitionSystemInformation/systemVendor"),
        protocol=_text(root, "measurementInformation/protocolName"),
        multiband=int(_number(encoding, "parallelImaging/multiband/multiband_factor") or 1),
    )


def build_header(
    encoded_shape: tuple[int, int],
    recon_shape: tuple[int, int],
    encoded_fov_mm: tuple[float, float],
    recon_fov_mm: tuple[float, float],
    slice_mm: float,
    n_slices: int,
    n_coils: int,
    padding: tuple[int, int] | None = None,
) -> str:
    """Write the header of a Cartesian 2-D scan, as fastMRI's own loader reads it.

    The arguments are those of :class:`Header`; without ``padding`` all columns are acquired.
    """
    left, right = padding or (0, encoded_shape[1])
    root = Element("ismrmrdHeader", xmlns="http://www.ismrm.org/ISMRMRD")
    _put(SubElement(root, "acquisitionSystemInformation"), receiverChannels=n_coils)
    # The schema requires the frequency; 0 stands for unknown.
    _put(SubElement(root, "experimentalConditions"), H1resonanceFrequency_Hz=0)
    encoding = SubElement(root, "encoding")
    for name, shape, fov_mm in (
        ("encodedSpace", encoded_shape, encoded_fov_mm),
        ("reconSpace", recon_shape, recon_fov_mm),
    ):
        space = SubElement(encoding, name)
        _put(SubElement(space, "matrixSize"), x=shape[0], y=shape[1], z=1)
        _put(SubElement(space, "fieldOfView_mm"), x=fov_mm[0], y=fov_mm[1], z=slice_mm)
    limits = SubElement(encoding, "encodingLimits")
    for name, maximum, center in (
        ("kspace_encoding_step_1", right - left - 1, encoded_shape[1] // 2 - left),
        ("slice", n_slices - 1, 0),
    ):
        _put(SubElement(limits, name), minimum=0, maximum=maximum, center=center)
    _put(encoding, trajectory="cartesian")
    return '<?xml version="1.0" encoding="utf-8"?>' + ElementTree.tostring(root, encoding="unicode")


def _parse_xml(xml: bytes | str) -> Element:
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        is_empty = not (xml.strip(b" \r\n\t\0") if isinstance(xml, bytes) else xml.strip())
        state = "is empty, wanted XML" if is_empty else f"is not XML, or was cut off ({error})"
        raise ScanFormatError(
            f"the ISMRMRD header {state}; export the file again, with its header"
        ) from error
    name = root.tag.rpartition("}")[2]
    if name != "ismrmrdHeader":
        raise ScanFormatError(f"the header's root element is {name!r}, wanted 'ismrmrdHeader'")
    return root


def _encoding(root: Element, space: int) -> Element | None:
    found = root.findall("{*}encoding")
    if space and space >= len(found):
        raise ScanFormatError(
            f"readouts belong to encoding space {space}, the ISMRMRD header describes {len(found)}"
        )
    return found[space] if found else None


def _child(parent: Element | None, path: str) -> Element | None:
    """The first descendant along ``path``, e.g. ``matrixSize/x``, namespaces ignored."""
    for name in path.split("/"):
        parent = None if parent is None else parent.find(f"{{*}}{name}")
    return parent


def _text(parent: Element | None, path: str) -> str:
    """The text in the element at ``path``, in small letters; empty where it is missing."""
    element = _child(parent, path)
    return "" if element is None else (element.text or "").strip().lower()


def _number(parent: Element | None, path: str) -> float | None:
    """The number in the element at ``path``; None where the element is missing or empty."""
    text = _text(parent, path)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ScanFormatError(f"the ISMRMRD header gives {text[:40]!r} for {path}, wanted a number")
    return value


def _matrix(space: Element | None) -> tuple[int, int] | None:
    rows, columns = _number(space, "matrixSize/x"), _number(space, "matrixSize/y")
    if rows is None or columns is None:
        return None
    if not (1 <= rows <= MOST_STEPS and 1 <= columns <= MOST_STEPS):
        raise ScanFormatError(
            f"the ISMRMRD header gives a matrix of {rows:.0f} x {columns:.0f}, wanted 1 to "
            f"{MOST_STEPS}"
        )
    return int(rows), int(columns)


def _fov_mm(space: Element | None) -> tuple[float, float] | None:
    """Field of view ``(y, x)``; None where it is missing or left at zero."""
    rows, columns = _number(space, "fieldOfView_mm/x"), _number(space, "fieldOfView_mm/y")
    if rows is None or columns is None or min(rows, columns) <= 0:
        return None
    return rows, columns


def _slice_mm(space: Element | None) -> float | None:
    depth, n_partitions = _number(space, "fieldOfView_mm/z"), _number(space, "matrixSize/z")
    if depth is None or depth <= 0:
        return None
    return depth / max(n_partitions or 1, 1)


def _noise_bandwidth(root: Element) -> float:
    value = _number(root, "acquisitionSystemInformation/relativeReceiverNoiseBandwidth")
    return value if value and value > 0 else 1.0


def _limits(encoding: Element | None, name: str, n: int) -> tuple[int, tuple[int, int]]:
    """Entry of an axis of ``n`` that holds step 0, and which entries are ever acquired."""
    limits = _child(encoding, f"encodingLimits/{name}")
    center, maximum = _number(limits, "center"), _number(limits, "maximum")
    if center == 0 and maximum is not None and 1 < n == maximum + 1:
        center = None  # left at zero: all steps were measured, so k = 0 is in the middle
    if center is None:
        return 0, (0, n)
    first = n // 2 - int(center)
    if maximum is None:
        return first, (0, n)
    if maximum >= 2 * n or maximum < 0:
        raise ScanFormatError(
            f"the ISMRMRD header's encoding limits of {name} end at {maximum:g}, but the encoded "
            f"matrix has {n}; it belongs to other data"
        )
    low, high = max(first, 0), min(first + int(maximum) + 1, n)
    if low >= high:
        what = "columns" if name.endswith("1") else "partitions"
        raise ScanFormatError(
            f"the ISMRMRD header's encoding limits (center {center:g}, maximum {maximum:g}) "
            f"leave none of {n} {what}"
        )
    return first, (low, high)


def _partitions(encoding: Element | None) -> PartitionAxis:
    encoded, recon = (
        int(_number(encoding, f"{name}/matrixSize/z") or 1)
        for name in ("encodedSpace", "reconSpace")
    )
    if min(encoded, recon) < 1 or max(encoded, recon) > MOST_STEPS:
        raise ScanFormatError(
            f"the ISMRMRD header gives {encoded} partitions, wanted 1 to {MOST_STEPS}"
        )
    if encoded == 1:
        return PartitionAxis()
    depth = _number(encoding, "encodedSpace/fieldOfView_mm/z")
    first, padding = _limits(encoding, "kspace_encoding_step_2", encoded)
    return PartitionAxis(encoded, recon, depth if depth and depth > 0 else None, first, padding)


def _put(parent: Element, **values: object) -> None:
    for name, value in values.items():
        SubElement(parent, name).text = str(value)
