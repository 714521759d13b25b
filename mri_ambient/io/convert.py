"""Raw scans in other formats: what a scan file holds, written again without loss of k-space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, OutputExistsError, unknown_name, warn
from ..runtime.files import atomic_path, require_space
from .formats.fastmri import write_fastmri
from .outputs.mrd_output import write_mrd
from .scan_file import ScanFile


@dataclass(frozen=True)
class ScanFormat:
    """A format that scans can be converted to.

    Attributes:
        suffix: of its files.
        write: writes an opened scan to a path, slice by slice, completely or not at all.
    """

    suffix: str
    write: Callable[[ScanFile, Path], None]


def write_cfl(file: ScanFile, path: Path) -> None:
    """Write BART's format: ``<stem>.cfl`` with k-space, complex64, and ``<stem>.hdr``, its sizes.

    Dimensions: 0 readout (y), 1 phase encode (x), 3 coil, 13 slice, in column-major order.
    """
    n_slices, n_coils, ny, nx = file.shape
    sizes = [ny, nx, 1, n_coils, *[1] * 9, n_slices, 1, 1]
    with atomic_path(path) as temporary, atomic_path(path.with_suffix(".hdr")) as header:
        require_space(temporary, 8 * int(np.prod(file.shape)))
        with temporary.open("wb") as out:
            for index in range(n_slices):
                ksp = np.ascontiguousarray(file.read_ksp(index).transpose(0, 2, 1))
                out.write(ksp.astype("<c8", copy=False).data)
        header.write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n", encoding="ascii")


SCAN_FORMATS = {
    "fastmri": ScanFormat(".h5", write_fastmri),
    "ismrmrd": ScanFormat(".h5", write_mrd),
    "cfl": ScanFormat(".cfl", write_cfl),
}
"""What :func:`convert_scan` writes, by format."""


def convert_scan(
    file: ScanFile,
    folder: Path,
    to: str,
    *,
    overwrite: bool = False,
    keep_identifiers: bool = False,
) -> Path:
    """Write a raw scan in another format.

    Args:
        file: the scan; samples outside its mask are not written.
        folder: where ``<stem>.<suffix>`` goes; a volume of a file with several has its name in it.
        to: a key of :data:`SCAN_FORMATS`.
        overwrite: replace a file that is there.
        keep_identifiers: whether all attributes and the whole ISMRMRD header are written, with
            names, dates, and numbers of devices.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such format, or the scan is prepared.
        OutputExistsError: the file is there, or is the scan itself.
        MriAmbientError: it cannot be written.

    Warns:
        NumericalWarning: W-CALIBRATION-LINES: the format has no place for these.
    """
    if to not in SCAN_FORMATS:
        raise unknown_name("format", to, SCAN_FORMATS)
    if file.prepared:
        raise ConfigError(f"{file.path}: is prepared; give the scan it was made from")
    path = folder / f"{file.output_stem}{SCAN_FORMATS[to].suffix}"
    is_scan = path.exists() and file.path.exists() and path.samefile(file.path)
    if path.exists() and (is_scan or not overwrite):
        advice = "" if is_scan else "overwrite=True (--overwrite) or "
        raise OutputExistsError(f"{path}: exists already; use {advice}another folder")
    if file.calib_mask is not None and to == "cfl":
        text = f"calibration lines of their own have no place in {to} files and are left out"
        warn("W-CALIBRATION-LINES", f"{file.path.name}: {text}")
    SCAN_FORMATS[to].write(file.keep_identifiers() if keep_identifiers else file, path)
    return path
