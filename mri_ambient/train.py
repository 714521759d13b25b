"""Training, top to bottom: one loop, resumable to the bit, counted in images.

Everything that shapes the result (learning rate, averaging, masks, noise, order of the slices)
depends on the number of images seen and the seed, never on the clock; a time limit only stops.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ._version import __version__
from .atomic import atomic_path, make_folder, write_json
from .batch import Batch
from .checkpoint import load_tensors, save_prior, save_tensors
from .config import write_toml
from .coverage import Coverage
from .data import (
    Dataset,
    load_dataset,
    measure_coverage,
    measure_sigma_data,
    smallest_sigma,
    typical_mask,
)
from .errors import CheckpointError, ConfigError, DeviceError, MriAmbientError
from .masks import MaskSpec
from .nn.precond import DENOISERS, Denoiser
from .nn.unet import n_parameters, preset
from .objectives import Kspace, Objective
from .prior import Prior, PriorFacts
from .report import plot_curves
from .rng import rng_for
from .validate import HeldOut, cg_sense_error, fit_tau, hide_lines

STATE_FORMAT = "train/1"

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run.

    Attributes:
        objective: how the denoiser is learned, with its own options.
        preset: size of the network, a key of ``PRESETS``.
        wrapper: kind of denoiser; the objective's own choice by default.
        batch_size: images per step.
        learning_rate: Adam's, after the warm-up.
        warmup_images: the learning rate rises linearly over these.
        decay_images: beyond these it falls with the inverse square root of the images seen.
        ema_power: weights are averaged with the power profile (1 - 1/t)^(power + 1) of Karras et
            al. 2024 (arXiv 2312.02696, eq. 127), which needs no horizon.
        clip: largest norm of the gradient.
        augment: show mirrored, conjugated and phase-turned versions of every measurement, which
            are measurements of mirrored, conjugated and phase-turned objects.
        precision: of the network while it trains: "fp32", "bf16" (autocast; the physics and the
            losses stay in single precision), or "auto": bf16 on a GPU, fp32 on a CPU.
        n_validation: scans set aside.
        check_every: images between validations, which also write the prior and the curves.
        save_every: images between checkpoints.
        seed: of everything random.
    """

    objective: Objective = field(default_factory=Kspace)
    preset: str = "tiny"
    wrapper: str | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_images: int = 400
    decay_images: int = 8000
    ema_power: float = 6.94
    clip: float = 1.0
    augment: bool = True
    precision: str = "auto"
    n_validation: int = 8
    check_every: int = 2000
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        preset(self.preset)
        if self.wrapper is not None and self.wrapper not in DENOISERS:
            raise ConfigError(
                f"wrapper {self.wrapper!r} is unknown; choose from {', '.join(DENOISERS)}"
            )
        for name in ("batch_size", "warmup_images", "decay_images", "check_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision {self.precision!r} is unknown; choose from {', '.join(PRECISIONS)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the objective under its name."""
        return asdict(self) | {"objective": {"name": self.objective.name} | asdict(self.objective)}  # type: ignore[call-overload]

    def learning_rate_at(self, images: int) -> float:
        """Linear warm-up, then constant, then inverse square root."""
        warm = min(images / self.warmup_images, 1.0)
        decay = math.sqrt(min(self.decay_images / max(images, 1), 1.0))
        return self.learning_rate * warm * decay

    def autocast_on(self, device: torch.device) -> bool:
        """Whether the network trains in bfloat16."""
        return self.precision == "bf16" or (self.precision == "auto" and device.type == "cuda")

    def ema_decay_at(self, step: int) -> float:
        """How much of the average is kept at this step (counted from 1)."""
        return float((1 - 1 / step) ** (self.ema_power + 1))


@dataclass(frozen=True)
class Progress:
    """One line of the log.

    Attributes:
        images: images seen.
        target: images to see, or None if only time stops the run.
        loss: of the last step.
        images_per_second: over this call.
        seconds: of this call.
        validation: figures of a validation, if there was one.
        saved: whether a checkpoint was written.
    """

    images: int
    target: int | None
    loss: float
    images_per_second: float
    seconds: float
    validation: dict[str, float] | None
    saved: bool


class _State:
    """What a run changes: weights, their average, the optimiser, and how far it is."""

    def __init__(self, net: Denoiser, config: TrainConfig) -> None:
        self.net = net
        self.average = deepcopy(net).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(
            net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
        )
        self.step = 0
        self.saved_step = 0

    def save(self, path: Path, header: dict[str, Any]) -> None:
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            slots = self.optimizer.state[parameter]
            tensors[f"exp_avg.{name}"] = slots["exp_avg"]
            tensors[f"exp_avg_sq.{name}"] = slots["exp_avg_sq"]
        save_tensors(path, tensors, header | {"format": STATE_FORMAT, "step": self.step})

    def load(self, path: Path) -> None:
        tensors, header = load_tensors(path)
        if header.get("format") != STATE_FORMAT:
            raise CheckpointError(f"{path}: not a training state ({header.get('format')!r})")

        def part(name: str) -> dict[str, torch.Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}

        self.step = self.saved_step = int(header["step"])
        self.net.load_state_dict(part("net"))
        self.average.load_state_dict(part("average"))
        first, second = part("exp_avg"), part("exp_avg_sq")
        for name, parameter in self.net.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": first[name].to(parameter.device),
                "exp_avg_sq": second[name].to(parameter.device),
            }


def train(
    folder: Path,
    run: Path,
    config: TrainConfig,
    *,
    images: int | None = None,
    time_limit_s: float | None = None,
    device: torch.device | str = "cpu",
    init: Prior | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Prior:
    """Train a prior on prepared scans, or go on with a run that was stopped.

    Args:
        folder: prepared scans.
        run: folder of the run: config.toml, log.jsonl, curves.png, checkpoints, prior.safetensors.
        config: options; must be those of the run if it exists.
        images: stop after this many images in total.
        time_limit_s: stop after this many seconds of this call.
        device: where to train.
        init: start from the weights of this prior instead of fresh ones (fine-tuning); everything
            else about the new prior is measured on the new data.
        on_progress: told after every step.
        should_stop: asked before every step; True stops as a time limit does.

    Returns:
        The prior, as written to ``run/prior.safetensors``.

    Raises:
        ConfigError: nothing to stop at, unusable data, another configuration than the run's, or
            an ``init`` of another architecture.
        CheckpointError: a state could not be read or written.
        DeviceError: out of memory.
    """
    if images is None and time_limit_s is None:
        raise ConfigError("say when to stop: a number of images or a time limit")
    if images is not None and images < 1:
        raise ConfigError(f"at least one image must be seen, got images={images}")
    started = time.monotonic()
    device = torch.device(device)
    dataset = load_dataset(folder, n_validation=config.n_validation, seed=config.seed)
    if config.objective.needs_full and any(item.acceleration > 1 for item in dataset.train):
        raise ConfigError(
            f"objective {config.objective.name!r} needs fully sampled scans, but {folder} holds "
            "undersampled ones; use kspace or ambient"
        )
    make_folder(run)
    facts = _prepare_run(run, dataset, config, init)
    net = _first_network(facts, config.seed, init).to(device)
    net.autocast = config.autocast_on(device)
    state = _State(net, config)
    log = _Log(run / "log.jsonl")
    if (checkpoint := latest_checkpoint(run)) is not None:
        state.load(checkpoint)
    log.cut(state.step * config.batch_size)
    cases = [
        hide_lines(item.read().to(device), f"{item.scan_id}/{item.index}", seed=config.seed)
        for item in dataset.validation[:: max(1, len(dataset.validation) // 16)]
        if item.acceleration > 1
    ]
    reference = cg_sense_error(cases) if cases else None

    prior = Prior(state.average, facts)
    first_step = state.step
    with _Prefetch(dataset, config, state.step) as batches:
        for groups in batches:
            seen = state.step * config.batch_size
            if images is not None and seen >= images:
                break
            if time_limit_s is not None and time.monotonic() - started > time_limit_s:
                break
            if should_stop is not None and should_stop():
                break
            try:
                loss = _step(state, [group.to(device) for group in groups], config)
            except torch.OutOfMemoryError as error:
                raise DeviceError(
                    f"out of memory on {device} with {config.batch_size} images a step; train into "
                    "another folder with a smaller --batch-size, or --preset tiny"
                ) from error
            seen += config.batch_size
            checked = None
            if seen // config.check_every > (seen - config.batch_size) // config.check_every:
                prior, checked = _check(state, facts, cases, reference, seen)
                save_prior(prior, run / "prior.safetensors")
            log.write(seen, loss, config.learning_rate_at(seen), checked)
            saved = seen // config.save_every > (seen - config.batch_size) // config.save_every
            if saved:
                _save(run, state, config)
            if checked is not None:
                plot_curves(run / "log.jsonl", run / "curves.png")
            if on_progress is not None:
                seconds = time.monotonic() - started
                rate = (state.step - first_step) * config.batch_size / seconds
                on_progress(Progress(seen, images, loss, rate, seconds, checked, saved))
    prior, checked = _check(state, facts, cases, reference, state.step * config.batch_size)
    _save(run, state, config)
    save_prior(prior, run / "prior.safetensors")
    plot_curves(run / "log.jsonl", run / "curves.png")
    return prior


def describe(folder: Path, config: TrainConfig) -> str:
    """What a run would be: data, network, work per image."""
    dataset = load_dataset(folder, n_validation=config.n_validation, seed=config.seed)
    kind = config.wrapper or config.objective.wrapper
    sizes = sorted({item.shape for item in dataset.train})
    net = DENOISERS[kind](preset(config.preset), sigma_data=1.0)
    flops = net.flops(sizes[-1])
    return (
        f"{config.objective.name} on {len(dataset.train)} slices of {dataset.n_scans} scans "
        f"({len(dataset.validation)} set aside), "
        f"matrices {', '.join(f'{y}x{x}' for y, x in sizes)}; "
        f"{kind} {config.preset} network, {n_parameters(net) / 1e6:.2f} M parameters, "
        f"{flops / 1e9:.1f} GFLOP an evaluation at {sizes[-1][0]}x{sizes[-1][1]}"
    )


def _step(state: _State, groups: list[Batch], config: TrainConfig) -> float:
    """One optimiser step on one batch; slices of different sizes are weighted by their number."""
    state.net.train()
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for i, group in enumerate(groups):
        loss = config.objective(state.net, group, rng_for(config.seed, "step", state.step, i))
        (loss.backward * (len(group) / config.batch_size)).backward()  # type: ignore[no-untyped-call]
        total += float(loss.backward.detach()) * len(group) / config.batch_size
    state.step += 1
    seen = state.step * config.batch_size
    torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip)
    for options in state.optimizer.param_groups:
        options["lr"] = config.learning_rate_at(seen)
    state.optimizer.step()
    keep = config.ema_decay_at(state.step)
    with torch.no_grad():
        pairs = zip(state.average.parameters(), state.net.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 1 - keep)
    return total


def _first_network(facts: PriorFacts, seed: int, init: Prior | None) -> Denoiser:
    """Initial weights from the seed, leaving torch's global random state as it was, or a prior's.

    Raises:
        ConfigError: the prior's network is another one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng_for(seed, "initial weights").initial_seed())
        net = facts.build()
    if init is None:
        return net
    if (init.facts.kind, init.facts.network) != (facts.kind, facts.network):
        raise ConfigError(
            f"the initial prior is a {init.facts.kind!r} denoiser with {init.facts.network}, but a "
            f"{facts.kind!r} one with {facts.network} is to be trained; choose the same preset and "
            "wrapper, or leave --init out"
        )
    net.load_state_dict(init.net.state_dict())
    return net


def _prepare_run(
    run: Path, dataset: Dataset, config: TrainConfig, init: Prior | None
) -> PriorFacts:
    """Write the run's configuration, or check that it is the same run; say what is trained."""
    path = run / "run.json"
    started_from = None if init is None else init.facts.card.get("sha256", "unsaved")
    identity = {"data": dataset.fingerprint, "init": started_from}
    wanted = json.loads(json.dumps({"config": config.as_dict(), **identity}))
    if path.exists():
        stored = _read_run(path)
        asked, held = (
            run_of["config"] | {k: run_of.get(k) for k in identity} for run_of in (wanted, stored)
        )
        differing = [key for key in asked if asked[key] != held.get(key)]
        if differing:
            raise ConfigError(
                f"{run}: holds a run with other settings ({', '.join(sorted(differing))}); "
                "give the same ones to go on with it, or choose another folder"
            )
        measured = stored["measured"]
    else:
        kind, rate, calib = typical_mask(dataset.train)
        measured = {
            "sigma_data": measure_sigma_data(dataset.train),
            "sigma_min": smallest_sigma(dataset.train),
            "mask": {"kind": kind, "acceleration": rate, "calib": calib},
            "coverage": [_summary(group) for group in measure_coverage(dataset.train)],
        }
        write_toml(run / "config.toml", wanted["config"])
        write_json(path, wanted | {"measured": measured})
    card = {
        "n_scans": dataset.n_scans,
        "n_train_slices": len(dataset.train),
        "coverage": measured["coverage"],
        "preset": config.preset,
        "init": started_from,
        "version": __version__,
        "torch": torch.__version__,
        "intended_use": "research only, not for diagnosis",
    }
    return PriorFacts(
        objective=config.objective.name,
        kind=config.wrapper or config.objective.wrapper,
        network=preset(config.preset),
        sigma_data=measured["sigma_data"],
        sigma_min=measured["sigma_min"],
        mask_conditioned=config.objective.mask_conditioned,
        mask=MaskSpec(**measured["mask"]),
        tau=0.3 * measured["sigma_data"],
        card=card,
    )


def _read_run(path: Path) -> dict[str, Any]:
    """What a run wrote down about itself.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); train into another folder, or restore the file"
        ) from error
    return stored


def _summary(group: Coverage) -> dict[str, Any]:
    """Coverage figures for the card; the share of every single line is left to the manifest."""
    return {key: value for key, value in asdict(group).items() if key != "per_line"}


def _check(
    state: _State,
    facts: PriorFacts,
    cases: list[HeldOut],
    reference: float | None,
    seen: int,
) -> tuple[Prior, dict[str, float]]:
    """Held-out error of the averaged weights, and the tau that goes with them."""
    figures: dict[str, float] = {}
    card = {
        **facts.card,
        "images_seen": seen,
        "parameters": n_parameters(state.average),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    tau = facts.tau
    if cases and reference is not None and facts.mask_conditioned:
        tau, error, without = fit_tau(Prior(state.average, facts), cases)
        figures = {
            "held_out": error,
            "held_out_no_dc": without,
            "held_out_cg_sense": reference,
            "tau": tau,
        }
        card["held_out"] = figures
    return Prior(state.average, replace(facts, tau=tau, card=card)), figures


def _save(run: Path, state: _State, config: TrainConfig) -> None:
    """Write a checkpoint; keep the one before it and no more."""
    seen = state.step * config.batch_size
    path = run / f"checkpoint-{seen:09d}.safetensors"
    if state.step == state.saved_step:
        return
    state.save(path, {})
    state.saved_step = state.step
    for old in sorted(run.glob("checkpoint-*.safetensors"))[:-2]:
        old.unlink()


def latest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run that can be read at all."""
    for path in sorted(run.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            load_tensors(path)
        except CheckpointError:
            continue
        return path
    return None


class _Log:
    """log.jsonl: one line per step, cut back to the checkpoint on resuming."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, images: int) -> None:
        if not self.path.exists():
            return
        kept = [line for line in self._lines() if json.loads(line)["images"] <= images]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept))

    def _lines(self) -> Iterator[str]:
        for line in self.path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # the last line of a killed run may be torn
                yield line

    def write(
        self, images: int, loss: float, rate: float, checked: dict[str, float] | None
    ) -> None:
        record = {"images": images, "loss": loss, "learning_rate": rate} | (checked or {})
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise MriAmbientError(
                f"{self.path}: cannot be written ({error.strerror}); free space there and run the "
                "same command again. The last good checkpoint is untouched."
            ) from error


class _Prefetch:
    """Reads the next batch while this one trains."""

    def __init__(self, dataset: Dataset, config: TrainConfig, first: int) -> None:
        self.dataset, self.config, self.n = dataset, config, first
        self.pool = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Iterator[list[Batch]]:
        return self._batches()

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> Future[list[Batch]]:
        self.n += 1
        config = self.config
        return self.pool.submit(
            self.dataset.batch, self.n - 1, config.batch_size, config.seed, augment=config.augment
        )

    def _batches(self) -> Iterator[list[Batch]]:
        ahead = self._submit()
        while True:
            ready = ahead.result()
            ahead = self._submit()
            yield ready
