"""Files that are no scans, or are one in a format without a reader: what they are, what to do.

They are known by their first bytes, or by their suffix where these say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..hdf5 import open_h5
from ..names import raw_file
from ..scan_file import Contents
from .stored_arrays import PAIRS, h5_arrays

RAW = "give the raw data (k-space) it was made from"
IMAGE = f"image, not k-space; {RAW}"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        text: what it is and what to do, after "is ".
        starts: bytes it can begin with.
        at: where in the file these bytes are.
        suffixes: ends of names, in small letters; used alone only where there are no ``starts``.
    """

    text: str
    starts: tuple[bytes, ...] = ()
    at: int = 0
    suffixes: tuple[str, ...] = ()

    def fits(self, name: str, first: bytes) -> bool:
        """Whether a file of this name and these first bytes is one."""
        if self.starts:
            return first[self.at :].startswith(self.starts)
        return name.lower().endswith(self.suffixes)


KINDS = (
    Kind(f"a DICOM {IMAGE}", (b"DICM",), 128),
    Kind(f"a DICOM {IMAGE}", suffixes=(".dcm", ".ima")),
    Kind(f"a NIfTI {IMAGE}", (b"n+1\0", b"ni1\0"), 344),
    Kind(f"a NIfTI {IMAGE}", (b"n+2\0", b"ni2\0"), 4),
    Kind(f"a NIfTI {IMAGE}", suffixes=(".nii.gz", ".nii")),
    Kind(f"a picture, not k-space; {RAW}", (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")),
    Kind(f"a picture, not k-space; {RAW}", (b"II*\0", b"MM\0*")),
    Kind(f"a MRtrix, NRRD, MetaImage or FreeSurfer {IMAGE}",
         suffixes=(".mif", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh", ".mnc")),
    Kind("a file of PyTorch or pickle, which can run code and is never read; save the k-space "
         "with numpy.save", suffixes=(".pt", ".pth", ".pkl", ".pickle", ".ckpt")),
    Kind("compressed with gzip; unpack it first (gunzip -k {name})", (b"\x1f\x8b",)),
    Kind("compressed; unpack it first (bunzip2, unxz, unzstd, 7z)",
         (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")),
    Kind("a ZIP archive; unpack it first (unzip {name})", (b"PK\x03\x04", b"PK\x05\x06")),
    Kind("a tar archive; unpack it first (tar -xf {name})", (b"ustar",), 257),
    Kind("a file for Git LFS in place of the data; fetch them (git lfs pull)",
         (b"version https://git-lfs",)),
    Kind("a web page in place of the file; download it again",
         (b"<!DOCTYPE html", b"<!doctype html", b"<html")),
    Kind("Philips raw data, which is not read; convert its .raw, .lab and .sin files to ISMRMRD "
         "with philips_to_ismrmrd",
         suffixes=(".list", ".data", ".lab", ".raw", ".sin", ".cpx")),
    Kind(f"a Philips PAR/REC {IMAGE}", suffixes=(".par", ".rec")),
    Kind("GE raw data (P-file), which is not read; convert it to ISMRMRD with ge_to_ismrmrd",
         suffixes=(".7",)),
    Kind("a prior or other weights; give it as prior (--prior), and a scan as input",
         suffixes=(".safetensors",)),
    Kind("no Siemens raw data (twix), though it ends in .dat; give the file the scanner exported",
         suffixes=(".dat",)),
    Kind("the numbers of a BART file; its .hdr must be beside it", suffixes=(".cfl",)),
    Kind("the header of an Analyze image or of a BART file without its .cfl beside it; give both "
         "files", suffixes=(".hdr", ".img")),
)  # fmt: skip
"""Kinds of files; the first that fits is named."""


def what_it_is(contents: Contents) -> str | None:
    """In one sentence what a file is that no reader takes, and what to do; None if unknown."""
    path, first = contents.path, contents.first_bytes
    if not path.is_file() or not first:
        return None
    if contents.error is None:
        return _hdf5(contents)
    begins = "is not an HDF5 file but " if path.suffix in (".h5", ".hdf5") else "is "
    for kind in KINDS:
        if kind.fits(path.name, first):
            return begins + kind.text.replace("{name}", path.name)
    if raw_file(path.absolute().parent) != path.absolute().parent:
        return f"belongs to a ParaVision scan, of which the folder is wanted; give {path.parent}"
    if _is_text(first):
        return f"{begins}a text file, not k-space; give the scan it belongs to"
    return None


def _hdf5(contents: Contents) -> str | None:
    """What an HDF5 file is that holds no complex array."""
    path = contents.path
    if path.name.startswith("ScanArchive"):
        return "is a GE ScanArchive, which is not read; convert it to ISMRMRD with ge_to_ismrmrd"
    if contents.tag:
        return None
    with open_h5(path) as file:
        _, others = h5_arrays(path, file)
    found = ", ".join(others[:6]) or "no dataset"
    return (
        f"is an HDF5 file without k-space: it holds no complex array; found {found}. Images cannot "
        f"be reconstructed again; k-space under any name is read (dataset, --dataset NAME): {PAIRS}"
    )


def _is_text(first: bytes) -> bool:
    try:
        text = first.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(first) - 4:
            return False
        text = first[: error.start].decode("utf-8")
    return text.isprintable() or all(c.isprintable() or c in "\t\r\n" for c in text)
