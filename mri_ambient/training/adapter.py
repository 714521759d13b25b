"""One adaptation of a prior to given slices: a few steps, judged on lines that are held out.

Zero-shot self-supervised learning (Yaman et al. 2022, arXiv 2102.07737): of every slice a quarter
of the outer lines is held out; the objective trains on the rest, and the averaged weights with the
smallest error on the held-out lines are kept, or those of the start where it has not fallen by more
than its standard error, which the differences between the lines give.

Where the readout is fully sampled, a step trains on blocks of rows: the transform along y separates
the rows of an image, so that a block has a k-space and a mask of its own.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DeviceError
from ..methods import Aos
from ..physics.masks import hold_out_one_in
from ..physics.patterns import is_line_mask, readout_is_full
from ..priors.checkpoint import load_tensors, save_tensors
from ..priors.denoisers import Denoiser
from ..priors.prior import Prior
from ..recon.adaptation import evenly_spaced
from ..rng import rng_for
from ..runtime.device import Runtime, device_errors
from ..runtime.files import json_text
from ..runtime.process_group import ProcessGroup
from ..scan import Batch, Scan
from .config import TrainConfig
from .dataset import SizeGroup, TrainingBatch
from .trainer import Trainer, first_network
from .validation import HeldOutSlice

STATE_FORMAT = "adapt/2"

ONE_IN = 4
"""One in so many outer lines of a slice is held out."""

ALONE = 0.25
"""Where one line is held out, its error has to fall by this share: there is no standard error."""

SAVE_EVERY_S = 20.0
"""Least number of seconds between states that are written. The result does not depend on it."""

HELD_OUT, STEPS, TIME, DIVERGED, NO_LINES = (
    "held-out lines", "steps", "time", "diverged", "no lines to hold out",
)  # fmt: skip
"""What stopped an adaptation."""


@dataclass(frozen=True)
class AdaptProgress:
    """How far an adaptation is after a step.

    Attributes:
        step: steps taken.
        seconds: since it began, those of interrupted calls included.
        before, error: on the held-out lines, of the start and of the last check.
    """

    step: int
    seconds: float
    before: float
    error: float


@dataclass(frozen=True)
class AdaptRules:
    """How an adaptation learns and when it stops.

    Attributes:
        train: objective, learning rate, batch, averaging and seed of its steps.
        rows: rows of a block, at most.
        steps, seconds, patience: it stops after so many steps; after so many seconds; after so many
            checks in a row without a smaller error. None is no limit.
        check_every: steps between checks on the held-out lines.
        n_checked: slices on which it is checked, at most.
    """

    train: TrainConfig
    rows: int
    steps: int | None
    seconds: float | None
    patience: int | None
    check_every: int
    n_checked: int


class Adapter:
    """Adapts a prior to slices; the prior itself is left as it is.

    Args:
        prior: the start.
        rules: how it learns and when it stops.
        runtime: where it computes.
        identity: all that decides the result; a state of another one is not resumed.
        folder: where the state is kept; None keeps none.
    """

    def __init__(
        self,
        prior: Prior,
        rules: AdaptRules,
        runtime: Runtime,
        identity: dict[str, Any],
        folder: Path | None = None,
    ) -> None:
        self.start, self.rules, self.runtime = prior, rules, runtime
        self.digest = digest_of(identity, prior)
        self.file = None if folder is None else folder / "state.safetensors"
        self.device = runtime.torch_device
        net = first_network(prior.facts, rules.train.seed, prior).to(self.device)
        net.autocast = rules.train.autocast_on(runtime, prior.facts.network)
        self.trainer = Trainer(net, rules.train, ProcessGroup.current())
        self.best: dict[str, Tensor] = {}
        self.first = torch.empty(0)
        self.curve: list[tuple[int, float]] = []
        self.n_slices = self.best_step = 0
        self.stopped_by = ""
        self.seconds = self._saved_s = self._check_s = 0.0

    @property
    def best_error(self) -> float:
        """On the held-out lines, of the weights that are kept."""
        return next((error for step, error in self.curve if step == self.best_step), math.nan)

    def __call__(
        self, read: Callable[[], Sequence[Scan]], on_step: Callable[[AdaptProgress], None]
    ) -> None:
        """Adapt, or resume, until something stops it; ``read`` gives the prepared slices."""
        self._resume()
        if self.stopped_by:
            return
        began = time.monotonic() - self.seconds
        cases = held_out_cases(read(), self.rules.train.seed)
        self.n_slices = len(cases)
        checked = [cases[i] for i in evenly_spaced(len(cases), self.rules.n_checked)]
        if not cases:
            self.stopped_by = NO_LINES
        elif not self.curve:
            self._check(checked)
        while not self.stopped_by:
            self._step(cases)
            self.seconds = time.monotonic() - began
            self.stopped_by = self._limit()
            if self.stopped_by or self.trainer.n_steps % self.rules.check_every == 0:
                self._check(checked)
                self.stopped_by = self.stopped_by or self._settled()
                self._save()
            on_step(self._progress())
        self._save(finished=True)

    def _progress(self) -> AdaptProgress:
        (_, before), (_, error) = self.curve[0], self.curve[-1]
        return AdaptProgress(self.trainer.n_steps, self.seconds, before, error)

    def _step(self, cases: Sequence[HeldOutSlice]) -> None:
        try:
            with device_errors(self.device):
                self.trainer.step(self._batch(cases))
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"out of memory on {self.device} while the prior was adapted; use the device cpu "
                "(--device cpu), or leave adapt (--adapt) out"
            ) from error

    def _batch(self, cases: Sequence[HeldOutSlice]) -> TrainingBatch:
        """Blocks of random slices for the next step, by size."""
        rules, step = self.rules, self.trainer.n_steps
        groups: dict[tuple[int, ...], list[tuple[Batch, int]]] = {}
        for i in range(rules.train.batch_size):
            rng = rng_for(rules.train.seed, "adapt", step, i)
            case = cases[int(torch.randint(len(cases), (), generator=rng))]
            block = random_rows(case.batch, rules.rows, rng)
            groups.setdefault(tuple(block.ksp.shape[-2:]), []).append((block, i))
        sizes = []
        for group in groups.values():
            blocks, positions = zip(*group, strict=True)
            sizes.append(SizeGroup(Batch.stack(blocks), positions, ("",) * len(blocks)))
        return TrainingBatch(tuple(sizes))

    def _limit(self) -> str:
        rules, trainer = self.rules, self.trainer
        if trainer.skipped_in_a_row >= rules.train.max_skipped:
            return DIVERGED
        if rules.steps is not None and trainer.n_steps >= rules.steps:
            return STEPS
        # It is checked once more at the end.
        late = rules.seconds is not None and self.seconds + self._check_s >= rules.seconds
        return TIME if late else ""

    def _settled(self) -> str:
        """Whether the error has not fallen for as many checks as there is patience for."""
        checks = [step for step, _ in self.curve]
        since = len(checks) - 1 - checks.index(self.best_step)
        patience = self.rules.patience
        return HELD_OUT if patience is not None and since >= patience else ""

    def _check(self, cases: Sequence[HeldOutSlice]) -> None:
        """The error of the averaged weights; they are kept if it is the smallest."""
        net, step, began = self.trainer.average, self.trainer.n_steps, time.monotonic()
        errors = held_out_errors(replace(self.start, net=net), cases, self.runtime)
        self.first = self.first if step else errors
        error, known = float(errors.sum()), self.best_error
        self.curve.append((step, error if math.isfinite(error) else math.inf))
        if has_fallen(self.first, errors) and error < known:
            self.best_step = step
            self.best = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self._check_s = time.monotonic() - began

    def adapted_network(self) -> Denoiser:
        """A network with the weights that are kept, those of the start where none were better."""
        net = self.start.facts.build()
        net.load_state_dict(self.best or self.start.net.state_dict())
        return net.requires_grad_(False).eval().to(self.device)

    def report(self) -> dict[str, Any]:
        """What was done, as plain values."""
        return {
            "kept": "adapted" if self.best_step else "start",
            "stopped_by": self.stopped_by,
            "steps": self.trainer.n_steps,
            "kept_step": self.best_step,
            "seconds": round(self.seconds, 2),
            "held_out_before": self.curve[0][1] if self.curve else None,
            "held_out_after": self.best_error if self.curve else None,
            "n_slices": self.n_slices,
            "curve": [list(point) for point in self.curve],
            "seed": self.rules.train.seed,
        }

    def _resume(self) -> None:
        """Take over a stored state, if there is one of the same identity."""
        if self.file is None:
            return
        with suppress(CheckpointError, KeyError, TypeError, ValueError, RuntimeError):
            tensors, header = load_tensors(self.file)
            if header.get("format") == STATE_FORMAT and header["identity"] == self.digest:
                self._restore(tensors, header)
                return
        shutil.rmtree(self.file.parent, ignore_errors=True)

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        curve = [(int(step), float(error)) for step, error in header["curve"]]
        self.trainer.restore(tensors, header["counts"])
        best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.best, self.best_step, self.curve = best, int(header["best_step"]), curve
        self.first = tensors["first_errors"]
        self.n_slices, self.seconds = int(header["n_slices"]), float(header["seconds"])
        self.stopped_by = str(header["stopped_by"])

    def _save(self, *, finished: bool = False) -> None:
        now = time.monotonic()
        if self.file is None or (not finished and now - self._saved_s < SAVE_EVERY_S):
            return
        self._saved_s = now
        header = {
            "format": STATE_FORMAT,
            "identity": self.digest,
            "counts": self.trainer.counts(),
            "curve": self.curve,
            "best_step": self.best_step,
            "n_slices": self.n_slices,
            "seconds": self.seconds,
            "stopped_by": self.stopped_by,
        }
        best = {f"best.{name}": value for name, value in self.best.items()}
        best["first_errors"] = self.first
        save_tensors(self.file, self.trainer.tensors() | best, header)


def held_out_cases(scans: Sequence[Scan], seed: int) -> list[HeldOutSlice]:
    """The slices with a quarter of their outer lines held out; those with signal there."""
    cases = []
    for scan in scans:
        whole = Batch.of([scan])
        for i, index in enumerate(scan.slices):
            rng = rng_for(seed, "adapt", "hold out", scan.scan_id, index)
            kept = hold_out_one_in(ONE_IN, scan.mask, rng)[None]
            one = whole[[i]]
            case = HeldOutSlice(replace(one, mask=kept), one.mask & ~kept)
            cases += [case] if case.usable else []
    return cases


def random_rows(batch: Batch, most: int, rng: torch.Generator) -> Batch:
    """A random block of rows of one slice, or all of them where the readout is not full."""
    n_rows = batch.ksp.shape[-2]
    if n_rows <= most or not readout_is_full(batch.mask[0]):
        return replace(batch, ksp=batch.measured)
    first = int(torch.randint(n_rows - most + 1, (), generator=rng))
    return batch.rows(first, most)


@torch.no_grad()
def held_out_errors(prior: Prior, cases: Sequence[HeldOutSlice], runtime: Runtime) -> Tensor:
    """Energy of the error of one-step reconstructions on every held-out line, over all coils.

    Returns:
        ``(line,)``, of all slices; of 2-D masks ``(sample,)``. Shares of the energy of y on all.
    """
    errors = []
    for case in cases:
        case = case.to(runtime.torch_device)
        with prior.autocast(runtime.bf16):
            img = Aos()(prior, case.batch, [rng_for(0, "held out", 0)])
        error = (case.batch.op.expand(img) - case.batch.ksp).abs().square().sum(dim=(0, 1))
        held_out = case.held_out[0, 0]
        error = torch.where(held_out, error.double(), 0)
        if is_line_mask(case.batch.mask | case.held_out):
            error, held_out = error.sum(dim=0), held_out.any(dim=0)
        errors.append(error[held_out].cpu())
    return torch.cat(errors) / sum(case.energy for case in cases)


def has_fallen(before: Tensor, after: Tensor) -> bool:
    """Whether the sum of errors has fallen by more than its standard error.

    ``before`` and ``after``, ``(line,)``, are those of the same lines, which have the same noise.
    """
    fall = before - after
    if len(fall) == 1:
        return bool(fall > ALONE * before)
    return bool(fall.sum() > fall.square().sum().sqrt())


def digest_of(identity: dict[str, Any], start: Prior) -> str:
    """A hash of all that decides the result, the weights of the start included."""
    text = json_text(identity | {"start": weights_sha256(start.net)})
    return hashlib.sha256(text.encode()).hexdigest()


def weights_sha256(net: torch.nn.Module) -> str:
    """A hash of the weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
