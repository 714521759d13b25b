"""The ISMRMRD header that fastMRI-layout files carry as XML text."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    encoded_shape: tuple[int, int]
    recon_shape: tuple[int, int]
    encoded_fov_mm: tuple[float, float] | None
    recon_fov_mm: tuple[float, float] | None
    slice_mm: float | None
    padding: tuple[int, int]
    xml: str
