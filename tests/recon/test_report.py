"""The page of a reconstruction: images are the arrays, text is escaped, nothing is loaded."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import small_prior
from pages import Page, assert_is_sound
from patient import save_images

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import OutputExistsError, ScanFormatError
from mri_ambient.io import Geometry, ReconstructionFile, SaveOptions
from mri_ambient.io.outputs.parts import white_level
from mri_ambient.methods import CgSense, Dds
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Checks, Recipe
from mri_ambient.recon.report import ReportWriter, write_overview
from mri_ambient.recon.report.images import MASK_COLORS, draw_mask
from mri_ambient.recon.report.plots import Plot, ticks
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import write_json

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

CPU = Runtime("cpu")
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)<_script>'


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SimulateConfig(size=(32, 24), coils=3, full=True, noise=0.01, slices=3)
    return simulate("phantom", tmp_path_factory.mktemp("raw"), config, count=1)[0]


@pytest.fixture(scope="module")
def saved(full, tmp_path_factory) -> Path:
    """With samples, held-out lines, flags, a reference and a report."""
    recipe = Recipe(
        Dds(n_steps=2), prior=small_prior("conditioned", card={"data": EVIL, "sha256": "ab" * 32}),
        n_samples=2, checks=Checks(2, flags=True), retrospective=MaskSpec("random", 2.0, 8),
    )  # fmt: skip
    return reconstruct(full, recipe, CPU).save(tmp_path_factory.mktemp("out"), formats="report")


@pytest.fixture(scope="module")
def page(saved) -> Page:
    return Page(saved.with_name(f"{saved.stem}_report.html"))


def test_the_page_is_sound(page):
    assert_is_sound(page)
    n_plots = 2  # held-out lines, data residual
    assert len(page.all("svg")) > n_plots and len(page.all("polyline")) == 4 + 4
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and max(np.diff(headings)) == 1


def test_images_are_the_arrays_in_one_window(saved, page, full):
    images = page.images()
    assert len(images) == 3 * 5 + 1  # and the mask
    with h5py.File(saved) as file, h5py.File(full) as scan:
        magnitude, std = file["reconstruction"][()], file["reconstruction_std"][()]
        truth = scan["reconstruction_rss"][()]
    white, names = white_level(magnitude), ("dds (this reconstruction)", "fully sampled (RSS)")
    std_white = max(np.quantile(one, 0.999) for one in std)
    for i in range(3):
        for name, array in zip(names, (magnitude, truth), strict=True):
            levels = np.clip(array[i] / white, 0, 1) * 255
            np.testing.assert_allclose(images[f"Slice {i}, {name}"], levels, atol=0.51)
        levels = np.clip(std[i] / std_white, 0, 1) * 255  # places in the table of colours
        np.testing.assert_allclose(images[f"Slice {i}, standard deviation"], levels, atol=0.51)
    assert f"white is {white:.3g} in the units" in page.text["p"]


def test_every_warning_has_its_sentence_and_its_remedy(saved, page):
    report = json.loads(saved.with_suffix(".json").read_text())
    assert report["warnings"]
    for entry in report["warnings"]:
        assert entry["code"] in page.text["code"] and entry["text"] in page.text["p"]
    assert page.text["strong"].count("What to do:") == len(report["warnings"])


def test_what_decided_the_images_is_stated(saved, page):
    report = json.loads(saved.with_suffix(".json").read_text())
    shown = page.text["dd"] + page.text["span"]
    for value in (report["settings"]["input_sha256"], "ab" * 32, "torch 2.", "n_steps = 2"):
        assert value in shown
    assert f"R = {report['acceleration']:.2f}" in shown
    assert f"{report['metrics']['psnr']:.4g} dB" in page.text["td"]
    assert "2 estimates with a spread" in page.text["p"]


def test_text_of_files_is_escaped(full, page, tmp_path):
    assert EVIL in page.text["dd"] and EVIL not in page.text_of_file  # from the card of the prior
    scan = tmp_path / f"{EVIL}.h5"
    scan.write_bytes(full.read_bytes())
    path = reconstruct(scan, Recipe(CgSense()), CPU).save(tmp_path / "out", formats="report")
    evil = Page(path.with_name(f"{path.stem}_report.html"))
    assert_is_sound(evil)
    assert len(evil.all("script")) == 1 and evil.text["h1"] == EVIL


def test_a_page_without_the_scan_says_what_is_missing(full, tmp_path):
    rec = reconstruct(full, Recipe(CgSense()), CPU)
    path = replace(rec, volume=None).save(tmp_path, formats="report")
    page = Page(path.with_name(f"{path.stem}_report.html"))
    assert_is_sound(page)
    assert len(page.all("img")) == 3 and "was not at hand" in page.text["p"]
    path.with_suffix(".json").unlink()
    with pytest.raises(ScanFormatError, match="json"):
        ReportWriter().write(ReconstructionFile(path), tmp_path, SaveOptions())


def test_a_scan_in_memory_has_the_same_page(full, tmp_path):
    with h5py.File(full) as file:
        array = file["kspace"][()]
    path = reconstruct(array, Recipe(CgSense()), CPU).save(tmp_path, formats="report")
    page = Page(path.with_name(f"{path.stem}_report.html"))
    assert len(page.images()) == 3 * 4 + 1


def test_a_reconstruction_leaves_its_scan_behind(full):
    """Sent to another process, it does not carry the prior."""
    rec = reconstruct(full, Recipe(CgSense()), CPU)
    there = pickle.loads(pickle.dumps(rec))
    assert rec.volume is not None and there.volume is None
    np.testing.assert_array_equal(there.complex, rec.complex)


def test_a_page_is_replaced_with_its_reconstruction_only(full, tmp_path):
    rec = reconstruct(full, Recipe(CgSense()), CPU)
    path = rec.save(tmp_path, formats="report")
    assert not list(tmp_path.glob(".*"))
    page = path.with_name(f"{path.stem}_report.html")
    page.write_text("mine")
    rec.save(tmp_path, formats="report")
    assert page.read_text() == "mine"
    path.unlink()
    with pytest.raises(OutputExistsError, match="report"):
        rec.save(tmp_path, formats="report")


@pytest.fixture
def report_of(full) -> dict:
    return reconstruct(full, Recipe(CgSense()), CPU).report


def test_slices_are_seen_as_radiologists_look_at_them(report_of, tmp_path):
    """Something bright in the first rows of slices whose rows run upwards."""
    img = torch.full((3, 20, 30), 0.1, dtype=torch.complex64)
    img[:, 1:4, 3:6] = 1
    geometry = Geometry.of_vectors((0, 0, 1), (1, 0, 0), (0, 1, 0), [(0, k, 0) for k in range(3)])
    result = save_images(tmp_path / "coronal.h5", img, voxel_mm=(1.0, 1.0, 1.0), geometry=geometry)
    write_json(result.path.with_suffix(".json"), report_of)
    ReportWriter().write(result, tmp_path, SaveOptions())
    page = Page(tmp_path / "coronal_report.html")
    shown = page.images()["Slice 1, cg-sense (this reconstruction)"]
    assert np.argwhere(shown == 255).mean(axis=0).tolist() == [17, 4]  # head on top
    assert "RLSI" * 3 in page.text["span"]


def test_voxels_keep_their_shape(report_of, tmp_path):
    result = save_images(tmp_path / "a.h5", torch.ones(3, 20, 30) + 0j, voxel_mm=(2.0, 1.0, 1.0))
    write_json(result.path.with_suffix(".json"), report_of)
    ReportWriter().write(result, tmp_path, SaveOptions())
    (style,) = re.findall(r'style="--aspect: ([\d.]+)"', (tmp_path / "a_report.html").read_text())
    assert float(style) == pytest.approx(30 / 40)


def test_figures_that_are_not_finite_are_left_out(report_of, tmp_path):
    """JSON holds null for them: a scan without noise, a perfect image."""
    result = save_images(tmp_path / "a.h5", torch.ones(3, 20, 30) + 0j)
    row = {"error": 0.5, "noise": 0.0, "l1_wavelet": 0.5, "cg_sense": 0.5, "chi_square": None}
    checks = [{"slice": i, "data_residual": None, "held_out": row} for i in range(3)]
    metrics = report_of["metrics"] | {"psnr": None}
    changed = report_of | {"checks": checks, "metrics": metrics}
    write_json(result.path.with_suffix(".json"), changed)
    ReportWriter().write(result, tmp_path, SaveOptions())
    write_overview(tmp_path)
    for name in ("a_report.html", "index.html"):
        page = Page(tmp_path / name)
        assert_is_sound(page)
        assert "None" not in page.text["td"] and "nan" not in page.text["td"]


def test_a_mask_is_drawn_sample_by_sample():
    mask = torch.zeros(1, 8, 6, dtype=torch.bool)
    mask[..., 2:5] = True
    acquired = torch.tensor([False] + [True] * 5)
    picture = draw_mask(mask, acquired, (3, 3))
    names = {color: name for name, color in MASK_COLORS.items()}
    counts = {name: int((picture == color).all(axis=2).sum()) for color, name in names.items()}
    assert counts == {
        "not sampled": 16, "never acquired": 8, "sampled": 15, "calibration block": 9
    }  # fmt: skip
    assert names[tuple(picture[4, 3])] == "calibration block"


def test_curves_have_places_on_a_linear_axis():
    plot = Plot("a", "A", "", {"this reconstruction": [0.0, None, 2.0], "L1-wavelet": [1.0] * 3}, 3)
    own, other = plot.curves
    (x0, y0), (x2, y2) = own.points
    assert y0 == plot.bottom and x0 < x2 and [x for x, _ in other.points][::2] == [x0, x2]
    assert other.points[0][1] == pytest.approx((y0 + y2) / 2)
    assert [label for _, label in plot.x_ticks] == ["0", "1", "2"]
    assert ticks(0.83) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8]) and ticks(0.0) == [0.0]


def test_large_pages_have_compressed_images(report_of, tmp_path, monkeypatch):
    result = save_images(tmp_path / "a.h5", torch.rand(3, 20, 30) + 0j, std=torch.rand(3, 20, 30))
    write_json(result.path.with_suffix(".json"), report_of)
    kinds, page = [], tmp_path / "a_report.html"
    for most in (10**6, 1000):
        monkeypatch.setattr("mri_ambient.recon.report.writer.MOST_LOSSLESS", most)
        ReportWriter().write(result, tmp_path, SaveOptions())
        kinds.append({one["src"][11:14] for one in Page(page).all("img")})
        assert len(Page(page).images()) == 6
        assert ("are compressed (JPEG)" in page.read_text()) == (most == 1000)
    assert kinds == [{"png"}, {"jpe"}]
