from __future__ import annotations

import json

import pytest
from helpers import load_script

import mri_ambient as ma
from mri_ambient.cli import demo
from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import NumericalWarning, OutputExistsError
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.unet import DEFAULT_NETWORK, NETWORKS
from mri_ambient.priors.weights import default_prior
from mri_ambient.runtime.files import file_sha256


def parts():
    script = load_script("train_default_prior")
    return [*script.COARSE.values(), *script.FINE.values()]


def test_the_shipped_prior_never_saw_a_head_of_the_demo():
    """Scans follow from their seed and name alone, so other seeds are other heads."""
    trained_on = {part.scans.seed for part in parts()}
    shown = {demo.DEMO_SEED, demo.DEMO_SEED + 1}
    assert not trained_on & shown


def test_no_training_scan_of_the_shipped_prior_is_fully_sampled():
    for part in parts():
        assert not part.scans.full
        assert min(part.scans.acceleration) > 1.5


def test_no_picture_is_scanned_twice_for_the_shipped_prior(tmp_path):
    """Two masks of one picture would amount to a fully sampled image."""
    for i in range(50):
        (tmp_path / f"{i:03d}.png").touch()
    shown = [
        name for part in parts() if part.share for name in part.source(tmp_path).names(None, 1)
    ]
    assert len(shown) == len(set(shown)) == 50


def test_the_card_of_the_shipped_prior_is_of_this_file():
    path = default_prior()
    assert file_sha256(path) in path.with_suffix(".md").read_text()


def test_a_demo_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(OutputExistsError, match=tmp_path.name):
        demo.run(output=tmp_path)


@pytest.mark.pictures
def test_the_demo_runs_and_shows_what_it_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        NETWORKS, DEFAULT_NETWORK, UNetSpec(channels=(8, 12), blocks=1, embedding=16)
    )
    monkeypatch.setattr(demo, "SIZE", (64, 64))
    monkeypatch.setattr(demo, "N_SCANS", 5)
    monkeypatch.setattr(demo, "N_ADPS", 2)
    with pytest.warns(NumericalWarning):  # five scans, half a second of training
        demo.run(output=tmp_path / "demo", train_time="0.5s", device="cpu", quiet=True)
    rows = json.loads((tmp_path / "demo/demo.json").read_text())
    assert [row["method"] for row in rows] == [
        "zero-filled", "CG-SENSE", "L1-wavelet", "A-OS", "A-DPS", "A-OS, trained just now",
    ]  # fmt: skip
    assert all(row["psnr"] > 5 and 0 < row["ssim"] < 1 for row in rows)
    assert (tmp_path / "demo/demo.png").stat().st_size > 20_000
    printed = capsys.readouterr().out
    assert "A-DPS" in printed
    assert "PSNR" in printed


def test_the_shipped_prior_beats_cg_sense_on_the_demo(tmp_path):
    """On one head, by more than 1 dB: the margin measured when it was shipped was above 3 dB."""
    config = SimulateConfig(size=(96, 96), coils=6, noise=0.01, full=True, seed=demo.DEMO_SEED)
    (scan,) = simulate("phantom", tmp_path, config, count=1)
    mask = ma.MaskSpec("random", 4, 12)
    aos, cg_sense = (
        ma.reconstruct(scan, ma.Recipe(method, retrospective=mask), ma.Runtime("cpu"))
        for method in ("aos", "cg-sense")
    )
    assert aos.metrics["psnr"] > cg_sense.metrics["psnr"] + 1.0
