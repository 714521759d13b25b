"""Pictures: what they show, in which window, in which proportions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from codes import warns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from memory_scan import head
from PIL import Image

from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.simulation.phantom import head_phantom
from mri_ambient.errors import ScanFormatError
from mri_ambient.io import ReconstructionWriter
from mri_ambient.io.outputs.parts import white_level
from mri_ambient.plots import (
    draw_calibration,
    draw_comparison,
    draw_coverage,
    draw_curves,
    draw_memorization,
    draw_montage,
    draw_previews,
    draw_reconstruction,
    draw_scan,
    draw_volume,
    save_figure,
)
from mri_ambient.rng import rng_for

VOLUME = head_phantom((48, 40), rng_for(0), 20)


def shown(figure: Figure) -> list[np.ndarray]:
    """The images of a figure, in drawing order."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def whites(figure: Figure) -> list[float]:
    """The different values that are shown white; black is 0 everywhere."""
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert {low for low, _ in limits} == {0}
    return sorted(high for _, high in limits)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def assert_texts_apart(figure: Figure) -> None:
    """No title or label lies over another one."""
    figure.draw_without_rendering()
    texts = [axes.title for axes in figure.axes]
    texts += [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    texts += figure.texts
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_figures_are_written_without_global_state(tmp_path):
    save_figure(draw_montage(VOLUME[:3]), tmp_path / "new" / "a.png", dpi=50)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size[0] > 300
    assert "matplotlib.pyplot" not in sys.modules


def test_a_volume_is_shown_by_sixteen_evenly_chosen_slices_in_one_window():
    figure = draw_reconstruction(VOLUME, title="scan")
    assert_texts_apart(figure)
    chosen = [int(title.split()[1]) for title in titles(figure)]
    assert len(chosen) == 16
    assert (chosen[0], chosen[-1]) == (0, 19)
    assert set(np.diff(chosen)) == {1, 2}
    for img, index in zip(shown(figure), chosen, strict=True):
        np.testing.assert_array_equal(img, VOLUME[index])
    assert whites(figure) == pytest.approx([white_level(VOLUME.numpy())])


def columns_of(figure: Figure) -> list[list[Axes]]:
    """The axes with images of every slice: the image first, then what stands below or beside it."""
    images = [axes for axes in figure.axes if axes.images]
    starts = [i for i, axes in enumerate(images) if axes.get_title().startswith("slice")]
    n_kinds = len(images) // len(starts)
    places = {(p.rowspan.start, p.colspan.start): a for a in images if (p := a.get_subplotspec())}
    beside = len(starts) < n_kinds
    found = []
    for start in starts:
        place = images[start].get_subplotspec()
        row, column = place.rowspan.start, place.colspan.start
        steps = range(n_kinds)
        found.append([places[(row, column + k) if beside else (row + k, column)] for k in steps])
    return found


@pytest.mark.parametrize("n_slices", [1, 9])
def test_a_standard_deviation_stands_with_its_slice_in_a_window_of_its_own(n_slices):
    volume = VOLUME[:n_slices]
    figure = draw_reconstruction(volume, 0.05 * volume, title="scan")
    assert_texts_apart(figure)
    assert "5 %" in figure.get_suptitle()
    top = white_level(volume.numpy())
    assert whites(figure) == pytest.approx([0.05 * top, top])
    slices = columns_of(figure)
    assert len(slices) == min(n_slices, 16)
    for img, std in slices:
        pixels = 0.05 * img.images[0].get_array()
        np.testing.assert_allclose(std.images[0].get_array(), pixels, rtol=1e-6)


@pytest.mark.parametrize("n_slices", [1, 9])
def test_reference_and_error_stand_with_their_slice_in_its_window(n_slices):
    reference = VOLUME[:n_slices]
    volume = reference * torch.linspace(0.9, 1.2, n_slices).view(-1, 1, 1)
    std = 0.1 * volume
    figure = draw_reconstruction(volume, std, title="scan", reference=("RSS", reference))
    assert_texts_apart(figure)
    slices = columns_of(figure)
    assert len(slices) == min(n_slices, 8)
    chosen = [int(img.get_title().split()[1]) for img, *_ in slices]
    for index, shown in zip(chosen, slices, strict=True):
        error = 5 * (volume[index] - reference[index]).abs()
        for axes, want in zip(
            shown, (volume[index], reference[index], error, std[index]), strict=True
        ):
            np.testing.assert_allclose(axes.images[0].get_array(), want, rtol=1e-6)
        limits = [axes.images[0].get_clim() for axes in shown]
        assert limits[0] == limits[1] == limits[2] == (0.0, white_level(reference.numpy()))
        assert "RSS" in shown[1].get_title() and "x 5" in shown[2].get_title()


def test_no_line_of_a_title_ends_before_its_number():
    figure = draw_reconstruction(VOLUME[:1], title="a_scan_of_22_letters_: dds, R = 4.00")
    assert figure.get_suptitle().splitlines() == ["a_scan_of_22_letters_: dds,", "R = 4.00"]


def test_bright_fat_does_not_make_the_rest_dark():
    """A rim of 4 % of the pixels, 20 times brighter: the window is that of the object."""
    img = np.zeros((1, 100, 100), np.float32)
    img[0, 20:80, 20:80] = 1.0
    img[0, 20:27, 20:80] = 20.0
    assert white_level(img) == pytest.approx(2.5)
    assert white_level(np.ones((1, 10, 10), np.float32)) == 1


def test_an_image_of_zeros_has_a_window():
    assert whites(draw_reconstruction(torch.zeros(2, 8, 8))) == [1]
    assert whites(draw_montage(torch.zeros(2, 8, 8))) == [1]


@pytest.mark.parametrize("voxel_mm", [(2.0, 1.0, 5.0), None])
def test_a_reconstruction_file_is_drawn_with_the_shape_of_its_voxels(voxel_mm, tmp_path):
    path = tmp_path / "scan.h5"
    attributes = {} if voxel_mm is None else {"voxel_mm": voxel_mm}
    with ReconstructionWriter(path, 2, (48, 40), attributes=attributes, with_std=True) as writer:
        for index in range(2):
            writer.write(index, VOLUME[index].to(torch.complex64), 0.1 * VOLUME[index])
    figure = draw_volume(path)
    assert figure.get_suptitle().startswith("scan")
    assert len(shown(figure)) == 4
    figure.draw_without_rendering()
    box = next(axes for axes in figure.axes if axes.images).get_window_extent()
    want = 48 / 40 * (2.0 if voxel_mm else 1.0)
    assert box.height / box.width == pytest.approx(want, rel=0.02)


def test_a_file_that_is_no_reconstruction_is_refused(tmp_path):
    (tmp_path / "scan.h5").write_text("no")
    with pytest.raises(ScanFormatError, match=r"scan\.h5"):
        draw_volume(tmp_path / "scan.h5")


def test_a_montage_has_a_window_for_each_image_or_one_for_all():
    images = VOLUME[:5] * torch.arange(1, 6).view(-1, 1, 1)
    assert len(whites(draw_montage(images))) == 5
    named = draw_montage(images, top=2.0, titles=["a", "b", "c", "d", "e"], columns=2)
    assert_texts_apart(named)
    assert whites(named) == [2]
    assert titles(named) == ["a", "b", "c", "d", "e"]


def test_previews_share_the_window_of_the_last_method_in_each_row():
    rows = [{"a": 9 * VOLUME[i], "b": VOLUME[i] / (i + 1)} for i in range(3)]
    figure = draw_previews(rows)
    assert titles(figure) == ["a", "b"]
    assert whites(figure) == pytest.approx(sorted(float(row["b"].max()) for row in rows))


def test_a_comparison_shows_errors_times_five_in_the_window_of_the_reference():
    reference = VOLUME[0]
    images = {"CG-SENSE": 0.9 * reference, "prior": reference}
    figure = draw_comparison(reference, images, {"CG-SENSE": "20.0 dB", "prior": "inf dB"})
    assert_texts_apart(figure)
    assert titles(figure) == ["reference", "CG-SENSE\n20.0 dB", "prior\ninf dB"]
    assert len(whites(figure)) == 1
    errors = [axes.images[0].get_array() for axes in figure.axes[4:] if axes.images]
    np.testing.assert_allclose(errors[0], 0.5 * reference, atol=1e-6)
    assert errors[1].max() == 0


@pytest.mark.parametrize(("coils", "n_images"), [(1, 4), (4, 6), (8, 6)])
def test_a_prepared_scan_is_drawn_with_its_figures(coils, n_images):
    file = head(coils=coils, noise=0.02, size=(48, 32), calib=12, acceleration=2)
    with warns(*(["W-ONE-COIL"] if coils == 1 else [])):
        preparation = plan_preparation(file)
    scan, found = preparation.apply_espirit(file[0])
    values = () if found is None else (found.eigenvalue[0], found.second_eigenvalue[0])
    figure = draw_scan(scan, VOLUME[0], values, {"noise": "0.01", "coils": f"{coils} of {coils}"})
    assert_texts_apart(figure)
    assert len(shown(figure)) == n_images
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == [f"noise: 0.01\ncoils: {coils} of {coils}"]
    with pytest.raises(ValueError, match="maps"):
        draw_scan(file[0], VOLUME[0], (), {})


def test_training_curves_show_loss_validation_and_classical_methods():
    records = [{"images": 8 * i, "loss": 1 / (i + 1)} for i in range(60)]
    assert not any(list(axes.lines) for axes in draw_curves([]).axes)
    check = {"held_out": 0.3, "held_out_no_dc": 0.4, "held_out_cg_sense": 0.5}
    ends = [{"images": images, **check} for images in (480, 240)]
    figure = draw_curves([{"images": 0, "loss": None}, *records], ends)
    assert list(figure.axes[1].lines[0].get_xdata()) == [240, 480]
    assert_texts_apart(figure)
    loss, smooth = (line.get_ydata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(loss, [record["loss"] for record in records])
    np.testing.assert_allclose(smooth[[0, 4, 59]], [1, loss[:5].mean(), loss[50:].mean()])
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert labels == ["prior + data consistency", "prior alone", "CG-SENSE"]


def test_coverage_has_a_panel_for_each_matrix_size():
    figure = draw_coverage({"2 scans of 8x8": [0.5] * 8, "1 scan of 4x4": [1.0, 0.0, 0.0, 1.0]})
    assert_texts_apart(figure)
    assert titles(figure) == ["2 scans of 8x8", "1 scan of 4x4"]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [1, 0, 0, 1]


def test_audits_show_distances_pairs_and_intervals():
    pairs = [(VOLUME[i], VOLUME[i + 1]) for i in range(4)]
    figure = draw_memorization([0.1, 0.2], [0.3], pairs)
    assert_texts_apart(figure)
    assert len(shown(figure)) == 8
    assert list(figure.axes[0].lines[1].get_xdata()) == [0.1, 0.2]
    figure = draw_calibration([0.5, 0.9], [0.3, 0.6], [0.5, 0.9])
    assert_texts_apart(figure)
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[1:]] == [[0.3, 0.6], [0.5, 0.9]]
