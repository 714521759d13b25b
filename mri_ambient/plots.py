"""Pictures: training curves, and reconstructions side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from torch import Tensor

from .io.hdf5 import find_dataset, open_h5, read_real
from .physics.coverage import Coverage
from .physics.fourier import ifft2c
from .runtime.files import atomic_path
from .scan import Scan


def save_figure(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, bbox_inches="tight")


def plot_curves(
    records: Sequence[Mapping[str, Any]], path: Path, last: Mapping[str, Any] | None = None
) -> None:
    """Training loss (smoothed) and held-out error against images seen.

    Args:
        records: lines of a log.jsonl.
        path: PNG to write.
        last: figures of a validation that is not in the log.
    """
    records = [record for record in records if record["loss"] is not None]  # skipped steps
    if not records:
        return
    figure = Figure(figsize=(9, 3.5))
    left, right = figure.subplots(1, 2)
    images = [record["images"] for record in records]
    left.plot(images, [record["loss"] for record in records], color="0.8", lw=0.5)
    marker = "o" if len(records) == 1 else None  # a line of one point is not seen
    left.plot(images, _smooth([record["loss"] for record in records]), color="C0", marker=marker)
    left.set(xlabel="images seen", ylabel="training loss", yscale="log")
    checked = [record for record in [*records, *([last] if last else [])] if "held_out" in record]
    if checked:
        seen = [record["images"] for record in checked]
        right.plot(seen, [record["held_out"] for record in checked], "o-", label="prior + DC")
        right.plot(seen, [record["held_out_no_dc"] for record in checked], "s--", label="prior")
        for color, name, label in (
            ("C3", "held_out_cg_sense", "CG-SENSE"),
            ("C2", "held_out_l1_wavelet", "L1-wavelet"),
        ):
            if name in checked[-1]:
                right.axhline(checked[-1][name], color=color, ls=":", label=label)
        right.legend()
    else:
        right.text(0.5, 0.5, "no check yet", ha="center", va="center", transform=right.transAxes)
    right.set(xlabel="images seen", ylabel="error on hidden measured lines")
    figure.tight_layout()
    save_figure(figure, path)


def _smooth(values: list[float]) -> list[float]:
    """Running mean over the last 2 % of the run, at least 10 steps."""
    width = max(10, len(values) // 50)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [
        (sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))
    ]


def save_previews(rows: Sequence[Mapping[str, Tensor]], path: Path) -> None:
    """Held-out slices, a row each: magnitudes ``(y, x)`` by method, in one window a row."""
    names = list(rows[0])
    figure = Figure(figsize=(2.6 * len(names), 2.6 * len(rows)))
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        top = float(row[names[-1]].max()) or 1.0
        for axis, name in zip(line, names, strict=True):
            axis.axis("off")
            axis.imshow(row[name].numpy(), cmap="gray", vmin=0, vmax=top)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def draw_volume(reconstruction: Path, path: Path, *, most: int = 16) -> None:
    """The slices of a reconstruction file, evenly chosen, in one window; their std beside them.

    The standard deviations have a window of their own, which their titles state.

    Raises:
        ScanFormatError: it cannot be read.
    """
    with open_h5(reconstruction) as file:
        dataset = find_dataset(file, reconstruction, "reconstruction")
        volume = torch.from_numpy(read_real(dataset, reconstruction, "reconstruction"))
        std = None
        if "reconstruction_std" in file:
            dataset = find_dataset(file, reconstruction, "reconstruction_std")
            std = torch.from_numpy(read_real(dataset, reconstruction, "reconstruction_std"))
    n = len(volume)
    chosen = sorted({round(i * (n - 1) / max(min(most, n) - 1, 1)) for i in range(min(most, n))})
    top = float(np.quantile(volume.numpy(), 0.999)) or 1.0
    titles = [f"slice {i}" for i in chosen]
    if std is None:
        return save_images(volume[chosen], path, top=top, titles=titles)
    high = float(np.quantile(std.numpy(), 0.999)) or 1.0
    pairs = torch.stack([volume[chosen] / top, std[chosen] / high], dim=1)
    said = f"std, white = {100 * high / top:.3g} % of the image's"
    titles = [title for name in titles for title in (name, said)]
    return save_images(pairs.flatten(0, 1), path, top=1.0, titles=titles)


def draw_memorization(
    samples: Sequence[float],
    held_out: Sequence[float],
    pairs: Sequence[tuple[Tensor, Tensor]],
    path: Path,
) -> None:
    """Distances to the nearest training scan, and the nearest pairs.

    Args:
        samples: of drawn images.
        held_out: of scans that were not trained on.
        pairs: drawn image and training scan, magnitudes ``(y, x)``.
        path: PNG to write.
    """
    figure = Figure(figsize=(11, 4.2))
    grid = figure.add_gridspec(2, 2 + len(pairs))
    axis = figure.add_subplot(grid[:, :2])
    for row, distances in enumerate((held_out, samples), start=1):
        axis.plot(distances, [row] * len(distances), "o", alpha=0.5)
    axis.set_ylim(0.5, 2.5)
    axis.set_yticks([1, 2], ["not trained on", "drawn"])
    axis.set_xlabel("distance to the nearest training scan")
    for column, pair in enumerate(pairs, start=2):
        for row, (img, title) in enumerate(zip(pair, ("drawn", "nearest scan"), strict=True)):
            shown = figure.add_subplot(grid[row, column])
            shown.imshow(img.numpy(), cmap="gray", vmin=0)
            shown.set_title(title, fontsize=8)
            shown.axis("off")
    figure.tight_layout()
    save_figure(figure, path)


def draw_calibration(
    levels: Sequence[float], before: Sequence[float], after: Sequence[float], path: Path
) -> None:
    """Share of measurements in predictive intervals against the share that should be.

    Args:
        levels: of the intervals.
        before: coverage by the samples as they are.
        after: and with their spread multiplied.
        path: PNG to write.
    """
    figure = Figure(figsize=(4.2, 4.2))
    axis = figure.add_subplot()
    axis.plot((0, 1), (0, 1), color="0.7", label="as it should be")
    axis.plot(levels, before, "o-", label="samples as they are")
    axis.plot(levels, after, "o-", label="spread multiplied")
    axis.set(xlabel="interval", ylabel="hidden measurements inside", xlim=(0, 1), ylim=(0, 1))
    axis.legend()
    figure.tight_layout()
    save_figure(figure, path)


def save_images(
    images: Tensor,
    path: Path,
    *,
    top: float | None = None,
    titles: Sequence[str] = (),
    columns: int = 4,
) -> None:
    """Magnitude images ``(n, y, x)`` side by side, each in a window of its own.

    ``top`` is white in all of them instead; ``titles`` stand above; ``columns`` at most in a row.
    """
    n = images.shape[0]
    columns = min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows))
    for i, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        if i < n:
            axis.imshow(images[i].numpy(), cmap="gray", vmin=0, vmax=top)
            if titles:
                axis.set_title(titles[i], fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def save_comparison(
    reference: Tensor, images: Mapping[str, Tensor], scores: Mapping[str, str], path: Path
) -> None:
    """The reference and reconstructions in one window, errors times five below.

    Args:
        reference: magnitude ``(y, x)``.
        images: magnitudes ``(y, x)`` by name, in the units of the reference.
        scores: what stands under each name.
        path: PNG to write.
    """
    top = float(reference.quantile(0.995)) if reference.numel() < 2**24 else float(reference.max())
    n = len(images) + 1
    height = 2.4 * reference.shape[0] / reference.shape[1]
    figure = Figure(figsize=(2.4 * n, 2 * height + 0.7))
    axes = figure.subplots(2, n, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes[0, 0].imshow(reference.numpy(), cmap="gray", vmin=0, vmax=top)
    axes[0, 0].set_title("reference", fontsize=9)
    axes[1, 0].text(
        0.5, 0.5, "error x 5", ha="center", va="center", fontsize=10, transform=axes[1, 0].transAxes
    )
    for column, (name, img) in enumerate(images.items(), start=1):
        axes[0, column].imshow(img.numpy(), cmap="gray", vmin=0, vmax=top)
        axes[0, column].set_title(f"{name}\n{scores[name]}", fontsize=9)
        error = 5 * (img - reference).abs()
        axes[1, column].imshow(error.numpy(), cmap="inferno", vmin=0, vmax=top)
    figure.subplots_adjust(wspace=0.03, hspace=0.03, left=0.01, right=0.99, bottom=0.01, top=0.86)
    save_figure(figure, path, dpi=150)


N_MAPS = 6
"""How many coil maps are shown."""


def draw_coverage(path: Path, groups: Sequence[Coverage]) -> None:
    """Draw which share of the scans samples each line, one panel a matrix size, into a PNG file.

    Args:
        path: the picture.
        groups: coverage figures; those of 2-D masks have no lines and are left out.
    """
    groups = [group for group in groups if group.per_line]
    figure = Figure(figsize=(9, 2.4 * max(len(groups), 1)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    for i, group in enumerate(groups):
        axes = figure.add_subplot(len(groups), 1, i + 1)
        axes.bar(range(len(group.per_line)), group.per_line, width=1.0, color="0.35")
        axes.set(title=group.line, xlabel="phase-encode line", ylabel="share of scans", ylim=(0, 1))
        axes.title.set_fontsize(8)
        axes.margins(x=0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def draw_scan(
    path: Path,
    scan: Scan,
    low_resolution: Tensor,
    eigenvalues: Sequence[Tensor],
    facts: Mapping[str, str],
) -> None:
    """Draw the first slice of a prepared scan into a PNG file.

    Args:
        path: the picture.
        scan: prepared slices.
        low_resolution: image of the calibration block, ``(y, x)``.
        eigenvalues: ESPIRiT's largest and second largest, ``(y, x)``; empty for a single coil.
        facts: what to write beside the images, by name.
    """
    if scan.maps is None:
        raise ValueError(f"{scan.scan_id}: a picture needs a prepared scan, with maps")
    ksp, maps = scan.ksp[0], scan.maps[0]
    support = (maps != 0).any(dim=0)
    figure = Figure(figsize=(15, 8), dpi=80)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{scan.scan_id}, slice {scan.slices[0]}")
    grid = figure.add_gridspec(
        2, 4, left=0.01, right=0.99, bottom=0.01, top=0.91, wspace=0.05, hspace=0.1
    )
    draw = _Drawer(figure, _aspect(scan))

    combined = (maps.conj() * ifft2c(ksp)).sum(dim=0).abs()
    draw.image(grid[0, 0], combined, "zero-filled image, support outlined", outline=support)
    draw.image(grid[0, 1], low_resolution, "calibration block")
    strength = ksp.abs().square().sum(dim=0).sqrt().clamp_min(1e-6).log10()
    draw.image(grid[0, 2], strength.where(scan.mask[0], torch.nan), "measured k-space, log10")
    shown = min(N_MAPS, scan.n_coils)
    title = f"|map| of coils 1 to {shown} of {scan.n_coils}, 0 to 1"
    draw.image(grid[1, 0:2], _mosaic(maps[:shown].abs()), title, limits=(0.0, 1.0))
    if eigenvalues:
        title = "ESPIRiT eigenvalue, 0.8 to 1"
        draw.image(grid[1, 2], eigenvalues[0], title, limits=(0.8, 1.0), outline=support)
        title = "second eigenvalue, 0.8 to 1"
        draw.image(grid[1, 3], eigenvalues[1], title, limits=(0.8, 1.0))
    axes = figure.add_subplot(grid[0, 3])
    axes.set_axis_off()
    lines = [f"{name}: {value}" for name, value in facts.items()]
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=10, wrap=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


class _Drawer:
    """Puts images into a figure.

    Args:
        figure: where to.
        aspect: height of a pixel over its width.
    """

    def __init__(self, figure: Figure, aspect: float) -> None:
        self.figure, self.aspect = figure, aspect

    def image(
        self,
        place: SubplotSpec,
        img: Tensor,
        title: str,
        *,
        limits: tuple[float, float] | None = None,
        outline: Tensor | None = None,
    ) -> None:
        """Draw one image ``(y, x)``; without limits, up to its 99.5th percentile."""
        axes = self.figure.add_subplot(place)
        if limits is None:
            seen = img[img.isfinite()]
            limits = (float(seen.min()), float(seen.quantile(0.995)))
        axes.imshow(img.numpy(), cmap="gray", vmin=limits[0], vmax=limits[1], aspect=self.aspect)
        if outline is not None and bool(outline.any()) and not bool(outline.all()):
            axes.contour(outline.float().numpy(), levels=[0.5], colors="tab:orange", linewidths=1)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()


def _mosaic(images: Tensor) -> Tensor:
    """Images ``(coil, y, x)`` side by side, in two rows if there are more than three."""
    n_columns = len(images) if len(images) <= 3 else math.ceil(len(images) / 2)
    n_rows = math.ceil(len(images) / n_columns)
    ny, nx = images.shape[-2:]
    tiles = images.new_zeros(n_rows * n_columns, ny, nx)
    tiles[: len(images)] = images
    return tiles.view(n_rows, n_columns, ny, nx).transpose(1, 2).reshape(n_rows * ny, -1)


def _aspect(scan: Scan) -> float:
    """Height of a pixel over its width; square if the file does not say."""
    return 1.0 if scan.voxel_mm is None else scan.voxel_mm[0] / scan.voxel_mm[1]


def draw_reconstruction(magnitude: Any, std: Any = None, *, title: str = "") -> Figure:
    """Placeholder until the plots room is merged."""
    raise NotImplementedError
