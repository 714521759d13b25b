"""What is measured on the scans, and what the card says; no step is taken."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import h5py
import pytest
from training_runs import QUICK, VALIDATED, prepared

from mri_ambient.data_prep import SimulateConfig
from mri_ambient.objectives import Consistency, Gsure, Kspace, Ssdu
from mri_ambient.priors.facts import PriorFacts
from mri_ambient.priors.prior import Prior
from mri_ambient.training.card import (
    MIXED,
    SEPARATE,
    UNKNOWN,
    measure_sigma_data,
    smallest_sigma,
    typical_mask,
    validation_patients,
)
from mri_ambient.training.config import TrainJob
from mri_ambient.training.dataset import load_dataset
from mri_ambient.training.preflight import plan

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def facts(scans, tmp_path_factory) -> PriorFacts:
    """The facts of a prior that would be trained on the scans."""
    return plan(TrainJob(scans, tmp_path_factory.mktemp("run"), VALIDATED, images=2)).facts


def test_sigma_data_is_that_of_the_images(tmp_path):
    """From undersampled data within 10 % of that from the fully sampled scans of the heads."""
    config = SimulateConfig(size=(64, 64), coils=4, calib=12, noise=0.01, acceleration=2.0)
    values = {}
    for full in (True, False):
        folder = prepared(tmp_path / str(full), replace(config, full=full), count=6)
        values[full] = measure_sigma_data(load_dataset(folder, n_validation=0, seed=0).train)
    assert values[False] == pytest.approx(values[True], rel=0.1)


@pytest.mark.parametrize(("mask", "kind"), [("poisson", "poisson"), ("equispaced", "random")])
def test_a_prior_knows_whether_its_masks_were_of_lines(mask, kind, tmp_path):
    config = SimulateConfig(size=(48, 48), coils=3, mask=mask, acceleration=3, calib=8)
    data = load_dataset(prepared(tmp_path, config, count=5), n_validation=0, seed=0)
    found = typical_mask(data.train)
    assert (found.kind, found.calib) == (kind, 8)
    assert found.acceleration == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize(
    ("objective", "below"),
    [(Kspace(), False), (Consistency(), True), (Consistency(weight=0.0), False), (Ssdu(), True)],
    ids=["kspace", "consistency", "truncated", "ssdu"],
)
def test_samplers_end_at_the_smallest_level_that_was_trained(objective, below, scans):
    """Above the scans' noise for kspace and without a penalty; ssdu is labelled with that noise."""
    items = load_dataset(scans, n_validation=0, seed=0).train
    assert (smallest_sigma(items, objective) <= min(item.noise_std for item in items)) == below


@pytest.mark.parametrize("kind", [Kspace, Gsure])
def test_the_smallest_level_follows_the_margin(kind, scans):
    items = load_dataset(scans, n_validation=0, seed=0).train
    usual, further = (smallest_sigma(items, kind(margin=margin)) for margin in (1.2, 1.5))
    assert further == pytest.approx(1.25 * usual)


def test_a_tenth_of_the_slices_teach_the_smallest_level():
    """Of scans with little and with much noise."""
    items = [SimpleNamespace(noise_std=i / 1000) for i in range(101)]
    assert smallest_sigma(items, Kspace(margin=1.2)) == pytest.approx(1.2 * 0.010)


def test_facts_follow_objective_and_scans(facts, scans):
    card = facts.card
    assert (facts.objective, facts.kind) == ("kspace", "conditioned")
    assert facts.mask_conditioned
    assert scans.name not in str(card)  # folders may be called after patients
    assert (card["n_scans"], card["n_train_slices"]) == (10, 8)
    assert len(card["trained_on"]) == 8 and len(card["validation_scans"]) == 2
    assert card["matrices"] == ["32x32"] and card["coils"] == [3.0, 3.0, 3.0]
    assert set(card["coverage"][0]) == {  # names that files keep
        "shape", "kind", "n_scans", "n_masks", "least", "mean", "n_regular", "n_outer", "never",
        "revealing", "holes", "left_open",
    }  # fmt: skip


@pytest.mark.parametrize("n_validation", [2, 0])
def test_a_card_claims_nothing_about_patients_that_files_do_not_name(
    n_validation, own_scans, tmp_path
):
    for path in own_scans.glob("*.h5") if n_validation else ():
        with h5py.File(path, "r+") as file:
            del file.attrs["patient_id"]
    job = TrainJob(own_scans, tmp_path / "run", replace(QUICK, n_validation=n_validation), images=2)
    assert plan(job).facts.card["validation_patients"] == UNKNOWN


def test_the_card_of_a_fine_tuned_prior_counts_the_patients_of_its_parent(facts, scans):
    """The same validation scans: none trained on; others: perhaps."""
    dataset = load_dataset(scans, n_validation=2, seed=0)
    assert facts.card["validation_patients"] == validation_patients(dataset, ()) == SEPARATE
    for other, answer in (
        ({}, SEPARATE),
        ({"validation_patients": MIXED}, MIXED),
        ({"validation_patients": UNKNOWN}, UNKNOWN),
        ({"validation_scans": []}, UNKNOWN),
    ):
        parent = replace(facts, card=facts.card | other)
        assert validation_patients(dataset, [Prior(parent.build(), parent)]) == answer


def test_fine_tuning_adds_to_the_scans_a_prior_was_trained_on(facts, other_scans, tmp_path):
    init = Prior(facts.build(), replace(facts, card=facts.card | {"images_seen": 8}))
    job = TrainJob(other_scans, tmp_path / "run", VALIDATED, images=2, init=init)
    card = plan(job).facts.card
    assert set(facts.card["trained_on"]) < set(card["trained_on"])
    assert len(card["trained_on"]) == 8 + 4
    assert (card["init"], card["images_seen_before"]) == ("unsaved", 8)
