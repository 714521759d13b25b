"""A result is finished only if it was made from the same samples: read as they are read now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import mri_ambient as ma
from mri_ambient.data_prep import PrepConfig, SimulateConfig, plan_preparation
from mri_ambient.errors import OutputExistsError, collected
from mri_ambient.io import ArrayFile, Undersampled, open_scan
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.result_file import reconstruct_to_folder

CG, CPU = ma.Recipe("cg-sense"), ma.Runtime("cpu")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully sampled scan of three slices."""
    config = SimulateConfig(size=(32, 28), coils=3, full=True, noise=0.01, slices=3)
    return ma.simulate("phantom", tmp_path_factory.mktemp("full"), config, count=1)[0]


@pytest.fixture
def ways(full: Path, tmp_path: Path) -> tuple[Path, list[dict[str, object]]]:
    """An array, and ways to read it."""
    with h5py.File(full) as file:
        ksp = file["kspace"][()]
    lines = np.arange(28)
    for number in (1, 2):
        np.save(tmp_path / f"m{number}.npy", (abs(lines - 14) < 6) | (lines % 3 == number))
    path = tmp_path / "scan.npy"
    np.save(path, ksp)
    masks = [{"mask": tmp_path / f"m{number}.npy"} for number in (1, 2)]
    axes = {"axes": "slice,coil,y,x"}
    return path, [*({**mask, **axes} for mask in masks), axes, {**axes, "centre": "header"}]


def test_another_mask_is_another_scan(ways, tmp_path):
    """Of files in any order, with and without; the same one is finished."""
    path, options = ways
    for first in options:
        out = tmp_path / f"of-{options.index(first)}"
        for given in (first, *options):
            with collected():
                (scan,) = ma.io.find_scans([path], **given)
                (outcome,) = ma.reconstruct_folder([scan], out, CG, CPU)
            wanted = "refused" if given != first else ("skipped", "done")
            assert outcome.status in wanted
        assert outcome.path.exists()


def test_the_same_mask_in_other_words_is_the_same(ways, tmp_path):
    path, (first, *_) = ways
    np.save(tmp_path / "float.npy", np.load(first["mask"]).astype(np.float32))
    other = {**first, "mask": tmp_path / "float.npy", "axes": ("slice", "coil", "y", "x")}
    scans = [ma.io.find_scans([path], **given)[0] for given in (first, other)]
    assert scans[0].reading == scans[1].reading
    texts = ({"centre": centre} for centre in ("16,14", "16, 14", (16, 14)))
    assert len({str(ma.io.find_scans([path], **text)[0].reading) for text in texts}) == 1


def test_slices_read_otherwise_are_not_mixed(ways, tmp_path):
    path, (first, second, *_) = ways
    one_by_one = ma.Runtime("cpu", batch_size=1)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with collected():
        volumes = [
            open_volume(open_scan(path, **given), CG.resolve(), one_by_one)
            for given in (first, second)
        ]
        with pytest.raises(KeyboardInterrupt):
            reconstruct_to_folder(volumes[0], tmp_path / "out", on_slice=stop)
        with pytest.raises(OutputExistsError, match="how the file is read"):
            reconstruct_to_folder(volumes[1], tmp_path / "out")


def test_prepared_files_know_how_their_scan_was_read(ways, tmp_path):
    path, options = ways
    for number, given in enumerate((options[0], *options)):
        (scan,) = ma.io.find_scans([path], **given)
        (result,) = ma.prepare([scan], tmp_path / "out", on_scan=lambda _: None).results
        assert result.status == ["done", "skipped", "failed", "failed", "failed"][number]


def test_a_mask_that_the_user_drew_is_a_setting(full, tmp_path):
    """And one of the recipe is a setting once."""
    file, spec = open_scan(full), MaskSpec("random", 2, 8)
    drawn = Undersampled(file, spec, seed=0)
    ma.reconstruct(drawn, CG, CPU).save(tmp_path)
    for other in (Undersampled(file, spec, seed=1), Undersampled(file, replace(spec, calib=10), 0)):
        with pytest.raises(OutputExistsError):
            ma.reconstruct(other, CG, CPU).save(tmp_path)
    ma.reconstruct(drawn, CG, CPU).save(tmp_path)
    with_mask = replace(CG, retrospective=spec).resolve()
    assert "reading" not in open_volume(file, with_mask, CPU).settings


def test_all_of_a_scan_in_memory_counts(full):
    """A tenfold scale, another noise level: other images of the same k-space."""
    file = open_scan(full)
    prepared = plan_preparation(file, PrepConfig()).apply(file[:1])
    hashes = {
        ArrayFile(scan).sha256
        for scan in (
            prepared,
            replace(prepared, scale=10 * prepared.scale),
            replace(prepared, noise_std=2 * prepared.noise_std),
            replace(prepared, coil_transform=2 * prepared.coil_transform),
        )
    }
    assert len(hashes) == 4
    assert ArrayFile(replace(prepared)).sha256 in hashes
    columns = torch.ones(28, dtype=torch.bool)  # all of them is what no word about it means
    raw = [ArrayFile(replace(file[:1], acquired=given)).sha256 for given in (None, columns)]
    assert raw[0] == raw[1]


def test_a_report_that_was_deleted_is_written_again(full, tmp_path):
    rec = ma.reconstruct(full, CG, CPU)
    path = rec.save(tmp_path)
    path.with_suffix(".json").unlink()
    assert rec.save(tmp_path).with_suffix(".json").exists()
