from __future__ import annotations

import h5py
import numpy as np
import pytest

from mri_ambient.io import open_scan


@pytest.mark.parametrize(("to", "name"), [("fastmri", ".h5"), ("ismrmrd", ".h5"), ("cfl", ".cfl")])
def test_every_scan_of_a_folder_is_converted(to, name, cli, full, tmp_path):
    printed = cli("convert", full, "-o", tmp_path / "out", "--to", to)
    stems = {path.stem for path in full.glob("*.h5")}
    made = {path.stem for path in (tmp_path / "out").glob(f"*{name}")}
    assert made == stems and all(stem in printed.err for stem in stems)
    if to != "cfl":
        for path in full.glob("*.h5"):
            again = open_scan(tmp_path / "out" / path.name)
            with h5py.File(path) as file:
                np.testing.assert_array_equal(again.read_ksp(0), file["kspace"][0])


def test_what_cannot_be_converted_costs_one_line(cli, full_copy, tmp_path):
    bad, good = sorted(full_copy.glob("*.h5"))
    bad.write_bytes(b"nothing")
    words = ("convert", full_copy, "-o", tmp_path / "out", "--to", "ismrmrd")
    assert len(cli(*words, code=1).errors) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [good.name]
    assert len(cli(*words, code=3).errors) == 2  # it is there already
    assert len(cli(*words, "--overwrite", code=1).errors) == 1
    cli("convert", good, "-o", tmp_path / "out", "--to", "nifti", code=2)
