"""Scans in, images out: what is written, what is never lost, and how it ends."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import report_of, small_prior
from PIL import Image

from mri_ambient.data_prep import SimulateConfig, prepare_file, simulate
from mri_ambient.io import FastmriFile, ReconstructionFile, Undersampled, open_scan
from mri_ambient.methods import METHODS, PRESETS, Dds, Preset
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import save_prior
from mri_ambient.priors.weights import DEFAULT
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import Checks, Recipe
from mri_ambient.recon.result_file import reconstruct_to_folder
from mri_ambient.runtime.device import Runtime

ZERO_FILLED = ("--method", "zero-filled", "--device", "cpu")
CG_SENSE = ("--method", "cg-sense", "--device", "cpu")


LISTS = {"status.jsonl", "summary.csv", "config.toml"}
"""What became of several scans, also what was finished before; the options of the call."""


def stamps(folder: Path) -> dict[Path, int]:
    files = (path for path in folder.iterdir() if path.name not in LISTS)
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture
def two_slices(tmp_path: Path) -> Path:
    """A fully sampled scan of two slices with its own target, to be changed."""
    config = SimulateConfig(size=(32, 32), coils=3, full=True, noise=0.005, slices=2)
    return simulate("phantom", tmp_path / "scans", config, count=1)[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_what_is_promised(method, cli, scan, prior_file, tmp_path):
    steps = ["--steps", 3] if "n_steps" in METHODS[method].__dataclass_fields__ else []
    prior = ["-m", prior_file] if METHODS[method].needs_prior else []
    cli("reconstruct", scan, "-o", tmp_path / "out", "--method", method, *prior, "--samples", 2,
        "--retrospective", 2, "--calib-lines", 8, "--device", "cpu", *steps)  # fmt: skip
    several = METHODS[method].stochastic
    with h5py.File(tmp_path / "out" / scan.name) as file, h5py.File(scan) as target:
        image = file["reconstruction"][()]
        assert image.dtype == np.float32
        assert image.shape == target["reconstruction_rss"].shape
        assert np.isfinite(image).all()
        np.testing.assert_allclose(np.abs(file["reconstruction_complex"][()]), image, rtol=1e-5)
        assert ("reconstruction_std" in file) == several
    report = report_of(tmp_path / "out", scan)
    assert report["provenance"]["method"] == method
    assert report["provenance"]["n_samples"] == (2 if several else 1)
    assert report["acceleration"] == pytest.approx(2.0)
    assert report["metrics"].keys() >= {"psnr", "ssim", "nmse", "reference"}
    assert len(report["settings"]["input_sha256"]) == 64


@pytest.mark.pictures
def test_the_whole_path_from_the_command_line_alone(cli, full, scan, trained, tmp_path):
    """simulate -> prep -> train -> reconstruct -> evaluate."""
    assert (trained.prepared / "manifest.json").exists()
    for name in ("config.toml", "log.jsonl", "curves.png", "prior.safetensors"):
        assert (trained.run / name).stat().st_size > 0
    out = tmp_path / "recon"
    cli("reconstruct", scan, "-o", out, "-m", trained.run, "--retrospective", 2, "--calib-lines", 8,
        "--device", "cpu")  # fmt: skip
    scores = json.loads(cli("evaluate", out, "--target", full, "--json").out)
    report = report_of(out, scan)
    (volume,) = scores["volumes"].values()
    for key in ("psnr", "ssim", "nmse"):
        assert volume[key] == pytest.approx(report["metrics"][key], rel=1e-6)
    assert report["metrics"]["reference"] == "rss"
    assert report["metrics_sense"]["reference"] == "sense"


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_raw_scans_are_prepared_as_by_prep(cli, two_slices, tmp_path):
    """With every option of it."""
    words = ("--coils", 3, "--energy", 0.9, "--calib-width", 10, "--map-sets", 1)
    cli("prep", two_slices, "-o", tmp_path / "prepared", *words, "--no-pictures")
    images = []
    for place, given in ((two_slices, words), (tmp_path / "prepared", ())):
        out = tmp_path / f"out-{len(images)}"
        cli("reconstruct", place, "-o", out, "--method", "cg-sense", *given)
        images.append(ReconstructionFile(out / f"{two_slices.stem}.h5").read(0))
    np.testing.assert_allclose(np.abs(images[0]), np.abs(images[1]), rtol=1e-3, atol=1e-9)


@pytest.mark.usefixtures("short_wavelets")
@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_command_line_and_python_make_the_same(cli, two_slices, tmp_path):
    """With the method that suits the prior; each finds that the other's output is finished."""
    for kind, method, steps in (("plain", "dds", ("--steps", 3)), ("conditioned", "aos", ())):
        path, out = tmp_path / f"{kind}.safetensors", tmp_path / kind
        save_prior(small_prior(kind), path)
        recipe = Recipe(
            options={"n_steps": 3} if steps else {}, prior=path, checks=Checks(1, flags=True),
            retrospective=MaskSpec("random", 2, 8),
        )  # fmt: skip
        volume = open_volume(two_slices, recipe.resolve(), Runtime("cpu"))
        report = reconstruct_to_folder(volume, out)
        assert report["provenance"]["method"] == method
        assert all({"held_out", "flags"} <= set(check) for check in report["checks"])
        before = stamps(out)
        cli("reconstruct", two_slices, "-o", out, "-m", path, "--retrospective", 2,
            "--calib-lines", 8, "--holdout", 1, "--warn", "--device", "cpu", *steps)  # fmt: skip
        assert stamps(out) == before


def test_results_are_saved_for_viewers(cli, two_slices, tmp_path):
    words = ("reconstruct", two_slices, "-o", tmp_path, *ZERO_FILLED, "--save", "nifti,dicom,bids")
    cli(*words, "--bids", "sub-01", "--parts", "mag,phase")
    stem = two_slices.stem
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        f"{stem}.nii.gz", f"{stem}.nii.json", f"{stem}_part-phase.nii.gz",
        f"{stem}_dicom/slice-0002.dcm", f"{stem}_part-phase_dicom/slice-0002.dcm",
        "bids/dataset_description.json",
    } <= files  # fmt: skip
    assert len([name for name in files if name.startswith("bids/sub-01/anat/sub-01_acq-")]) == 4
    before = stamps(tmp_path)
    cli(*words, "--bids", "sub-01", "--parts", "mag,phase")
    assert stamps(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("--save", "dicom", "--dicom-template", "."), ("--save", "nifti", "--bids", "sub-01"),
        ("--save", "bids"), ("--save", "nifti", "--dicom-template", "."),
        ("--save", "nifti", "--parts", "std"),
    ],
    ids=["template", "bids for nothing", "no name", "template for nothing", "no std"],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_before_it_is_computed(words, cli, two_slices, tmp_path):
    out = tmp_path / "out"
    cli("reconstruct", two_slices, "-o", out, *ZERO_FILLED, *words, code=2)
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("--save", "bids"), ("--save", "bids", "--bids", "patient-1")], ids=["none", "wrong"]
)
def test_a_missing_bids_name_is_named_before_a_scan_is_opened(words, cli, tmp_path):
    (tmp_path / "damaged.h5").write_bytes(b"no scan")
    out = cli("reconstruct", tmp_path / "damaged.h5", "-o", tmp_path, *ZERO_FILLED, *words, code=2)
    assert len(out.errors) == 1 and "--bids" in out.errors[0] and "damaged" not in out.errors[0]


def test_presets_are_methods_with_their_options(cli, scan, prior_file, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quality", Preset(Dds(n_steps=3), 2))  # or it takes long
    words = ("reconstruct", scan, "-m", prior_file, "--device", "cpu")
    for name, preset in PRESETS.items():
        cli(*words, "-o", tmp_path / name, "--preset", name)
        made = report_of(tmp_path / name, scan)["provenance"]
        assert made["method"] == preset.method.name
        assert made["method_options"] == asdict(preset.method)
        assert made["n_samples"] == preset.n_samples
    before = stamps(tmp_path / "fast")
    cli(*words, "-o", tmp_path / "fast")  # the default method is the preset fast
    assert stamps(tmp_path / "fast") == before


def test_slices_are_checked_and_flagged(cli, full, prior_file, tmp_path):
    """An untrained prior is found out by held-out lines, and verbose shows every slice."""
    words = ("reconstruct", full, "-o", tmp_path / "out", "-m", prior_file, "--device", "cpu")
    printed = cli(*words, "--holdout", 1, "--warn", "-v")
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    checks = [check for report in reports for check in report["checks"]]
    assert all({"error", "noise", "l1_wavelet"} <= set(check["held_out"]) for check in checks)
    assert all(0 <= check["prior_share"] <= 1 for check in checks)
    assert any(check["held_out"]["error"] > check["held_out"]["l1_wavelet"] for check in checks)
    assert any(check["flags"] for check in checks)
    stored = {warning["code"] for report in reports for warning in report["warnings"]}
    assert "W-FLAGGED" in stored
    assert set(printed.codes) == stored
    for check in checks:
        assert f"{check['held_out']['error']:.4f}" in printed.out
    for report in reports:
        (line,) = (text for text in printed.out.splitlines() if text.startswith(report["input"]))
        assert f"{report['checks'][0]['held_out']['error']:.4f}" in line


@pytest.mark.usefixtures("short_wavelets")
def test_warn_holds_out_two_lines_unless_told_otherwise(cli, scan, tmp_path):
    for more, n_lines in (((), 0), (("--warn",), 2), (("--warn", "--holdout", 0), 0)):
        out = tmp_path / str(len(more))
        cli("reconstruct", scan, "-o", out, *CG_SENSE, *more)
        assert report_of(out, scan)["settings"]["checking"]["n_hidden"] == n_lines


@pytest.mark.parametrize(("method", "warned"), [("aos", True), ("dds", False), ("start", True)])
def test_a_plain_prior_is_warned_about_in_one_step(method, warned, cli, scan, tmp_path):
    save_prior(small_prior("plain"), tmp_path / "plain.safetensors")
    words = {
        "aos": ("--method", "aos"),
        "dds": ("--method", "dds", "--steps", 2),
        "start": ("--method", "dds", "--steps", 2, "-O", "start=aos"),
    }
    printed = cli(
        "reconstruct", scan, "-o", tmp_path / "out", "-m", tmp_path / "plain.safetensors",
        "--retrospective", 2, "--calib-lines", 8, "--device", "cpu", *words[method],
    )  # fmt: skip
    stored = [warning["code"] for warning in report_of(tmp_path / "out", scan)["warnings"]]
    assert ("W-PRIOR-ONE-STEP" in printed.codes) == warned
    assert ("W-PRIOR-ONE-STEP" in stored) == warned


@pytest.mark.pictures
def test_a_shipped_prior_is_called_by_its_name_and_drawn_on_request(cli, scan, tmp_path):
    words = ("reconstruct", scan, "-o", tmp_path, "-m", DEFAULT, "--method", "dds", "--steps", 2,
             "--samples", 2, "--retrospective", 2, "--calib-lines", 8,
             "--device", "cpu")  # fmt: skip
    cli(*words)
    before, picture = stamps(tmp_path), tmp_path / f"{scan.stem}.png"
    assert picture not in before
    cli(*words, "--save", "png")  # what is finished is not made again, but drawn
    assert picture.stat().st_size > 5000
    with Image.open(picture) as drawn:
        assert drawn.width >= 1000
        assert drawn.width > 2 * drawn.height  # image, reference, error, standard deviation
    assert {path: stamp for path, stamp in stamps(tmp_path).items() if path != picture} == before


def test_samples_are_kept_on_request(cli, scan, prior_file, tmp_path):
    words = ("reconstruct", scan, "-m", prior_file, "--method", "dds", "--steps", 2,
             "--keep-samples", "--device", "cpu")  # fmt: skip
    for n, shape in ((2, (1, 2, 40, 32)), (1, None)):
        cli(*words, "-o", tmp_path / str(n), "--samples", n)
        with h5py.File(tmp_path / str(n) / scan.name) as file:
            found = file["reconstruction_samples"].shape if shape else file.get(
                "reconstruction_samples")  # fmt: skip
        assert found == shape


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_raw_scan_is_never_overwritten(two_slices, more, cli):
    before = two_slices.read_bytes()
    printed = cli("reconstruct", two_slices, "-o", two_slices.parent, *ZERO_FILLED, *more, code=2)
    assert two_slices.name in printed.errors[0]
    assert two_slices.read_bytes() == before


def test_a_prepared_scan_is_never_overwritten(two_slices, cli, tmp_path):
    prepared = prepare_file(two_slices, tmp_path / "prepared")
    before = prepared.read_bytes()
    words = ("-o", prepared.parent, *ZERO_FILLED, "--overwrite")
    assert prepared.name in cli("reconstruct", two_slices, *words, code=2).errors[0]
    assert prepared.read_bytes() == before


def test_finished_is_skipped_and_other_settings_are_refused(cli, full, tmp_path):
    words = ("reconstruct", full, "-o", tmp_path / "out", *CG_SENSE)
    cli(*words)
    before = stamps(tmp_path / "out")
    cli(*words)
    refused = cli(*words, "--lambda", 0.5, code=2)
    assert len(refused.errors) == 2
    assert all("(method)" in line for line in refused.errors)
    assert stamps(tmp_path / "out") == before
    cli(*words, "--lambda", 0.5, "--overwrite")
    assert all(stamp > before[path] for path, stamp in stamps(tmp_path / "out").items())


def test_an_image_without_its_report_is_completed(two_slices, cli, tmp_path):
    """A run killed between the two files: the same command completes it, another is refused."""
    out = tmp_path / "out"
    cli("reconstruct", two_slices, "-o", out, *ZERO_FILLED)
    report = out / f"{two_slices.stem}.json"
    report.unlink()
    assert "(method)" in cli("reconstruct", two_slices, "-o", out, *CG_SENSE, code=2).err
    cli("reconstruct", two_slices, "-o", out, *ZERO_FILLED)
    assert report.exists()


def test_interrupted_it_leaves_no_half_file(cli, full, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mri_ambient.methods.ZeroFilled.__call__", interrupt)
    printed = cli("reconstruct", full, "-o", tmp_path / "out", *ZERO_FILLED, code=130)
    assert "2 not reached" in printed.err
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_an_output_that_is_a_file_is_refused_at_once(cli, scan, tmp_path):
    (tmp_path / "out").write_text("mine")
    cli("reconstruct", scan, "-o", tmp_path / "out", "--device", "cpu", code=2)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    "target", [np.ones((2, 40, 40)), np.ones((1, 32, 32)), np.zeros((2, 32, 32)), np.ones(3)]
)
def test_a_useless_target_is_replaced_by_the_rss_of_the_kspace(target, two_slices, cli, tmp_path):
    with h5py.File(two_slices, "r+") as file:
        del file["reconstruction_rss"]
        file["reconstruction_rss"] = target.astype(np.float32)
    assert "W-REFERENCE" in cli("reconstruct", two_slices, "-o", tmp_path, *ZERO_FILLED).codes
    report = report_of(tmp_path, two_slices)
    assert report["metrics"]["psnr"] > 30
    assert "W-REFERENCE" in [warning["code"] for warning in report["warnings"]]


def test_images_too_small_to_score_are_kept(cli, tmp_path):
    """SSIM needs 7 x 7 pixels; a final matrix of 6 columns has none."""
    config = SimulateConfig(size=(32, 32), coils=3, full=True, noise=0.005)
    scan = simulate("phantom", tmp_path / "scans", config, count=1)[0]
    with h5py.File(scan, "r+") as file:
        del file["reconstruction_rss"]
        xml = file["ismrmrd_header"][()].decode()
        head, final = xml.split("<reconSpace>")
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = f"{head}<reconSpace>{final.replace('<y>32</y>', '<y>6</y>', 1)}"
    assert "W-NOT-SCORED" in cli("reconstruct", scan, "-o", tmp_path / "out", *ZERO_FILLED).codes
    report = report_of(tmp_path / "out", scan)
    assert report["recon_shape"] == [32, 6]
    assert "metrics" not in report


def test_a_renamed_prepared_scan_gives_files_of_its_new_name(cli, scan, tmp_path):
    made = prepare_file(scan, tmp_path / "prepared")
    renamed = made.rename(made.with_name("renamed.h5"))
    cli("reconstruct", renamed, "-o", tmp_path / "out", *ZERO_FILLED)
    assert {path.name for path in stamps(tmp_path / "out")} == {"renamed.h5", "renamed.json"}
    with h5py.File(renamed, "r+") as file:
        file.attrs["scan_id"] = "../elsewhere"
    refused = cli("reconstruct", renamed, "-o", tmp_path / "x", *ZERO_FILLED, code=3)
    assert "../elsewhere" in refused.errors[0]


def test_a_bad_file_in_the_middle_costs_one_line(cli, full_copy, tmp_path):
    scans = sorted(full_copy.glob("*.h5"))
    bad = full_copy / (scans[0].stem + "_b.h5")
    bad.write_bytes(scans[0].read_bytes()[:2000])
    (line,) = cli("reconstruct", full_copy, "-o", tmp_path / "out", *ZERO_FILLED, code=1).errors
    assert bad.name in line
    assert {p.name for p in stamps(tmp_path / "out")} == {
        f"{scan.stem}{suffix}" for scan in scans for suffix in (".h5", ".json")
    }


def test_the_last_line_counts_what_was_done(cli, full_copy, tmp_path):
    words = ("reconstruct", full_copy, "-o", tmp_path / "out", *ZERO_FILLED)
    cli(*words)
    third = full_copy / "third.h5"
    third.write_bytes(min(full_copy.glob("*.h5")).read_bytes())
    (full_copy / "bad.h5").write_bytes(b"not hdf5")
    for name in ("notes.txt", "seg.nii", ".hidden"):
        (full_copy / name).touch()
    lines = cli(*words, code=1).err.splitlines()
    assert re.findall(r"\d+", lines[-1]) == ["1", "2", "1"]
    (line,) = (line for line in lines if "notes.txt, seg.nii" in line)
    assert line.startswith("2 ")
    assert "hidden" not in line
    assert len(cli(*words, "-q", code=1).err.splitlines()) == 1
    assert not re.search("^[0-9]", cli("reconstruct", third, *words[2:]).err, re.MULTILINE)


def test_nothing_usable_is_exit_code_3(cli, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"not hdf5")
    (tmp_path / "empty").mkdir()
    for given in (bad, tmp_path / "empty"):
        cli("reconstruct", given, "-o", tmp_path / "out", *ZERO_FILLED, code=3)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_foreign_prior_is_one_line_and_exit_code_3(cli, scan, tmp_path):
    nan = small_prior("conditioned")
    with torch.no_grad():
        next(nan.net.parameters()).flatten()[0] = float("nan")
    save_prior(nan, tmp_path / "nan.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04K\x01.")
    for name in ("nan.safetensors", "junk.safetensors", "pickle.pt"):
        words = ("-o", tmp_path / "out", "-m", tmp_path / name, "--device", "cpu")
        (line,) = cli("reconstruct", scan, *words, code=3).errors
        assert name in line
    assert not (tmp_path / "out").exists()


def test_a_retrospective_mask_needs_a_full_scan(cli, tmp_path):
    config = SimulateConfig(size=(40, 32), coils=3, acceleration=2, calib=8)
    simulate("phantom", tmp_path / "under", config, count=1)
    words = ("-o", tmp_path / "out", *CG_SENSE, "--retrospective", 2)
    cli("reconstruct", tmp_path / "under", *words, code=2)
    assert not (tmp_path / "out").exists()


def test_unselected_samples_never_matter(cli, full_copy, tmp_path):
    """Every sample a retrospective mask leaves out is changed: the image is equal to the bit."""
    words = ("--method", "l1-wavelet", "-O", "n_iter=9", "--retrospective", 2, "--calib-lines", 8,
             "--device", "cpu")  # fmt: skip
    scan = min(full_copy.glob("*.h5"))
    cli("reconstruct", scan, "-o", tmp_path / "a", *words)
    mask = Undersampled(open_scan(scan), MaskSpec("random", 2, 8), 0).mask
    with h5py.File(scan, "r+") as file:
        noise = np.random.default_rng(0).standard_normal(file["kspace"].shape)
        scale = np.abs(file["kspace"][()]).max()
        file["kspace"][...] = np.where(mask, file["kspace"][()], scale * noise)
    cli("reconstruct", scan, "-o", tmp_path / "b", *words)
    with h5py.File(tmp_path / "a" / scan.name) as a, h5py.File(tmp_path / "b" / scan.name) as b:
        np.testing.assert_array_equal(a["reconstruction"][()], b["reconstruction"][()])


@pytest.mark.parametrize("command", ["reconstruct", "prep"])
def test_inputs_that_hold_no_scan_cost_one_line_each(command, cli, full, tmp_path):
    good, other = sorted(full.glob("*.h5"))
    empty, nothing = tmp_path / good.stem, tmp_path / "z*.h5"  # the folder is called like a scan
    empty.mkdir()
    words = [command, good, empty, nothing, other, "-o", tmp_path / "out"]
    words += ZERO_FILLED if command == "reconstruct" else ["--no-pictures"]
    listed = cli(*words, "--dry-run").out
    assert str(empty) in listed
    assert listed.count("->") == 2
    assert not (tmp_path / "out").exists()
    lines = cli(*words, code=1).errors
    assert [str(empty) in lines[0], str(nothing) in lines[1], len(lines)] == [True, True, 2]
    assert {path.stem for path in (tmp_path / "out").glob("*.h5")} == {good.stem, other.stem}
    words[1:5] = [empty, nothing]
    assert len(cli(*words, "--overwrite", code=3).errors) == 1


def test_shards_share_the_scans(cli, full, tmp_path):
    for part in ("1/2", "2/2"):
        cli("reconstruct", full, "-o", tmp_path / part[0], *ZERO_FILLED, "--shard", part)
    names = [[p.stem for p in (tmp_path / part).glob("*.h5")] for part in "12"]
    assert [len(part) for part in names] == [1, 1]
    assert names[0] != names[1]


def test_a_folder_gets_pages_and_an_overview(cli, full_copy, tmp_path):
    """Failures stand in it too, until they are repaired; what is finished is not made again."""
    first, second = sorted(full_copy.glob("*.h5"))
    good = second.read_bytes()
    second.write_bytes(good[:4000])
    out = tmp_path / "out"
    words = ("reconstruct", full_copy, "-o", out, *ZERO_FILLED, "--save", "report")
    summary = []
    for code in (1, 0):
        cli(*words, code=code)
        with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
            summary.append({row["scan"]: row for row in csv.DictReader(file)})
        second.write_bytes(good)
    assert [rows[second.stem]["status"] for rows in summary] == ["failed", "done"]
    assert "truncated" in summary[0][second.stem]["error"]
    assert summary[0][first.stem] == summary[1][first.stem]
    report = report_of(out, first)
    for column, value in (("R", report["acceleration"]), ("psnr", report["metrics"]["psnr"])):
        assert float(summary[1][first.stem][column]) == pytest.approx(value, rel=1e-5)
    names = {f"{scan.stem}{end}" for scan in (first, second) for end in (".h5", ".json")}
    names |= {f"{scan.stem}_report.html" for scan in (first, second)}
    assert {path.name for path in out.iterdir()} == names | {"index.html"} | LISTS


def test_nested_folders_from_the_command_line(cli, full_copy, tmp_path):
    """Results on stdout, all else on stderr and all in the log; a second call does what failed."""
    first, second = sorted(full_copy.glob("*.h5"))
    good = second.read_bytes()
    (full_copy / "site").mkdir()
    second = second.rename(full_copy / "site" / first.name)  # the same name in another folder
    second.write_bytes(good[:4000])
    out, log = tmp_path / "out", tmp_path / "run.log"
    words = ("reconstruct", full_copy, "-o", out, *ZERO_FILLED)
    planned = cli(*words, "--dry-run")
    assert f"{first} -> {out / first.name}" in planned.out and f"{second}: would" in planned.out
    assert "1 scan " in planned.out and planned.err == "" and not out.exists()
    printed = cli(*words, "--log", log, code=1)
    (line,) = printed.out.splitlines()
    assert line.startswith(f"{first.name}: ") and str(out / first.name) in line
    assert [str(second) in error for error in printed.errors] == [True]
    logged = log.read_text()
    assert all(line in logged for line in (*printed.out.splitlines(), *printed.err.splitlines()))
    second.write_bytes(good)
    stored = (out / "config.toml").read_bytes()
    (line,) = cli(*words[:-4], *CG_SENSE, "--retry-failed", code=2).errors
    assert f"--config {out / 'config.toml'}" in line
    assert (out / "config.toml").read_bytes() == stored
    (line,) = cli(*words, "--retry-failed").out.splitlines()
    assert line.startswith(f"site/{first.name}: ")
    states = [json.loads(line) for line in (out / "status.jsonl").read_text().splitlines()]
    assert [(s["scan"], s["status"]) for s in states] == [
        (first.stem, "done"), (f"site/{first.stem}", "failed"), (f"site/{first.stem}", "done"),
    ]  # fmt: skip
    assert not cli(*words, "--retry-failed").out


def test_a_dry_run_ends_as_the_call_would_where_all_scans_would_fail(cli, full_copy, tmp_path):
    first, second = sorted(full_copy.glob("*.h5"))
    words = ("reconstruct", full_copy, "-o", tmp_path / "out", *ZERO_FILLED)
    first.write_bytes(first.read_bytes()[:4000])
    assert len(cli(*words, "--dry-run").out.splitlines()) == 4  # the scans, the sum, the cost
    assert not (tmp_path / "out").exists()
    second.write_bytes(b"not hdf5")
    plan = cli(*words, "--dry-run", code=3).out.splitlines()
    errors = cli(*words, code=3).errors
    for path, line, error in zip((first, second), plan, errors, strict=False):
        assert line.startswith(str(path)) and path.name in error
    assert len(errors) == 2


def test_a_mistake_of_ours_is_printed_and_logged_with_its_traceback(
    cli, full, tmp_path, monkeypatch
):
    first, second = sorted(full.glob("*.h5"))
    opened = FastmriFile.__init__

    def breaks(file, path, *args, **options):
        if path == first:
            raise AttributeError("no such thing")
        opened(file, path, *args, **options)

    monkeypatch.setattr(FastmriFile, "__init__", breaks)
    words = ("-o", tmp_path / "out", *ZERO_FILLED, "--log", tmp_path / "log")
    printed = cli("reconstruct", full, *words, code=1)
    (line,) = printed.errors
    assert first.name in line and "internal error: AttributeError: no such thing" in line
    for text in (printed.err, (tmp_path / "log").read_text()):
        assert "in breaks" in text and "1 reconstructed, 1 failed" in text
    assert second.name in printed.out


def test_a_log_that_cannot_be_written_is_refused_first(cli, scan, tmp_path):
    words = ("-o", tmp_path / "out", *ZERO_FILLED, "--log", tmp_path / "no" / "run.log")
    assert "run.log" in cli("reconstruct", scan, *words, code=2).errors[0]
    assert not (tmp_path / "out").exists()


def test_options_may_come_from_a_file(cli, scan, tmp_path):
    """The command line wins; what is stored repeats the call; misspelt keys are refused."""
    file, out = tmp_path / "options.toml", tmp_path / "out"
    file.write_text('method = "cg-sense"\nlambda = 0.5\nsave = ["h5", "png"]\ndevice = "cpu"\n')
    words = ("reconstruct", scan, "--config", file)
    cli(*words, "-o", out, "--lambda", 0.25)
    options = report_of(out, scan)["settings"]["method"]
    assert (options["name"], options["lam"]) == ("cg-sense", 0.25)
    assert (out / f"{scan.stem}.png").exists()
    before = stamps(out)
    stored = (out / "config.toml").read_bytes()
    cli("reconstruct", scan, "-o", out, "--config", out / "config.toml")
    assert stamps(out) == before and (out / "config.toml").read_bytes() == stored
    other = tmp_path / "other"
    cli("reconstruct", scan, "-o", other, "--config", out / "config.toml", *ZERO_FILLED)
    assert report_of(other, scan)["settings"]["method"] == {"name": "zero-filled"}
    (out / "config.toml").unlink()  # as if it was killed before
    cli("reconstruct", scan, "-o", out, "--lambda", 0.25, "--config", file)
    assert (out / "config.toml").read_bytes().startswith(stored[:40])
    (out / "config.toml").write_text("mine = true")
    cli("reconstruct", scan, "-o", out, "--lambda", 0.25, "--config", file)
    assert (out / "config.toml").read_text() == "mine = true"
    wrong = {"methd = 1": "method", "samples = 'x'": "--samples", "=": "TOML"}
    wrong |= {"config = 'other.toml'": "config", "mask = ''": "mask: is empty"}
    wrong |= {"method = 'magic'": "magic", 'acs = "a\\u0000b"': "acs", 'save = ["\\u0000"]': "save"}
    for text, said in wrong.items():
        file.write_text(text)
        printed = cli(*words, "-o", out, code=2).err
        assert said in printed and str(file) in printed
    file.write_text("method = 'magic'")
    cli(*words, "-o", tmp_path / "x", "--method", "zero-filled")


@pytest.mark.usefixtures("short_wavelets")
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--preset", "balanced", "-m", "PRIOR", "--warn"),
        ("--method", "msm", "-m", "PRIOR", "--steps", 2, "--no-final-dc", "-O", "n_masks=2"),
        (
            "--method",
            "l1-wavelet",
            "-O",
            "n_iter=9",
            "--retrospective",
            1.5,
            "--mask-type",
            "equispaced",
        ),
    ],
)
def test_the_stored_options_are_those_that_were_used(
    words, cli, scan, prior_file, tmp_path, monkeypatch
):
    """They repeat the call where the defaults are others by now."""
    out, again, config = tmp_path / "out", tmp_path / "again", tmp_path / "out" / "config.toml"
    monkeypatch.setitem(PRESETS, "balanced", Preset(Dds(n_steps=4), 3))  # or it takes long
    words = [prior_file if word == "PRIOR" else word for word in words]
    cli("reconstruct", scan, "-o", out, "--device", "cpu", *words)
    stored = tomllib.loads(config.read_text())
    if not words:
        assert (stored["method"], stored["prior"]) == ("aos", DEFAULT)
    settings = report_of(out, scan)["settings"]
    assert stored["method"] == settings["method"]["name"] and "preset" not in stored
    assert stored.get("samples", 1) == settings["n_samples"]
    monkeypatch.setattr("mri_ambient.recon.recipe.DEFAULT_SAMPLES", 7)
    monkeypatch.setattr("mri_ambient.recon.recipe.default_method", lambda _: "cg-sense")
    monkeypatch.setattr("mri_ambient.recon.recipe.default_prior", lambda: "no.such")
    monkeypatch.setitem(PRESETS, "balanced", Preset(Dds(n_steps=3), 2))
    cli("reconstruct", scan, "-o", again, "--config", config)
    assert report_of(again, scan)["settings"] == settings
    assert (again / scan.name).read_bytes() == (out / scan.name).read_bytes()
    assert (again / "config.toml").read_bytes() == config.read_bytes()
