from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from training_runs import QUICK

from mri_ambient.objectives import Ambient, Consistency, Gsure, Kspace, Ssdu
from mri_ambient.priors.denoisers import DENOISERS
from mri_ambient.rng import rng_for
from mri_ambient.runtime.process_group import ProcessGroup
from mri_ambient.training.config import TrainConfig
from mri_ambient.training.dataset import BatchSequence, TrainingBatch, load_dataset
from mri_ambient.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


def trainer(config: TrainConfig) -> Trainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DENOISERS[config.kind](config.network, 0.3)
    return Trainer(net, config, ProcessGroup())


def copied(state: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.tensors().items()}


def assert_equal_states(a: Trainer, b: Trainer) -> None:
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert a.counts() == b.counts()


def poisoned(batch: TrainingBatch) -> TrainingBatch:
    """NaN in every unmeasured entry."""
    groups = []
    for group in batch.groups:
        mask, ksp = group.batch.mask, group.batch.ksp
        bad = torch.where(mask, ksp, complex("nan+nanj"))
        assert bool(bad.isnan().any())
        groups.append(replace(group, batch=replace(group.batch, ksp=bad)))
    return replace(batch, groups=tuple(groups))


@pytest.mark.parametrize(
    "objective", [Kspace(), Ambient(), Gsure(), Consistency(), Ssdu()], ids=lambda o: o.name
)
def test_unmeasured_kspace_never_matters(objective, scans):
    """Weights, their average and the optimiser's state are equal to the bit."""
    config = replace(QUICK, objective=objective)
    batches = BatchSequence(load_dataset(scans, n_validation=2, seed=0), 2, seed=0)
    clean, dirty = trainer(config), trainer(config)
    for n in range(2):
        clean.step(batches[n])
        dirty.step(poisoned(batches[n]))
    assert_equal_states(clean, dirty)


class Broken(Kspace):
    """Its loss is NaN."""

    def __call__(self, net, batch, rng):
        loss = super().__call__(net, batch, rng)
        return replace(loss, backward=loss.backward * math.nan)


def test_a_step_that_is_not_finite_changes_only_the_counts(scans):
    batch = BatchSequence(load_dataset(scans, n_validation=0, seed=0), 2, seed=0)[0]
    steady, shaken = trainer(QUICK), trainer(QUICK)
    for other in (steady, shaken):
        other.step(batch)
    shaken.config = replace(QUICK, objective=Broken())
    loss, figures = shaken.step(batch)
    assert math.isnan(loss) and figures == {}
    assert (shaken.n_steps, shaken.skipped, shaken.skipped_in_a_row) == (2, 1, 1)
    kept = shaken.tensors()
    assert all(torch.equal(value, kept[name]) for name, value in steady.tensors().items())
    shaken.config = QUICK
    assert math.isfinite(shaken.step(batch)[0])
    assert (shaken.skipped, shaken.skipped_in_a_row) == (1, 0)


def test_a_state_is_stored_and_taken_over(scans):
    """Also before the first step, where Adam has no moments yet."""
    batches = BatchSequence(load_dataset(scans, n_validation=0, seed=0), 2, seed=0)
    first, second = trainer(QUICK), trainer(QUICK)
    second.restore(copied(first), first.counts())
    for n in range(3):
        for state in (first, second):
            state.step(batches[n])
    third = trainer(QUICK)
    third.restore(copied(first), first.counts())
    for state in (first, second, third):
        state.step(batches[3])
    assert_equal_states(first, second)
    assert_equal_states(first, third)


def test_sizes_and_coil_counts_are_mixed_in_a_batch(own_scans, other_scans):
    """A step's loss is the mean over its slices, whatever their sizes."""
    for i, path in enumerate(sorted(other_scans.glob("*.h5"))):
        copy = Path(shutil.copy(path, own_scans / f"other{i}.h5"))
        with h5py.File(copy, "r+") as file:
            file.attrs["scan_id"] = f"other{i}"
    data = load_dataset(own_scans, n_validation=0, seed=0)
    config = replace(QUICK, batch_size=len(data.train), augment=False)
    batch = BatchSequence(data, config.batch_size, config.seed)[0]
    assert sorted(group.batch.ksp.shape[1:] for group in batch.groups) == [(3, 32, 32), (4, 24, 40)]
    loss, _ = trainer(config).step(batch)
    net, total = trainer(config).net, 0.0
    for group in batch.groups:
        slices = group.batch.to("cpu")
        for i, place in enumerate(group.positions):
            rng = [rng_for(config.seed, "step", 0, place)]
            total += float(config.objective(net, slices[i : i + 1], rng).backward.detach())
    assert loss == pytest.approx(total / config.batch_size, rel=1e-4)
