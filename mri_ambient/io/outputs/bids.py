"""BIDS derivatives: NIfTI files under the names that BIDS gives them, in a dataset ``bids/``.

A name holds subject and session, as the user gives them, ``acq-`` the name of the scan, ``rec-``
the method, and the contrast: as the user gives it, or from the name of the protocol. Where neither
tells it, files end in ``_MRI``, which BIDS does not know; ``.bidsignore`` says so.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...errors import ConfigError
from ...runtime.files import atomic_path, write_json
from ..grid import Grid
from .nifti import NiftiWriter, sidecar, write_nifti
from .parts import NOT_FOR_DIAGNOSIS
from .reconstruction import ReconstructionFile
from .save_options import SaveOptions, Writer

FOLDER = "bids"
"""The dataset, inside of the output folder."""

UNKNOWN = "MRI"
"""Stands for an unknown contrast."""

CONTRASTS = {
    "FLAIR": r"FLAIR|DARK.?FLUID",
    "T2starw": r"T2.?STAR|T2\*|SWI",
    "T1w": r"T1|MP.?RAGE|BRAVO",
    "T2w": r"T2",
    "PDw": r"PD|PROTON",
}
"""Contrasts of anatomical images in BIDS, and names of protocols that tell them; the first wins."""

PARTS = {"mag": "", "phase": "_part-phase", "std": "_desc-std"}
"""Entities of a part; an image without one is a magnitude in BIDS."""

NAME = re.compile(
    r"(?P<subject>sub-[0-9A-Za-z]+)(?:[/_](?P<session>ses-[0-9A-Za-z]+))?"
    rf"(?:[/_](?P<contrast>{'|'.join(CONTRASTS)}))?/?"
)
"""What the user gives."""


class BidsWriter(Writer):
    """A NIfTI file and a sidecar of every part in a BIDS dataset."""

    def check_options(self, options: SaveOptions) -> None:
        """Refuse a missing or wrong name."""
        BidsName.of_user(options.bids)

    def check(self, stem: str, grid: Grid, options: SaveOptions) -> None:
        """Refuse a missing or wrong name, and slices that no grid of voxels holds."""
        self.check_options(options)
        NiftiWriter().check(stem, grid, options)

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """``bids/sub-01/anat/sub-01_acq-scan_rec-aos_T2w.nii.gz`` and ``.json``, of every part."""
        paths = [self._path(result, part, options) for part in result.parts(options.parts)]
        return [f"{path}{ending}" for path in paths for ending in (".json", ".nii.gz")]

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Write the parts, and what describes the dataset where it is not there yet."""
        _describe_dataset(folder / FOLDER)
        for part in result.parts(options.parts):
            path = str(folder / self._path(result, part, options))
            write_json(f"{path}.json", sidecar(result, part))
            write_nifti(Path(f"{path}.nii.gz"), result, part)

    def _path(self, result: ReconstructionFile, part: str, options: SaveOptions) -> str:
        return f"{FOLDER}/{BidsName.of_user(options.bids).path(result, part)}"


@dataclass(frozen=True)
class BidsName:
    """What the user says about names.

    Attributes:
        subject: e.g. ``sub-01``.
        session: e.g. ``ses-01``, or None.
        contrast: one of :data:`CONTRASTS`, or None.
    """

    subject: str
    session: str | None = None
    contrast: str | None = None

    @classmethod
    def of_user(cls, text: str | None) -> BidsName:
        """From e.g. ``sub-01/ses-01/T2w``.

        Raises:
            ConfigError: it is not of this form, or missing.
        """
        match = NAME.fullmatch(text or "")
        if match is None:
            found = "format bids needs a name" if text is None else f"the BIDS name is {text!r}"
            raise ConfigError(
                f"{found}, wanted sub-LABEL, and perhaps ses-LABEL and one of "
                f"{', '.join(CONTRASTS)}, e.g. bids='sub-01/ses-01/T2w' (--bids "
                "sub-01/ses-01/T2w); labels have letters and digits only"
            )
        return cls(**match.groupdict())

    def path(self, result: ReconstructionFile, part: str) -> str:
        """Path of a file in the dataset, without its suffix."""
        protocol = str(result.attributes.get("protocol", ""))
        method = _label(str(result.attributes.get("method", "")))
        entities = [self.subject, self.session, f"acq-{_label(result.path.stem)}"]
        entities += [f"rec-{method}"] if method else []
        contrast = self.contrast or contrast_of(protocol) or UNKNOWN
        name = f"{'_'.join(filter(None, entities))}{PARTS[part]}_{contrast}"
        return "/".join(filter(None, [self.subject, self.session, "anat", name]))


def contrast_of(protocol: str) -> str | None:
    """The contrast that the name of a protocol tells, or None."""
    for contrast, pattern in CONTRASTS.items():
        if re.search(pattern, protocol, re.IGNORECASE):
            return contrast
    return None


def _label(text: str) -> str:
    """Letters and digits only, as BIDS has it: ``brain_t2-a`` becomes ``brainT2A``.

    Texts with other letters get some digits of their hash, so that they stay different.
    """
    first, *rest = re.split(r"[^0-9A-Za-z]+", text)
    label = "".join([first, *(word[:1].upper() + word[1:] for word in rest)])
    return label if text.isascii() else label + hashlib.sha256(text.encode()).hexdigest()[:6]


def _describe_dataset(root: Path) -> None:
    description: dict[str, Any] = {
        "Name": "Reconstructions by mri-ambient",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mri-ambient", "Version": __version__}],
        # The HDF5 files and reports from which these files are made lie beside the dataset.
        "SourceDatasets": [{"URL": "../"}],
    }
    if not (root / "dataset_description.json").exists():
        write_json(root / "dataset_description.json", description)
    for name, text in (("README", _README), (".bidsignore", f"*_{UNKNOWN}.*\n")):
        if not (root / name).exists():
            with atomic_path(root / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


_README = f"""Images that mri-ambient reconstructed from undersampled k-space: {NOT_FOR_DIAGNOSIS}.

acq- is the name of the scan, rec- the method of reconstruction. Images without a part are
magnitudes, part-phase is their phase in radians, and desc-std the standard deviation of the
magnitude. The JSON file beside an image says where its orientation comes from (OrientationSource)
and at which acceleration it was measured (ParallelReductionFactorInPlane). How each image was made,
and what was found when it was checked, is in the reports (.json) in the folder above this one.
"""
