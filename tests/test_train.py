from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import streams

from mri_ambient.batch import Batch
from mri_ambient.checkpoint import load_prior, load_tensors
from mri_ambient.data import load_dataset, measure_sigma_data, typical_mask
from mri_ambient.data_prep import SimulateConfig, prepare_many, simulate_scans
from mri_ambient.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    MriAmbientError,
    ScanFormatError,
)
from mri_ambient.nn.precond import Denoiser
from mri_ambient.objectives import Ambient, Kspace, Supervised
from mri_ambient.runs import latest_checkpoint
from mri_ambient.train import TrainConfig, train

# Ten scans have fewer masks than a data set should, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*(masks|sampled):UserWarning")

QUICK = TrainConfig(
    batch_size=2, check_every=4, save_every=4, n_validation=2, warmup_images=4, decay_images=8
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten prepared, undersampled phantom scans."""
    folder = tmp_path_factory.mktemp("train")
    config = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, noise=0.01)
    raw = simulate_scans("phantom", folder / "raw", config, count=10)
    prepare_many(raw, folder / "prepared")
    return folder / "prepared"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "prior.safetensors")[0]


def assert_same_run(a: Path, b: Path) -> None:
    """Everything that training made is equal to the bit."""
    for name in (latest_checkpoint(a).name, "prior.safetensors"):
        left, right = load_tensors(a / name)[0], load_tensors(b / name)[0]
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert (a / "log.jsonl").read_text() == (b / "log.jsonl").read_text()


def test_four_images_are_two_and_two(scans, tmp_path):
    train(scans, tmp_path / "whole", QUICK, images=8)
    train(scans, tmp_path / "parts", QUICK, images=4)
    train(scans, tmp_path / "parts", QUICK, images=8)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_time_limit_only_stops(scans, tmp_path):
    train(scans, tmp_path / "whole", QUICK, images=8)
    train(scans, tmp_path / "parts", QUICK, time_limit_s=0.01)
    train(scans, tmp_path / "parts", QUICK, images=8)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_asked_to_stop_it_writes_a_checkpoint_and_goes_on_from_there(scans, tmp_path):
    train(scans, tmp_path / "whole", QUICK, images=8)
    answers = iter([False, True])
    train(scans, tmp_path / "parts", QUICK, images=8, should_stop=lambda: next(answers))
    assert latest_checkpoint(tmp_path / "parts").name == "checkpoint-000000002.safetensors"
    train(scans, tmp_path / "parts", QUICK, images=8)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


CHILD = """
import sys
from pathlib import Path
import torch
from mri_ambient.train import TrainConfig, train
torch.set_num_threads(1)
config = TrainConfig(batch_size=2, check_every=4, save_every=4, n_validation=2,
                     warmup_images=4, decay_images=8)
train(Path(sys.argv[1]), Path(sys.argv[2]), config, images=240)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_still_ends_the_same(scans, tmp_path, rng):
    """kill -9 five times at random times, then left alone: equal to a run that was not."""

    def run_child(run: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", CHILD, scans, run], env=environment)

    assert run_child(tmp_path / "whole").wait() == 0
    n_killed = 0
    for _ in range(5):
        child = run_child(tmp_path / "killed")
        # Start counting once the run has begun; imports take most of a child's life.
        while not (tmp_path / "killed" / "run.json").exists() and child.poll() is None:
            time.sleep(0.05)
        time.sleep(float(torch.rand((), generator=rng)) * 3)
        child.send_signal(signal.SIGKILL)
        n_killed += child.wait() == -signal.SIGKILL
    assert run_child(tmp_path / "killed").wait() == 0
    assert n_killed == 5
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_torn_checkpoint_is_passed_over(scans, tmp_path):
    train(scans, tmp_path / "whole", QUICK, images=8)
    run = tmp_path / "torn"
    train(scans, run, QUICK, images=8)
    newest = latest_checkpoint(run)
    newest.write_bytes(newest.read_bytes()[:1000])
    with (run / "log.jsonl").open("a") as log:
        log.write('{"images": 10, "lo')
    train(scans, run, QUICK, images=8)
    assert_same_run(tmp_path / "whole", run)


def test_unmeasured_kspace_never_matters(scans, tmp_path, monkeypatch):
    """NaN in every unmeasured entry after loading: the trained weights are equal to the bit."""
    train(scans, tmp_path / "clean", QUICK, images=4)
    from mri_ambient import train as module

    step = module._step

    def poisoned(state, draw, *others):
        batches = [group.batch for group in draw.groups]
        bad = [replace(b, ksp=torch.where(b.mask, b.ksp, complex("nan+nanj"))) for b in batches]
        assert any(bool(batch.ksp.isnan().any()) for batch in bad)
        groups = [replace(g, batch=b) for g, b in zip(draw.groups, bad, strict=True)]
        return step(state, replace(draw, groups=tuple(groups)), *others)

    monkeypatch.setattr(module, "_step", poisoned)
    train(scans, tmp_path / "poisoned", QUICK, images=4)
    clean, dirty = weights(tmp_path / "clean"), weights(tmp_path / "poisoned")
    assert all(torch.equal(clean[key], dirty[key]) for key in clean)


def test_training_lowers_the_loss(scans, tmp_path):
    """The same 12 draws of masks and noise on the scans set aside, before and after 60 steps."""
    config = TrainConfig(batch_size=2, check_every=10**6, save_every=10**6, warmup_images=8)
    trained = train(scans, tmp_path / "run", config, images=120)
    data = load_dataset(scans, n_validation=config.n_validation, seed=config.seed)
    held = Batch.stack([item.read() for item in data.validation])

    @torch.no_grad()
    def loss(net: Denoiser) -> float:
        draws = [config.objective(net, held, streams(k, len(held))).backward for k in range(12)]
        return float(torch.stack(draws).mean())

    assert loss(trained.net) < 0.9 * loss(trained.facts.build())


@pytest.mark.parametrize("objective", [Ambient(), Ambient(noise_correction=True), Kspace()])
def test_every_objective_trains_and_its_prior_loads(objective, scans, tmp_path):
    train(scans, tmp_path / "run", replace(QUICK, objective=objective), images=2)
    prior = load_prior(tmp_path / "run")
    assert prior.facts.objective == objective.name
    assert prior.facts.kind == objective.wrapper
    assert prior.facts.card["images_seen"] == 2


def test_fine_tuning_starts_from_the_given_weights(scans, tmp_path):
    train(scans, tmp_path / "first", QUICK, images=4)
    first = load_prior(tmp_path / "first")
    still = replace(QUICK, learning_rate=1e-12)
    train(scans, tmp_path / "second", still, images=2, init=first)
    tuned = load_prior(tmp_path / "second")
    for before, after in zip(first.net.parameters(), tuned.net.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    assert tuned.facts.card["init"] == first.facts.card["sha256"]


def test_fine_tuning_resumes_exactly_and_with_the_same_prior_only(scans, tmp_path):
    train(scans, tmp_path / "first", QUICK, images=2)
    first = load_prior(tmp_path / "first")
    train(scans, tmp_path / "whole", QUICK, images=8, init=first)
    train(scans, tmp_path / "parts", QUICK, images=4, init=first)
    with pytest.raises(ConfigError, match="init"):
        train(scans, tmp_path / "parts", QUICK, images=8)
    train(scans, tmp_path / "parts", QUICK, images=8, init=first)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_fine_tuning_another_network_is_refused(scans, tmp_path):
    train(scans, tmp_path / "first", QUICK, images=2)
    first = load_prior(tmp_path / "first")
    with pytest.raises(ConfigError, match="initial prior"):
        train(scans, tmp_path / "run", replace(QUICK, objective=Ambient()), images=2, init=first)


def test_supervised_refuses_undersampled_scans(scans, tmp_path):
    with pytest.raises(ConfigError, match="fully sampled"):
        train(scans, tmp_path / "run", replace(QUICK, objective=Supervised()), images=2)


def test_validation_scans_are_never_trained_on(scans):
    data = load_dataset(scans, n_validation=2, seed=0)
    train_ids = {item.scan_id for item in data.train}
    held_ids = {item.scan_id for item in data.validation}
    assert len(held_ids) == 2
    assert not train_ids & held_ids


def test_every_epoch_shows_every_slice_once(scans):
    data = load_dataset(scans, n_validation=2, seed=0)
    shown = [i for n in range(8) for i in data.indices(n, 3, seed=5)]
    first, second, third = shown[:8], shown[8:16], shown[16:24]
    assert sorted(first) == sorted(second) == sorted(third) == list(range(8))
    assert first != second


def test_sigma_data_is_that_of_the_images(tmp_path):
    """From undersampled data within 10 % of what the fully sampled scans of the heads say."""
    config = {"size": (64, 64), "coils": 4, "calib": 12, "noise": 0.01, "acceleration": 2.0}
    values = {}
    for full in (True, False):
        folder = tmp_path / str(full)
        raw = simulate_scans("phantom", folder, SimulateConfig(**config, full=full), count=6)
        prepare_many(raw, folder / "prepared")
        data = load_dataset(folder / "prepared", n_validation=0, seed=0)
        values[full] = measure_sigma_data(data.train)
    assert values[False] == pytest.approx(values[True], rel=0.1)


def test_other_settings_or_data_are_refused_in_an_old_run(scans, tmp_path):
    train(scans, tmp_path / "run", QUICK, images=2)
    with pytest.raises(ConfigError, match="learning_rate"):
        train(scans, tmp_path / "run", replace(QUICK, learning_rate=1e-4), images=4)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for path in sorted(scans.glob("*.h5"))[:6]:
        (fewer / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="data"):
        train(fewer, tmp_path / "run", QUICK, images=4)


def test_folders_that_cannot_be_trained_on(scans, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no prepared scans"):
        train(tmp_path / "empty", tmp_path / "run", QUICK, images=2)
    with pytest.raises(ConfigError, match="when to stop"):
        train(scans, tmp_path / "run", QUICK)
    raw = tmp_path / "raw"
    simulate_scans(
        "phantom", raw, SimulateConfig(size=(32, 32), coils=3, acceleration=2, calib=8), count=1
    )
    with pytest.raises(ScanFormatError, match="raw scan"):
        train(raw, tmp_path / "run", QUICK, images=2)


def test_a_full_disk_leaves_the_last_good_checkpoint(scans, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(scans, run, QUICK, images=4)
    good = latest_checkpoint(run)
    before = good.read_bytes()

    def full_disk(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mri_ambient.checkpoint.save_file", full_disk)
    with pytest.raises(MriAmbientError, match="No space left"):
        train(scans, run, QUICK, images=8)
    monkeypatch.undo()
    assert good.read_bytes() == before
    train(scans, run, QUICK, images=8)
    train(scans, tmp_path / "whole", QUICK, images=8)
    assert_same_run(tmp_path / "whole", run)


def test_a_folder_that_cannot_be_written_is_an_error(scans, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be made"):
        train(scans, tmp_path / "file" / "run", QUICK, images=2)


def test_a_log_that_cannot_be_written_is_one_error(scans, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(scans, run, QUICK, images=4)
    (run / "log.jsonl").unlink()
    (run / "log.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr("mri_ambient.train.Log.cut", lambda *_: None)
    with pytest.raises(MriAmbientError, match="No space left"):
        train(scans, run, QUICK, images=8)


def test_a_torn_description_of_a_run_is_one_error(scans, tmp_path):
    run = tmp_path / "run"
    train(scans, run, QUICK, images=2)
    (run / "run.json").write_text((run / "run.json").read_text()[:40])
    with pytest.raises(CheckpointError, match=r"run\.json"):
        train(scans, run, QUICK, images=4)


def test_out_of_memory_names_what_to_change(scans, tmp_path, monkeypatch):
    def greedy(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mri_ambient.train._step", greedy)
    with pytest.raises(DeviceError, match="--batch-size"):
        train(scans, tmp_path / "run", QUICK, images=2)


@pytest.mark.parametrize(("mask", "kind"), [("poisson", "poisson"), ("equispaced", "random")])
def test_a_prior_knows_whether_it_saw_lines_or_discs(mask, kind, tmp_path):
    config = SimulateConfig(size=(48, 48), coils=3, mask=mask, acceleration=3, calib=8)
    raw = simulate_scans("phantom", tmp_path / "raw", config, count=5)
    prepare_many(raw, tmp_path / "prepared")
    data = load_dataset(tmp_path / "prepared", n_validation=0, seed=0)
    found, rate, calib = typical_mask(data.train)
    assert (found, calib) == (kind, 8)
    assert rate == pytest.approx(3.0, abs=0.3)
