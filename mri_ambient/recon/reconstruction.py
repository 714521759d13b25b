"""The result: images in the units of the file, and the report on how they were made."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import OutputExistsError, ScanFormatError
from ..io.hdf5 import open_h5, read_attributes
from ..io.reconstruction import RECONSTRUCTION_FORMAT, ReconstructionWriter
from ..plots import draw_reconstruction
from ..runtime.files import json_text, write_json
from .slice_store import SliceStore, StoredSlice


@dataclass(frozen=True)
class Reconstruction:
    """The images of a volume, in the units of its file, at the scanner's final matrix.

    Attributes:
        complex: the image, complex64 ``(slice, y, x)``; the mean of the samples where there are
            several.
        std: standard deviation of the samples' magnitude, float32 ``(slice, y, x)``, or None.
        samples: complex64 ``(slice, sample, y, x)``, or None unless the recipe keeps them.
        voxel_mm: voxel size ``(y, x, slice)``, or None if the file does not say.
        report: facts, checks, warnings, metrics, provenance and settings, as in the JSON file.
    """

    complex: NDArray[np.complex64]
    std: NDArray[np.float32] | None
    samples: NDArray[np.complex64] | None
    voxel_mm: tuple[float, float, float] | None
    report: dict[str, Any]

    @classmethod
    def from_store(
        cls, store: SliceStore, report: dict[str, Any], voxel_mm: tuple[float, float, float] | None
    ) -> Reconstruction:
        """The finished slices of a volume, together."""
        slices = [store.read(index).images for index in range(report["slices"])]
        parts = {name: np.stack([images[name].numpy() for images in slices]) for name in slices[0]}
        return cls(parts["img"], parts.get("std"), parts.get("samples"), voxel_mm, report)

    @property
    def magnitude(self) -> NDArray[np.float32]:
        """Magnitude of the image, float32 ``(slice, y, x)``."""
        return np.abs(self.complex)

    @property
    def scan_id(self) -> str:
        """Name of the scan."""
        return str(self.report["scan_id"])

    @property
    def metrics(self) -> dict[str, Any] | None:
        """NMSE, PSNR and SSIM as fastMRI computes them; None if the scan is undersampled."""
        return self.report.get("metrics")

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Figures of every slice that need no reference, such as the data residual."""
        return list(self.report["checks"])

    @property
    def warnings(self) -> list[dict[str, str]]:
        """Warnings, each with ``code`` and ``text``."""
        return list(self.report["warnings"])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``<stem>.h5`` and ``<stem>.json``, as ``mri-ambient reconstruct`` does.

        Returns:
            The h5 file.

        Raises:
            OutputExistsError: there is a file of this name, and ``overwrite`` is not set or it is
                no reconstruction.
        """
        path = Path(folder) / f"{Path(self.report['input']).stem}.h5"
        if path.exists():
            stored_settings(path)
            if not overwrite:
                raise OutputExistsError(
                    f"{path}: exists already; overwrite it or use another folder"
                )
        write_reconstruction(path, self._stored, self.report, self.voxel_mm)
        return path

    def _stored(self, index: int) -> StoredSlice:
        parts = {"img": self.complex, "std": self.std, "samples": self.samples}
        known = {name: part for name, part in parts.items() if part is not None}
        return StoredSlice(
            {name: torch.from_numpy(part[index]) for name, part in known.items()}, {}
        )

    def plot(self) -> Figure:
        """The slices, at most 16, and their standard deviation where there is one."""
        method, rate = self.report["provenance"]["method"], self.report["acceleration"]
        title = f"{self.report['input']}: {method}, R = {rate:.2f}"
        return draw_reconstruction(self.magnitude, self.std, title=title, voxel_mm=self.voxel_mm)

    def _repr_html_(self) -> str:
        """The figure and the warnings, for Jupyter."""
        picture = io.BytesIO()
        self.plot().savefig(picture, format="png", dpi=80, bbox_inches="tight")
        data = base64.b64encode(picture.getvalue()).decode()
        lines = [f"{entry['code']}: {entry['text']}" for entry in self.warnings]
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        return f'<img src="data:image/png;base64,{data}"/><ul>{listed}</ul>'


def write_reconstruction(
    path: Path,
    read: Callable[[int], StoredSlice],
    report: dict[str, Any],
    voxel_mm: tuple[float, float, float] | None,
) -> None:
    """Write the images slice by slice, and the report beside them.

    Args:
        path: the h5 file; the report goes to the same name with ``.json``.
        read: gives a finished slice by its index.
        report: of the volume.
        voxel_mm: voxel size ``(y, x, slice)``, or None.

    Raises:
        MriAmbientError: a file cannot be written.
    """
    first, provenance = read(0).images, report["provenance"]
    # What the standard deviation is, for readers of the file without the report.
    described = ("n_samples", "samples_are", "std_factor") if "std" in first else ()
    rows, columns = report["recon_shape"]
    writer = ReconstructionWriter(
        path,
        report["slices"],
        (rows, columns),
        attributes={
            "method": provenance["method"],
            "acceleration": report["acceleration"],
            "scan_id": report["scan_id"],
            "voxel_mm": voxel_mm,
            "settings": json_text(report["settings"]),
            **{name: provenance[name] for name in described},
        },
        with_std="std" in first,
        n_samples=len(first["samples"]) if "samples" in first else 0,
    )
    with writer as out:
        for index in range(report["slices"]):
            images = read(index).images
            out.write(index, images["img"], images.get("std"), images.get("samples"))
    write_json(path.with_suffix(".json"), report)


def stored_settings(path: Path) -> dict[str, Any]:
    """The settings a reconstruction file was made with.

    Raises:
        OutputExistsError: the file is not a reconstruction; it may be raw data.
    """
    try:
        with open_h5(path, for_text=True) as file:
            attributes = read_attributes(file)
    except ScanFormatError:
        attributes = {}
    if attributes.get("mri_ambient_format") != RECONSTRUCTION_FORMAT:
        raise OutputExistsError(
            f"{path}: exists already and is not a reconstruction of mri-ambient, so it is never "
            "overwritten; choose another output folder"
        )
    found: dict[str, Any] = json.loads(str(attributes.get("settings", "{}")))
    return found
