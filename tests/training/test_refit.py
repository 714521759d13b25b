from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from codes import codes
from helpers import command, damage_samples
from pictures import touch
from training_runs import QUICK, SCANS, prepared, trained, weights

from mri_ambient.errors import ConfigError, NumericalWarning, StoppedError
from mri_ambient.io import open_scan
from mri_ambient.io.outputs.reconstruction import read_samples
from mri_ambient.methods import Aos, Dds
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.prior import Prior, name_digest
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.runtime.device import Runtime
from mri_ambient.training.config import Hooks
from mri_ambient.training.dataset import load_dataset
from mri_ambient.training.refit import RefitJob, refit
from mri_ambient.training.run import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning"),
    pytest.mark.usefixtures("short_classical"),
]

SMALL = replace(SCANS, size=(24, 24), slices=2)
VALIDATED = replace(QUICK, n_validation=2)
SAMPLER = Dds(n_steps=3, n_cg=4)


@pytest.fixture(autouse=True)
def groups_of_two(monkeypatch):
    """The two slices of a scan are drawn together, and those of no other."""
    monkeypatch.setattr("mri_ambient.training.targets.TOGETHER", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six prepared scans of two slices."""
    return prepared(tmp_path_factory.mktemp("refit"), SMALL, count=6)


@pytest.fixture(scope="module")
def start(data, tmp_path_factory) -> Prior:
    """A prior trained on them, by its file."""
    run = tmp_path_factory.mktemp("start") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", touch)
        trained(data, run, VALIDATED, images=4)
    return load_prior(run)


@pytest.fixture
def job(data, start, tmp_path) -> RefitJob:
    return RefitJob(data, start, tmp_path / "out", sampler=SAMPLER, config=QUICK, images=2)


def stopping(*answers: bool) -> Callable[[int], Hooks]:
    """Hooks that give these answers and repeat the last one, in all rounds together."""
    left = chain(answers, repeat(answers[-1]))
    return lambda number: Hooks(should_stop=lambda: next(left))


def image(scan: object, method: Dds, prior: Prior, seed: int = 0) -> torch.Tensor:
    return Engine(ResolvedRecipe(method, prior, seed=seed), Runtime("cpu"))([scan])[0].img


def n_samples(folder: Path) -> int:
    return len(list((folder / "targets").glob("*.h5")))


def test_two_rounds_give_an_ordinary_plain_prior(job):
    done = []

    def hooks(number: int) -> Hooks:
        return Hooks(on_target=lambda *count: done.append((number, *count)))

    prior = refit(job, hooks)
    assert done == sorted(done) and len(done) > 12  # while a scan is drawn, too
    whole = [count for count in done if isinstance(count[1], int)]
    assert whole == [(number, i, 6) for number in (1, 2) for i in range(1, 7)]
    assert (prior.facts.kind, prior.facts.mask_conditioned) == ("plain", False)
    first = load_prior(job.output / "round-1")
    assert prior.facts.card["init"] == first.facts.card["sha256"]
    assert load_prior(job.output).facts.card["sha256"] == prior.facts.card["sha256"]
    scan = open_scan(next(job.data.glob("*.h5")))[0]
    assert bool(image(scan, SAMPLER, prior).isfinite().all())


def test_a_refit_of_patches_starts_the_second_round_from_the_first(job):
    prior = refit(replace(job, config=replace(QUICK, wrapper="patched")))
    assert prior.facts.kind == "patched"
    first = load_prior(job.output / "round-1")
    assert first.facts.card["init"] is None
    assert prior.facts.card["init"] == first.facts.card["sha256"]


def test_a_target_is_a_posterior_sample_of_its_scan(job):
    refit(replace(job, rounds=1, batch_size=3))
    item = load_dataset(job.data, n_validation=2, seed=0).train[1]
    want = image(item.file[item.index], SAMPLER, job.start, seed=1)[0]
    path = job.output / f"round-1/targets/{item.scan_id}.h5"
    got = torch.from_numpy(read_samples(path, item.index))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_shards_draw_and_an_interrupted_refit_goes_on(job, tmp_path):
    job = replace(job, images=4)
    whole = refit(replace(job, output=tmp_path / "whole"))
    first, second = job.output / "round-1", job.output / "round-2"
    for part, drawn in ((1, 3), (2, 6), (2, 6)):
        assert refit(replace(job, shard=(part, 2))) is None
        assert n_samples(first) == drawn
    assert not (first / "run.json").exists()  # a shard draws and never trains
    # The samples are there: one step of training.
    assert refit(job, stopping(False, True)) is None
    assert RunFolder(first).images_seen == 2
    assert not (job.output / "prior.safetensors").exists()
    assert refit(replace(job, shard=(1, 2))) is None
    assert not second.exists()  # round 1 is not trained to its end
    resumed = refit(job)
    a, b = weights(tmp_path / "whole"), weights(job.output)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert resumed.facts.sigma_data == whole.facts.sigma_data


def test_two_processes_refit_as_one(data, server, tmp_path):
    """Each draws its part of the samples; both train, with the loss curve of one process."""

    def call(*words: object, n_processes: int = 1) -> None:
        ended, printed = command(
            *words, "--images", 4, "--batch-size", 2, "--device", "cpu",
            folder=tmp_path, n_processes=n_processes,
        )  # fmt: skip
        assert ended == [0] * n_processes, printed

    run = tmp_path / "run"
    call("train", data, "-o", run)
    for name, n in (("one", 1), ("two", 2)):
        call("refit", run, "-o", tmp_path / name, "--rounds", 1, "--steps", 3, n_processes=n)
    samples = [
        sorted((tmp_path / name / "round-1/targets").glob("*.h5")) for name in ("one", "two")
    ]
    assert [path.name for path in samples[0]] == [path.name for path in samples[1]]
    for a, b in zip(*samples, strict=True):
        assert np.array_equal(read_samples(a, 1), read_samples(b, 1))
    losses = [RunFolder(tmp_path / name / "round-1").log.values("loss") for name in ("one", "two")]
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert load_prior(tmp_path / "two").facts.card["images_seen"] == 4


def test_scans_that_the_first_prior_was_trained_on_validate_nothing(job, tmp_path):
    """On fewer scans, under another seed: validation scans stay, training scans are remembered."""
    (listed,) = job.start.facts.card["validation_scans"]
    (held,) = (p.stem for p in job.data.glob("*.h5") if name_digest(p.stem) == listed)
    less = tmp_path / "less"
    known = sorted(path.name for path in job.data.glob("*.h5") if path.stem != held)
    shutil.copytree(job.data, less, ignore=lambda *_: {known[0]})
    seed = next(
        seed for seed in range(1, 30)
        if load_dataset(less, n_validation=2, seed=seed).validation[0].scan_id != held
    )  # fmt: skip
    card = refit(replace(job, data=less, config=replace(VALIDATED, seed=seed))).facts.card
    assert card["validation_scans"] == [listed]
    assert card["trained_on"] == job.start.facts.card["trained_on"]
    assert card["teacher"] == load_prior(job.output / "round-1").facts.card["sha256"]


def test_samples_of_other_scans_are_not_taken_for_these(job, tmp_path):
    """Archives number their scans alike; and a scan may have been prepared anew."""
    once, targets = replace(job, rounds=1), job.output / "round-1/targets"
    assert refit(replace(job, shard=(1, 1))) is None
    others = prepared(tmp_path / "others", replace(SMALL, seed=5), count=6)
    assert {p.name for p in job.data.glob("*.h5")} == {p.name for p in others.glob("*.h5")}
    with pytest.raises(ConfigError) as error:
        refit(replace(job, data=others))
    assert str(targets) in str(error.value)
    target, second, *_ = sorted(targets.glob("*.h5"))
    want = read_samples(target, 0)
    target.write_bytes(target.read_bytes()[:1000])  # torn: drawn again
    with h5py.File(second, "r+") as file:
        del file.attrs["made_of"]  # an earlier version did not store it
    refit(once)
    assert np.array_equal(read_samples(target, 0), want)
    stored = json.loads((targets / "made-by.json").read_text())
    (targets / "made-by.json").write_text(json.dumps(stored | {"bf16": not stored["bf16"]}))
    refit(once)  # finished, on another device


def test_a_finished_refit_is_not_taken_for_one_with_other_options(job):
    once = replace(job, rounds=1)
    refit(once)
    for other in (
        {"sampler": replace(SAMPLER, n_steps=4)},
        {"config": replace(QUICK, seed=1)},
        {"config": replace(QUICK, learning_rate=1e-4)},
    ):
        with pytest.raises(ConfigError):
            refit(replace(once, **other))


def test_a_round_that_was_sampled_from_never_changes(job):
    """However few rounds and many images are asked for later; that is warned of."""
    refit(job)
    file = job.output / "round-1/prior.safetensors"
    before, first = file.stat().st_mtime_ns, load_prior(file).facts.card["sha256"]
    for rounds in (1, 2):
        with pytest.warns(NumericalWarning) as caught:
            prior = refit(replace(job, rounds=rounds, images=4))
        assert codes(caught).count("W-ROUND-KEPT") == 1
    assert prior.facts.card["init"] == first
    assert prior.facts.card["images_seen"] == 4
    refit(replace(job, images=None, time_limit_s=0.01))
    assert file.stat().st_mtime_ns == before
    assert RunFolder(job.output / "round-2").images_seen == 6


def test_a_refit_stops_while_it_samples(job):
    assert refit(job, stopping(False, False, True)) is None
    assert n_samples(job.output / "round-1") == 2
    assert not (job.output / "round-1/run.json").exists()


def test_a_time_limit_ends_the_call_while_it_samples(job):
    """What was drawn is kept."""
    limited, drawn = replace(job, images=None, time_limit_s=39.0), []
    clock = SimpleNamespace(s=0.0)

    def tick(done: float, total: int) -> None:
        clock.s += 10.0 * (done == int(done))
        drawn.append(done)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError, match="4 of 6 scans"):
        patch.setattr(time, "monotonic", lambda: clock.s)
        refit(limited, lambda number: Hooks(on_target=tick))
    assert n_samples(job.output / "round-1") == 4
    assert max(drawn) == 4
    assert refit(replace(job, rounds=1)) is not None


def test_samples_of_another_prior_are_refused(job):
    refit(replace(job, shard=(1, 2)))
    card = job.start.facts.card | {"sha256": "ab"}
    other = replace(job.start, facts=replace(job.start.facts, card=card))
    for changed, what in (
        ({"start": other}, "prior_sha256"),
        ({"sampler": replace(SAMPLER, n_steps=4)}, "options"),
    ):
        with pytest.raises(ConfigError) as error:
            refit(replace(job, **changed))
        assert what in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [{"sampler": Aos()}, {"rounds": 0}, {"images": None}],
    ids=["means", "rounds", "no end"],
)
def test_impossible_options_are_refused(wrong, job):
    with pytest.raises(ConfigError):
        replace(job, **wrong)


def test_damaged_scans_are_named_and_left_out(job, tmp_path):
    """One that cannot be opened, and one whose second slice cannot be read."""
    data = Path(shutil.copytree(job.data, tmp_path / "data"))
    (data / "junk.h5").write_bytes(b"no HDF5")
    path = load_dataset(data, n_validation=2, seed=0).train[0].file.path
    damage_samples(path, 1)
    named: list[str] = []
    refit(replace(job, data=data, rounds=1, images=8), lambda _: Hooks(on_damaged=named.append))
    assert "junk.h5" in named[0] and str(path) in named[1]
    assert all("junk.h5" in sentence or path.name in sentence for sentence in named)
    assert (job.output / "prior.safetensors").exists()
