"""Before the first step: load the scans, refuse what cannot be trained, and measure the rest.

:func:`plan` does this once, for ``--dry-run`` and for the training itself, and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import CheckpointError, ConfigError, ScanFormatError, issue, warn
from ..io.formats.prepared import mask_facts
from ..objectives import Gsure
from ..physics.coverage import Coverage, coverage
from ..priors.facts import PriorFacts, UNetSpec
from ..priors.schedules import MIN_SIGMA
from ..priors.unet import n_parameters, preset_of
from ..recon.recipe import ResolvedRecipe
from ..runtime.device import Runtime
from ..runtime.process_group import ProcessGroup
from ..scan import UPPER_BOUND
from .card import measure_sigma_data, prior_facts, smallest_sigma, typical_mask
from .config import TrainJob
from .dataset import Dataset, files_of, load_dataset
from .run import Identity, RunFolder
from .targets import TargetFolder, target_method
from .validation import N_CASES, HeldOutSlice, hold_out_of_slice


@dataclass(frozen=True)
class TrainPlan:
    """What a training will do: the scans, the run and the prior, before the first step.

    Attributes:
        job, dataset: what it is given, and the scans found there.
        identity: of the run; written when it begins.
        facts: of the prior.
        cases: validation slices; of several processes, the first alone has them.
        damaged: a sentence about every file or slice that could not be read.
        started: when the call began, as ``time.monotonic`` counts; the time limit is from then on.
    """

    job: TrainJob
    dataset: Dataset
    identity: Identity
    facts: PriorFacts
    cases: tuple[HeldOutSlice, ...]
    damaged: tuple[str, ...]
    started: float

    def within(self, seconds: float) -> TrainPlan:
        """The same for a training that may take so long from now on."""
        job = replace(self.job, time_limit_s=seconds)
        return replace(self, job=job, started=time.monotonic())

    @property
    def run(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder(self.job.run)

    @property
    def target_folder(self) -> TargetFolder | None:
        """Where the run makes the images it learns from; None if it makes none."""
        name = self.job.config.objective.targets
        if name is None or self.job.targets is not None:
            return None
        recipe = ResolvedRecipe(target_method(name))
        return TargetFolder(self.job.run / "targets", recipe, Runtime(self.job.device))

    @property
    def notes(self) -> list[str]:
        """What the scans and the objective do not have in common."""
        objective, items = self.job.config.objective, self.dataset.train
        n_full = sum(item.acceleration == 1 for item in items)
        n_silent = sum(item.noise_std < MIN_SIGMA for item in items)
        n_bounds = sum(item.file.noise_source == UPPER_BOUND for item in items)
        notes = []
        if not self.dataset.validation and self.job.config.n_validation:
            notes.append(
                "no scans are set aside, which takes five or more: no error on held-out lines is "
                "measured, and nothing shows whether the prior is better than CG-SENSE"
            )
        if n_full and not objective.needs_full:
            notes.append(
                f"{n_full} slices are fully sampled; objective supervised uses all of their data"
            )
        if n_silent and isinstance(objective, Gsure):
            notes.append(
                f"{n_silent} slices have almost no noise: there the divergence of gsure has almost "
                "no weight, and the loss is the squared error on the sampled data"
            )
        if n_bounds and objective.needs_noise:
            notes.append(
                f"the noise of {n_bounds} slices is an upper bound, and objective {objective.name} "
                "subtracts too much: prepare with noise_std (--noise-std) if it is known"
            )
        return notes

    def describe(self) -> str:
        """Scans, network and work per image, in one line."""
        config, dataset = self.job.config, self.dataset
        n_aside = len(dataset.validation)
        n_scans = len(files_of(dataset.train + dataset.validation))
        sizes = sorted({item.shape for item in dataset.train})
        net = self.facts.build()
        text = (
            f"{config.objective.name} on {len(dataset.train)} slices of {n_scans} scans "
            f"({n_aside} slice{'s' * (n_aside != 1)} set aside), "
            f"matrices {', '.join(f'{y}x{x}' for y, x in sizes)}; "
            f"{config.kind} {config.preset} network, {n_parameters(net) / 1e6:.2f} M parameters, "
            f"{net.flops(sizes[-1]) / 1e9:.1f} GFLOP an evaluation at {sizes[-1][0]}x{sizes[-1][1]}"
        )
        return "; ".join([text, *self.notes])


def plan(job: TrainJob, *, started: float | None = None) -> TrainPlan:
    """Load the scans, check and measure them; nothing is written.

    Processes that joined a ``torch.distributed`` group call it together. ``started`` is when the
    call began, as ``time.monotonic`` counts; by default now.

    Warns:
        NumericalWarning: masks that leave parts of k-space unsupervised, patients on both sides;
            not for a run that has begun.

    Raises:
        ConfigError: unusable scans, other settings or scans than those of the run, or an ``init``
            of another architecture.
        CheckpointError: the run's identity cannot be read.
        ScanFormatError: see :func:`~mri_ambient.training.dataset.load_dataset`.
    """
    started = time.monotonic() if started is None else started
    processes, run = ProcessGroup.current(), RunFolder(job.run)
    stored = processes.from_first(lambda: run.identity if run.has_begun else None)
    dataset = split(job, None if stored is None else stored.validation_scans(job.run))
    _check_trainable(job, dataset)
    cases, damaged = _held_out_cases(job, dataset) if processes.is_first else ((), ())
    identity = processes.from_first(lambda: _identity(job, stored, dataset, cases))
    return TrainPlan(
        job=job,
        dataset=dataset,
        identity=identity,
        facts=processes.from_first(lambda: prior_facts(job, dataset, identity)),
        cases=cases,
        damaged=(*dataset.damaged.values(), *damaged),
        started=started,
    )


def split(job: TrainJob, validation_scans: Collection[str] | None = None) -> Dataset:
    """Scans to train on, and scans for validation that no parent prior was trained on.

    A run that is resumed keeps its ``validation_scans``.

    Raises:
        ConfigError: there is none to train on.
        ScanFormatError: see :func:`~mri_ambient.training.dataset.load_dataset`.
    """
    dataset = load_dataset(
        job.data,
        n_validation=job.config.n_validation,
        seed=job.config.seed,
        parents=job.parents,
        validation_scans=validation_scans,
    )
    if not dataset.train:
        reasons = f": {min(dataset.damaged.values())}" if dataset.damaged else ""
        raise ConfigError(f"{job.data}: no scan to train on can be read{reasons}")
    return dataset


def _can_start(network: UNetSpec, init: UNetSpec) -> bool:
    """Whether networks can start as those of a prior, which may be fewer, or without momentum."""
    like = replace(init, passes=network.passes, momentum=network.momentum)
    return like == network and init.passes <= network.passes


def _check_trainable(job: TrainJob, dataset: Dataset) -> None:
    """Refuse scans, an ``init`` or a precision that the objective or the network cannot use."""
    config, init = job.config, job.init
    objective = config.objective
    config.autocast_on(job.runtime, config.network)
    if objective.targets is not None and job.targets is None:
        target_method(objective.targets)
    if init is not None and init.facts.kind != config.kind:
        raise ConfigError(
            f"the initial prior is a {init.facts.kind!r} denoiser, and a {config.kind!r} one is to "
            f"be trained; choose the wrapper {init.facts.kind} (--wrapper {init.facts.kind}), or "
            "leave init (--init) out"
        )
    if init is not None and not _can_start(config.network, init.facts.network):
        own = preset_of(init.facts.network)
        remedy = f"choose its preset (--preset {own}), or " if own else ""
        raise ConfigError(
            f"the initial prior's network is {own or init.facts.network}, and that of preset "
            f"{config.preset!r} is another; {remedy}leave init (--init) out"
        )
    if objective.needs_full and any(item.acceleration > 1 for item in dataset.train):
        raise ConfigError(
            f"objective {objective.name!r} needs fully sampled scans, but {job.data} holds "
            "undersampled ones; use kspace or ambient, or l1-wavelet images (--targets l1-wavelet)"
        )


def _held_out_cases(
    job: TrainJob, dataset: Dataset
) -> tuple[tuple[HeldOutSlice, ...], tuple[str, ...]]:
    """Validation slices with some lines held out, and a sentence about each that cannot be read."""
    chosen = dataset.validation[:: max(1, -(-len(dataset.validation) // N_CASES))]
    cases, damaged = [], []
    for item in chosen:
        try:
            case = hold_out_of_slice(item.read().to(job.device), item.name, seed=job.config.seed)
        except ScanFormatError as error:
            damaged.append(str(error))
            continue
        cases += [case] if case.usable else []
    return tuple(cases), tuple(damaged)


def _identity(
    job: TrainJob, stored: Identity | None, dataset: Dataset, cases: tuple[HeldOutSlice, ...]
) -> Identity:
    """The identity of a run that begins, or of one that may be resumed in this way."""
    run = RunFolder(job.run)
    if job.run.resolve() == job.data.resolve():
        raise ConfigError(f"{job.run}: holds the scans; choose another folder for the run")
    if stored is None and (checkpoint := run.latest_checkpoint) is not None:
        raise CheckpointError(
            f"{job.run}: holds {checkpoint.name} but no run.json, which describes the run; restore "
            "it, or train into another folder"
        )
    if stored is not None:
        run.check_scans(stored, dataset.identity, {path.name for path in dataset.damaged})
        run.check_settings(stored, job)
    if job.config.patience and not cases and (stored is None or job.only_patience_ends):
        raise ConfigError(
            "patience compares errors on held-out lines of validation scans, and there are none: "
            "at least five scans are needed"
        )
    return stored or _new_identity(job, dataset)


def _new_identity(job: TrainJob, dataset: Dataset) -> Identity:
    """Measure the scans of a run that begins."""
    objective, items = job.config.objective, dataset.train
    groups = coverage(mask_facts(file) for file in files_of(items))
    needs_lines = not (objective.learns_unsampled or objective.needs_full or objective.targets)
    if needs_lines and not job.force:
        _check_masks(groups, job.data)
    for warning in (warning for group in groups for warning in group.warnings):
        issue(warning)
    if dataset.mixes_patients:
        warn(
            "W-PATIENTS-MIXED",
            f"{job.data}: whole patients cannot be set aside, so single scans are: held-out errors "
            "are those of patients the prior was trained on",
        )
    figures = [group.as_dict() for group in groups]
    for figure in figures:
        del figure["per_line"]  # it is in the manifest of prep
    measured = {
        "sigma_data": measure_sigma_data(items),
        "sigma_min": smallest_sigma(items, objective),
        "mask": asdict(typical_mask(items)),
        "coverage": figures,
    }
    folder = str(job.data.resolve())
    return Identity(**job.settings(), data=dataset.identity, measured=measured, folder=folder)


def _check_masks(groups: list[Coverage], folder: Path) -> None:
    """Refuse masks that leave most scans' images undetermined."""
    wrong = [group for group in groups if not group.identifiable]
    if 2 * sum(group.n_scans for group in wrong) > sum(group.n_scans for group in groups):
        worst = max(wrong, key=lambda group: group.n_scans)
        raise ConfigError(
            f"{folder}: {worst.line}. The null-space fraction is {worst.null_space_fraction:.0%}: "
            "aliased images cannot be told from true ones, so the prior would be wrong. "
            f"{worst.advice.capitalize()}, train by the objective equivariant (--objective "
            "equivariant), or train anyway: force (--force)"
        )
