"""Every picture: training curves, reconstructions, prepared scans, coverage and audits.

Each ``draw_*`` function takes finished arrays (numpy arrays or CPU tensors) and returns a figure;
:func:`save_figure` writes it. Pixels have the shape of voxels where that is known.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from skimage.util import montage
from torch import Tensor

from .io.geometry import Geometry
from .io.grid import Grid
from .io.outputs.parts import made_by, white_level
from .io.outputs.reconstruction import ReconstructionFile
from .physics.map_sets import first_set, magnitude
from .physics.operators import SenseOp
from .runtime.files import atomic_path
from .scan import Scan


class NotebookFigure(Figure):
    """A figure that Jupyter shows without pyplot."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=80, bbox_inches="tight")
        return out.getvalue()


def save_figure(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a PNG, completely or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, bbox_inches="tight")


# Training


def draw_curves(
    records: Sequence[Mapping[str, Any]], ends: Sequence[Mapping[str, Any]] = ()
) -> Figure:
    """Training loss (smoothed) and held-out error against images seen.

    Args:
        records: lines of a log.jsonl; skipped steps have no loss and are left out.
        ends: figures of validations that are not among them.
    """
    records = [record for record in records if record.get("loss") is not None]
    checked = [record for record in (*records, *ends) if "held_out" in record]
    checked.sort(key=lambda record: record["images"])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_loss(left, records)
    _draw_held_out(right, checked)
    return figure


def _draw_loss(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    axes.set(xlabel="images seen", ylabel="training loss")
    if not records:
        axes.text(0.5, 0.5, "no step yet", ha="center", va="center", transform=axes.transAxes)
        return
    images, losses = zip(*((record["images"], record["loss"]) for record in records), strict=True)
    axes.plot(images, losses, color="0.8", lw=0.5, label="every step")
    marker = "o" if len(records) == 1 else None  # a line of one point is invisible
    axes.plot(images, _smooth(losses), color="C0", marker=marker, label="mean of 2 %")
    axes.set_yscale("log")
    axes.legend()


def _draw_held_out(axes: Axes, checked: Sequence[Mapping[str, Any]]) -> None:
    axes.set(xlabel="images seen", ylabel="error on held-out lines / their energy")
    if not checked:
        axes.text(0.5, 0.5, "no validation", ha="center", va="center", transform=axes.transAxes)
        return
    seen = [record["images"] for record in checked]
    consistent, plain = "prior + data consistency", "prior alone"
    axes.plot(seen, [record["held_out"] for record in checked], "o-", label=consistent)
    axes.plot(seen, [record["held_out_no_dc"] for record in checked], "s--", label=plain)
    for color, name, label in (
        ("C3", "held_out_cg_sense", "CG-SENSE"),
        ("C2", "held_out_l1_wavelet", "L1-wavelet"),
    ):
        if name in checked[-1]:
            axes.axhline(checked[-1][name], color=color, ls=":", label=label)
    axes.legend()


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Running mean over the last 2 % of the run, at least 10 steps."""
    sums = np.cumsum([0.0, *values])
    stop = np.arange(1, len(sums))
    start = np.maximum(stop - max(10, len(values) // 50), 0)
    mean: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return mean


def draw_previews(rows: Sequence[Mapping[str, ArrayLike]]) -> Figure:
    """Held-out slices, a row each: magnitudes ``(y, x)`` by method, in the last one's window."""
    names = list(rows[0])
    figure, axes = _image_grid(len(rows), len(names), np.shape(rows[0][names[0]]), title_lines=1)
    for i, row in enumerate(rows):
        top = _top(row[names[-1]], 1.0)
        for axis, name in zip(axes[i], names, strict=True):
            _show(axis, row[name], name if i == 0 else "", limits=(0.0, top))
    return figure


# Reconstructions


ERROR_GAIN = 5
"""Errors are drawn as many times brighter than the images."""


@dataclass(frozen=True)
class _Kind:
    """Images ``(slice, y, x)`` of one kind, what stands above them, and how they are shown."""

    name: str
    images: NDArray[Any]
    white: float
    cmap: str = "gray"


def draw_reconstruction(
    magnitude: ArrayLike,
    std: ArrayLike | None = None,
    *,
    title: str = "",
    voxel_mm: tuple[float, float, float] | None = None,
    geometry: Geometry | None = None,
    reference: tuple[str, ArrayLike] | None = None,
) -> NotebookFigure:
    """At most 16 evenly chosen slices of a volume in one window; 8 where there is a reference.

    Reference, error and standard deviation stand below each slice, or beside it where slices are
    fewer than these. Slices of known geometry are turned as radiologists look at them, see
    :mod:`mri_ambient.io.grid`, with letters at their edges; others have the first row on top.

    Args:
        magnitude: ``(slice, y, x)``, in any unit.
        std: its standard deviation ``(slice, y, x)``, in a window that the title states.
        title: stands above the slices.
        voxel_mm: voxel size ``(y, x, slice)``; pixels are square without it.
        geometry: where the slices lie in the patient, or None.
        reference: name and images ``(slice, y, x)`` of what the magnitude is compared with, shown
            in the same window, and the difference of the two, :data:`ERROR_GAIN` times.
    """
    volume = np.asarray(magnitude)
    grid = Grid((len(volume), *volume.shape[1:]), voxel_mm, geometry)
    turn = grid.display_turn()
    kinds, grid = _kinds(volume, std, reference), grid.turned(turn)
    most = min(16 if reference is None else 8, len(volume))
    chosen = np.unique(np.linspace(0, len(volume) - 1, most).round()).astype(int)
    beside = len(chosen) < len(kinds)
    n_columns = len(kinds) if beside else min(len(chosen), 4 if len(kinds) == 1 else 8)
    n_rows = len(chosen) if beside else len(kinds) * math.ceil(len(chosen) / n_columns)
    if std is not None:
        title += _window_of_std(kinds)
    title = title.strip().replace(" = ", "\u00a0=\u00a0")  # no line ends there
    lines = [part for line in title.splitlines() for part in wrap(line, 32 * n_columns)]
    aspect, letters, shape = _aspect(grid.voxel_mm), grid.letters(), grid.shape[1:]
    figure, axes = _image_grid(
        n_rows, n_columns, shape, aspect=aspect, title_lines=n_rows + len(lines)
    )
    figure.suptitle("\n".join(lines).replace("\u00a0", " "), fontsize=10)
    for i, index in enumerate(chosen):
        row, column = divmod(i, n_columns)
        for k, kind in enumerate(kinds):
            axis = axes[i, k] if beside else axes[len(kinds) * row + k, column]
            name, limits = kind.name or f"slice {index}", (0.0, kind.white)
            img = turn(kind.images[index])
            _show(axis, img, name, limits=limits, aspect=aspect, cmap=kind.cmap)
            _write_letters(axis, letters)
    return figure


def _kinds(
    volume: NDArray[Any], std: ArrayLike | None, reference: tuple[str, ArrayLike] | None
) -> list[_Kind]:
    """What is shown of every slice: the image, reference and error, standard deviation."""
    kinds = [_Kind("", volume, white_level(volume))]
    if reference is not None:
        name, images = reference[0], np.asarray(reference[1])
        white = white_level(images)
        error = ERROR_GAIN * np.abs(volume - images)
        kinds = [
            _Kind("", volume, white),
            _Kind(f"reference ({name})", images, white),
            _Kind(f"error x {ERROR_GAIN}", error, white, "inferno"),
        ]
    if std is not None:
        std = np.asarray(std)
        kinds.append(_Kind("standard deviation", std, white_level(std)))
    return kinds


def _window_of_std(kinds: Sequence[_Kind]) -> str:
    share = 100 * kinds[-1].white / kinds[0].white
    return (
        f"\nstandard deviation: white = {kinds[-1].white:.3g} in the file's units, {share:.3g} % "
        "of the image's white"
    )


def draw_volume(path: Path, reference: tuple[str, ArrayLike] | None = None) -> NotebookFigure:
    """The slices of a reconstruction file, see :func:`draw_reconstruction`.

    Raises:
        ScanFormatError: it cannot be read.
    """
    result = ReconstructionFile(path)
    volumes = [
        np.stack([result.read_part(part, index) for index in range(len(result))])
        for part in result.parts(("mag", "std"))
    ]
    title = ": ".join(filter(None, [path.stem, made_by(result)]))
    if scores := result.report.get("metrics"):
        against = str(scores["reference"]).upper()
        title += f", PSNR {scores['psnr']:.1f} dB, SSIM {scores['ssim']:.3f} against {against}"
    grid = result.grid
    return draw_reconstruction(
        *volumes, title=title, voxel_mm=grid.voxel_mm, geometry=grid.geometry, reference=reference
    )


def draw_montage(
    images: ArrayLike, *, top: float | None = None, titles: Sequence[str] = (), columns: int = 4
) -> Figure:
    """Magnitude images ``(n, y, x)`` side by side, at most ``columns`` in a row.

    ``top`` is white in all of them; without it, the maximum of each.
    """
    images = np.asarray(images)
    n_columns = min(len(images), columns)
    n_rows = math.ceil(len(images) / n_columns)
    n_lines = n_rows if titles else 0
    figure, axes = _image_grid(n_rows, n_columns, images.shape[1:], title_lines=n_lines)
    for i, (axis, img) in enumerate(zip(axes.flat, images, strict=False)):
        _show(axis, img, titles[i] if titles else "", limits=(0.0, top or _top(img, 1.0)))
    return figure


def draw_comparison(
    reference: ArrayLike, images: Mapping[str, ArrayLike], scores: Mapping[str, str]
) -> Figure:
    """The reference and reconstructions in one window, errors times five below.

    All are magnitudes ``(y, x)`` in one unit; the scores stand under the names.
    """
    reference = np.asarray(reference)
    limits = (0.0, _top(reference, 0.995))
    figure, axes = _image_grid(2, 1 + len(images), reference.shape, width=2.4, title_lines=2)
    _show(axes[0, 0], reference, "reference", limits=limits)
    middle = axes[1, 0].transAxes
    axes[1, 0].text(0.5, 0.5, "error x 5", ha="center", va="center", fontsize=10, transform=middle)
    for column, (name, img) in enumerate(images.items(), start=1):
        _show(axes[0, column], img, f"{name}\n{scores[name]}", limits=limits)
        error = 5 * np.abs(np.asarray(img) - reference)
        _show(axes[1, column], error, limits=limits, cmap="inferno")
    return figure


# Data preparation


def draw_scan(
    scan: Scan, low_resolution: Tensor, eigenvalues: Sequence[Tensor], facts: Mapping[str, str]
) -> Figure:
    """The first slice of a prepared scan: image, calibration block, k-space, maps, eigenvalues.

    Args:
        scan: prepared slices.
        low_resolution: image of the calibration block, ``(y, x)``.
        eigenvalues: ESPIRiT's largest and second largest, ``(y, x)``; empty for a single coil.
        facts: what to write beside the images, by name.
    """
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: a picture needs a prepared scan, with maps")
    ksp, maps, aspect = scan.ksp[0], scan.maps[0], _aspect(scan.voxel_mm)
    support = first_set((maps != 0).any(dim=0), scan.n_sets)
    figure, axes = _image_grid(2, 4, scan.shape, width=3.6, aspect=aspect, title_lines=4)
    figure.suptitle(f"{scan.scan_id}, slice {scan.slices[0]}")
    combined = magnitude(SenseOp(maps, scan.mask, scan.n_sets).combine(ksp), scan.n_sets)
    title = "zero-filled image, support outlined"
    _show(axes[0, 0], combined, title, aspect=aspect, outline=support)
    _show(axes[0, 1], low_resolution, "calibration block", aspect=aspect)
    strength = ksp.abs().square().sum(dim=0).sqrt().clamp_min(1e-6).log10()
    measured = strength.where(scan.mask[0], torch.nan)
    # Isotropic voxels have a square k-space, whatever the field of view.
    square = scan.shape[1] / scan.shape[0] / aspect
    _show(axes[0, 2], measured, "measured k-space, log10", aspect=square)
    lines = [f"{name}: {value}" for name, value in facts.items()]
    axes[0, 3].text(0, 1, "\n".join(lines), va="top", fontsize=9, transform=axes[0, 3].transAxes)

    shown = maps[:6].abs().numpy()
    n_rows = 1 if len(shown) <= 3 else 2
    tiles = montage(shown, fill=0, grid_shape=(n_rows, math.ceil(len(shown) / n_rows)))
    title = f"|map| of coils 1 to {len(shown)} of {scan.n_coils}, 0 to 1"
    title += ", sets one below the other" if scan.n_sets > 1 else ""
    place = axes[1, 0].get_gridspec()[1, :2]
    for axis in axes[1, :2]:
        axis.remove()
    _show(figure.add_subplot(place), tiles, title, limits=(0.0, 1.0), aspect=aspect)
    names = ("ESPIRiT eigenvalue, 0.8 to 1", "second eigenvalue, 0.8 to 1")
    for axis, value, title in zip(axes[1, 2:], eigenvalues, names, strict=False):
        _show(axis, value, title, limits=(0.8, 1.0), aspect=aspect, outline=support)
    return figure


def draw_coverage(groups: Mapping[str, Sequence[float]]) -> Figure:
    """The share of the scans that samples each phase-encode line, one panel a title."""
    figure = Figure(figsize=(9, 2.4 * max(len(groups), 1)), layout="constrained")
    panels = figure.subplots(max(len(groups), 1), squeeze=False)[:, 0]
    for axes, (title, shares) in zip(panels, groups.items(), strict=False):
        axes.bar(range(len(shares)), shares, width=1.0, color="0.35")
        axes.set(xlabel="phase-encode line", ylabel="share of scans", ylim=(0, 1))
        axes.set_title(title, fontsize=8)
        axes.margins(x=0)
    return figure


# Audits


def draw_memorization(
    samples: Sequence[float],
    held_out: Sequence[float],
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
) -> Figure:
    """Distances to the nearest training scan, of drawn images and of scans not trained on.

    Beside them the nearest pairs of drawn image and training scan, magnitudes ``(y, x)``.
    """
    figure = Figure(figsize=(4.4 + 1.9 * len(pairs), 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 2 + len(pairs))
    axes = figure.add_subplot(grid[:, :2])
    for row, distances in enumerate((held_out, samples), start=1):
        axes.plot(distances, [row] * len(distances), "o", alpha=0.5)
    axes.set_ylim(0.5, 2.5)
    axes.set_yticks([1, 2], ["not trained on", "drawn"])
    axes.set_xlabel("distance to the nearest training scan")
    for column, pair in enumerate(pairs, start=2):
        for row, (img, title) in enumerate(zip(pair, ("drawn", "nearest scan"), strict=True)):
            limits = (0.0, _top(img, 1.0))
            _show(figure.add_subplot(grid[row, column]), img, title, limits=limits)
    return figure


def draw_calibration(
    levels: Sequence[float], before: Sequence[float], after: Sequence[float]
) -> Figure:
    """Share of measurements inside predictive intervals against the nominal share, 0 to 1.

    ``after``: with the standard deviation multiplied by the calibration factor.
    """
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="0.7", label="ideal")
    axes.plot(levels, before, "o-", label="uncalibrated")
    axes.plot(levels, after, "o-", label="calibrated")
    axes.set(
        xlabel="nominal share of the interval",
        ylabel="share of held-out measurements inside",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    axes.legend()
    return figure


# What the pictures share


def _image_grid(
    n_rows: int,
    n_columns: int,
    shape: Sequence[int],
    *,
    width: float = 2.6,
    aspect: float = 1.0,
    title_lines: int = 0,
) -> tuple[NotebookFigure, NDArray[Any]]:
    """Axes without frames ``(row, column)``, sized for images of ``shape`` ``(y, x)``.

    ``width`` is that of an image in inches, ``title_lines`` the number of lines above all rows.
    """
    height = width * min(max(aspect * shape[0] / shape[1], 0.4), 2.5)
    size = (width * n_columns, height * n_rows + 0.2 * title_lines)
    figure = NotebookFigure(figsize=size, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _show(
    axes: Axes,
    img: ArrayLike,
    title: str = "",
    *,
    limits: tuple[float, float] | None = None,
    aspect: float = 1.0,
    cmap: str = "gray",
    outline: Tensor | None = None,
) -> None:
    """Draw one image ``(y, x)``; without limits, from its minimum to its 99.5th percentile."""
    img = np.asarray(img)
    low, high = limits or (float(np.nanmin(img)), float(np.nanquantile(img, 0.995)))
    axes.imshow(img, cmap=cmap, vmin=low, vmax=high, aspect=aspect)
    if outline is not None and bool(outline.any()) and not bool(outline.all()):
        axes.contour(outline.float().numpy(), levels=[0.5], colors="tab:orange", linewidths=1)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _write_letters(axes: Axes, letters: Sequence[str] | None) -> None:
    """Patient directions at the left, right, top and bottom edge of an image."""
    if letters is None:
        return
    edges = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))
    for (x, y), letter in zip(edges, letters, strict=True):
        horizontal = "left" if x < 0.5 else "right" if x > 0.5 else "center"
        vertical = "bottom" if y < 0.5 else "top" if y > 0.5 else "center"
        axes.text(
            x, y, letter, ha=horizontal, va=vertical, transform=axes.transAxes, fontsize=8,
            color="tab:orange", path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


def _top(images: ArrayLike, quantile: float) -> float:
    """What is shown white."""
    return float(np.quantile(np.asarray(images), quantile)) or 1.0


def _aspect(voxel_mm: object) -> float:
    """Height of a pixel over its width, from a voxel size ``(y, x, slice)``; 1 if unknown."""
    sizes = np.asarray(() if voxel_mm is None else voxel_mm, dtype=float)
    return float(sizes[0] / sizes[1]) if sizes.size == 3 and (sizes > 0).all() else 1.0
