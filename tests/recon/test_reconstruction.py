"""A reconstruction in memory is what the command writes; it saves, draws and shows itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
from helpers import small_prior

from mri_ambient.errors import WARNINGS, ConfigError, OutputExistsError, ScanFormatError
from mri_ambient.io import ArrayFile, Geometry, ReconstructionFile
from mri_ambient.io.outputs.save_options import Writer
from mri_ambient.methods import CgSense, Dds
from mri_ambient.recon.recipe import Checks
from mri_ambient.recon.reconstruction import Reconstruction, stored_settings
from mri_ambient.recon.result_file import reconstruct_to_folder
from mri_ambient.recon.saving import FORMATS, save_as
from mri_ambient.recon.slice_store import SliceStore
from mri_ambient.recon.volume import Volume, reconstruct_volume
from mri_ambient.runtime.device import Runtime

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture
def volume(make_volume) -> Volume:
    """Two samples a slice, kept."""
    return make_volume(
        Dds(n_steps=2), small_prior("conditioned", card={"sha256": "ab"}), n_samples=2,
        keep_samples=True, checks=Checks(flags=True), runtime=Runtime("cpu", batch_size=12),
    )  # fmt: skip


def in_memory(volume: Volume) -> Reconstruction:
    store = SliceStore(keep_samples=volume.recipe.keep_samples)
    report = reconstruct_volume(volume, store)
    return Reconstruction.from_store(store, report, volume.file)


@pytest.fixture
def rec(volume) -> Reconstruction:
    return in_memory(volume)


def test_arrays_have_documented_kinds_and_shapes(rec, file):
    shape = (6, *file.recon_shape)
    assert (rec.complex.shape, rec.complex.dtype) == (shape, np.complex64)
    assert (rec.magnitude.shape, rec.magnitude.dtype) == (shape, np.float32)
    assert (rec.std.shape, rec.std.dtype) == (shape, np.float32)
    assert (rec.samples.shape, rec.samples.dtype) == ((6, 2, *shape[1:]), np.complex64)
    np.testing.assert_allclose(rec.samples.mean(axis=1), rec.complex, rtol=1e-4, atol=1e-9)
    spread = np.abs(rec.samples).std(axis=1, ddof=1)
    np.testing.assert_allclose(spread, rec.std, rtol=1e-3, atol=1e-9)
    assert rec.voxel_mm == file.voxel_mm and rec.scan_id == file.scan_id
    assert [check["slice"] for check in rec.checks] == list(range(6))
    assert rec.warnings == rec.report["warnings"]
    assert rec.metrics is None  # undersampled


def test_a_single_image_has_neither_std_nor_samples(make_volume):
    rec = in_memory(make_volume(CgSense()))
    assert rec.std is None and rec.samples is None
    assert rec.complex.shape[0] == 6


def test_saving_writes_what_the_command_writes(volume, rec, tmp_path):
    path = rec.save(tmp_path / "saved")
    reconstruct_to_folder(replace(volume), tmp_path / "command")
    assert path.name == volume.file.path.name
    ours, theirs = (tmp_path / name / path.name for name in ("saved", "command"))
    with h5py.File(ours) as a, h5py.File(theirs) as b:
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name][()], b[name][()])
        assert set(a.attrs) == set(b.attrs) >= {"std_factor", "samples_are", "n_samples"}
        for name in a.attrs:
            np.testing.assert_array_equal(a.attrs[name], b.attrs[name])
    reports = [json.loads(p.with_suffix(".json").read_text()) for p in (ours, theirs)]
    for report in reports:
        report["provenance"].pop("seconds")
    assert reports[0] == reports[1]
    assert stored_settings(ours) == volume.settings == reports[0]["settings"]


def test_a_file_that_is_there_is_replaced_on_request_only(rec, tmp_path):
    path = rec.save(tmp_path)
    other = replace(rec, report=rec.report | {"settings": rec.report["settings"] | {"seed": 99}})
    with pytest.raises(OutputExistsError, match=rf"{path.name}: .* \(seed\); .*overwrite=True"):
        other.save(tmp_path)
    assert other.save(tmp_path, overwrite=True) == path
    path.write_bytes(b"raw data of somebody")
    with pytest.raises(OutputExistsError):
        rec.save(tmp_path, overwrite=True)
    assert path.read_bytes() == b"raw data of somebody"
    with pytest.raises(OutputExistsError):
        stored_settings(path)


def test_one_of_a_method_of_ones_own_is_written_once(make_volume, tmp_path):
    """From another process, whose recipe did not come along, it is not known to be the same."""

    @dataclass(frozen=True)
    class Mine(CgSense):
        name: ClassVar[str] = "mine"

    volume = make_volume(Mine())
    rec = replace(in_memory(volume), volume=volume)
    path = rec.save(tmp_path)
    written = path.stat().st_mtime_ns
    assert rec.save(tmp_path) == path and path.stat().st_mtime_ns == written
    with pytest.raises(OutputExistsError):
        replace(rec, volume=None).save(tmp_path)


def test_it_draws_its_slices(rec):
    figure = rec.plot()
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 12  # six slices and their standard deviations
    assert "dds" in figure.get_suptitle() and "R = 2.00" in figure.get_suptitle()


def test_it_shows_itself_in_a_notebook(rec):
    """Picture and warnings; their text cannot break the page."""
    entry = {"code": "W-RESIDUAL", "text": "<b>2 & 3</b>"}
    page = replace(rec, report=rec.report | {"warnings": [entry]})._repr_html_()
    assert page.startswith('<img src="data:image/png;base64,')
    assert "W-RESIDUAL: &lt;b&gt;2 &amp; 3&lt;/b&gt;" in page
    assert WARNINGS["W-RESIDUAL"] in page


def test_it_shows_itself_in_one_line(rec):
    line = repr(rec)
    assert all(fact in line for fact in (rec.scan_id, "6 x 24 x 24", "dds", "R = 2.00"))
    assert "psnr" not in line and "\n" not in line
    metrics = {"nmse": 0.1, "psnr": 31.5, "ssim": 0.9, "reference": "rss"}
    scored = replace(rec, report=rec.report | {"metrics": metrics})
    assert "RSS: PSNR 31.5" in repr(scored) and "PSNR 31.5" in scored._repr_html_()


def test_saving_again_with_the_same_settings_is_no_mistake(make_volume, rec, tmp_path):
    """Unless they name no prior: two priors without a file cannot be told apart."""
    for known in (rec, in_memory(make_volume(CgSense()))):
        assert known.save(tmp_path / "a", overwrite=True) == known.save(tmp_path / "a")
    unknown = in_memory(make_volume(Dds(n_steps=2), small_prior("conditioned")))
    unknown.save(tmp_path / "b")
    with pytest.raises(OutputExistsError):
        unknown.save(tmp_path / "b")


class Sums(Writer):
    """A writer: the sum of every slice, as text."""

    def outputs(self, result, options):
        return [f"{result.path.stem}-{part}.txt" for part in options.parts]

    def write(self, result, folder, options):
        for name in self.outputs(result, options):
            sums = [f"{abs(result.read(i)).sum():.6g}" for i in range(len(result))]
            (folder / name).write_text(" ".join(sums))


@pytest.fixture
def sums(monkeypatch):
    monkeypatch.setitem(FORMATS, "sums", Sums())


def test_other_formats_are_made_from_the_file(rec, sums, tmp_path):
    path = rec.save(tmp_path, formats=["sums", "h5", "sums"], parts=("mag", "std"))
    names = {path.name, *(f"{path.stem}{end}" for end in (".json", "-mag.txt", "-std.txt"))}
    assert {file.name for file in tmp_path.iterdir()} == names
    found = [float(number) for number in (tmp_path / f"{path.stem}-std.txt").read_text().split()]
    np.testing.assert_allclose(found, rec.magnitude.sum(axis=(1, 2)), rtol=1e-4)
    for wrong in ({"formats": "nii"}, {"formats": "sums", "parts": ("mag", "real")},
                  {"formats": "sums", "parts": ()}, {"parts": ("mag",)}):  # fmt: skip
        with pytest.raises(ConfigError):
            rec.save(tmp_path, **wrong)
    with pytest.raises(ConfigError) as caught:
        rec.save(tmp_path, part=("mag",))
    assert "did you mean parts" in str(caught.value)


def test_parts_that_are_not_there_are_not_dropped_silently(make_volume, sums, tmp_path):
    single = in_memory(make_volume(CgSense()))
    with pytest.raises(ConfigError):
        single.save(tmp_path, formats="sums", parts="std")
    assert list(tmp_path.iterdir()) == []
    single.save(tmp_path, formats="sums", parts="mag")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["x.h5", "x.nii", "x.nii.gz", "x.JSON"])
def test_a_new_folder_does_not_have_the_name_of_a_file(name, rec, tmp_path):
    with pytest.raises(ConfigError):
        rec.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).mkdir()
    assert rec.save(tmp_path / name).parent == tmp_path / name


def test_what_is_there_in_another_format_is_replaced_on_request_only(rec, sums, tmp_path):
    """A file of that name which was there before is somebody's; one made before is kept."""
    theirs = tmp_path / f"{Path(rec.report['input']).stem}-mag.txt"
    theirs.write_text("somebody's")
    with pytest.raises(OutputExistsError, match=theirs.name):
        rec.save(tmp_path, formats="sums")
    assert theirs.read_text() == "somebody's"
    path = rec.save(tmp_path, formats="sums", overwrite=True)
    ours = theirs.read_text()
    assert ours != "somebody's"
    theirs.write_text("changed")
    assert save_as(path, ["sums"]) == [] and theirs.read_text() == "changed"
    assert save_as(path, ["sums"], overwrite=True) == [theirs] and theirs.read_text() == ours


def test_a_file_holds_what_was_saved(rec, tmp_path):
    geometry = Geometry.of_vectors((0, 2, 0), (1, 0, 0), (0, 0, -1), np.arange(18).reshape(6, 3))
    path = replace(rec, geometry=geometry).save(tmp_path)
    file = ReconstructionFile(path)
    assert (file.shape, file.has_std, file.voxel_mm) == (rec.complex.shape, True, rec.voxel_mm)
    np.testing.assert_array_equal(file.read(2), rec.complex[2])
    np.testing.assert_array_equal(file.read_std(3), rec.std[3])
    assert file.settings == rec.report["settings"] == file.report["settings"]
    assert file.attributes["method"] == "dds" and "geometry" not in file.attributes
    np.testing.assert_array_equal(file.geometry.directions, [[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    np.testing.assert_array_equal(file.geometry.positions, np.arange(18).reshape(6, 3))
    with h5py.File(path, "a") as stored:
        stored.attrs["geometry"] = "{}"
    with pytest.raises(ScanFormatError):
        ReconstructionFile(path)


def test_outputs_are_named_after_the_stem_of_the_input(rec, tmp_path):
    other = replace(rec, report=rec.report | {"input": "a.b.mrd"})
    assert other.save(tmp_path) == tmp_path / "a.b.h5"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b.h5", "a.b.json"]


def test_slices_of_a_scan_in_memory_count_from_zero(prepared, make_volume):
    """Whatever slices of a volume it holds."""
    part = replace(
        prepared, ksp=prepared.ksp[2:4], maps=prepared.maps[2:4], slices=prepared.slices[2:4]
    )
    volume = make_volume(CgSense())
    file = ArrayFile(part)
    rec = in_memory(Volume(file, file, volume.recipe, volume.runtime))
    whole = in_memory(volume)
    assert [check["slice"] for check in rec.checks] == [0, 1]
    scale = np.abs(whole.complex[2:4]).max()
    np.testing.assert_allclose(rec.complex / scale, whole.complex[2:4] / scale, atol=1e-4)
