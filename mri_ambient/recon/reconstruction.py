"""The result: images in the units of the file, and the report on how they were made."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import (
    ConfigError,
    OutputExistsError,
    ScanFormatError,
    unknown_name,
    with_remedy,
)
from ..io import (
    Contents,
    Geometry,
    Grid,
    ReconstructionFile,
    ReconstructionWriter,
    SaveOptions,
    ScanFile,
    stem_of,
)  # fmt: skip
from ..io.outputs.reconstruction import RECONSTRUCTION_FORMAT
from ..methods.presets import METHODS
from ..runtime.files import json_text, write_json
from .recipe import in_words, settings_that_differ
from .saving import (
    check_folder,
    check_formats,
    check_saving,
    formats_with_parts,
    save_as,
    warn_of_older,
    written_at,
)
from .slice_store import SliceStore
from .volume import Volume

if TYPE_CHECKING:
    from ..plots import NotebookFigure


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
        geometry: where the slices lie in the patient, or None if the file does not say.
        volume: the scan it was made from, if it is at hand: the report shows it reconstructed by
            other methods too.
    """

    complex: NDArray[np.complex64]
    std: NDArray[np.float32] | None
    samples: NDArray[np.complex64] | None
    voxel_mm: tuple[float, float, float] | None
    report: dict[str, Any]
    geometry: Geometry | None = None
    volume: Volume | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_store(
        cls, store: SliceStore, report: dict[str, Any], file: ScanFile
    ) -> Reconstruction:
        """The finished slices of a scan, together."""
        slices = [store.read(index).images for index in range(report["slices"])]
        parts = {name: np.stack([images[name].numpy() for images in slices]) for name in slices[0]}
        images = (parts["img"], parts.get("std"), parts.get("samples"))
        return cls(*images, file.voxel_mm, report, file.geometry)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without the scan, which holds the prior."""
        return vars(self) | {"volume": None}

    @property
    def magnitude(self) -> NDArray[np.float32]:
        """Magnitude of the image, float32 ``(slice, y, x)``."""
        return np.abs(self.complex)

    @property
    def title(self) -> str:
        """Scan, method and acceleration in one line."""
        method, rate = self.report["provenance"]["method"], self.report["acceleration"]
        return f"{self.report['input']}: {method}, R = {rate:.2f}"

    def __repr__(self) -> str:
        size = " x ".join(str(n) for n in self.complex.shape)
        return f"<Reconstruction of {', '.join(filter(None, [self.title, size, self._scores()]))}>"

    def _scores(self) -> str:
        """The metrics in words; empty if there are none."""
        if self.metrics is None:
            return ""
        shown = [f"{name.upper()} {self.metrics[name]:.4g}" for name in ("psnr", "ssim", "nmse")]
        return f"{str(self.metrics['reference']).upper()}: {', '.join(shown)}"

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

    def save(
        self,
        folder: str | Path,
        *,
        formats: str | Sequence[str] = "h5",
        overwrite: bool = False,
        **options: Any,  # noqa: ANN401 -- fields of SaveOptions
    ) -> Path:
        """Write ``<stem>.h5`` and ``<stem>.json``, as ``mri-ambient reconstruct`` does.

        Args:
            folder: where they go.
            formats: further formats, keys of ``mri_ambient.recon.saving.FORMATS``.
            overwrite: replace a reconstruction of this name that was made with other settings, and
                what is there in other formats.
            options: of the further formats, fields of :class:`~mri_ambient.io.SaveOptions`.

        Returns:
            The HDF5 file.

        Raises:
            ConfigError: there is no such format or option, or they do not fit each other; or the
                folder has the name of a file.
            OutputExistsError: there is a file of this name which is no reconstruction, or
                ``overwrite`` is not set and the settings differ.
        """
        check_folder(Path(folder))
        formats = check_formats([formats] if isinstance(formats, str) else formats)
        known = [field.name for field in fields(SaveOptions)]
        for name in options:
            if name not in known:
                raise unknown_name("option", name, known)
        if isinstance(options.get("parts"), str):
            options["parts"] = (options["parts"],)
        saving = SaveOptions(**options)
        if "parts" in options and not formats_with_parts(formats):
            raise ConfigError(
                f"parts are for the formats {', '.join(formats_with_parts())}; save one of them "
                "too (formats), or leave parts out"
            )
        grid = Grid(self.complex.shape, self.voxel_mm, self.geometry)
        parts = [stem_of(Path(self.report["input"])), self.report.get("volume", "")]
        path = Path(folder) / f"{'_'.join(filter(None, parts))}.h5"
        settings = self.report["settings"]
        check_saving(formats, saving, path.stem, grid, with_std=self.std is not None)
        is_new = not (path.exists() and path.with_suffix(".json").exists())
        if path.exists():
            differing = differing_from(path, settings, reproducible=self._reproducible)
            if differing and not overwrite:
                raise OutputExistsError(
                    f"{path}: was made with other settings ({in_words(differing, settings)}); give "
                    "overwrite=True or use another folder"
                )
        before = written_at(path)
        if is_new or overwrite:
            write_reconstruction(path, self._images, self.report, self.voxel_mm, self.geometry)
        save_as(path, formats, saving, self.volume, overwrite=overwrite)
        warn_of_older(path, before, saving)
        return path

    @property
    def _reproducible(self) -> bool:
        """Whether the settings identify the result: :attr:`ResolvedRecipe.reproducible`.

        Of one from another process, which comes without its recipe: whether its prior has a hash,
        or its method, if it is one of ours, needs none.
        """
        if self.volume is not None:
            return self.volume.recipe.reproducible
        method = METHODS.get(self.report["settings"]["method"]["name"])
        needs_prior = method is None or method.needs_prior
        return self.report["provenance"]["prior_sha256"] is not None or not needs_prior

    def _images(self, index: int) -> dict[str, Tensor]:
        parts = {"img": self.complex, "std": self.std, "samples": self.samples}
        return {
            name: torch.from_numpy(part[index]) for name, part in parts.items() if part is not None
        }

    def plot(self) -> NotebookFigure:
        """The slices, at most 16, and their standard deviation where there is one.

        Jupyter shows the figure; in a script, ``rec.plot().savefig("scan.png")`` writes it.
        """
        from ..plots import draw_reconstruction  # matplotlib is slow to import

        return draw_reconstruction(
            self.magnitude,
            self.std,
            title=self.title,
            voxel_mm=self.voxel_mm,
            geometry=self.geometry,
        )

    def _repr_html_(self) -> str:
        """The figure and the warnings, for Jupyter."""
        data = base64.b64encode(self.plot()._repr_png_()).decode()
        lines = [f"{entry['code']}: {with_remedy(**entry)}" for entry in self.warnings]
        if scores := self._scores():
            lines.insert(0, f"against {scores}")
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        return f'<img src="data:image/png;base64,{data}"/>' + (listed and f"<ul>{listed}</ul>")


def write_reconstruction(
    path: Path,
    images_of: Callable[[int], dict[str, Tensor]],
    report: dict[str, Any],
    voxel_mm: tuple[float, float, float] | None,
    geometry: Geometry | None,
) -> None:
    """Write the images slice by slice, and the report beside them.

    Args:
        path: of the images, ``<stem>.h5``; the report goes to ``<stem>.json``.
        images_of: gives "img", and perhaps "std" and "samples", of a slice in file units.
        report: of the volume.
        voxel_mm: voxel size ``(y, x, slice)``, or None.
        geometry: where the slices lie in the patient, or None.

    Raises:
        MriAmbientError: a file cannot be written.
    """
    first, provenance = images_of(0), report["provenance"]
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
            **{name: report.get(name) for name in ("protocol", "thickness_mm")},
            "orientation_source": report.get("orientation_source"),
            "voxel_mm": voxel_mm,
            "geometry": geometry and geometry.to_text(),
            "settings": json_text(report["settings"]),
            **{name: provenance[name] for name in described},
        },
        with_std="std" in first,
        n_samples=len(first["samples"]) if "samples" in first else 0,
    )
    with writer as out:
        for index in range(report["slices"]):
            out.write(index, **images_of(index))
    write_json(path.with_suffix(".json"), report)


def differing_from(
    path: Path, settings: Mapping[str, Any], *, reproducible: bool = True
) -> list[str]:
    """Names of the settings that a reconstruction file was not made with.

    Args:
        path: the file.
        settings: those to compare.
        reproducible: whether they identify the result; otherwise the prior counts as another one.

    Raises:
        OutputExistsError: see :func:`stored_settings`.
    """
    differing = settings_that_differ(settings, stored_settings(path))
    return sorted(differing if reproducible else {*differing, "prior_sha256"})


def is_reconstruction(path: Path) -> bool:
    """Whether there is a reconstruction file."""
    return path.exists() and Contents(path).tag == RECONSTRUCTION_FORMAT


def stored_settings(path: Path) -> dict[str, Any]:
    """The settings a reconstruction file was made with.

    Raises:
        OutputExistsError: the file is not a reconstruction; it may be raw data.
    """
    try:
        return ReconstructionFile(path).settings
    except ScanFormatError:
        raise OutputExistsError(
            f"{path}: exists already and is not a reconstruction of mri-ambient, so it is never "
            "overwritten; choose another output folder"
        ) from None
