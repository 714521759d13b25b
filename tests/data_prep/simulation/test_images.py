"""Sources of anatomy: pictures, archives, NIfTI volumes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.data_prep.simulation.images import open_images
from mri_ambient.errors import ConfigError
from mri_ambient.io import open_scan
from mri_ambient.rng import rng_for


def save_nifti(path: Path, volume: np.ndarray) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.diag([2, 2, 3, 1])), path)


def test_a_nifti_volume_is_cut_into_blocks_of_slices_with_anatomy(tmp_path):
    volume = np.zeros((40, 50, 9))
    volume[5:20, 10:40, 2:8] = np.arange(1, 7)
    save_nifti(tmp_path / "head.nii.gz", volume)
    source = open_images(tmp_path / "head.nii.gz")
    assert source.names(None, 1) == [f"head_s{i:03d}" for i in range(2, 8)]
    assert source.names(None, 4) == ["head_s002"]
    block = source.read("head_s004", (32, 32), 2, rng_for(0))
    assert block.img.shape == (2, 50, 40)
    assert block.pixel_mm == 2
    assert block.slice_mm == 3
    assert block.subject == "head"
    assert block.img[0].max() == pytest.approx(3 / 4)
    assert block.img[1, 10:40, 5:20].min() == 1  # columns of the first axis, rows of the second
    config = SimulateConfig(size=(32, 32), coils=4, slices=3, full=True)
    paths = simulate(tmp_path / "head.nii.gz", tmp_path / "out", config)
    assert [len(open_scan(path)) for path in paths] == [3, 3]


def test_sixteen_bit_and_colour_pictures_are_grey_values(tmp_path):
    ramp = np.linspace(0, 60000, 1024).reshape(32, 32)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 60000).astype(np.float32)).save(tmp_path / "float.tif")
    grey = (ramp / 256).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "colour.png")
    source = open_images(tmp_path)
    for name in ("deep", "float", "colour"):
        img = source.read(name, (32, 32), 1, rng_for(0)).img[0]
        np.testing.assert_allclose(img.numpy(), ramp / 60000, atol=0.005)


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=tmp_path.name):
        open_images(tmp_path).names(None, 1)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        open_images(tmp_path / "notes.txt")


def test_files_that_cannot_be_read(tmp_path):
    def read_first(path: Path) -> None:
        source = open_images(path)
        source.read(source.names(None, 1)[0], (32, 32), 1, rng_for(0))

    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(ConfigError, match=r"broken\.png"):
        read_first(folder)
    (folder / "broken.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "black.png")
    with pytest.raises(ConfigError, match=r"black\.png"):
        read_first(folder)
    (tmp_path / "broken.zip").write_bytes(b"PK no")
    with pytest.raises(ConfigError, match=r"broken\.zip"):
        read_first(tmp_path / "broken.zip")
    (tmp_path / "broken.nii").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"broken\.nii: "):
        read_first(tmp_path / "broken.nii")
    (tmp_path / "broken.nii.gz").write_bytes(gzip.compress(b"no" * 500)[:-20])
    with pytest.raises(ConfigError, match=r"broken\.nii\.gz: "):
        read_first(tmp_path / "broken.nii.gz")
    save_nifti(tmp_path / "series.nii", np.ones((8, 8, 8, 3)))
    with pytest.raises(ConfigError, match=r"series\.nii: .*8, 8, 8, 3"):
        read_first(tmp_path / "series.nii")


def test_two_files_of_one_name(tmp_path):
    for name in ("p0.png", "p0.jpg"):
        Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / name)
    with pytest.raises(ConfigError, match="'p0'"):
        open_images(tmp_path).names(None, 1)


def test_pictures_are_no_volumes(tmp_path):
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "p0.png")
    with pytest.raises(ConfigError, match="2 slices"):
        open_images(tmp_path).names(None, 2)
