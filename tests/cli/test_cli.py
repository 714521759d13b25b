from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import shaken
from typer.testing import CliRunner

from mri_ambient.cli import app as module
from mri_ambient.cli.common import parse_seconds, pick_shard
from mri_ambient.cli.job import join_job
from mri_ambient.errors import ConfigError, DeviceError, PrepError
from mri_ambient.io import open_scan
from mri_ambient.methods import Dds
from mri_ambient.methods.presets import SAMPLINGS, Sampling
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.prior import Prior, PriorFacts, scan_digest
from mri_ambient.priors.unet import PRESETS, UNetSpec
from mri_ambient.priors.weights import DEFAULT, default_prior
from mri_ambient.training.run import read_identity

runner = CliRunner()


def call(*words: object, code: int = 0, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Run the command line as a user does, errors and exit codes included."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["mri-ambient", *map(str, words)])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert (stop.value.code or 0) == code, f"{stop.value.code}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()


@pytest.fixture
def cli(monkeypatch):
    def run(*words: object, code: int = 0) -> tuple[str, str]:
        return call(*words, code=code, monkeypatch=monkeypatch)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def prior_file(folder: Path) -> Path:
    """A prior with random weights: quick, and good enough to be called."""
    spec = UNetSpec(channels=(8, 12), blocks=1, embedding=16)
    facts = PriorFacts(
        objective="kspace", kind="conditioned", network=spec, sigma_data=0.3, sigma_min=0.02,
        mask_conditioned=True, mask=MaskSpec("random", 2, 8), tau=0.1,
    )  # fmt: skip
    path = folder / "prior.safetensors"
    save_prior(Prior(shaken(facts.build()), facts), path)
    return path


@pytest.fixture
def full(cli, tmp_path):
    cli("simulate", "phantom", "-o", tmp_path / "full", "--scans", 2, "--size", 40, 32,
        "--coils", 3, "--full", "--noise", 0.005)  # fmt: skip
    return tmp_path / "full"


def test_the_whole_path(cli, tmp_path):
    """simulate -> prep -> train -> reconstruct -> evaluate, from the command line alone."""
    cli("simulate", "phantom", "-o", tmp_path / "raw", "--scans", 6, "--size", 32, 32,
        "--coils", 3, "--acceleration", 2, "--calib-lines", 8)  # fmt: skip
    cli("prep", tmp_path / "raw", "-o", tmp_path / "prepared")
    assert (tmp_path / "prepared/manifest.json").exists()
    cli("train", tmp_path / "prepared", "-o", tmp_path / "run", "--images", 4, "--batch-size", 2,
        "--device", "cpu")  # fmt: skip
    for name in ("config.toml", "log.jsonl", "curves.png", "prior.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    cli("simulate", "phantom", "-o", tmp_path / "full", "--scans", 1, "--size", 32, 32,
        "--coils", 3, "--full", "--seed", 7)  # fmt: skip
    cli("reconstruct", tmp_path / "full", "-o", tmp_path / "recon", "-m", tmp_path / "run",
        "--retrospective", 2, "--calib-lines", 8, "--device", "cpu")  # fmt: skip
    out, _ = cli("evaluate", tmp_path / "recon", "--target", tmp_path / "full", "--json")
    scores = json.loads(out)
    report = json.loads(next((tmp_path / "recon").glob("*.json")).read_text())
    (volume,) = scores["volumes"].values()
    for key in ("psnr", "ssim", "nmse"):
        assert volume[key] == pytest.approx(report["metrics"][key], rel=1e-6)
    assert report["metrics"]["reference"] == "rss"
    assert report["metrics_sense"]["reference"] == "sense"


@pytest.mark.parametrize("method", ["aos", "adps", "zero-filled", "cg-sense", "l1-wavelet"])
def test_every_method_writes_what_is_promised(method, cli, full, prior_file, tmp_path):
    steps = ["--steps", 3] if method == "adps" else []
    cli("reconstruct", full, "-o", tmp_path / "out", "--method", method, "-m", prior_file,
        "--retrospective", 2, "--calib-lines", 8, "--device", "cpu", *steps)  # fmt: skip
    for source in sorted(full.glob("*.h5")):
        with h5py.File(tmp_path / "out" / source.name) as file, h5py.File(source) as target:
            image = file["reconstruction"][()]
            assert image.dtype == np.float32
            assert image.shape == target["reconstruction_rss"].shape
            assert np.isfinite(image).all()
            np.testing.assert_allclose(np.abs(file["reconstruction_complex"][()]), image, rtol=1e-5)
        report = json.loads((tmp_path / "out" / f"{source.stem}.json").read_text())
        assert report["provenance"]["method"] == method
        assert report["acceleration"] == pytest.approx(2.0)
        assert report["metrics"].keys() >= {"psnr", "ssim", "nmse", "reference"}
        assert len(report["settings"]["input_sha256"]) == 64


def test_info_lists_what_the_dictionaries_hold(cli):
    from mri_ambient.io import READERS, WRITERS
    from mri_ambient.methods.presets import METHODS
    from mri_ambient.objectives import OBJECTIVES

    facts = json.loads(cli("info", "--json")[0])
    assert facts.keys() == {
        "version", "objectives", "methods", "presets", "readers", "writers", "priors", "device",
    }  # fmt: skip
    assert facts["objectives"] == list(OBJECTIVES)
    assert facts["methods"] == list(METHODS)
    assert facts["presets"] == list(SAMPLINGS)
    assert facts["readers"] == [reader.format for reader in READERS.values()]
    assert facts["writers"] == list(WRITERS)


def test_info_says_what_a_file_holds(cli, full, prior_file):
    scan = next(iter(sorted(full.glob("*.h5"))))
    facts = json.loads(cli("info", scan, "--json")[0])
    assert facts["kind"] == "scan"
    assert facts["coils"] == 3
    assert facts["fully_sampled"] is True
    facts = json.loads(cli("info", prior_file, "--json")[0])
    assert facts["kind"] == "prior"
    assert facts["objective"] == "kspace"
    assert "sigma_min" in cli("info", prior_file)[0]


def test_info_says_what_a_folder_holds(cli, full, tmp_path):
    """Scans, reconstructions, and what cannot be read, each on its own."""
    cli("reconstruct", full, "-o", tmp_path, "--method", "zero-filled", "--device", "cpu")
    first = sorted(full.glob("*.h5"))[0]
    shutil.copy(first, tmp_path / "raw.h5")
    (tmp_path / "empty.h5").write_bytes(b"")
    facts = json.loads(cli("info", tmp_path, "--json", code=1)[0])
    found = {entry["file"]: entry["kind"] for entry in facts["files"]}
    outputs = {path.name: "output" for path in full.glob("*.h5")}
    assert found == {"raw.h5": "scan", "empty.h5": "unreadable", **outputs}


def test_an_option_is_given_once(cli, full, tmp_path):
    words = ("reconstruct", full, "-o", tmp_path / "out", "--device", "cpu", "--method", "dds")
    for twice in (("--steps", 3, "-O", "n_steps=7"), ("--no-final-dc", "-O", "final_dc=true")):
        assert "give it once" in cli(*words, *twice, code=2)[1]
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_at_once(cli, full, tmp_path):
    (tmp_path / "out").write_text("mine")
    cli("reconstruct", full, "-o", tmp_path / "out", "--device", "cpu", code=2)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_command_that_is_refused_leaves_no_folder(cli, full, tmp_path):
    out = tmp_path / "out"
    cli("sample", "-o", out, "--size", 8, 8, "--device", "cpu", code=2)
    cli("audit", "memorization", "brain-kspace-tiny", tmp_path / "none", "-o", out, code=3)
    cli("prep", full, "-o", tmp_path / "prepared")
    words = ("train", tmp_path / "prepared", "-o", out, "--tensorboard", "--device", "cpu")
    cli(*words, "--patience", 1, code=2)  # which two scans leave nothing to watch
    assert not out.exists()


def test_a_bad_file_in_the_middle_costs_one_line(cli, full, tmp_path):
    scans = sorted(full.glob("*.h5"))
    bad = full / (scans[0].stem + "_b.h5")
    bad.write_bytes(scans[0].read_bytes()[:2000])
    _, err = cli("reconstruct", full, "-o", tmp_path / "out", "--method", "zero-filled",
                 "--device", "cpu", code=1)  # fmt: skip
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert bad.name in lines[0]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"{scan.stem}{suffix}" for scan in scans for suffix in (".h5", ".json")
    }


def test_nothing_usable_is_exit_code_3(cli, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"not hdf5")
    args = ["-o", tmp_path / "out", "--method", "zero-filled", "--device", "cpu"]
    cli("reconstruct", bad, *args, code=3)
    (tmp_path / "empty").mkdir()
    _, err = cli("reconstruct", tmp_path / "empty", *args, code=3)
    assert "holds no" in err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_usage_errors_are_exit_code_2(cli, full, prior_file, tmp_path):
    args = ["reconstruct", full, "-o", tmp_path / "out", "--device", "cpu"]
    _, err = cli(*args, "--method", "magic", code=2)
    assert "aos" in err
    cli(*args, "--method", "cg-sense", "--steps", 5, code=2)
    cli(*args, "--method", "adps", "-m", prior_file, "--steps", 1, code=2)
    cli(*args, "--method", "cg-sense", "--retrospective", 0.5, code=2)
    cli(*args, "--method", "cg-sense", "--shard", "3/2", code=2)
    cli("reconstruct", code=2)
    cli("nonsense", code=2)


def test_a_retrospective_mask_needs_a_full_scan(cli, full, tmp_path):
    cli("simulate", "phantom", "-o", tmp_path / "under", "--scans", 1, "--size", 40, 32,
        "--coils", 3, "--acceleration", 2, "--calib-lines", 8)  # fmt: skip
    _, err = cli("reconstruct", tmp_path / "under", "-o", tmp_path / "out", "--method", "cg-sense",
                 "--retrospective", 2, "--device", "cpu", code=2)  # fmt: skip
    assert "undersampled already" in err


def test_a_device_that_is_not_there_is_exit_code_4(cli, full, tmp_path):
    _, err = cli("reconstruct", full, "-o", tmp_path / "out", "--method", "cg-sense",
                 "--device", "cuda:99", code=4)  # fmt: skip
    assert "cuda:99" in err


def test_done_is_skipped_and_other_settings_are_refused(cli, full, tmp_path):
    args = ["reconstruct", full, "-o", tmp_path / "out", "--method", "cg-sense", "--device", "cpu"]
    cli(*args)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    _, err = cli(*args)
    assert err.count("done already") == 2
    _, err = cli(*args, "--lambda", 0.5, code=2)
    assert "other settings (method)" in err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    cli(*args, "--lambda", 0.5, "--overwrite")
    assert all(p.stat().st_mtime_ns > before[p] for p in before)


def test_interrupted_it_leaves_no_half_file(cli, full, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mri_ambient.recon.volume.reconstruct", interrupt)
    cli("reconstruct", full, "-o", tmp_path / "out", "--method", "zero-filled",
        "--device", "cpu", code=130)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_unselected_samples_never_matter(cli, full, tmp_path):
    """Every sample a retrospective mask leaves out is changed: the image is equal to the bit."""
    args = ["--method", "l1-wavelet", "--retrospective", 2, "--calib-lines", 8, "--device", "cpu"]
    scan = sorted(full.glob("*.h5"))[0]
    cli("reconstruct", scan, "-o", tmp_path / "a", *args)

    from mri_ambient.io import Undersampled, open_scan

    mask = Undersampled(open_scan(scan), MaskSpec("random", 2, 8), 0).mask.numpy()
    with h5py.File(scan, "r+") as file:
        noise = np.random.default_rng(0).standard_normal(file["kspace"].shape)
        scale = np.abs(file["kspace"][()]).max()
        file["kspace"][...] = np.where(mask, file["kspace"][()], scale * noise)
    cli("reconstruct", scan, "-o", tmp_path / "b", *args)
    with h5py.File(tmp_path / "a" / scan.name) as a, h5py.File(tmp_path / "b" / scan.name) as b:
        np.testing.assert_array_equal(a["reconstruction"][()], b["reconstruction"][()])


def test_evaluate_prints_csv_and_names_what_is_missing(cli, full, tmp_path):
    cli("reconstruct", full, "-o", tmp_path / "out", "--method", "zero-filled", "--device", "cpu")
    out, _ = cli("evaluate", tmp_path / "out", "--target", full, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2
    assert float(rows[0]["psnr"]) > 10
    sorted(full.glob("*.h5"))[0].unlink()
    told = cli("evaluate", tmp_path / "out", "--target", full, "--method", "dds", code=2)[1]
    assert "--method says how to reconstruct" in told
    _, err = cli("evaluate", tmp_path / "out", "--target", full, code=1)
    assert "error:" in err


def test_evaluate_without_a_target_hides_lines(cli, full, prior_file, monkeypatch):
    """Samples of two methods on undersampled scans; no reference anywhere."""
    words = ("evaluate", full, "--device", "cpu", "--holdout", 1)
    out, _ = cli(*words, "-m", prior_file, "--method", "dds", "--steps", 2, "--samples", 3,
                 "--json")  # fmt: skip
    told = json.loads(out)
    assert (told["method"], told["n_samples"], told["std_factor"]) == ("dds", 3, 1.0)
    assert told["samples_are"] == "estimates with a spread"
    slices = [row for rows in told["scans"].values() for row in rows]
    assert all(0 <= row["coverage_50"] <= row["coverage_90"] <= 1 for row in slices)
    monkeypatch.setattr("mri_ambient.recon.engine.images_at_once", lambda *_: 1)
    alone, _ = cli(*words, "-m", prior_file, "--method", "dds", "--steps", 2, "--samples", 3,
                   "--json")  # fmt: skip
    one_by_one = [row for rows in json.loads(alone)["scans"].values() for row in rows]
    for row, other in zip(slices, one_by_one, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    out, _ = cli(*words, "--method", "cg-sense", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    told = json.loads(cli(*words, "--method", "cg-sense", "--json")[0])
    assert len(rows) == len(told["scans"])
    assert "samples_are" not in told
    assert all(float(row["error"]) == pytest.approx(float(row["cg_sense"])) for row in rows)
    assert "at least half must stay" in cli(*words[:-1], 500, "--method", "cg-sense", code=2)[1]


def test_slices_are_checked_and_flagged(cli, full, prior_file, tmp_path):
    """An untrained prior is found out by hidden lines."""
    words = ("reconstruct", full, "-o", tmp_path / "out", "-m", prior_file, "--device", "cpu")
    _, said = cli(*words, "--holdout", 1, "--warn", "-v")
    assert "error on hidden lines" in said and "of the energy is the prior's" in said
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    checks = [check for report in reports for check in report["checks"]]
    assert all({"error", "noise", "l1_wavelet"} <= set(check["held_out"]) for check in checks)
    assert all(0 <= check["prior_share"] <= 1 for check in checks)
    flags = [flag for check in checks for flag in check["flags"]]
    assert any("predicts hidden lines worse" in flag for flag in flags)


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "--samples", 0),
        ("audit", "calibration", "PRIOR", "DATA", "--samples", 1),
        ("audit", "calibration", "PRIOR", "DATA", "--holdout", 0),
        ("audit", "calibration", "PRIOR", "DATA", "--method", "aos"),
        ("audit", "stability", "SCAN", "--calib-lines", 8),
    ],
)
def test_usage_errors_leave_no_folder_behind(words, cli, full, prior_file, tmp_path):
    places = {"PRIOR": prior_file, "DATA": full, "SCAN": sorted(full.glob("*.h5"))[0]}
    cli(*(places.get(word, word) for word in words), "-o", tmp_path / "out", "--device", "cpu",
        code=2)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_sample_draws_pictures(cli, prior_file, tmp_path):
    cli("sample", "-o", tmp_path / "s", "-m", prior_file, "--samples", 2, "--size", 24, 20,
        "--steps", 3, "--device", "cpu")  # fmt: skip
    with h5py.File(tmp_path / "s/samples.h5") as file:
        assert file["samples"].shape == (2, 24, 20)
        assert np.isfinite(file["samples"][()]).all()
    assert (tmp_path / "s/samples.png").stat().st_size > 1000


def test_doctor_names_a_damaged_prior_and_goes_on(cli, tmp_path, monkeypatch):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    monkeypatch.setattr(
        "mri_ambient.evaluation.doctor.shipped_priors", lambda: [tmp_path / "junk.safetensors"]
    )
    facts = json.loads(cli("doctor", "--device", "cpu", "--json")[0])
    assert "not a readable safetensors file" in facts["priors"]["junk"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "out of memory"),
        ("CUDA error: unspecified launch failure", "was lost"),
    ],
)
def test_a_device_that_fails_anywhere_is_a_line_and_exit_code_4(words, told, cli, monkeypatch):
    def fails():
        raise RuntimeError(words)

    monkeypatch.setattr(module, "app", fails)
    err = cli("sample", code=4)[1]
    assert err.startswith("error: ")
    assert told in err
    monkeypatch.setattr(module, "app", lambda: sys.exit(143))  # as on SIGTERM
    assert "terminated by another process" in cli("sample", code=143)[1]
    monkeypatch.setattr(module, "app", lambda: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):  # a mistake of ours keeps its traceback
        module.main()


def test_a_renamed_prepared_scan_gives_files_of_its_new_name(cli, full, tmp_path):
    cli("prep", full, "-o", tmp_path / "prepared")
    made = next((tmp_path / "prepared").glob("*.h5"))
    renamed = made.rename(made.with_name("renamed.h5"))
    cli("reconstruct", renamed, "-o", tmp_path / "out", "--method", "zero-filled")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"renamed.h5", "renamed.json"}
    with h5py.File(renamed, "r+") as file:
        file.attrs["scan_id"] = "../elsewhere"
    assert "is no name of a file" in cli("reconstruct", renamed, "-o", tmp_path / "x", code=3)[1]


def test_prep_of_scans_prepared_otherwise_is_a_matter_of_usage(cli, full, tmp_path):
    cli("prep", full, "-o", tmp_path)
    assert "other options" in cli("prep", full, "-o", tmp_path, "--coils", "2", code=2)[1]


def test_doctor_examines_the_machine(cli):
    facts = json.loads(cli("doctor", "--device", "cpu", "--json")[0])
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["networks"]["tiny"]["seconds"] > 0
    assert 50 < facts["networks"]["tiny"]["mib_per_image"] < 200


def test_a_foreign_prior_is_one_line_and_exit_code_3(cli, full, tmp_path):
    for name, content in (("junk.safetensors", b"junk"), ("pickle.pt", b"\x80\x04K\x01.")):
        path = tmp_path / name
        path.write_bytes(content)
        _, err = cli("reconstruct", full, "-o", tmp_path / "out", "-m", path, "--device", "cpu",
                     code=3)  # fmt: skip
        assert err.count("error:") == 1
        assert name in err


def test_options_that_are_parsed_by_hand():
    assert [parse_seconds(t) for t in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
    assert [pick_shard([1, 2, 3, 4, 5], f"{i}/2") for i in (1, 2)] == [[1, 3, 5], [2, 4]]
    for bad in ("ten", "5d", ""):
        with pytest.raises(ConfigError):
            parse_seconds(bad)


def test_a_data_set_can_mix_rates_and_masks(cli, tmp_path):
    cli("simulate", "phantom", "-o", tmp_path, "--scans", 6, "--size", 48, 48, "--coils", 2,
        "--acceleration", "2:3", "--mask-type", "random:0.5,gaussian:0.5", "--calib-lines", 8,
        "--noise", "0.001:0.1")  # fmt: skip
    rates = [json.loads(cli("info", p, "--json")[0])["acceleration"] for p in tmp_path.glob("*.h5")]
    assert len(set(rates)) > 2
    assert 1.9 < min(rates) < max(rates) < 3.1
    for option, bad in (
        ("--noise", "a:b"),
        ("--acceleration", "1:2:3"),
        ("--mask-type", "random:x"),
    ):
        _, err = cli("simulate", "phantom", "-o", tmp_path, "--scans", 1, option, bad, code=2)
        assert option in err


def test_help_is_fast_because_it_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from typer.testing import CliRunner; from mri_ambient.cli.app import app;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "bad = {'torch', 'sigpy', 'fastmri', 'matplotlib'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def error_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error:")]


@pytest.mark.parametrize("command", ["reconstruct", "prep"])
def test_inputs_that_hold_no_scan_cost_one_line_each(command, cli, full, tmp_path):
    good, other = sorted(full.glob("*.h5"))
    empty, nothing = tmp_path / good.stem, tmp_path / "z*.h5"  # the folder is called like a scan
    empty.mkdir()
    words = [command, good, empty, nothing, other, "-o", tmp_path / "out"]
    words += ["--method", "zero-filled", "--device", "cpu"] if command == "reconstruct" else []
    _, err = cli(*words, "--dry-run")
    assert f"{empty}: the folder holds no" in err
    assert err.count("->") == 2
    assert not (tmp_path / "out").exists()
    _, err = cli(*words, code=1)
    assert error_lines(err) == [
        f"error: {empty}: the folder holds no .h5 or .hdf5 file",
        f"error: {nothing}: no file matches",
    ]
    assert {path.stem for path in (tmp_path / "out").glob("*.h5")} == {good.stem, other.stem}
    words[1:5] = [empty, nothing]
    _, err = cli(*words, "--overwrite", code=3)
    assert len(error_lines(err)) == 1


def test_a_scan_whose_noise_is_all_zeros_costs_one_line(cli, full, tmp_path):
    bad, good = sorted(full.glob("*.h5"))
    with h5py.File(bad, "a") as file:
        file["noise"] = np.zeros((3, 99), np.complex64)
    for words in (["reconstruct", "--method", "zero-filled", "--device", "cpu"], ["prep"]):
        out = tmp_path / words[0]
        _, err = cli(*words, full, "-o", out, code=1)
        (line,) = error_lines(err)
        assert f"{bad}: the noise scan holds only zeros" in line
        assert [path.stem for path in out.glob("*.h5")] == [good.stem]


def test_evaluate_takes_targets_without_k_space_and_says_what_they_are(cli, full, tmp_path):
    cli("reconstruct", full, "-o", tmp_path / "out", "--method", "zero-filled", "--device", "cpu")
    whole = json.loads(cli("evaluate", tmp_path / "out", "--target", full, "--json")[0])["volumes"]
    bare = tmp_path / "bare"
    bare.mkdir()
    first, second = sorted(path.name for path in full.glob("*.h5"))
    for name, dataset in ((first, "reconstruction_rss"), (second, "reconstruction_esc")):
        with h5py.File(full / name) as source, h5py.File(bare / name, "w") as target:
            target[dataset] = source["reconstruction_rss"][()]
    out, _ = cli("evaluate", tmp_path / "out", "--target", bare, "--json")
    rows = [json.loads(out)["volumes"][Path(name).stem] for name in (first, second)]
    assert [row.pop("reference") for row in rows] == ["rss", "esc"]
    assert all(whole[Path(name).stem].pop("reference") == "rss" for name in (first, second))
    assert rows == [whole[Path(name).stem] for name in (first, second)]

    with h5py.File(bare / first, "w") as target:
        target["reconstruction_rss"] = np.ones((1, 40, 32), complex)
    (bare / second).write_bytes(b"no HDF5")
    _, err = cli("evaluate", tmp_path / "out", "--target", bare, code=3)
    assert error_lines(err) == [
        f"error: {bare / first}: reconstruction_rss holds complex128, wanted real numbers",
        f"error: {bare / second}: is not an HDF5 file",
    ]
    with h5py.File(bare / first, "w") as target:
        target["reconstruction_rss"] = np.ones((2, 40, 32))
    _, err = cli("evaluate", tmp_path / "out" / first, "--target", bare / first, code=3)
    assert error_lines(err)[0].startswith(f"error: {tmp_path / 'out' / first}: the reconstruction")


def test_verbose_says_more_about_every_case(cli, full, tmp_path):
    """The facts of every scan, the loss at every checkpoint, the residual of every slice."""
    raw, run = tmp_path / "raw", tmp_path / "run"
    cli("simulate", "phantom", "-o", raw, "--scans", 6, "--size", 24, 24, "--coils", 3,
        "--acceleration", 2, "--calib-lines", 8)  # fmt: skip
    quiet = cli("prep", raw, "-o", tmp_path / "a", "--device", "cpu", "--no-pictures")[1]
    loud = cli("prep", raw, "-o", tmp_path / "b", "--device", "cpu", "--no-pictures", "-v")[1]
    assert "3 of 3 coils" not in quiet
    assert loud.count("3 of 3 coils (100.0% of the energy)") == 6
    again = cli("prep", raw, "-o", tmp_path / "b", "--device", "cpu", "--no-pictures", "-v")[1]
    assert again.count("skipped in") == 6
    said = cli("train", tmp_path / "b", "-o", run, "--images", 16, "--batch-size", 8,
               "--save-every", 8, "--device", "cpu", "-v")[1]  # fmt: skip
    assert "8 images in " in said and "16 images in " in said
    said = cli("reconstruct", full, "-o", tmp_path / "out", "--method", "cg-sense",
               "--device", "cpu", "-v")[1]  # fmt: skip
    assert said.count("slice 0: data residual") == 2


@pytest.fixture
def trained(cli, tmp_path, monkeypatch) -> tuple[Path, Path, Path]:
    """Raw scans, prepared ones, and a run that saw four of them."""
    monkeypatch.setitem(PRESETS, "tiny", UNetSpec(channels=(8, 12), blocks=1, embedding=16))
    raw, prepared, run = (tmp_path / name for name in ("raw", "prepared", "run"))
    cli("simulate", "phantom", "-o", raw, "--scans", 6, "--size", 24, 24, "--coils", 3,
        "--acceleration", 2, "--calib-lines", 8)  # fmt: skip
    cli("prep", raw, "-o", prepared, "--device", "cpu", "--no-pictures")
    cli("train", prepared, "-o", run, "--images", 4, "--batch-size", 2, "--learning-rate", 2e-3,
        "--precision", "fp32", "--device", "cpu")  # fmt: skip
    return raw, prepared, run


def test_refit_a_run(cli, tmp_path, trained):
    """It finds the run's scans, draws in parts, trains, and its prior reconstructs."""
    _, prepared, run = trained
    words = ("refit", run, "--rounds", 1, "--images", 4, "--steps", 3, "--device", "cpu")
    for part in ("1/2", "2/2"):
        assert f"part {part} are drawn" in cli(*words, "--shard", part)[1]
    said = cli(*words)[1]
    assert "4 images seen in the last round" in said
    assert "4 images: error on hidden measured lines" in said
    made_by = json.loads((run / "refit/round-1/targets/made-by.json").read_text())
    assert (made_by["method"], made_by["options"]["final_dc"]) == ("dds", False)
    for other in (("--method", "msm"), ("-O", "final_dc=true")):
        assert "made by something else" in cli(*words, *other, code=2)[1]
    cli(*words, "--method", "msm", "-O", "n_masks=2", "-o", tmp_path / "msm")
    made_by = json.loads((tmp_path / "msm/round-1/targets/made-by.json").read_text())
    assert made_by["method"] == "msm"
    assert (made_by["options"]["n_masks"], made_by["options"]["final_dc"]) == (2, False)
    held = json.loads(cli("info", run / "refit", "--json")[0])
    assert (held["objective"], held["denoiser"]) == ("supervised", "plain")
    options = [read_identity(at / "run.json")["config"] for at in (run, run / "refit/round-1")]
    for key in ("batch_size", "learning_rate", "precision", "preset", "seed"):
        assert options[0][key] == options[1][key]
    cli("reconstruct", prepared, "-o", tmp_path / "out", "-m", run / "refit", "--method", "dds",
        "--steps", 3, "--samples", 2, "--device", "cpu")  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.h5"))) == 6
    assert "holds no training run" in cli("refit", tmp_path / "nowhere", code=3)[1]
    homeless = tmp_path / "homeless"
    shutil.copytree(run, homeless)
    identity = json.loads((run / "run.json").read_text())
    del identity["folder"]
    (homeless / "run.json").write_text(json.dumps(identity))
    assert "name them with --data" in cli("refit", homeless, code=2)[1]


def test_audit_compares_what_a_prior_draws_with_its_scans(cli, tmp_path, trained):
    raw, prepared, run = trained
    out, said = cli("audit", "memorization", run, prepared, "-o", tmp_path / "audit",
                    "--samples", 2, "--steps", 2, "--device", "cpu", "--json")  # fmt: skip
    assert "of 2 drawn images are nearer" in said
    facts = json.loads(out)
    assert facts == json.loads((tmp_path / "audit/memorization.json").read_text())
    assert len(facts["sample_distances"]) == 2
    assert (tmp_path / "audit/memorization.png").stat().st_size > 5000
    said = cli("audit", "memorization", run, raw, "-o", tmp_path / "other", "--device", "cpu",
               code=3)[1]  # fmt: skip
    assert "a raw scan" in said


def test_damaged_scans_are_named_and_end_with_1(cli, tmp_path, trained):
    """Of training and of an audit; everything else is done."""
    _, prepared, run = trained
    folder = tmp_path / "damaged"
    shutil.copytree(prepared, folder)
    known = load_prior(run).was_trained_on
    path = next(p for p in sorted(folder.glob("*.h5")) if known(open_scan(p).source_sha256))
    path.write_bytes(path.read_bytes()[:5000])
    said = cli("audit", "memorization", run, folder, "-o", tmp_path / "audit", "--samples", 1,
               "--steps", 2, "--device", "cpu", code=1)[1]  # fmt: skip
    assert path.name in said
    assert (tmp_path / "audit/memorization.json").exists()
    said = cli("train", folder, "-o", tmp_path / "again", "--images", 4, "--batch-size", 2,
               "--device", "cpu", code=1)[1]  # fmt: skip
    assert path.name in said
    assert "4 images seen" in said
    assert (tmp_path / "again/prior.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "--device cpu"),
        (RuntimeError("CUDA error: out of memory"), "--device cpu"),
        (RuntimeError("CUDA error: unspecified launch failure"), "run the same command again"),
    ],
)
def test_prep_stops_where_memory_or_the_device_ends(
    error, advice, cli, full, tmp_path, monkeypatch
):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr("mri_ambient.data_prep.prepare.espirit", exhausted)
    _, said = cli("prep", full, "-o", tmp_path / "out", "--device", "cpu", code=4)
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1
    assert str(error)[:20] in said
    assert advice in said


def test_a_run_that_goes_back_says_so(cli, tmp_path, trained, monkeypatch):
    """Errors at 2, 4 and 6 images, where patience ends, and once more at the end."""
    errors = iter([0.3, 0.4, 0.5, 0.5])
    monkeypatch.setattr("mri_ambient.training.loop.fit_tau", lambda *_: (0.1, next(errors), 0.6))
    _, prepared, _ = trained
    said = cli("train", prepared, "-o", tmp_path / "patient", "--patience", 2, "--check-every", 2,
               "--batch-size", 2, "--device", "cpu")[1]  # fmt: skip
    assert "prior.safetensors: 2 images seen" in said
    assert "6 images were seen; the error on hidden lines was smallest before" in said
    assert said.rstrip().splitlines()[-1].startswith("2 images: error on hidden measured lines 0.3")


def test_tensorboard_shows_what_the_log_says(cli, tmp_path, trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, prepared, _ = trained
    run = tmp_path / "watched"
    cli("train", prepared, "-o", run, "--images", 6, "--batch-size", 2, "--check-every", 4,
        "--device", "cpu", "--tensorboard")  # fmt: skip
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for name in ("loss", "held_out"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        logged = [(row["images"], row[name]) for row in log if name in row]
        for (images, value), row in zip(shown, logged, strict=False):
            assert (images, value) == (row[0], pytest.approx(row[1], rel=1e-6))
        assert len(logged) == (3 if name == "loss" else 1)
        assert shown[-1][0] == 6, "the error of the finished prior is shown too"


def test_audit_attacks_a_scan(cli, full, prior_file, tmp_path):
    scan = sorted(full.glob("*.h5"))[0]
    out, said = cli("audit", "stability", scan, "-o", tmp_path / "audit", "-m", prior_file,
                    "--iterations", 2, "--device", "cpu", "--json")  # fmt: skip
    assert "aos: a change of the measurement by" in said
    facts = json.loads(out)
    assert facts == json.loads((tmp_path / "audit/stability.json").read_text())
    assert list(facts["attacks"]) == ["aos", "cg-sense", "l1-wavelet"]
    assert (tmp_path / "audit/stability.png").stat().st_size > 5000
    said = cli("audit", "stability", scan, "-o", tmp_path / "audit", "--slice", 7, code=2)[1]
    assert "slices 0 to 0, not 7" in said


def test_presets_are_methods_with_their_options(cli, full, prior_file, tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLINGS, "quality", Sampling(Dds(n_steps=3), 2))  # or it takes long
    scan = sorted(full.glob("*.h5"))[0]
    words = ("reconstruct", scan, "-m", prior_file, "--device", "cpu")
    for name, sampling in SAMPLINGS.items():
        cli(*words, "-o", tmp_path / name, "--preset", name)
        made = json.loads((tmp_path / name / f"{scan.stem}.json").read_text())["provenance"]
        assert made["method"] == sampling.method.name
        assert made["method_options"] == asdict(sampling.method)
        assert made["n_samples"] == sampling.n_samples
    for more in (("--method", "dds"), ("--steps", 3), ("-O", "eta=0")):
        assert (
            "leave those out" in cli(*words, "-o", tmp_path, "--preset", "fast", *more, code=2)[1]
        )
    assert "balanced" in cli(*words, "-o", tmp_path, "--preset", "best", code=2)[1]
    said = cli(*words, "-o", tmp_path / "k0", "--preset", "balanced", "--samples", 0, code=2)[1]
    assert "at least one sample is needed, got 0" in said
    # The default method is the preset fast: what is done is done.
    assert "done already" in cli(*words, "-o", tmp_path / "fast")[1]


def test_a_shipped_prior_is_called_by_its_name(cli, full, tmp_path):
    named = json.loads(cli("info", DEFAULT, "--json")[0])
    assert named == json.loads(cli("info", default_prior(), "--json")[0])
    scan = sorted(full.glob("*.h5"))[0]
    words = ("reconstruct", scan, "-o", tmp_path, "-m", DEFAULT, "--method", "dds", "--steps", 2,
             "--samples", 2, "--device", "cpu")  # fmt: skip
    cli(*words)
    picture = tmp_path / f"{scan.stem}.png"
    assert not picture.exists()
    # What is done is not done again, but drawn.
    assert "done already" in cli(*words, "--png")[1]
    assert picture.stat().st_size > 5000
    single = (*words[:-4], "--samples", 1, "--device", "cpu", "--overwrite")
    assert "is not written a second time" in cli(*single, "--keep-samples")[1]
    cg = ("reconstruct", scan, "-o", tmp_path / "cg", "--method", "cg-sense", "--device", "cpu")
    assert "asks no prior, so nowhere is not used" in cli(*cg, "-m", "nowhere")[1]
    assert "brain-kspace-large" in cli("info", "brain-kspace-large", code=3)[1]


def test_audit_calibrates_the_spread(cli, full, prior_file, tmp_path, monkeypatch):
    words = ("--steps", 2, "--device", "cpu")
    out, said = cli("audit", "calibration", prior_file, full, "-o", tmp_path / "audit",
                    "--holdout", 1, "--samples", 3, "--json", *words)  # fmt: skip
    factor = json.loads(out)["factor"]
    assert f"multiplied by {factor:.2f}" in said
    assert (tmp_path / "audit/calibration.png").stat().st_size > 5000
    said = cli("reconstruct", full, "-o", tmp_path / "out", "-m", tmp_path / "audit", "--method",
               "dds", "--samples", 3, *words)[1]  # fmt: skip
    assert f"spread x {factor:.2f}" in said
    for path in (tmp_path / "out").glob("*.json"):
        assert json.loads(path.read_text())["provenance"]["std_factor"] == factor
    cli("audit", "calibration", tmp_path / "audit", full, "-o", tmp_path / "second",
        "--holdout", 1, "--samples", 2, *words)  # fmt: skip
    known = load_prior(tmp_path / "second").facts.card["calibration"]
    assert [entry["n_samples"] for entry in known] == [3, 2]
    assert known[0]["factor"] == factor
    monkeypatch.setitem(SAMPLINGS, "balanced", Sampling(Dds(n_steps=3), 2))
    out, _ = cli("audit", "calibration", tmp_path / "second", full, "-o", tmp_path / "third",
                 "--holdout", 1, "--preset", "balanced", "--json", "--device", "cpu")  # fmt: skip
    told = json.loads(out)
    assert (told["method_options"]["n_steps"], told["n_samples"]) == (3, 2)
    out, _ = cli("evaluate", full, "-m", tmp_path / "third", "--preset", "balanced", "--json",
                 "--device", "cpu")  # fmt: skip
    assert json.loads(out)["std_factor"] == told["factor"]
    prior = load_prior(prior_file)
    known = sorted(full.glob("*.h5"))[0]
    digest = scan_digest(open_scan(known).source_sha256)
    card = {**prior.facts.card, "trained_on": [digest]}
    save_prior(replace(prior, facts=replace(prior.facts, card=card)), tmp_path / "p.safetensors")
    said = cli("audit", "calibration", tmp_path / "p.safetensors", full, "-o", tmp_path / "known",
               "--samples", 2, *words)[1]  # fmt: skip
    assert said.count("the prior was trained on this scan") == 1
    assert f"{known.name}: the prior was trained" in said
    again = ("audit", "calibration", prior_file, full, "-o", tmp_path / "audit")
    assert "use --overwrite" in cli(*again, "--device", "cpu", code=2)[1]
    (tmp_path / "audit/run.json").write_text("{}")
    assert "is a training run" in cli(*again, "--device", "cpu", "--overwrite", code=2)[1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DeviceError("device 'cuda' was lost; run the same command again"), 4),
        (PrepError("every sample is zero"), 3),
        (ConfigError("cannot hide 2 lines"), 2),
    ],
)
def test_audit_calibration_ends_where_no_scan_can_be_used(
    error, code, cli, full, prior_file, tmp_path, monkeypatch
):
    """A lost device is said once; scans of which none is of use, each, and no more."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mri_ambient.data_prep.plan", fail)
    said = cli("audit", "calibration", prior_file, full, "-o", tmp_path / "audit", "--device",
               "cpu", code=code)[1]  # fmt: skip
    n_scans = len(list(full.glob("*.h5")))
    assert said.count(str(error)) == said.count("error: ") == (1 if code == 4 else n_scans)
    assert not (tmp_path / "audit/calibration.json").exists()


def test_a_job_without_its_launcher_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start them with torchrun"), join_job("cpu"):
        pass
