from __future__ import annotations

import shutil

import h5py
import pytest


@pytest.mark.parametrize("word", ["reconstruct", "prep", "convert"])
def test_axes_and_dataset_name_an_array(cli, scan, tmp_path, word):
    with h5py.File(scan) as file:
        ksp = file["kspace"][:]
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = ksp.transpose(0, 2, 3, 1), ksp
    options = {
        "reconstruct": ("--method", "zero-filled", "--device", "cpu"),
        "prep": ("--device", "cpu", "--no-pictures"),
        "convert": ("--to", "fastmri"),
    }[word]
    out = tmp_path / "out"
    assert "--dataset" in cli(word, path, "-o", out, *options, code=3).errors[0]
    assert not out.exists() or not list(out.glob("*.h5"))
    cli(word, path, "-o", out, "--dataset", "a", "--axes", "slice,y,x,coil", *options)
    assert (out / "other.h5").exists()
    if word == "convert":
        with h5py.File(out / "other.h5") as file:
            assert (file["kspace"][:] == ksp).all()


def test_a_scan_that_was_repaired_by_how_it_is_read_stays_finished(cli, scan, tmp_path):
    """``--retry-failed`` with options for it alone leaves the stored options as they are."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    with h5py.File(scan) as file, h5py.File(folder / "odd.h5", "w") as odd:
        odd["kspace"] = file["kspace"][:].transpose(0, 2, 3, 1)
    shutil.copy(scan, folder / "good.h5")
    words = ("reconstruct", folder, "-o", out, "--method", "zero-filled", "--device", "cpu")
    assert "--axes" in cli(*words, code=1).errors[0]
    stored = (out / "config.toml").read_bytes()
    cli(*words, "--retry-failed", "--axes", "slice,y,x,coil")
    assert (out / "config.toml").read_bytes() == stored
    for more in ((), ("--config", out / "config.toml")):
        printed = cli(*words, *more)
        assert printed.out == "" and "2 finished before" in printed.err
    with h5py.File(folder / "odd.h5", "a") as odd:
        odd["kspace"][...] *= 2
    assert cli(*words).out.startswith("odd.h5: ")


def test_other_inputs_go_on(cli, scan, tmp_path):
    """Nothing is written for a file of another kind."""
    (tmp_path / "image.dcm").write_bytes(bytes(128) + b"DICM")
    out = tmp_path / "out"
    printed = cli("convert", tmp_path / "image.dcm", scan, "-o", out, "--to", "cfl", code=1)
    assert "DICOM" in printed.errors[0]
    assert sorted(path.suffix for path in out.iterdir()) == [".cfl", ".hdr"]


def test_calibration_lines_of_a_file_of_their_own(cli, scan, tmp_path):
    """A scan without its centre is refused; with it, it is prepared as the whole one."""
    with h5py.File(scan) as file:
        ksp = file["kspace"][:]
    middle = slice(ksp.shape[-1] // 2 - 8, ksp.shape[-1] // 2 + 8)
    apart = ksp.copy()
    apart[..., middle] = 0
    for name, values in (("whole", ksp), ("apart", apart), ("acs", ksp[..., middle])):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["kspace"] = values
    options = ("-o", tmp_path / "out", "--device", "cpu", "--no-pictures")
    assert "calibration" in cli("prep", tmp_path / "apart.h5", *options, code=3).errors[0]
    acs = ("--acs", tmp_path / "acs.h5")
    assert "W-CENTRE-APART" in cli("prep", tmp_path / "apart.h5", *acs, *options).codes
    cli("prep", tmp_path / "whole.h5", *options)
    files = [h5py.File(tmp_path / "out" / f"{name}.h5") for name in ("apart", "whole")]
    assert (files[0]["maps"][:] == files[1]["maps"][:]).all()


def test_repetitions_are_averaged(cli, scan, tmp_path):
    """Each is scored against the mean, which is written under the name without the number."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    with h5py.File(scan) as file:
        ksp = file["kspace"][:]
    for number, factor in ((1, 0.9), (2, 1.1)):
        with h5py.File(raw / f"head_T10{number}.h5", "w") as file:
            file["kspace"] = factor * ksp
    cli("convert", raw, "-o", out, "--to", "fastmri", "--average")
    with h5py.File(out / "head_T1.h5") as file:
        assert abs(file["kspace"][:] - ksp).max() < 1e-5 * abs(ksp).max()
    options = ("--method", "zero-filled", "--device", "cpu")
    cli("reconstruct", raw, "-o", tmp_path / "rec", *options)
    printed = cli("evaluate", tmp_path / "rec", "--target", raw, "--average", "--csv").out
    assert [line.split(",")[0] for line in printed.splitlines()[1:3]] == ["head_T101", "head_T102"]
