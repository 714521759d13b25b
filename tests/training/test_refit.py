from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch

from mri_ambient.data_prep import SimulateConfig, prepare_many, simulate_scans
from mri_ambient.errors import ConfigError, NumericalWarning
from mri_ambient.io import open_scan
from mri_ambient.io.reconstruction import read_samples
from mri_ambient.methods import Aos, Dds
from mri_ambient.priors.checkpoint import load_prior, load_tensors
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.unet import PRESETS, UNetSpec
from mri_ambient.recon.engine import Options, reconstruct
from mri_ambient.training.config import TrainConfig
from mri_ambient.training.dataset import load_dataset
from mri_ambient.training.loop import train
from mri_ambient.training.refit import RefitConfig, refit
from mri_ambient.training.run import Log, images_seen

pytestmark = pytest.mark.filterwarnings("ignore:.*(masks|sampled|mask|unexplained):UserWarning")

QUICK = TrainConfig(
    batch_size=2, check_every=4, save_every=4, n_validation=2, warmup_images=4, decay_images=8
)
REFIT = RefitConfig(rounds=2, sampler=Dds(n_steps=3), training=QUICK)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", UNetSpec(channels=(8, 12), blocks=1, embedding=16))
    # The two slices of a scan are drawn together, and those of no other.
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 2)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    config = SimulateConfig(size=(24, 24), coils=3, acceleration=2.0, calib=8, noise=0.01, slices=2)
    raw = simulate_scans("phantom", tmp_path / "raw", config, count=6)
    prepare_many(raw, tmp_path / "prepared")
    return tmp_path / "prepared"


@pytest.fixture
def start(scans, tmp_path) -> Prior:
    return train(scans, tmp_path / "run", QUICK, images=4)


def test_two_rounds_give_an_ordinary_plain_prior(scans, start, tmp_path):
    done = []
    prior = refit(
        scans, start, tmp_path / "out", REFIT, images=4, on_sample=lambda *told: done.append(told)
    )
    assert done == [(round_, i, 5) for round_ in (1, 2) for i in range(1, 6)]
    assert (prior.facts.kind, prior.facts.mask_conditioned) == ("plain", False)
    first = load_prior(tmp_path / "out/round-1")
    assert prior.facts.card["init"] == first.facts.card["sha256"]
    assert load_prior(tmp_path / "out").facts.card["sha256"] == prior.facts.card["sha256"]
    scan = open_scan(next(scans.glob("*.h5")))[0]
    assert bool(reconstruct(scan, Dds(n_steps=3), prior).img.isfinite().all())


def test_a_refit_of_patches_starts_the_second_round_from_the_first(scans, start, tmp_path):
    patches = replace(REFIT, training=replace(QUICK, wrapper="patched"))
    prior = refit(scans, start, tmp_path / "out", patches, images=2)
    assert prior.facts.kind == "patched"
    first = load_prior(tmp_path / "out/round-1")
    assert first.facts.card["init"] is None
    assert prior.facts.card["init"] == first.facts.card["sha256"]


def test_a_target_is_a_posterior_sample_of_its_scan(scans, start, tmp_path):
    refit(scans, start, tmp_path / "out", replace(REFIT, rounds=1), images=2, batch_size=3)
    item = load_dataset(scans, n_validation=2, seed=0).train[1]
    want = reconstruct(
        item.file[item.index], Dds(n_steps=3), start, Options(seed=1, n_samples=1)
    ).img[0]
    got = read_samples(tmp_path / f"out/round-1/targets/{item.scan_id}.h5", item.index)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_shards_draw_and_an_interrupted_refit_goes_on(scans, start, tmp_path):
    whole = refit(scans, start, tmp_path / "whole", REFIT, images=8)
    parts = tmp_path / "parts"
    assert refit(scans, start, parts, REFIT, images=8, shard=(1, 2)) is None
    assert len(list((parts / "round-1/targets").glob("*.h5"))) == 3
    assert refit(scans, start, parts, REFIT, images=8, shard=(2, 2)) is None
    assert len(list((parts / "round-1/targets").glob("*.h5"))) == 5
    assert refit(scans, start, parts, REFIT, images=8, shard=(2, 2)) is None
    assert not (parts / "round-1/run.json").exists()  # a shard draws and never trains
    answers = iter([False, True])  # the samples are there: one step of training
    stop = refit(scans, start, parts, REFIT, images=8, should_stop=lambda: next(answers))
    assert stop is None
    assert images_seen(parts / "round-1") == 2
    assert not (parts / "prior.safetensors").exists()
    assert refit(scans, start, parts, REFIT, images=8, shard=(1, 2)) is None
    assert not (parts / "round-2").exists()  # round 1 is not trained to its end
    resumed = refit(scans, start, parts, REFIT, images=8)
    a, b = (load_tensors(tmp_path / name / "prior.safetensors")[0] for name in ("whole", "parts"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert resumed.facts.sigma_data == whole.facts.sigma_data


def test_two_processes_refit_as_one(scans, tmp_path):
    """Each draws its part of the samples; both train, with the loss curve of one process."""
    words = [scans, "-o", tmp_path / "run", "--images", "4", "--batch-size", "2"]
    alone = [sys.executable, "-m", "mri_ambient.cli"]
    team = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        *alone[1:],
    ]  # fmt: skip

    def call(*command: object) -> None:
        ran = subprocess.run(
            [*map(str, command), "--device", "cpu"], env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-2000:]

    call(*alone, "train", *words)
    for name, launcher in (("one", alone), ("two", team)):
        call(
            *launcher, "refit", tmp_path / "run", "-o", tmp_path / name, "--rounds", "1",
            "--images", "4", "--steps", "3", "--batch-size", "2",
        )  # fmt: skip
    one, two = (
        sorted((tmp_path / name / "round-1/targets").glob("*.h5")) for name in ("one", "two")
    )
    assert [path.name for path in one] == [path.name for path in two]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(read_samples(a, 1), read_samples(b, 1))
    logs = [Log(tmp_path / name / "round-1/log.jsonl").values("loss") for name in ("one", "two")]
    assert len(logs[0]) == 2
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    assert load_prior(tmp_path / "two").facts.card["images_seen"] == 4


def test_what_the_first_prior_knows_judges_nothing(scans, start, tmp_path):
    """On fewer scans, under another seed: what judged it judges on, what it saw is remembered."""
    (held,) = start.facts.card["validation_scans"]
    less = tmp_path / "less"
    known = sorted(path.name for path in scans.glob("*.h5") if path.stem != held)
    shutil.copytree(scans, less, ignore=lambda *_: {known[0]})
    seed = next(
        seed for seed in range(1, 30)
        if load_dataset(less, n_validation=2, seed=seed).validation[0].scan_id != held
    )  # fmt: skip
    config = replace(REFIT, training=replace(QUICK, seed=seed))
    prior = refit(less, start, tmp_path / "out", config, images=2)
    card = prior.facts.card
    assert card["validation_scans"] == [held]
    assert card["trained_on"] == start.facts.card["trained_on"]
    assert card["teacher"] == load_prior(tmp_path / "out/round-1").facts.card["sha256"]


def test_samples_of_other_scans_are_not_taken_for_these(scans, start, tmp_path):
    """Archives number their scans alike; and a scan may have been prepared anew."""
    assert refit(scans, start, tmp_path / "out", REFIT, shard=(1, 1)) is None
    config = SimulateConfig(size=(24, 24), coils=3, acceleration=2.0, calib=8, noise=0.01, slices=2)
    others = simulate_scans("phantom", tmp_path / "others", replace(config, seed=5), count=6)
    prepare_many(others, tmp_path / "strangers")
    assert {p.name for p in scans.glob("*.h5")} == {
        p.name for p in (tmp_path / "strangers").glob("*.h5")
    }
    with pytest.raises(ConfigError, match="another scan of this name"):
        refit(tmp_path / "strangers", start, tmp_path / "out", REFIT, images=2)
    (target, *_) = sorted((tmp_path / "out/round-1/targets").glob("*.h5"))
    want = read_samples(target, 0)
    target.write_bytes(target.read_bytes()[:1000])  # torn: drawn again
    with h5py.File(sorted((tmp_path / "out/round-1/targets").glob("*.h5"))[1], "r+") as file:
        del file.attrs["made_of"]  # an earlier version did not say it
    once = replace(REFIT, rounds=1)
    refit(scans, start, tmp_path / "out", once, images=2)
    assert torch.equal(read_samples(target, 0), want)
    made_by = tmp_path / "out/round-1/targets/made-by.json"
    stored = json.loads(made_by.read_text())
    made_by.write_text(json.dumps(stored | {"bf16": not stored["bf16"]}))
    refit(scans, start, tmp_path / "out", once, images=2)  # finished, on another device
    stopped = iter([False, True, *[False] * 99])  # heard once
    assert (
        refit(scans, start, tmp_path / "two", once, images=8, should_stop=lambda: next(stopped))
        is None
    )


@pytest.mark.parametrize(
    "other",
    [
        {"sampler": Dds(n_steps=4)},
        {"training": replace(QUICK, seed=1)},
        {"training": replace(QUICK, learning_rate=1e-4)},
    ],
    ids=["steps", "seed", "learning rate"],
)
def test_a_finished_refit_is_not_taken_for_one_with_other_options(other, scans, start, tmp_path):
    once = replace(REFIT, rounds=1)
    refit(scans, start, tmp_path / "out", once, images=2)
    with pytest.raises(ConfigError, match=r"something else|other settings"):
        refit(scans, start, tmp_path / "out", replace(once, **other), images=2)


def test_a_round_that_was_drawn_from_never_changes(scans, start, tmp_path):
    """However few rounds and many images are asked for later; it says so."""
    refit(scans, start, tmp_path / "out", REFIT, images=2)
    first = load_prior(tmp_path / "out/round-1").facts.card["sha256"]
    with pytest.warns(NumericalWarning, match=r"stays as it is, with 2 images"):
        prior = refit(scans, start, tmp_path / "out", replace(REFIT, rounds=1), images=4)
    assert prior.facts.card["sha256"] == first
    with pytest.warns(NumericalWarning, match="stays as it is"):
        prior = refit(scans, start, tmp_path / "out", REFIT, images=4)
    assert prior.facts.card["init"] == first
    assert prior.facts.card["images_seen"] == 4


def test_means_are_refused():
    with pytest.raises(ConfigError, match="not samples"):
        RefitConfig(sampler=Aos())
    with pytest.raises(ConfigError, match="rounds"):
        RefitConfig(rounds=0)


def test_a_finished_round_is_left_alone(scans, start, tmp_path):
    """Round 2 hangs on the very file of round 1's prior, which holds a date."""
    refit(scans, start, tmp_path / "out", REFIT, images=4)
    first = tmp_path / "out/round-1/prior.safetensors"
    before = first.stat().st_mtime_ns
    refit(scans, start, tmp_path / "out", REFIT, time_limit_s=0.01)
    with pytest.warns(NumericalWarning, match="stays as it is"):
        refit(scans, start, tmp_path / "out", REFIT, images=8)
    assert first.stat().st_mtime_ns == before
    assert images_seen(tmp_path / "out/round-2") == 8


def test_a_refit_stops_while_it_samples(scans, start, tmp_path):
    answers = iter([False, False, True])
    out = tmp_path / "out"
    assert refit(scans, start, out, REFIT, images=4, should_stop=lambda: next(answers)) is None
    assert len(list((out / "round-1/targets").glob("*.h5"))) == 2
    assert not (out / "round-1/run.json").exists()


def test_samples_of_another_prior_are_refused(scans, start, tmp_path):
    refit(scans, start, tmp_path / "out", REFIT, images=4, shard=(1, 2))
    other = replace(start, facts=replace(start.facts, card={**start.facts.card, "sha256": "ab"}))
    for prior, config, what in (
        (other, REFIT, "prior_sha256"),
        (load_prior(tmp_path / "run"), replace(REFIT, sampler=Dds(n_steps=4)), "options"),
    ):
        with pytest.raises(ConfigError, match=f"made by something else .*{what}"):
            refit(scans, prior, tmp_path / "out", config, images=4)


def test_a_refit_says_when_it_stops_before_it_samples(scans, start, tmp_path):
    with pytest.raises(ConfigError, match="say when a round stops"):
        refit(scans, start, tmp_path / "out", REFIT)
    assert not (tmp_path / "out").exists()


def test_a_damaged_scan_is_named_and_left_out(scans, start, tmp_path):
    """One that cannot be opened, and one whose second slice cannot be read."""
    (scans / "junk.h5").write_bytes(b"no HDF5")
    item = load_dataset(scans, n_validation=2, seed=0).train[0]
    path = item.file.path
    with h5py.File(path) as file:
        where = file["ksp"].id.get_chunk_info(1).byte_offset + 20
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    named: set[str] = set()
    refit(scans, start, tmp_path / "out", replace(REFIT, rounds=1), images=8, on_damaged=named.add)
    assert any("junk.h5" in sentence for sentence in named)
    assert any(f"{path}: slice 1 of ksp" in sentence for sentence in named)
    assert (tmp_path / "out/prior.safetensors").exists()
