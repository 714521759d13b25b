"""What a training refuses and warns of before its first step; nothing is trained here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from codes import codes
from training_runs import QUICK, SCANS, VALIDATED, prepared

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.errors import CheckpointError, ConfigError, NumericalWarning
from mri_ambient.objectives import Ambient, Equivariant, Gsure, Kspace, Objective, Supervised
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.prior import Prior, name_digest
from mri_ambient.priors.unet import NETWORKS
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import UPPER_BOUND
from mri_ambient.training import preflight
from mri_ambient.training.config import TrainConfig, TrainJob
from mri_ambient.training.loop import train
from mri_ambient.training.preflight import TrainPlan, plan, split
from mri_ambient.training.run import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


def planned(data: Path, run: Path, config: TrainConfig = QUICK, **given: object) -> TrainPlan:
    return plan(TrainJob(data, run, config, images=2, **given))


def begun(data: Path, run: Path, config: TrainConfig = QUICK) -> TrainPlan:
    """A run that has begun and seen no image."""
    made = planned(data, run, config)
    made.run.begin(made.identity)
    return made


def untrained(made: TrainPlan) -> Prior:
    """The prior of a plan, with random weights."""
    return Prior(made.facts.build(), made.facts)


def refusal(data: Path, run: Path, config: TrainConfig = QUICK, **given: object) -> str:
    with pytest.raises(ConfigError) as error:
        planned(data, run, config, **given)
    return str(error.value)


def ids(items: object) -> set[str]:
    return {item.scan_id for item in items}


# The plan


def test_a_plan_writes_nothing_and_loads_once(scans, tmp_path, monkeypatch):
    calls = []
    load = preflight.load_dataset

    def counted(*args, **options):
        calls.append(args)
        return load(*args, **options)

    monkeypatch.setattr(preflight, "load_dataset", counted)
    made = planned(scans, tmp_path / "run", VALIDATED)
    assert not (tmp_path / "run").exists()
    assert len(made.dataset.train) == 8 and len(made.cases) == 2
    train(scans, tmp_path / "run", QUICK, images=2)
    assert len(calls) == 2


def test_a_plan_says_what_is_trained(scans, tmp_path):
    made = planned(scans, tmp_path / "run", VALIDATED)
    text = made.describe()
    weights = sum(p.numel() for p in made.facts.build().parameters())
    for fact in (
        "kspace", "8 slices of 10 scans (2 slices set aside)", "32x32", "conditioned",
        f"{weights / 1e6:.2f} M parameters",
    ):  # fmt: skip
        assert fact in text
    assert made.notes == []


def test_a_plan_says_what_it_means_that_nothing_is_set_aside(own_scans, tmp_path):
    for scan in sorted(own_scans.glob("*.h5"))[3:]:
        scan.unlink()
    (note,) = planned(own_scans, tmp_path / "run", VALIDATED).notes
    assert "set aside" in note and "held-out" in note
    assert planned(own_scans, tmp_path / "run", QUICK).notes == []


@pytest.mark.parametrize(
    ("objective", "noise", "source", "facts"),
    [
        (Gsure(), 0.0019, "noise_std", ("10 slices", "gsure")),
        (Gsure(), 0.0021, "noise_std", None),
        (Kspace(), 0.0019, "noise_std", None),
        (Gsure(), 0.02, UPPER_BOUND, ("10 slices", "gsure", "--noise-std")),
        (Kspace(), 0.02, UPPER_BOUND, ("10 slices", "kspace", "--noise-std")),
        (Kspace(noise_correction=False), 0.02, UPPER_BOUND, None),
        (Ambient(), 0.02, UPPER_BOUND, None),
    ],
)
def test_noise_that_does_not_suit_an_objective_is_noted(
    objective: Objective, noise, source, facts, own_scans, tmp_path
):
    for path in own_scans.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["noise_std"], file.attrs["noise_source"] = noise, source
    notes = planned(own_scans, tmp_path / "run", replace(QUICK, objective=objective)).notes
    assert len(notes) == (facts is not None)
    assert all(fact in notes[0] for fact in facts or ())


@pytest.mark.parametrize(("objective", "n_notes"), [(Ambient(), 1), (Supervised(), 0)])
def test_full_scans_are_noted_where_they_are_not_used_fully(
    objective, n_notes, full_scans, tmp_path
):
    notes = planned(full_scans, tmp_path / "run", replace(QUICK, objective=objective)).notes
    assert len(notes) == n_notes
    assert all("5 slices" in note and "supervised" in note for note in notes)


# What cannot be trained


@pytest.mark.parametrize(
    "config",
    [
        replace(QUICK, objective=Supervised(images="l1_wavelet")),
        replace(QUICK, objective=Supervised()),
        replace(QUICK, objective=Gsure(), precision="bf16"),
    ],
    ids=["unknown targets", "undersampled", "precision"],
)
def test_impossible_objectives_are_refused(config, scans, tmp_path):
    refusal(scans, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        (replace(QUICK, objective=Ambient()), "--wrapper conditioned"),
        (replace(QUICK, wrapper="plain"), "--wrapper conditioned"),
        (replace(QUICK, preset="small"), "--preset"),
    ],
    ids=["objective", "wrapper", "preset"],
)
def test_fine_tuning_another_network_is_refused(config, advice, scans, tmp_path):
    init = untrained(planned(scans, tmp_path / "first"))
    assert advice in refusal(scans, tmp_path / "run", config, init=init)


def test_fine_tuning_starts_from_as_many_networks_or_fewer(scans, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "longer", replace(NETWORKS["test"], passes=5))
    longer = replace(QUICK, preset="longer")
    begun = planned(scans, tmp_path / "run", longer, init=untrained(planned(scans, tmp_path / "a")))
    assert len(untrained(begun).net.nets) == 5
    assert "--preset" in refusal(scans, tmp_path / "other", init=untrained(begun))


def test_a_run_does_not_mix_with_the_scans(scans):
    refusal(scans, scans)
    assert not list(scans.glob("*.safetensors"))


def test_patience_needs_validation_scans(scans, tmp_path):
    assert "patience" in refusal(scans, tmp_path / "run", replace(QUICK, patience=1))


@pytest.mark.parametrize(("coils", "rate", "enough"), [(1, 2, False), (3, 2, True), (8, 3, False)])
def test_masks_that_coils_cannot_make_up_for_are_refused(coils, rate, enough, tmp_path):
    """All scans under one mask: fatal with one coil, a warning with three; R = 3 is too much."""
    config = SimulateConfig(size=(32, 32), coils=coils, full=True, noise=0.01)
    raw = simulate("phantom", tmp_path / "raw", config, count=3)
    mask = MaskSpec("random", rate, 8).draw((32, 32), rng_for(0))
    for path in raw:
        with h5py.File(path, "r+") as file:
            file["kspace"][:] = np.where(mask[0].numpy(), file["kspace"][:], 0)
            del file["reconstruction_rss"]
            file["mask"] = mask[0, 0].numpy()
    prepare(raw, tmp_path / "prepared")
    if not enough:
        text = refusal(tmp_path / "prepared", tmp_path / "run")
        assert "1 distinct mask;" in text and "--force" in text
        equivariant = replace(QUICK, objective=Equivariant())
        with pytest.warns(NumericalWarning):
            plan(TrainJob(tmp_path / "prepared", tmp_path / "other", equivariant, images=2))
    job = TrainJob(tmp_path / "prepared", tmp_path / "run", QUICK, images=2, force=not enough)
    with pytest.warns(NumericalWarning) as caught:
        made = plan(job)
    assert codes(caught) == ["W-COVERAGE"]
    made.run.begin(made.identity)
    plan(replace(job, force=False))  # once begun, it goes on


@pytest.mark.parametrize(("odd", "refused"), [(1, False), (10, True)])
def test_a_few_scans_of_another_size_do_not_refuse_the_rest(odd, refused, tmp_path):
    """With one coil; the odd ones, of twice the width, share a mask and are undetermined."""
    folder = tmp_path / "prepared"
    usual = replace(SCANS, coils=1)
    prepare(simulate("phantom", tmp_path / "raw", usual, count=7), folder)
    others = simulate("phantom", tmp_path / "wide", replace(usual, size=(32, 64)), count=odd)
    others = [path.rename(path.with_name(f"wide-{path.name}")) for path in others]
    mask = MaskSpec("random", 2, 8).draw((32, 64), rng_for(0))
    for path in others:
        with h5py.File(path, "r+") as file:
            full = file["kspace"][:]
            del file["mask"]
            file["mask"] = mask[0, 0].numpy()
            noise = 1e-3 * np.abs(full).max() * complex_normal(full.shape, rng_for(0, path.name))
            file["kspace"][:] = np.where(mask[0].numpy(), full + noise.numpy(), 0)
    prepare(others, folder)
    if refused:
        assert "32x64: 1 distinct mask" in refusal(folder, tmp_path / "run")
    else:
        planned(folder, tmp_path / "run")


# Patients and parent priors


@pytest.mark.parametrize(("n_patients", "wanted"), [(5, False), (3, True)])
def test_patients_on_both_sides_are_warned_of(n_patients, wanted, own_scans, tmp_path):
    for i, path in enumerate(sorted(own_scans.glob("*.h5"))):
        with h5py.File(path, "r+") as file:
            file.attrs["patient_id"] = f"patient {i % n_patients}"
    with pytest.warns(NumericalWarning) as caught:
        card = planned(own_scans, tmp_path / "run", VALIDATED).facts.card
    assert ("W-PATIENTS-MIXED" in codes(caught)) == wanted
    assert card["validation_patients"] == ("trained on too" if wanted else "not trained on")


def test_scans_are_known_by_their_content_not_by_their_name(scans, tmp_path):
    """New scans of the same names are for validation; a renamed training scan is not."""
    first = untrained(planned(scans, tmp_path / "first", VALIDATED))
    others = prepared(tmp_path / "others", replace(SCANS, seed=5))
    assert {p.name for p in others.glob("*.h5")} == {p.name for p in scans.glob("*.h5")}
    job = TrainJob(others, tmp_path / "run", VALIDATED, images=2, init=first)
    found = split(job)
    assert len(ids(found.validation)) == 2
    assert not any(first.was_trained_on(item.file.source_sha256) for item in found.train)

    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for i, path in enumerate(sorted(scans.glob("*.h5"))):
        shutil.copy(path, renamed / f"other{i}.h5")
        with h5py.File(renamed / f"other{i}.h5", "r+") as file:
            file.attrs["scan_id"] = f"other{i}"
    held = split(replace(job, data=renamed)).validation
    assert held
    assert not any(first.was_trained_on(item.file.source_sha256) for item in held)


def test_scans_that_a_parent_prior_was_trained_on_validate_nothing(scans, tmp_path):
    """With another seed, its validation scans are set aside again; without them there are none."""
    first = untrained(planned(scans, tmp_path / "first", VALIDATED))
    listed = set(first.facts.card["validation_scans"])
    held = {path.stem for path in scans.glob("*.h5") if name_digest(path.stem) in listed}
    assert len(held) == 2
    for seed in range(1, 30):
        config = replace(VALIDATED, seed=seed)
        if not held & ids(split(TrainJob(scans, tmp_path, config, images=2)).validation):
            break
    alone = planned(scans, tmp_path / "alone", config)
    second = planned(scans, tmp_path / "second", config, init=first)
    assert set(second.facts.card["validation_scans"]) == listed
    assert len(second.cases) == 2

    less = tmp_path / "less"
    shutil.copytree(scans, less, ignore=lambda _, names: {f"{name}.h5" for name in held})
    third = planned(less, tmp_path / "third", config, init=first)
    assert third.facts.card["validation_scans"] == []
    assert third.cases == ()
    assert third.facts.card["n_train_slices"] == third.facts.card["n_scans"] == 8
    # Two parents that were trained on all of the scans leave none.
    mixed = planned(scans, tmp_path / "mixed", config, init=untrained(alone), teacher=first)
    assert mixed.facts.card["validation_scans"] == []


# Runs that are resumed


def test_a_resumed_run_keeps_its_validation_scans(own_scans, tmp_path):
    """Nine scans would set one aside instead of two: the other must not be trained on now."""
    first = begun(own_scans, tmp_path / "run", VALIDATED)
    broken = first.dataset.train[0].file.path
    broken.write_bytes(b"torn")
    assert len(planned(own_scans, tmp_path / "new", VALIDATED).dataset.validation) == 1
    second = planned(own_scans, tmp_path / "run", VALIDATED)
    assert ids(second.dataset.validation) == ids(first.dataset.validation)
    assert [broken.name in sentence for sentence in second.damaged] == [True]
    for key in ("n_scans", "trained_on", "validation_scans"):
        assert second.facts.card[key] == first.facts.card[key]
    broken.unlink()
    assert f"1 missing ({broken.stem})" in refusal(own_scans, tmp_path / "run", VALIDATED)


def test_a_resumed_run_refuses_other_scans_and_settings(own_scans, tmp_path):
    begun(own_scans, tmp_path / "run")
    assert "seed 0, not 1" in refusal(own_scans, tmp_path / "run", replace(QUICK, seed=1))
    checked = replace(QUICK, check_every=2, save_every=2, patience=9)  # no weight depends on these
    planned(own_scans, tmp_path / "run", checked)
    init = untrained(planned(own_scans, tmp_path / "other"))
    assert "init" in refusal(own_scans, tmp_path / "run", init=init)
    paths = sorted(own_scans.glob("*.h5"))
    with h5py.File(paths[0], "r+") as file:
        file.attrs["noise_std"] = 2 * file.attrs["noise_std"]
    for path in paths[6:]:
        path.unlink()
    text = refusal(own_scans, tmp_path / "run")
    assert "1 new or changed (" in text and "4 missing (" in text


def test_a_run_whose_scans_all_broke_says_so(own_scans, tmp_path):
    """All to train on, or (where patience alone would stop it) all for validation."""
    config = replace(VALIDATED, patience=50)
    data = begun(own_scans, tmp_path / "run", config).identity.data
    for name in data["validation"]:
        (own_scans / f"{name}.h5").write_bytes(b"torn")
    assert planned(own_scans, tmp_path / "run", config).cases == ()
    with pytest.raises(ConfigError):
        plan(TrainJob(own_scans, tmp_path / "run", config))
    for name in data["train"]:
        (own_scans / f"{name}.h5").write_bytes(b"torn")
    assert str(own_scans) in refusal(own_scans, tmp_path / "run", config)


def test_checkpoints_without_their_identity_are_not_resumed(finished, scans, tmp_path):
    run = Path(shutil.copytree(finished(QUICK), tmp_path / "run"))
    (run / "run.json").unlink()
    with pytest.raises(CheckpointError) as error:
        planned(scans, run, replace(QUICK, seed=9))
    assert RunFolder(run).latest_checkpoint.name in str(error.value)


def test_a_run_of_an_earlier_version_is_refused(scans, tmp_path):
    begun(scans, tmp_path / "run")
    stored = json.loads((tmp_path / "run/run.json").read_text())
    del stored["sha256"]
    (tmp_path / "run/run.json").write_text(json.dumps(stored | {"data": "0123456789abcdef"}))
    assert "--init" in refusal(scans, tmp_path / "run")
