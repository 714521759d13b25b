"""Prepared files: what is written reads back, and damage is refused."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import damage_samples, random_maps
from torch import Generator

from mri_ambient.errors import ScanFormatError
from mri_ambient.io import ArrayFile, PreparedFile, PreparedWriter, open_scan
from mri_ambient.io.formats.prepared import duplicate_acquisitions, mask_facts
from mri_ambient.physics.coil_maps import pack_maps, unpack_maps
from mri_ambient.rng import complex_normal
from mri_ambient.scan import Scan

SHAPE = (3, 2, 12, 10)


@pytest.fixture
def prepared(rng: Generator) -> Scan:
    """A volume as the prep chain hands it over: 2 virtual of 4 coils."""
    mask = torch.rand((1, *SHAPE[-2:]), generator=rng) < 0.4
    mask[..., 0] = False
    return Scan(
        ksp=complex_normal(SHAPE, rng) * mask,
        mask=mask,
        scan_id="scan.v1",
        slices=(0, 1, 2),
        recon_shape=(8, 8),
        acquired=torch.arange(10) > 0,
        noise_std=0.02,
        noise_source="noise scan",
        maps=unpack_maps(pack_maps(random_maps(SHAPE, rng))),
        scale=3.5e-5,
        coil_transform=complex_normal((4, 4), rng),
        voxel_mm=(0.7, 0.8, 4.5),
        steps=("read", "whiten", "compress"),
    )


RAW = Scan.from_numpy(np.ones(SHAPE, np.complex64))


def writer(path: Path) -> PreparedWriter:
    source = ArrayFile(RAW)
    source.path, source.sha256 = Path("/somewhere/else/scan.v1.h5"), "ab" * 32
    source.header_xml = "<ismrmrdHeader/>"
    source.attributes = {
        "acquisition": "AXT2", "max": 0.5, "scale": "of the source", "list": [1, 2],
    }  # fmt: skip
    return PreparedWriter(path, source, calib_shape=(12, 8))


def one_slice(scan: Scan, index: int) -> Scan:
    assert scan.maps is not None
    only = slice(index, index + 1)
    return replace(scan, ksp=scan.ksp[only], maps=scan.maps[only], slices=(index,))


@pytest.fixture
def path(tmp_path: Path, prepared: Scan) -> Path:
    """A prepared file, written out of order."""
    with writer(tmp_path / "scan.v1.h5") as out:
        for index in (2, 0, 1):
            out.write(one_slice(prepared, index))
        out.qc = {"coverage": 0.9, "residuals": torch.tensor([0.5, float("nan")])}
    return tmp_path / "scan.v1.h5"


def assert_equal(got: Scan, want: Scan) -> None:
    for field in fields(Scan):
        a, b = getattr(got, field.name), getattr(want, field.name)
        same = torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
        assert same, f"{field.name}: {a} != {b}"


def test_a_scan_survives_the_round_trip(path, prepared):
    file = open_scan(path)
    assert isinstance(file, PreparedFile)
    assert file.format == "prepared"
    assert file.shape == SHAPE
    assert_equal(file[:], prepared)
    for index, scan in enumerate(file):
        assert_equal(scan, one_slice(prepared, index))
    assert file.acceleration == prepared.acceleration


def test_what_is_not_in_a_scan_survives_too(path):
    file = PreparedFile(path)
    assert file.calib_shape == (12, 8)
    assert file.source == "scan.v1.h5"
    assert file.source_sha256 == "ab" * 32
    assert file.qc == {"coverage": 0.9, "residuals": [0.5, None]}
    assert file.header_xml == "<ismrmrdHeader/>"
    assert file.attributes == {"acquisition": "AXT2", "max": 0.5, "list": "[1, 2]"}
    assert file.readout_oversampling == 1


def test_what_is_not_known_stays_unknown(tmp_path, prepared):
    scan = replace(
        prepared,
        noise_std=None,
        noise_source=None,
        voxel_mm=None,
        acquired=None,
        coil_transform=None,
    )
    with PreparedWriter(tmp_path / "a.h5", ArrayFile(RAW), calib_shape=(0, 0)) as out:
        out.write(scan)
    file = PreparedFile(tmp_path / "a.h5")
    assert file.header_xml is None
    want = replace(
        scan,
        acquired=torch.ones(10, dtype=torch.bool),
        coil_transform=torch.eye(2, dtype=torch.complex64),
    )
    assert_equal(file[:], want)


def test_the_file_opens_with_plain_h5py(path):
    with h5py.File(path) as file:
        assert file.attrs["mri_ambient_format"] == "prepared/1"
        assert {name: file[name].shape for name in ("ksp", "maps", "mask", "acquired")} == {
            "ksp": SHAPE, "maps": (*SHAPE, 2), "mask": (1, 12, 10), "acquired": (10,)
        }  # fmt: skip
        assert file["mask"].dtype == bool


def test_an_error_leaves_nothing_behind(tmp_path, prepared):
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "a.h5") as out:
        out.write(one_slice(prepared, 0))
        raise KeyboardInterrupt
    with (
        pytest.raises(ValueError, match=r"\[1, 2\]"),
        writer(tmp_path / "a.h5") as out,
    ):
        out.write(one_slice(prepared, 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"maps": None}, "maps"),
        ({"slices": (0,)}, "(0,)"),
        ({"slices": (3,)}, "(3,)"),
        ({"scale": 1.0}, "scale"),
        ({"acquired": None}, "mask"),
    ],
)
def test_slices_must_fit_together(tmp_path, prepared, change, fact):
    with pytest.raises(ValueError, match=re.escape(fact)), writer(tmp_path / "a.h5") as out:
        out.write(one_slice(prepared, 0))
        out.write(replace(one_slice(prepared, 1), **change))


@pytest.mark.parametrize(
    ("edit", "fact"),
    [
        (lambda f: f.attrs.__delitem__("scale"), "KeyError: 'scale'"),
        (lambda f: f.attrs.modify("scale", 0.0), "ValueError: 0"),
        (lambda f: f.attrs.modify("scale", np.nan), "ValueError: nan"),
        (lambda f: f.attrs.__setitem__("scale", "big"), "'big'"),
        (lambda f: f.attrs.modify("noise_std", -1.0), "ValueError: -1"),
        (lambda f: f.attrs.__setitem__("voxel_mm", [1.0, 2.0]), "expected 3, got 2"),
        (lambda f: f.attrs.__setitem__("recon_shape", 3), "TypeError: "),
        (lambda f: f.attrs.__setitem__("steps", "[nothing"), "JSONDecodeError"),
        (lambda f: f.attrs.__setitem__("steps", "7"), "TypeError: "),
        (lambda f: f.attrs.__setitem__("scan_id", "../scan"), "'../scan'"),
        (lambda f: f.__delitem__("maps"), "'maps'"),
        (lambda f: f["mask"].write_direct(np.zeros((1, 12, 10), bool)), "mask is False"),
        (lambda f: f["mask"].write_direct(~f["mask"][()]), "(0, 1, 2)"),
        (lambda f: f["ksp"].__setitem__((1, 0, 2, 2), np.nan), "slice 1 of ksp holds NaN"),
    ],
)
def test_impossible_content_is_refused(path, edit, fact):
    with h5py.File(path, "a") as file:
        edit(file)
    with pytest.raises(ScanFormatError) as caught:
        PreparedFile(path)[:]
    assert str(caught.value).startswith(f"{path}: ")
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ksp", np.ones((3, 2, 12), np.complex64)),
        ("ksp", np.ones(SHAPE, np.float32)),
        ("maps", np.ones((3, 2, 12, 9, 2), np.int16)),
        ("maps", np.ones(SHAPE, np.complex64)),
        ("mask", np.ones((12, 10), bool)),
        ("acquired", np.ones(9, bool)),
        ("coil_transform", np.ones((3, 4), np.complex64)),
    ],
)
def test_datasets_of_the_wrong_shape_are_refused(path, name, value):
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = value
    with pytest.raises(ScanFormatError) as caught:
        PreparedFile(path)
    assert f" {name} " in str(caught.value)
    assert str(value.shape) in str(caught.value)


def test_a_single_flipped_bit_in_the_data_is_noticed(path):
    damage_samples(path, 1)
    file = PreparedFile(path)
    file.read_ksp(0)
    with pytest.raises(ScanFormatError) as caught:
        file[1]
    assert "slice 1 of ksp" in str(caught.value)


def test_files_of_one_acquisition_are_found(tmp_path, prepared):
    centers = {"a.h5": "ab", "b.h5": "cd", "c.h5": "ab", "d.h5": "", "e.h5": ""}
    for name, center in centers.items():
        with writer(tmp_path / name) as out:
            out.write(prepared)
            out.center_sha256 = center
    (warning,) = duplicate_acquisitions(PreparedFile(tmp_path / name) for name in centers)
    assert warning.code == "W-DUPLICATES"
    assert re.findall(r"\w\.h5", warning.text) == ["a.h5", "c.h5"]


def test_mask_facts_are_those_of_the_file(path, prepared):
    facts = mask_facts(PreparedFile(path))
    assert np.array_equal(facts.mask, prepared.mask)
    assert np.array_equal(facts.acquired, prepared.acquired)
    assert np.array_equal(facts.read_op().maps, prepared.maps[1])  # of the middle slice
