"""Images to learn from are the same whatever was there before, and whoever makes which part."""

from __future__ import annotations

import pytest
import torch
from helpers import small_prior

from mri_ambient.data_prep import SimulateConfig, prepare_many, simulate_scans
from mri_ambient.errors import ScanFormatError
from mri_ambient.io.prepared import PreparedFile
from mri_ambient.io.reconstruction import read_samples
from mri_ambient.methods import Dds
from mri_ambient.methods.baselines import CgSense
from mri_ambient.recon.engine import Options, reconstruct
from mri_ambient.training.dataset import load_dataset
from mri_ambient.training.targets import make_targets

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Eight scans: five of one slice, two of three slices, and one of another size."""
    folder = tmp_path_factory.mktemp("scans")
    raw = []
    for i, (count, side, slices) in enumerate([(5, 24, 1), (2, 24, 3), (1, 28, 1)]):
        config = SimulateConfig(
            size=(side, 24), coils=3, acceleration=2.0, calib=8, noise=0.02, slices=slices, seed=i
        )
        made = simulate_scans("phantom", folder / f"raw-{i}", config, count=count)
        raw += [path.rename(path.with_name(f"{i}-{path.name}")) for path in made]
    prepare_many(raw, folder / "prepared")
    return load_dataset(folder / "prepared", n_validation=0, seed=0).train


@pytest.fixture(scope="module")
def prior():
    return small_prior(tau=0.1)


def images(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


SAMPLER = Dds(n_steps=3, final_dc=False)
FOUR = Options(batch_size=4)


@pytest.fixture(autouse=True)
def groups_of_four(monkeypatch):
    """Scans of one size are together as long as they have four slices at most."""
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 4)


def test_targets_are_the_samples_of_their_scans(items, prior, tmp_path):
    told = []
    assert make_targets(items, tmp_path, SAMPLER, prior, FOUR, on_scan=lambda *t: told.append(t))
    assert told == [(i, 8) for i in range(1, 9)]
    for item in items:
        alone = reconstruct(item.file[item.index], SAMPLER, prior, Options(n_samples=1)).img[0]
        got = read_samples(tmp_path / f"{item.scan_id}.h5", item.index)
        torch.testing.assert_close(got, alone, rtol=1e-3, atol=1e-4)


def test_what_is_there_and_who_makes_it_changes_no_bit(items, prior, tmp_path):
    make_targets(items, tmp_path / "whole", SAMPLER, prior, FOUR)
    whole = images(tmp_path / "whole")
    for part in (1, 2, 3):
        make_targets(items, tmp_path / "parts", SAMPLER, prior, FOUR, shard=(part, 3))
    assert images(tmp_path / "parts") == whole
    torn, untouched, *_ = sorted((tmp_path / "parts").glob("0-*.h5"))
    torn.write_bytes(b"torn")
    before = untouched.stat().st_mtime_ns
    make_targets(items, tmp_path / "parts", SAMPLER, prior, FOUR)
    assert images(tmp_path / "parts") == whole
    assert untouched.stat().st_mtime_ns == before


def test_processes_with_less_memory_draw_the_same_parts(items, prior, tmp_path, monkeypatch):
    """Nobody's scan, or two processes', there would be if memory decided who gets what."""
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 3)
    told: list[int] = []
    for part, memory in ((1, 10**9), (2, 10**5)):
        monkeypatch.setattr("mri_ambient.recon.memory.free_bytes", lambda _, memory=memory: memory)
        make_targets(
            items, tmp_path, SAMPLER, prior, shard=(part, 2), on_scan=lambda *t: told.append(t)
        )
    assert len(images(tmp_path)) == 8
    assert len(told) == 8


def test_a_scan_that_cannot_be_read_is_named_and_its_group_made(
    items, prior, tmp_path, monkeypatch
):
    (broken, *_), named = sorted(item.scan_id for item in items), []
    read = PreparedFile.read_ksp

    def torn(self, index):
        if self.scan_id == broken:
            raise ScanFormatError(f"{self.path}: torn")
        return read(self, index)

    monkeypatch.setattr(PreparedFile, "read_ksp", torn)
    make_targets(items, tmp_path, CgSense(), None, FOUR, on_damaged=named.append)
    assert [broken in sentence for sentence in named] == [True]
    assert len(images(tmp_path)) == 7
    monkeypatch.setattr(
        "mri_ambient.training.targets.reconstruct_many", pytest.fail
    )  # nothing is left to do
    make_targets(items, tmp_path, CgSense(), None, FOUR, on_damaged=named.append)
    assert len(named) == 2


def test_a_long_scan_is_never_read_as_a_whole(items, prior, tmp_path, monkeypatch):
    most, read = [], PreparedFile.__getitem__

    def counting(self, index):
        scan = read(self, index)
        most.append(len(scan.slices))
        return scan

    monkeypatch.setattr(PreparedFile, "__getitem__", counting)
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 1)
    make_targets(items, tmp_path, CgSense(), None, Options(batch_size=2))
    assert max(most) == 2
    assert len(images(tmp_path)) == 8
