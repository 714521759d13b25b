"""What a training leaves behind, and how it ends."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from helpers import damage_samples, streams
from training_runs import EVERY, QUICK, VALIDATED, trained, weights

from mri_ambient.errors import ConfigError, DeviceError, MriAmbientError, NumericalWarning
from mri_ambient.io import open_scan
from mri_ambient.io.outputs.reconstruction import read_samples
from mri_ambient.methods import Adps, Aos, L1Wavelet, Method
from mri_ambient.objectives import Gsure, Kspace, Supervised
from mri_ambient.priors.checkpoint import load_prior, load_tensors
from mri_ambient.priors.denoisers import Denoiser
from mri_ambient.priors.prior import Prior, name_digest
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan
from mri_ambient.training.dataset import BatchSequence, load_dataset
from mri_ambient.training.loop import train
from mri_ambient.training.run import RunFolder
from mri_ambient.training.trainer import Trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning"),
    pytest.mark.usefixtures("short_classical"),
]


def image(scan: Scan, method: Method, prior: Prior | None = None) -> torch.Tensor:
    return Engine(ResolvedRecipe(method, prior), Runtime("cpu"))([scan])[0].img


def test_training_lowers_the_loss(scans, tmp_path):
    """The same 12 draws of masks and noise on the validation scans, before and after 40 steps."""
    config = replace(QUICK, n_validation=2, warmup_images=8, decay_images=8000, save_every=10**6)
    prior = trained(scans, tmp_path / "run", config, images=80)
    data = load_dataset(scans, n_validation=config.n_validation, seed=config.seed)
    held = Batch.stack([item.read() for item in data.validation])

    @torch.no_grad()
    def loss(net: Denoiser) -> float:
        draws = [config.objective(net, held, streams(k, len(held))).backward for k in range(12)]
        return float(torch.stack(draws).mean())

    assert loss(prior.net) < 0.9 * loss(prior.facts.build())


@pytest.mark.parametrize("objective", EVERY, ids=lambda o: o.name)
def test_priors_are_used_the_way_they_were_trained(objective, finished, scans):
    """One step of each; more steps only where more than one noise level was seen."""
    prior = load_prior(finished(replace(QUICK, objective=objective)))
    assert (prior.facts.objective, prior.facts.kind) == (objective.name, objective.wrapper)
    card = prior.facts.card
    assert card["images_seen"] == 8
    assert card["objective_options"] == json.loads(json.dumps(objective.as_dict()))
    scan = open_scan(next(scans.glob("*.h5")))[0]
    assert bool(image(scan, Aos(), prior).isfinite().all())
    if objective.one_level:
        with pytest.raises(ConfigError):
            image(scan, Adps(n_steps=2), prior)
        return
    assert bool(image(scan, Adps(n_steps=2), prior).isfinite().all())


def test_targets_are_made_once_and_learned_from(scans, tmp_path, monkeypatch):
    config, run = replace(QUICK, objective=Supervised(images="l1-wavelet")), tmp_path / "run"
    told = []
    trained(scans, run, config, images=2, on_target=lambda *done: told.append(done))
    assert told == [(i, 10) for i in range(1, 11)]
    targets = sorted((run / "targets").glob("*.h5"))
    assert len(targets) == 10
    want = image(open_scan(scans / targets[0].name)[0], L1Wavelet(n_iter=10))[0]
    torch.testing.assert_close(torch.from_numpy(read_samples(targets[0], 0)), want)
    monkeypatch.setattr(Engine, "__call__", pytest.fail)
    assert not trained(scans, run, config, images=4).mask_conditioned


def test_python_trains_and_resumes(scans, finished, tmp_path):
    """With a time as text, a prior by its file, and a callback."""
    seen = []
    prior = train(
        str(scans), str(tmp_path / "run"), QUICK, images=2, time_limit="1h",
        init=finished(QUICK), runtime=Runtime("cpu"), on_progress=seen.append,
    )  # fmt: skip
    assert [progress.images for progress in seen] == [2]
    assert prior.facts.card["init"] == load_prior(finished(QUICK)).facts.card["sha256"]
    with pytest.raises(ConfigError):
        train(scans, tmp_path / "other", QUICK, time_limit="soon")


def test_fine_tuning_starts_from_the_given_weights(scans, finished, tmp_path):
    first = load_prior(finished(QUICK))
    tuned = trained(
        scans, tmp_path / "run", replace(QUICK, learning_rate=1e-12), images=2, init=first
    )
    for before, after in zip(first.net.parameters(), tuned.net.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


@pytest.mark.pictures
@pytest.mark.parametrize("name", ["kspace", "plain, undersampled", "plain, full", "gsure"])
def test_a_run_shows_what_it_learned(name, scans, full_scans, tmp_path):
    """Plain priors, which take no single step, by a short sample."""
    objective = {
        "kspace": Kspace(), "gsure": Gsure(), "plain, full": Supervised(),
        "plain, undersampled": Supervised(images="l1-wavelet"),
    }[name]  # fmt: skip
    data = full_scans if name == "plain, full" else scans
    config = replace(VALIDATED, check_every=10**6, objective=objective)
    prior = trained(data, tmp_path / "run", config, images=2)
    for figure in ("curves.png", "preview.png", "config.toml"):
        assert (tmp_path / "run" / figure).stat().st_size > 100
    held_out = prior.facts.card["held_out"]
    assert {"held_out", "held_out_cg_sense", "held_out_l1_wavelet"} <= set(held_out)
    assert 0 < held_out["held_out_l1_wavelet"] < 1
    # A plain prior takes no single step, whose error tau is.
    tau = held_out["tau"] if prior.mask_conditioned else 0.3 * prior.sigma_data
    assert prior.tau == pytest.approx(tau)


# Patience


def test_it_stops_when_the_held_out_error_no_longer_falls(scans, tmp_path):
    """Patience 2 with a learning rate that changes nothing: the third check is the last."""
    config = replace(VALIDATED, learning_rate=1e-12, patience=2)
    prior = trained(scans, tmp_path / "run", config, images=1000)
    assert prior.facts.card["images_seen"] in (12, 16)
    resumed = trained(scans, tmp_path / "run", config)  # patience alone is an end
    assert resumed.facts.card["images_seen"] == prior.facts.card["images_seen"]


def test_patience_goes_back_to_the_best(scans, tmp_path, monkeypatch):
    """Errors after 4, 8, 12 and 16 images, and when it is resumed."""
    errors = iter([0.5, 0.3, 0.4, 0.35, 0.35])
    monkeypatch.setattr(
        "mri_ambient.training.validation.fit_tau", lambda *_: (0.1, next(errors), 0.6)
    )
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        prior = trained(scans, run.path, replace(VALIDATED, patience=2), images=100)
        assert run.images_seen == 16
        assert prior.facts.card["images_seen"] == 8
        assert prior.facts.card["held_out"]["held_out"] == 0.3
        assert run.prior.read_bytes() == run.best_prior.read_bytes()
        last = load_tensors(run.latest_checkpoint)[0]
        given = prior.net.state_dict()
        assert any(not torch.equal(last[f"average.{name}"], given[name]) for name in given)


def test_without_readable_validation_scans_the_last_prior_is_returned(own_scans, tmp_path):
    """They broke after the best prior of a run with patience was written."""
    config = replace(VALIDATED, patience=5)
    best = trained(own_scans, tmp_path / "run", config, images=4).facts.card
    for path in own_scans.glob("*.h5"):
        if name_digest(path.stem) in best["validation_scans"]:
            damage_samples(path)
    later = trained(own_scans, tmp_path / "run", config, images=6).facts.card
    assert later["images_seen"] == RunFolder(tmp_path / "run").images_seen == 6
    assert "held_out" not in later


# What goes wrong


class Sometimes(Kspace):
    """NaN at chosen calls."""

    bad: ClassVar[tuple[int, ...]] = ()
    calls: ClassVar[list[int]] = []

    def __call__(self, net, batch, rng):
        loss = super().__call__(net, batch, rng)
        self.calls.append(1)
        factor = math.nan if len(self.calls) in self.bad else 1.0
        return replace(loss, backward=loss.backward * factor)


def test_skipped_steps_are_logged_and_counted(scans, tmp_path, monkeypatch):
    """Stopped in the middle of them and resumed: the same."""
    monkeypatch.setattr(Sometimes, "bad", (2, 3))
    config = replace(QUICK, objective=Sometimes())
    for name, parts in (("whole", (10,)), ("parts", (4, 10))):
        monkeypatch.setattr(Sometimes, "calls", [])
        seen = []
        for images in parts:
            prior = trained(scans, tmp_path / name, config, images=images, on_progress=seen.append)
        assert [math.isnan(progress.loss) for progress in seen] == [0, 1, 1, 0, 0]
        assert seen[-1].skipped == prior.facts.card["steps_skipped"] == 2
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["loss"] is None for line in lines] == [0, 1, 1, 0, 0]
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_too_many_skipped_steps_stop_the_run_and_keep_the_batch(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(Sometimes, "bad", tuple(range(1, 99)))
    monkeypatch.setattr(Sometimes, "calls", [])
    config = replace(QUICK, objective=Sometimes(), max_skipped=3)
    with pytest.raises(MriAmbientError) as error:
        trained(scans, tmp_path / "run", config, images=100)
    (kept,) = (tmp_path / "run").glob("skipped-*.safetensors")
    tensors, header = load_tensors(kept)
    assert header["step"] == 3
    (names,) = header["slices"]
    data = load_dataset(scans, n_validation=0, seed=0)
    batches = BatchSequence(data, 2, config.seed)
    assert names == [data.train[i].name for i in batches.indices(2)]
    assert ", ".join(names) in str(error.value) and kept.name in str(error.value)
    assert tensors["0.ksp"].shape == (2, 3, 32, 32)


def test_damaged_files_are_named_and_left_out(own_scans, tmp_path):
    """One cannot be opened; of another, which opens, the samples are damaged."""
    first, second, *_ = sorted(own_scans.glob("*.h5"))
    first.write_bytes(first.read_bytes()[:5000])
    damage_samples(second)
    named = []
    prior = trained(own_scans, tmp_path / "run", images=20, on_damaged=named.append)
    assert prior.facts.card["images_seen"] == 20
    assert len(set(named)) == 2, "that of the slice comes again in every epoch"
    assert first.name in named[0] and second.name in named[1]


def test_python_warns_of_damaged_files_and_slices(own_scans, tmp_path):
    first, second, *_ = sorted(own_scans.glob("*.h5"))
    first.write_bytes(first.read_bytes()[:5000])
    damage_samples(second)
    with pytest.warns(NumericalWarning) as caught:
        train(own_scans, tmp_path / "run", QUICK, images=40, runtime=Runtime("cpu"))
    texts = {w.message.text for w in caught if getattr(w.message, "code", "") == "W-DAMAGED"}
    assert len(texts) == 2
    assert all(any(path.name in text for text in texts) for path in (first, second))


def test_a_prior_that_is_not_finite_is_not_written(scans, tmp_path):
    config = replace(VALIDATED, learning_rate=1e30, warmup_images=1, max_skipped=10**6)
    with pytest.raises(MriAmbientError) as error:
        trained(scans, tmp_path / "run", config, images=6)
    assert "--learning-rate" in str(error.value)
    assert not (tmp_path / "run" / "prior.safetensors").exists()


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "--batch-size"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "same command"),
    ],
)
def test_faults_of_the_device_say_what_to_do(fault, advice, scans, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(DeviceError) as error:
        trained(scans, tmp_path / "run", images=2)
    assert advice in str(error.value)
