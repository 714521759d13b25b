"""Before the first step: which scans, what is refused, what is measured, what a prior will say."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..errors import CheckpointError, ConfigError, NumericalWarning, ScanFormatError
from ..objectives import Objective
from ..physics.coverage import Coverage
from ..physics.masks import MaskSpec
from ..priors.prior import Prior, PriorFacts
from ..priors.unet import preset
from ..runtime.config import write_toml
from ..runtime.files import write_json
from .config import TrainConfig
from .dataset import (
    MIN_SIGMA,
    Dataset,
    load_dataset,
    measure_coverage,
    measure_sigma_data,
    smallest_sigma,
    typical_mask,
)
from .run import check_data, latest_checkpoint
from .targets import target_method
from .validation import HeldOut, hold_out, reference_errors

MIXED = (
    "patients cannot be set aside whole, so single scans are: errors on hidden lines are those of "
    "patients the prior knows"
)
"""What is said where nobody can be kept out of training."""

WHOSE = {True: "trained on too", False: "not trained on", None: "not known"}
"""What the card says of the patients that judge a prior."""


def split(
    folder: Path, config: TrainConfig, *elders: Prior | None, held: Collection[str] | None = None
) -> Dataset:
    """Scans to train on, and scans to judge by, which the new prior cannot know of.

    What judged the priors it learns from (its start, its teacher) judges again, and what they know
    judges nothing. A run that goes on keeps the scans it ``held`` back.

    Raises:
        ConfigError: there is none to train on.
        ScanFormatError: see :func:`~mri_ambient.training.dataset.load_dataset`.
    """
    known = [elder for elder in elders if elder is not None]
    judged = [elder.facts.card.get("validation_scans", ()) for elder in known]
    dataset = load_dataset(
        folder,
        n_validation=config.n_validation,
        seed=config.seed,
        first={scan_id for ids in judged for scan_id in ids},
        never=lambda file: any(elder.was_trained_on(file.source_sha256) for elder in known),
        held=held,
    )
    if not dataset.train:
        reasons = f": {min(dataset.damaged.values())}" if dataset.damaged else ""
        raise ConfigError(f"{folder}: no scan to train on can be read{reasons}")
    return dataset


def check_trainable(
    dataset: Dataset,
    folder: Path,
    config: TrainConfig,
    device: torch.device,
    *,
    init: Prior | None,
    targets_made: bool,
) -> None:
    """Refuse, before anything is written, what cannot be trained.

    Raises:
        ConfigError: undersampled scans where full ones are needed, an unknown way to make targets,
            an ``init`` of another architecture, or a precision that the objective cannot do with.
    """
    objective = config.objective
    config.autocast_on(device)
    if objective.targets is not None and not targets_made:
        target_method(objective.targets)
    kind = config.wrapper or objective.wrapper
    if init is not None and init.facts.kind != kind:
        raise ConfigError(
            f"the initial prior is a {init.facts.kind!r} denoiser, and a {kind!r} one is to be "
            f"trained; add --wrapper {init.facts.kind}, or leave --init out"
        )
    if init is not None and init.facts.network != preset(config.preset):
        raise ConfigError(
            f"the initial prior's network is {init.facts.network}, and preset {config.preset!r} is "
            f"{preset(config.preset)}; choose the same --preset, or leave --init out"
        )
    if objective.needs_full and any(item.acceleration > 1 for item in dataset.train):
        raise ConfigError(
            f"objective {objective.name!r} needs fully sampled scans, but {folder} holds "
            "undersampled ones; use kspace or ambient, or --targets l1-wavelet"
        )


def check_run(
    run: Path | None,
    stored: dict[str, Any] | None,
    dataset: Dataset,
    folder: Path,
    config: TrainConfig,
    init: Prior | None,
    cases: list[HeldOut],
    *,
    endless: bool,
    force: bool,
) -> None:
    """Refuse, before anything is written, what a run cannot begin or go on with.

    What was begun goes on, also where scans broke that its masks or its patience would miss.

    Args:
        run: its folder; None for one that has none yet.
        stored: its identity, if it was begun.
        dataset: the scans.
        folder: where they are.
        config: options.
        init: the prior it starts from.
        cases: held-out slices.
        endless: whether nothing but patience would stop it.
        force: do not look at the masks.

    Raises:
        ConfigError: it was begun with other settings or scans, masks leave most scans' images
            undetermined, patience has nothing to watch, or the run would lie among the scans.
        CheckpointError: it holds states of a run, and not what it was.
    """
    if run is not None:
        _check_folder(run, stored, dataset, folder)
        if stored is not None:
            check_settings(run, stored, config, init)
    if config.patience and not cases and (stored is None or endless):
        raise ConfigError(
            "patience watches the error on hidden lines of scans that are set aside, and there are "
            "none: at least five scans are needed"
        )
    objective = config.objective
    if stored is None and not (force or objective.needs_full or objective.targets is not None):
        _check_masks(dataset, folder)


def _check_folder(run: Path, stored: dict[str, Any] | None, dataset: Dataset, folder: Path) -> None:
    if run.resolve() == folder.resolve():
        raise ConfigError(f"{run}: holds the scans; choose another folder for the run")
    if stored is not None:
        damaged = {path.name for path in dataset.damaged}
        check_data(run, stored["data"], dataset.identity, damaged)
    elif (checkpoint := latest_checkpoint(run)) is not None:
        raise CheckpointError(
            f"{run}: holds {checkpoint.name} and no run.json, which says what of; put it back, or "
            "train into another folder"
        )


def _check_masks(dataset: Dataset, folder: Path) -> None:
    """Refuse masks that leave most scans' images undetermined."""
    groups = measure_coverage(dataset.train, warn=False)
    wrong = [group for group in groups if not group.identifiable]
    if 2 * sum(group.n_scans for group in wrong) > sum(group.n_scans for group in groups):
        worst = max(wrong, key=lambda group: group.n_scans)
        raise ConfigError(
            f"{folder}: {worst.line}. Null-space fraction {worst.null_space_fraction:.0%}: "
            "nothing tells aliased images from true ones, so the prior would be wrong. "
            f"{worst.advice.capitalize()}, or pass --force"
        )


def held_out_cases(
    dataset: Dataset,
    config: TrainConfig,
    device: torch.device,
    on_damaged: Callable[[str], None],
) -> list[HeldOut]:
    """At most 16 slices of the validation scans with some of their lines hidden."""
    chosen = dataset.validation[:: max(1, -(-len(dataset.validation) // 16))]
    cases = []
    for item in chosen:
        try:
            batch = item.read().to(device)
        except ScanFormatError as error:
            on_damaged(str(error))
            continue
        case = hold_out(batch, f"{item.scan_id}/{item.index}", seed=config.seed)
        cases += [case] if case.tells else []
    return cases


def begin_run(
    run: Path,
    stored: dict[str, Any] | None,
    dataset: Dataset,
    folder: Path,
    config: TrainConfig,
    init: Prior | None,
    teacher: Prior | None,
    cases: list[HeldOut],
) -> PriorFacts:
    """Write the run's configuration, if it is a new one; say what is trained.

    Args:
        run: its folder.
        stored: its identity, if it was begun.
        dataset: the scans.
        folder: where they are.
        config: options.
        init: the prior it starts from.
        teacher: the prior that drew the target images.
        cases: held-out slices, which the classical methods are measured on.
    """
    wanted = _settings(config, init)
    started_from = wanted["init"]
    if stored is not None:
        measured = stored["measured"]
        if not measured["references"]:  # where they could not be read at the start
            measured = measured | {"references": reference_errors(cases)}
    else:
        kind, rate, calib = typical_mask(dataset.train)
        measured = {
            "sigma_data": measure_sigma_data(dataset.train),
            "sigma_min": _smallest_sigma(dataset, config.objective),
            "mask": {"kind": kind, "acceleration": rate, "calib": calib},
            "coverage": [_summary(group) for group in measure_coverage(dataset.train)],
            "references": reference_errors(cases),
        }
        if dataset.mixes_patients:
            warnings.warn(f"{folder}: {MIXED}", NumericalWarning, stacklevel=2)
        stored = wanted | {"data": dataset.identity, "measured": measured}
        write_toml(run / "config.toml", wanted["config"])
        write_json(run / "run.json", stored | {"folder": str(folder.resolve())})
    objective = config.objective
    trained_on = {digest.partition(":")[0] for digest in stored["data"]["train"].values()}
    for elder in (init, teacher):
        trained_on |= set() if elder is None else set(elder.facts.card.get("trained_on", ()))
    card: dict[str, Any] = {
        "data": folder.resolve().name,
        "n_scans": len(stored["data"]["train"]) + len(stored["data"]["validation"]),
        "n_train_slices": len(dataset.train),
        "trained_on": sorted(trained_on),
        "validation_scans": sorted(stored["data"]["validation"]),
        "validation_patients": WHOSE[_knows_patients(dataset, init, teacher)],
        "matrices": sorted({f"{y}x{x}" for y, x in (item.shape for item in dataset.train)}),
        "coils": _spread([item.file.shape[1] for item in dataset.train]),
        "acceleration": _spread([item.acceleration for item in dataset.train]),
        "sigma_n": _spread([item.noise_std for item in dataset.train]),
        "coverage": measured["coverage"],
        "objective_options": objective.as_dict(),
        "preset": config.preset,
        "init": started_from,
        "images_seen_before": 0 if init is None else init.facts.images_seen,
        "teacher": None if teacher is None else teacher.facts.card.get("sha256", "unsaved"),
        "version": __version__,
        "torch": torch.__version__,
        "references": measured["references"],
        "intended_use": "research only, not for diagnosis",
    }
    card["limits"] = (
        f"knows scans like its training scans (matrices {', '.join(card['matrices'])}; "
        f"{_range(card['coils'])} coils; R = {_range(card['acceleration'])}; noise "
        f"{_range(card['sigma_n'])} after normalisation), their anatomy and contrast; others are "
        "reconstructed with a warning or wrongly"
    )
    return PriorFacts(
        objective=objective.name,
        kind=config.wrapper or objective.wrapper,
        network=preset(config.preset),
        sigma_data=measured["sigma_data"],
        sigma_min=measured["sigma_min"],
        mask_conditioned=objective.mask_conditioned,
        mask=MaskSpec(**measured["mask"]),
        noise_filled=objective.noise_filled,
        one_level=objective.one_level,
        tau=0.3 * measured["sigma_data"],
        card=card,
    )


def _knows_patients(dataset: Dataset, *elders: Prior | None) -> bool | None:
    """Whether the prior knows patients that judge it, from its own scans or from its elders'."""
    ours = {item.scan_id for item in dataset.validation}
    known = [dataset.mixes_patients]
    for card in (elder.facts.card for elder in elders if elder is not None):
        judged_too = ours <= set(card.get("validation_scans", ()))
        said = [key for key, words in WHOSE.items() if words == card.get("validation_patients")]
        known.append(said[0] if judged_too and said else None)
    return True if True in known else None if None in known else False


def _settings(config: TrainConfig, init: Prior | None) -> dict[str, Any]:
    started_from = None if init is None else init.facts.card.get("sha256", "unsaved")
    plain: dict[str, Any] = json.loads(
        json.dumps({"config": config.as_dict(), "init": started_from})
    )
    return plain


def check_end(config: TrainConfig, images: int | None, time_limit_s: float | None) -> None:
    """Refuse a run that would not stop, or not begin.

    Raises:
        ConfigError: there is neither a number of images nor a time limit nor patience.
    """
    if images is None and time_limit_s is None and not config.patience:
        raise ConfigError("say when to stop: a number of images, a time limit, or patience")
    if images is not None and images < 1:
        raise ConfigError(f"at least one image must be seen, got images={images}")


def check_settings(
    run: Path, stored: dict[str, Any], config: TrainConfig, init: Prior | None
) -> None:
    """Refuse to go on with a run that was begun with other settings.

    Raises:
        ConfigError: options, or the prior it starts from, differ.
    """
    # A run of an earlier version lacks the options that came later: it had their defaults.
    defaults = json.loads(json.dumps(TrainConfig(objective=type(config.objective)()).as_dict()))
    options = defaults["objective"] | stored["config"].get("objective", {})
    held = defaults | stored["config"] | {"init": stored.get("init")}
    held["objective"] = options
    wanted = _settings(config, init)
    asked = wanted["config"] | {"init": wanted["init"]}
    differing = [key for key in asked if asked[key] != held.get(key)]
    if differing:
        raise ConfigError(
            f"{run}: holds a run with other settings ({', '.join(sorted(differing))}); "
            "give the same ones to go on with it, or choose another folder"
        )


def _smallest_sigma(dataset: Dataset, objective: Objective) -> float:
    """Where a sampler may end: above the noise of the scans, unless the objective knows better."""
    if objective.below_noise or objective.one_level or objective.targets is not None:
        return MIN_SIGMA
    return smallest_sigma(dataset.train, objective.nearest)


def _spread(values: list[float]) -> list[float]:
    """Smallest, median and largest."""
    return [float(np.quantile(values, q)) for q in (0, 0.5, 1)]


def _range(spread: list[float]) -> str:
    low, _, high = (f"{value:.3g}" for value in spread)
    return low if low == high else f"{low} to {high}"


def _summary(group: Coverage) -> dict[str, Any]:
    """Coverage figures for the card; the share of every single line is left to the manifest."""
    return {key: value for key, value in group.as_dict().items() if key != "per_line"}
