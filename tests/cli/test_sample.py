from __future__ import annotations

import h5py
import numpy as np
import pytest


@pytest.mark.pictures
def test_images_are_drawn_and_stored(cli, scan, prior_file, tmp_path):
    """With a coil of their own, or with the maps of a scan, whose size they then have."""
    words = ("sample", "-m", prior_file, "--samples", 2, "--steps", 3, "--device", "cpu")
    for name, more, size in (
        ("free", ("--size", 24, 20), (24, 20)), ("maps", ("--maps-from", scan), (40, 32)),
    ):  # fmt: skip
        cli(*words, "-o", tmp_path / name, *more)
        with h5py.File(tmp_path / name / "samples.h5") as file:
            assert file["samples"].shape == (2, *size)
            assert np.isfinite(file["samples"][()]).all()
            assert len(file.attrs["prior_sha256"]) == 64
        assert (tmp_path / name / "samples.png").stat().st_size > 1000


def test_samples_are_not_overwritten(cli, prior_file, tmp_path):
    (tmp_path / "samples.h5").write_text("mine")
    words = ("sample", "-o", tmp_path, "-m", prior_file, "--steps", 2, "--size", 16, 16)
    assert "--overwrite" in cli(*words, "--device", "cpu", code=2).errors[0]
    assert (tmp_path / "samples.h5").read_text() == "mine"
    cli(*words, "--device", "cpu", "--overwrite")
