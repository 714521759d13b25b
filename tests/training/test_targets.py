"""Images to learn from are the same whatever was there before, and whoever makes which part."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import small_prior

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.errors import ConfigError, ScanFormatError, StoppedError
from mri_ambient.io.formats.prepared import PreparedFile
from mri_ambient.io.outputs.reconstruction import read_samples
from mri_ambient.methods import CgSense, Dds, Method
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.runtime.device import Runtime
from mri_ambient.training.config import Hooks
from mri_ambient.training.dataset import load_dataset
from mri_ambient.training.targets import TargetFolder, target_method

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

SAMPLER = Dds(n_steps=3, final_dc=False)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Eight scans: five of one slice, two of three slices, and one of another size."""
    folder = tmp_path_factory.mktemp("scans")
    raw = []
    for i, (count, side, slices) in enumerate([(5, 24, 1), (2, 24, 3), (1, 28, 1)]):
        config = SimulateConfig(
            size=(side, 24), coils=3, acceleration=2.0, calib=8, noise=0.02, slices=slices, seed=i
        )
        made = simulate("phantom", folder / f"raw-{i}", config, count=count)
        raw += [path.rename(path.with_name(f"{i}-{path.name}")) for path in made]
    prepare(raw, folder / "prepared")
    return load_dataset(folder / "prepared", n_validation=0, seed=0).train


@pytest.fixture(scope="module")
def prior():
    return small_prior(tau=0.1)


@pytest.fixture(autouse=True)
def groups_of_four(monkeypatch):
    """Scans of one size are reconstructed together as long as they have four slices at most."""
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 4)


def folder(path: Path, method: Method, prior=None, batch_size: int | None = 4) -> TargetFolder:
    return TargetFolder(path, ResolvedRecipe(method, prior), Runtime("cpu", batch_size=batch_size))


def images(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("*.h5")}


def test_targets_are_the_samples_of_their_scans(items, prior, tmp_path):
    done = []
    hooks = Hooks(on_target=lambda *count: done.append(count))
    assert folder(tmp_path, SAMPLER, prior).make(items, hooks=hooks)
    assert [count for count in done if isinstance(count[0], int)] == [(i, 8) for i in range(1, 9)]
    engine = Engine(ResolvedRecipe(SAMPLER, prior), Runtime("cpu"))
    for item in items:
        alone = engine([item.file[item.index]])[0].img[0]
        got = torch.from_numpy(read_samples(tmp_path / f"{item.scan_id}.h5", item.index))
        torch.testing.assert_close(got, alone, rtol=1e-3, atol=1e-4)


def test_what_is_there_and_who_makes_it_changes_no_bit(items, prior, tmp_path):
    folder(tmp_path / "whole", SAMPLER, prior).make(items)
    whole = images(tmp_path / "whole")
    parts = folder(tmp_path / "parts", SAMPLER, prior)
    for part in (1, 2, 3):
        parts.make(items, shard=(part, 3))
    assert images(parts.path) == whole
    torn, untouched, *_ = sorted(parts.path.glob("0-*.h5"))
    torn.write_bytes(b"torn")
    assert [file.scan_id for file in parts.missing(items)] == [torn.stem]
    before = untouched.stat().st_mtime_ns
    parts.make(items)
    assert images(parts.path) == whole
    assert untouched.stat().st_mtime_ns == before


def test_processes_with_less_memory_draw_the_same_parts(items, prior, tmp_path, monkeypatch):
    """If memory decided the groups, some scans would be in no part, or in two."""
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 3)
    done: list[tuple[int, int]] = []
    hooks = Hooks(on_target=lambda *count: done.append(count))
    for part, batch_size in ((1, None), (2, 1)):
        folder(tmp_path, SAMPLER, prior, batch_size).make(items, shard=(part, 2), hooks=hooks)
    assert len(images(tmp_path)) == 8
    assert len([count for count in done if isinstance(count[0], int)]) == 8


def test_a_scan_that_cannot_be_read_is_named_and_its_group_made(items, tmp_path, monkeypatch):
    (broken, *_), named = sorted(item.scan_id for item in items), []
    read = PreparedFile.read_ksp

    def torn(self, index):
        if self.scan_id == broken:
            raise ScanFormatError(f"{self.path}: torn")
        return read(self, index)

    monkeypatch.setattr(PreparedFile, "read_ksp", torn)
    targets, hooks = folder(tmp_path, CgSense()), Hooks(on_damaged=named.append)
    targets.make(items, hooks=hooks)
    assert [broken in sentence for sentence in named] == [True]
    assert len(images(tmp_path)) == 7
    monkeypatch.setattr(Engine, "__call__", pytest.fail)  # nothing is left to do
    targets.make(items, hooks=hooks)
    assert len(named) == 2


def test_a_long_scan_is_never_read_as_a_whole(items, tmp_path, monkeypatch):
    most, read = [], PreparedFile.__getitem__

    def counting(self, index):
        scan = read(self, index)
        most.append(len(scan.slices))
        return scan

    monkeypatch.setattr(PreparedFile, "__getitem__", counting)
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 1)
    folder(tmp_path, CgSense(), batch_size=2).make(items)
    assert max(most) == 2
    assert len(images(tmp_path)) == 8


def test_finished_slices_of_a_scan_are_kept_when_time_is_up(items, prior, tmp_path, monkeypatch):
    """Eight steps, of which a slice takes three: two slices are done, and not done again."""
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 1)
    long = [item for item in items if item.scan_id.startswith("1-")][:3]
    folder(tmp_path / "whole", SAMPLER, prior, 1).make(long)
    clock = iter(range(100))
    limited = folder(tmp_path / "parts", SAMPLER, prior, 1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError, match="0 of 1 scans"):
        clocked = SimpleNamespace(monotonic=lambda: next(clock))
        patch.setattr("mri_ambient.training.targets.time", clocked)
        limited.make(long, deadline=7.5)
    assert not images(limited.path)
    calls, steps = Engine.__call__, []
    monkeypatch.setattr(Engine, "__call__", lambda *args: steps.append(args) or calls(*args))
    assert limited.make(long)
    assert len(steps) == 1
    assert images(limited.path) == images(tmp_path / "whole")
    assert not [path for path in limited.path.iterdir() if path.is_dir()]


def test_images_that_were_made_in_another_way_are_refused(items, tmp_path):
    folder(tmp_path, CgSense()).make(items[:1])
    for method in (CgSense(lam=0.5), target_method("zero-filled")):
        with pytest.raises(ConfigError):
            folder(tmp_path, method).make(items[:1])


def test_an_unknown_method_is_refused():

    with pytest.raises(ConfigError) as error:
        target_method("magic")
    assert "magic" in str(error.value) and "l1-wavelet" in str(error.value)
