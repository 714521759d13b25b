"""The ISMRMRD header that fastMRI-layout files carry as XML text.

The header calls the readout x and the phase encode y; here, as everywhere else, y are the readout
rows and x the phase-encode columns, so every pair is swapped once, in this file only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ..errors import ScanFormatError


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
        xml: the text it was read from.
        first_column: column of the encoded matrix that holds phase-encoding step 0.
        trajectory: "cartesian", "spiral", ..., in small letters; empty if it is not given.
        calibration_mode: "embedded", "interleaved", "separate", ...; empty if it is not given.
        n_partitions: size of the encoded matrix along the slice direction; 1 of 2-D scans.
        noise_bandwidth: share of the noise power that the receiver's filters leave in a noise
            measurement (``relativeReceiverNoiseBandwidth``).
        protocol: name of the protocol, in small letters; empty if it is not given.
    """

    encoded_shape: tuple[int, int]
    recon_shape: tuple[int, int]
    encoded_fov_mm: tuple[float, float] | None
    recon_fov_mm: tuple[float, float] | None
    slice_mm: float | None
    padding: tuple[int, int]
    xml: str
    first_column: int = 0
    trajectory: str = ""
    calibration_mode: str = ""
    noise_bandwidth: float = 1.0
    protocol: str = ""
    n_partitions: int = 1

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

    def final_matrix(self, available: tuple[int, int]) -> tuple[int, int]:
        """The scanner's final matrix, as far as it can be cut from an image; none is padded."""
        return min(self.recon_shape[0], available[0]), min(self.recon_shape[1], available[1])


def parse_header(xml: bytes | str) -> Header:
    """Read a header, whatever prefix its namespace has.

    A missing final matrix is taken to be the encoded one. Raises ScanFormatError if the text is not
    an ISMRMRD header, names no encoded matrix, or holds a number that cannot be right.
    """
    root = _parse_xml(xml)
    encoding = _child(root, "encoding")
    encoded, recon = _child(encoding, "encodedSpace"), _child(encoding, "reconSpace")
    encoded_shape = _matrix(encoded)
    if encoded_shape is None:
        raise ScanFormatError("the ISMRMRD header names no encodedSpace/matrixSize")
    return Header(
        encoded_shape=encoded_shape,
        recon_shape=_matrix(recon) or encoded_shape,
        encoded_fov_mm=_fov_mm(encoded),
        recon_fov_mm=_fov_mm(recon),
        slice_mm=_slice_mm(recon) or _slice_mm(encoded),
        padding=_padding(encoding, encoded_shape[1]),
        xml=xml.decode("utf-8", errors="replace") if isinstance(xml, bytes) else xml,
        first_column=_first_column(encoding, encoded_shape[1]),
        trajectory=_text(encoding, "trajectory"),
        calibration_mode=_text(encoding, "parallelImaging/calibrationMode"),
        noise_bandwidth=_noise_bandwidth(root),
        protocol=_text(root, "measurementInformation/protocolName"),
        n_partitions=int(_number(encoded, "matrixSize/z") or 1),
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
        raise ScanFormatError(f"the ISMRMRD header is not XML ({error})") from error
    name = root.tag.rpartition("}")[2]
    if name != "ismrmrdHeader":
        raise ScanFormatError(f"the header's root element is {name!r}, wanted 'ismrmrdHeader'")
    return root


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
    if rows < 1 or columns < 1:
        raise ScanFormatError(
            f"the ISMRMRD header gives a matrix of {rows:g} x {columns:g}, wanted at least 1 x 1"
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


def _first_column(encoding: Element | None, n_columns: int) -> int:
    center = _number(encoding, "encodingLimits/kspace_encoding_step_1/center")
    return 0 if center is None else n_columns // 2 - int(center)


def _padding(encoding: Element | None, n_columns: int) -> tuple[int, int]:
    limits = _child(encoding, "encodingLimits/kspace_encoding_step_1")
    center, maximum = _number(limits, "center"), _number(limits, "maximum")
    if center is None or maximum is None:
        return 0, n_columns
    first = _first_column(encoding, n_columns)
    left, right = max(first, 0), min(first + int(maximum) + 1, n_columns)
    if left >= right:
        raise ScanFormatError(
            f"the ISMRMRD header's encoding limits (center {center:g}, maximum {maximum:g}) "
            f"leave none of {n_columns} columns"
        )
    return left, right


def _put(parent: Element, **values: object) -> None:
    for name, value in values.items():
        SubElement(parent, name).text = str(value)
