"""What is never lost: scans, finished images, and images whose scoring fails."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import small_prior
from typer.testing import CliRunner

from mri_ambient.cli.app import app
from mri_ambient.cli.common import exit_code
from mri_ambient.data_prep import SimulateConfig, prepare_file, simulate
from mri_ambient.errors import MriAmbientError
from mri_ambient.methods.presets import SAMPLINGS
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.priors.checkpoint import load_prior, save_prior

ZERO_FILLED = ("--method", "zero-filled", "--device", "cpu")


def call(*words: object) -> tuple[int, str]:
    """Exit code and what was printed to stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    error = result.exception
    if isinstance(error, MriAmbientError):  # main() turns these into one line and a code
        return exit_code(error), str(error)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, result.stderr


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A fully sampled scan with its own target."""
    config = SimulateConfig(size=(32, 32), coils=3, full=True, noise=0.005, slices=2)
    return simulate("phantom", tmp_path / "scans", config, count=1)[0]


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_raw_scan_is_never_written_over(scan, more):
    before = scan.read_bytes()
    code, err = call("reconstruct", scan, "-o", scan.parent, *ZERO_FILLED, *more)
    assert code == 2
    assert str(scan) in err
    assert scan.read_bytes() == before


def test_a_prepared_scan_is_never_written_over(scan, tmp_path):
    prepared = prepare_file(scan, tmp_path / "prepared")
    before = prepared.read_bytes()
    code, err = call("reconstruct", scan, "-o", prepared.parent, *ZERO_FILLED, "--overwrite")
    assert code == 2
    assert str(prepared) in err
    assert prepared.read_bytes() == before


def test_an_image_without_its_report_is_finished_not_lost(scan, tmp_path):
    """A run killed between the two files: the same command goes on, another one is refused."""
    out = tmp_path / "out"
    assert call("reconstruct", scan, "-o", out, *ZERO_FILLED)[0] == 0
    report = out / f"{scan.stem}.json"
    report.unlink()
    code, err = call("reconstruct", scan, "-o", out, "--method", "cg-sense", "--device", "cpu")
    assert code == 2
    assert "method" in err
    assert call("reconstruct", scan, "-o", out, *ZERO_FILLED)[0] == 0
    assert report.exists()


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize(
    "target", [np.ones((2, 40, 40)), np.ones((1, 32, 32)), np.zeros((2, 32, 32)), np.ones(3)]
)
def test_a_target_of_no_use_is_replaced_by_the_rss_of_the_kspace(target, scan, tmp_path):
    with h5py.File(scan, "r+") as file:
        del file["reconstruction_rss"]
        file["reconstruction_rss"] = target.astype(np.float32)
    assert call("reconstruct", scan, "-o", tmp_path / "out", *ZERO_FILLED)[0] == 0
    report = json.loads((tmp_path / "out" / f"{scan.stem}.json").read_text())
    assert report["metrics"]["psnr"] > 30
    assert any("scored against the RSS of its k-space" in doubt for doubt in report["doubts"])


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_images_too_small_to_score_are_kept(tmp_path):
    """SSIM needs 7 x 7 pixels; a final matrix of 6 columns has none."""
    config = SimulateConfig(size=(32, 32), coils=3, full=True, noise=0.005)
    scan = simulate("phantom", tmp_path / "scans", config, count=1)[0]
    with h5py.File(scan, "r+") as file:
        del file["reconstruction_rss"]
        xml = file["ismrmrd_header"][()].decode()
        head, final = xml.split("<reconSpace>")
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = f"{head}<reconSpace>{final.replace('<y>32</y>', '<y>6</y>', 1)}"
    code, _ = call("reconstruct", scan, "-o", tmp_path / "out", *ZERO_FILLED)
    report = json.loads((tmp_path / "out" / f"{scan.stem}.json").read_text())
    assert code == 0
    assert report["recon_shape"] == [32, 6]
    assert "metrics" not in report
    assert any("not scored" in doubt for doubt in report["doubts"])


def test_a_prior_of_nans_is_refused(scan, tmp_path):
    prior = small_prior("conditioned")
    with torch.no_grad():
        next(prior.net.parameters()).flatten()[0] = float("nan")
    save_prior(prior, tmp_path / "bad.safetensors")
    code, err = call(
        "reconstruct", scan, "-o", tmp_path / "out", "-m", tmp_path / "bad.safetensors",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 3
    assert "NaN" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_prior_is_asked_as_suits_it(scan, tmp_path):
    """From the command line and from Python, which take one another's output for their own."""
    from mri_ambient import reconstruct_raw
    from mri_ambient.recon.checks import Checking

    for kind, method in (("plain", "dds"), ("conditioned", "aos")):
        path, out = tmp_path / f"{kind}.safetensors", tmp_path / kind
        save_prior(small_prior(kind), path)
        report = reconstruct_raw(
            scan, out, prior=path, retrospective=MaskSpec("random", 2, 8),
            checking=Checking(n_hidden=1, flags=True),
        )  # fmt: skip
        assert report["provenance"]["method"] == method
        assert all({"held_out", "flags"} <= set(check) for check in report["checks"])
        words = ("--retrospective", 2, "--calib-lines", 8, "--holdout", 1, "--warn")
        code, err = call("reconstruct", scan, "-o", out, "-m", path, *words, "--device", "cpu")
        assert (code, "done already" in err) == (0, True)
    report = reconstruct_raw(scan, tmp_path / "preset", method="balanced", prior=path)
    assert report["provenance"]["n_samples"] == SAMPLINGS["balanced"].n_samples
    assert report["provenance"]["method_options"] == asdict(SAMPLINGS["balanced"].method)


@pytest.mark.parametrize(
    ("method", "doubted"), [("aos", True), ("dds", False), ("dds from aos", True)]
)
def test_a_prior_that_knows_no_masks_is_doubted_in_one_step(method, doubted, scan, tmp_path):
    save_prior(small_prior(), tmp_path / "plain.safetensors")
    prior = load_prior(tmp_path / "plain.safetensors")
    from mri_ambient import reconstruct_raw
    from mri_ambient.methods import Aos, Dds

    first = {"aos": Aos(), "dds": Dds(n_steps=2), "dds from aos": Dds(n_steps=2, start="aos")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = reconstruct_raw(
            scan, tmp_path / "out", method=first[method], prior=prior,
            retrospective=MaskSpec("random", 2, 8),
        )  # fmt: skip
    assert any("knows no masks" in str(w.message) for w in caught) == doubted
    assert any("knows no masks" in doubt for doubt in report["doubts"]) == doubted


def test_info_says_what_an_output_holds(scan, tmp_path):
    call("reconstruct", scan, "-o", tmp_path / "out", *ZERO_FILLED)
    result = CliRunner().invoke(app, ["info", str(tmp_path / "out" / scan.name), "--json"])
    facts = json.loads(result.stdout)
    assert facts["kind"] == "output"
    assert facts["method"] == "zero-filled"
    assert facts["images"]["reconstruction"] == [2, 32, 32]
    assert facts["settings"]["method"]["name"] == "zero-filled"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("train", "DATA", "-o", "RUN", "--images", 2, "--wrapper", "foo"), "wrapper"),
        (("train", "DATA", "-o", "RUN", "--images", 2, "--learning-rate", "nan"), "learning_rate"),
        (("train", "DATA", "-o", "RUN", "--images", 2, "--precision", "fp8"), "precision"),
        (("train", "DATA", "-o", "RUN", "--images", 0, "--device", "cpu"), "at least one image"),
        (("sample", "-o", "OUT", "--size", 0, 10, "--device", "cpu"), "at least 16 pixels"),
        (("sample", "-o", "OUT", "--device", "abacus"), "abacus"),
        (("simulate", "phantom", "--scans", 1, "-o", "FILE"), "cannot be made a folder"),
    ],
)
def test_options_that_cannot_work_are_one_line_and_exit_code_2(words, reason, tmp_path):
    (tmp_path / "FILE").write_text("in the way")
    if "DATA" in words:
        config = SimulateConfig(size=(32, 32), coils=3, acceleration=2, calib=8)
        raw = simulate("phantom", tmp_path / "raw", config, count=1)[0]
        prepare_file(raw, tmp_path / "DATA")
    places = {name: tmp_path / name for name in ("DATA", "RUN", "OUT", "FILE")}
    code, err = call(*(places.get(word, word) for word in words))
    assert code == 2
    assert reason in err


def test_samples_are_not_written_over(tmp_path):
    (tmp_path / "samples.h5").write_text("mine")
    code, err = call("sample", "-o", tmp_path, "--device", "cpu")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "samples.h5").read_text() == "mine"
