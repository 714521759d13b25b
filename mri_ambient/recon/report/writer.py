"""The report of a reconstruction: one page that opens offline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._version import __version__
from ...errors import ScanFormatError
from ...io import Grid, ReconstructionFile, SaveOptions
from ...io.grid import Turn
from ...io.outputs.parts import white_level
from ...io.outputs.save_options import Writer
from ...physics.patterns import calibration_block
from ...runtime.files import atomic_path
from ..checks import HIGH_RESIDUAL, RESIDUAL_NOISE
from ..comparison import Comparison, compare
from ..volume import OnSlice, Volume
from . import facts
from .images import MASK_COLORS, MOST_LOSSLESS, data_uri, draw_mask, grey_levels
from .pages import PAGES, report_name
from .plots import Plot

STD, REFERENCE, OWN = "std", "reference", "own"
"""Keys of images beside those of other methods."""

LABELS = {"zero-filled": "zero-filled", "l1-wavelet": "L1-wavelet"}
"""What other methods are called."""

HELD_OUT = {
    "this reconstruction": "error",
    "L1-wavelet": "l1_wavelet",
    "CG-SENSE": "cg_sense",
    "noise alone": "noise",
}
"""Figures of held-out lines, by what they are called."""


@dataclass(frozen=True)
class ReportWriter(Writer):
    """``<stem>_report.html``: images, checks, warnings and provenance in one file.

    Attributes:
        volume: the scan and its recipe. Without it, the page has no images of other methods, no
            reference and no mask.
        on_slice: called with (done, total) after every slice of the other methods.
    """

    holds_parts = False
    volume: Volume | None = None
    on_slice: OnSlice | None = None

    def outputs(self, result: ReconstructionFile, options: SaveOptions) -> list[str]:
        """One file."""
        return [report_name(result.path)]

    def write(self, result: ReconstructionFile, folder: Path, options: SaveOptions) -> None:
        """Reconstruct the scan by other methods too, and write the page slice by slice.

        Finished slices of the other methods are kept in a hidden folder until the page is written,
        so that a call that was interrupted can be resumed.

        Raises:
            ScanFormatError: there is no ``<stem>.json`` beside the reconstruction.
        """
        if not result.report:
            raise ScanFormatError(
                f"{result.path}: has no {result.path.stem}.json beside it, from which a report is "
                "made; reconstruct the scan again with overwrite=True (--overwrite)"
            )
        kept = folder / f".{result.path.stem}.compared"
        scan = self.volume
        comparison = None if scan is None else compare(scan, kept, self.on_slice)
        with atomic_path(folder / report_name(result.path)) as temporary:
            page = PAGES.get_template("report.html").stream(**Report(result, comparison).content())
            page.dump(str(temporary), encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)


@dataclass(frozen=True)
class Report:
    """What the page of a reconstruction shows.

    Attributes:
        result: the reconstruction.
        comparison: images of the scan beside it, if the scan is at hand.
    """

    result: ReconstructionFile
    comparison: Comparison | None = None

    def content(self) -> dict[str, Any]:
        """The variables of the template."""
        result, report = self.result, self.result.report
        return {
            "report": report,
            "stem": result.path.stem,
            "version": __version__,
            "names": self.names,
            "slices": self.slices(),
            "first": len(result) // 2,
            "shape": self.grid.shape[1:],
            "aspect": self.aspect,
            "letters": self.grid.letters(),
            "white": self.white,
            "std_white": self.std_white,
            "lossless": self.lossless,
            "key_facts": list(facts.key_facts(report)),
            "warnings": facts.warning_rows(report),
            "std_is": facts.std_sentences(report["provenance"]) if result.has_std else [],
            "scores": facts.scores(report, self.other_metrics),
            "reference": facts.REFERENCES.get(report.get("metrics", {}).get("reference")),
            "plots": list(self.plots()),
            "held_out": any(check.get("held_out") for check in report["checks"]),
            "mask": self.mask(),
            "scan_facts": list(facts.scan_facts(report, result.voxel_mm)),
            "method_facts": list(facts.method_facts(report, self.card, result.path)),
            "number": facts.number,
        }

    @property
    def other_metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics of other methods, by what these are called."""
        found = {} if self.comparison is None else self.comparison.metrics
        return {LABELS[name]: metrics for name, metrics in found.items()}

    @property
    def card(self) -> Mapping[str, Any]:
        """Of the prior; empty if there is none, or it is not at hand."""
        prior = None if self.comparison is None else self.comparison.volume.recipe.prior
        return {} if prior is None else prior.card

    @cached_property
    def names(self) -> dict[str, str]:
        """The images of a slice and what they are called, in the order of the page."""
        names = {OWN: f"{self.result.report['provenance']['method']} (this reconstruction)"}
        if self.comparison is not None:
            names |= {name: LABELS[name] for name in self.comparison.stores}
            if self.comparison.reference is not None:
                names[REFERENCE] = f"fully sampled ({self.comparison.reference[0].upper()})"
        return names | ({STD: "standard deviation"} if self.result.has_std else {})

    @cached_property
    def lossless(self) -> bool:
        """Whether images are stored without loss: the page stays small enough."""
        of_middle = sum(map(len, self._addresses(len(self.result) // 2).values()))
        return of_middle * len(self.result) <= MOST_LOSSLESS

    @cached_property
    def turn(self) -> Turn:
        """How slices are turned, so that they are seen as radiologists look at them."""
        return self.result.grid.display_turn()

    @cached_property
    def grid(self) -> Grid:
        """Of the turned images."""
        return self.result.grid.turned(self.turn)

    @property
    def aspect(self) -> float:
        """Width of a turned image over its height, in mm where voxels are known."""
        _, rows, columns = self.grid.shape
        height, width = (self.grid.voxel_mm or (1.0, 1.0))[:2]
        return columns * width / (rows * height)

    @cached_property
    def white(self) -> float:
        """What is shown white in all images but the standard deviation, in the file's units."""
        return white_level(np.abs(self.result.read(i)) for i in range(len(self.result)))

    @cached_property
    def std_white(self) -> float:
        """The brightest standard deviation shown; 1 if there is none."""
        if not self.result.has_std:
            return 1.0
        tops = [np.quantile(self.result.read_std(i), 0.999) for i in range(len(self.result))]
        return float(max(tops)) or 1.0

    def slices(self) -> Iterator[dict[str, Any]]:
        """Every slice: its number, images by key, figures and flags."""
        for index, check in enumerate(self.result.report["checks"]):
            images = self._addresses(index, lossless=self.lossless)
            yield {"index": index, "images": images, "check": check, "notes": list(notes(check))}

    def _addresses(self, index: int, *, lossless: bool = True) -> dict[str, str]:
        """The images of a slice, by key."""
        return {
            key: data_uri(levels, lossless=lossless, in_colors=key == STD)
            for key, levels in self._levels(index).items()
        }

    def _levels(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """The turned images of a slice in 8 bit."""
        images: dict[str, Any] = {OWN: np.abs(self.result.read(index))}
        if self.comparison is not None:
            images |= {name: img.numpy() for name, img in self.comparison.images(index).items()}
            if self.comparison.reference is not None:
                images[REFERENCE] = self.comparison.reference[1][index].numpy()
        turn = self.turn
        levels = {key: grey_levels(turn(img), self.white) for key, img in images.items()}
        if self.result.has_std:
            std = turn(self.result.read_std(index))
            levels[STD] = grey_levels(std, self.std_white)
        return levels

    def plots(self) -> Iterator[Plot]:
        """Error on held-out lines, if there is any, and data residual."""
        checks = self.result.report["checks"]
        held_out = [check.get("held_out") or {} for check in checks]
        if any(held_out):
            curves = {name: [row.get(key) for row in held_out] for name, key in HELD_OUT.items()}
            title = "Error on held-out lines"
            yield Plot("held-out", title, "ratio to their energy", curves, len(checks))
        unit = f"{facts.TIMES} noise"
        yield Plot("residual", "Data residual", unit, self._residuals(), len(checks))

    def _residuals(self) -> dict[str, list[float | None]]:
        """Data residual of every slice by name of the method, and what is too high."""
        report, others = self.result.report, self.comparison
        found: dict[str, list[float | None]] = {
            "this reconstruction": [check["data_residual"] for check in report["checks"]]
        }
        if others is not None:
            found |= {LABELS[name]: list(others.residuals(name)) for name in others.stores}
        if report["provenance"]["prior_sha256"]:
            limit = HIGH_RESIDUAL * max(1.0, RESIDUAL_NOISE / max(report["sigma_n"], 1e-12))
            found["limit for a warning"] = [limit] * len(report["checks"])
        return found

    def mask(self) -> dict[str, Any] | None:
        """A picture of the sampling mask and its figures, if the scan is at hand."""
        if self.comparison is None:
            return None
        file = self.comparison.volume.file
        picture = draw_mask(file.mask, file.acquired, calibration_block(file.mask))
        shown = {tuple(color) for color in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
        legend = {name: color for name, color in MASK_COLORS.items() if color in shown}
        return {
            "picture": data_uri(picture),
            "facts": list(facts.sampling_facts(file)),
            "legend": legend,
        }


def notes(check: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about a slice."""
    yield f"data residual {facts.number(check['data_residual'])} {facts.TIMES} noise"
    if row := check.get("held_out"):
        yield (
            f"error on held-out lines {row['error']:.3g} (noise alone {row['noise']:.3g}, "
            f"L1-wavelet {row['l1_wavelet']:.3g}, CG-SENSE {row['cg_sense']:.3g})"
        )
    if "prior_share" in check:
        yield f"null-space energy {100 * check['prior_share']:.1f} %"
