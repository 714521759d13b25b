"""One picture a scan: what was measured, what the maps look like, and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from torch import Tensor

from ..atomic import atomic_path
from ..coverage import Coverage
from ..fourier import center_crop, ifft2c
from ..scan import Scan
from .espirit import EspiritMaps
from .normalise import calibration_image

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
    found: EspiritMaps | None,
    calib_shape: tuple[int, int],
    facts: Mapping[str, str],
) -> None:
    """Draw the first slice of a prepared scan into a PNG file.

    Args:
        path: the picture.
        scan: prepared slices.
        found: ESPIRiT's eigenvalues for the same slices, None for a single coil.
        calib_shape: sides ``(y, x)`` of the calibration block.
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
    low = calibration_image(center_crop(ksp, calib_shape), scan.shape)
    draw.image(grid[0, 1], low, f"calibration block {calib_shape[0]}x{calib_shape[1]}")
    strength = ksp.abs().square().sum(dim=0).sqrt().clamp_min(1e-6).log10()
    draw.image(grid[0, 2], strength.where(scan.mask[0], torch.nan), "measured k-space, log10")
    shown = min(N_MAPS, scan.n_coils)
    title = f"|map| of coils 1 to {shown} of {scan.n_coils}, 0 to 1"
    draw.image(grid[1, 0:2], _mosaic(maps[:shown].abs()), title, limits=(0.0, 1.0))
    if found is not None:
        title = "ESPIRiT eigenvalue, 0.8 to 1"
        draw.image(grid[1, 2], found.eigenvalue[0], title, limits=(0.8, 1.0), outline=support)
        title = "second eigenvalue, 0.8 to 1"
        draw.image(grid[1, 3], found.second_eigenvalue[0], title, limits=(0.8, 1.0))
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
