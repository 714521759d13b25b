"""Training, top to bottom: one loop, resumable to the bit, counted in images.

Everything that decides the result (learning rate, averaging, masks, noise, order of the slices)
depends on the number of images seen and the seed, never on the clock or on how many processes share
the work; a time limit only stops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, DeviceError, MriAmbientError, StoppedError, warn
from ..priors.checkpoint import load_prior, save_tensors
from ..priors.facts import PriorFacts
from ..priors.prior import Prior
from ..recon.warnings import issue_weakness
from ..runtime.config import parse_seconds
from ..runtime.device import Runtime, checked_runtime, device_errors
from ..runtime.prefetch import BatchReader
from ..runtime.process_group import ProcessGroup
from .config import Hooks, Progress, TrainConfig, TrainJob
from .dataset import BatchSequence, Dataset, TrainingBatch
from .preflight import TrainPlan, plan
from .trainer import Trainer, first_network
from .validation import Validator

LAST_SHARE = 0.25
"""Of a time limit, for the last validation, at most."""


def train(
    folder: str | Path,
    run: str | Path,
    config: TrainConfig | None = None,
    *,
    images: int | None = None,
    time_limit: float | str | None = None,
    init: Prior | str | Path | None = None,
    runtime: Runtime | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Prior:
    """Train a prior on prepared scans, or resume a run that was stopped.

    Args:
        folder: the prepared scans.
        run: folder of the run, see :mod:`~mri_ambient.training.run`.
        config: options; must be those of the run if it exists.
        images: stop after this many images in total.
        time_limit: stop this call after so many seconds, or after "90s", "10m", "2h".
        init: a prior, its file, or a run folder to start from (fine-tuning).
        runtime: its device is where to train; what else it holds must have its default, since
            precision and batch size are those of ``config``.
        on_progress: called after every step.

    Returns:
        The prior, as written to ``run/prior.safetensors``.

    Warns:
        NumericalWarning: files or slices that cannot be read and are left out; see :func:`plan`.

    Raises:
        ConfigError: a runtime with more than a device.
        MriAmbientError: see :func:`plan` and :func:`run_training`.
    """
    runtime = checked_runtime(runtime)
    if runtime != Runtime(runtime.device):
        raise ConfigError(
            "of the runtime, training uses the device only; precision and batch_size are options "
            "of TrainConfig, and networks are not compiled"
        )
    started, device = time.monotonic(), runtime.torch_device
    job = TrainJob(
        data=Path(folder),
        run=Path(run),
        config=config or TrainConfig(),
        images=images,
        time_limit_s=parse_seconds(time_limit) if isinstance(time_limit, str) else time_limit,
        init=load_prior(init, device) if isinstance(init, (str, Path)) else init,
        device=device,
    )
    hooks = Hooks(on_damaged=lambda sentence: warn("W-DAMAGED", sentence))
    if on_progress is not None:
        hooks = replace(hooks, on_progress=on_progress)
    return run_training(plan(job, started=started), hooks)


def run_training(plan: TrainPlan, hooks: Hooks | None = None) -> Prior:
    """Train what is planned, until it is done or stopped.

    Processes that joined a ``torch.distributed`` group share every batch; the first of them writes.

    Returns:
        The prior, as written to ``run/prior.safetensors``; with patience, that of the smallest
        held-out error.

    Warns:
        NumericalWarning: the prior is worse than CG-SENSE on held-out lines.

    Raises:
        CheckpointError: a state could not be read or written.
        DeviceError: out of memory, or the device was lost.
        StoppedError: stopped before the first image was seen.
        MriAmbientError: too many steps without a finite loss, or another process is gone.
    """
    loop = _Loop(plan, hooks or Hooks())
    with plan.run.locked() if loop.processes.is_first else nullcontext():
        dataset = loop.begin()
        loop.resume()
        loop.run(dataset)
        return loop.finish()


class _Loop:
    """One call of a training: a trainer, its batches, and the folder of its run."""

    def __init__(self, plan: TrainPlan, hooks: Hooks) -> None:
        self.plan, self.hooks = plan, hooks
        self.job, self.config, self.folder = plan.job, plan.job.config, plan.run
        self.limit_s = math.inf if self.job.time_limit_s is None else self.job.time_limit_s
        self.processes = ProcessGroup.current()
        net = first_network(plan.facts, self.config.seed, self.job.init).to(self.job.device)
        net.autocast = self.config.autocast_on(self.job.runtime, plan.facts.network)
        self.trainer = Trainer(net, self.config, self.processes)
        self.validator = Validator(
            self.folder, plan.facts, plan.cases, self.config.patience, self.hooks.on_validation
        )
        self.log = self.folder.log
        self.first_images = self.saved_at = 0
        self.step_s = 0.0
        self.is_stopped = False

    @property
    def seconds(self) -> float:
        """Since this call began."""
        return time.monotonic() - self.plan.started

    @property
    def _is_late(self) -> bool:
        """Whether there is no time for another step.

        The prior is validated once more at the end, if there is little time on some slices only;
        where a validation is due after the next step, on all.
        """
        needed = self.validator.seconds
        if not self._passes(self.config.check_every, self.config.batch_size):
            needed = min(needed, LAST_SHARE * self.limit_s)
        return self.seconds + self.step_s + needed > self.limit_s

    def begin(self) -> Dataset:
        """Write down what the run is, and make the images to learn from, if there are any."""
        for sentence in self.plan.damaged:
            self.hooks.on_damaged(sentence)
        self.processes.from_first(lambda: self.folder.begin(self.plan.identity))
        dataset, folder = self.plan.dataset, self.plan.target_folder
        if folder is None:
            return replace(dataset, images=self.job.targets)
        groups = count()

        def should_stop() -> bool:  # however short the time, a call makes the images of one group
            return self.hooks.should_stop() or (next(groups) > 0 and self._is_late)

        hooks = replace(self.hooks, should_stop=should_stop)
        if not folder.make(dataset.train, hooks=hooks):
            raise StoppedError(
                f"{self.job.run}: stopped while the images to learn from were made; the same "
                "command resumes"
            )
        return replace(dataset, images=folder.path)

    def resume(self) -> None:
        """Bring every process to the state of the newest checkpoint, if there is one."""
        stored = self.processes.from_first(self.folder.load_checkpoint)
        if stored is not None:
            try:
                self.trainer.restore(*stored)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{self.job.run}: its newest checkpoint does not fit the run "
                    f"({' '.join(str(error).split())[:80]}); delete it to resume from the one "
                    "before"
                ) from error
        self.first_images = self.saved_at = self.trainer.images
        if self.seconds < self.limit_s < math.inf:
            self.validator.measure_time(self.trainer.average)
        if self.processes.is_first:
            for log in (self.log, self.folder.ends):
                log.cut(self.trainer.images)
            self.validator.errors = self.log.values("held_out")

    def run(self, dataset: Dataset) -> None:
        """Take steps until something stops them."""
        config, processes = self.config, self.processes
        batches = BatchSequence(
            dataset, config.batch_size, config.seed, processes.rank, processes.size
        )
        on_gpu = self.job.device.type == "cuda"
        reader = BatchReader(batches, self.trainer.n_steps, workers=self.job.workers, pinned=on_gpu)
        began = time.monotonic()
        with reader:
            for batch in reader:
                if processes.any(self._is_done(), self.job.device):
                    break
                for sentence in batch.damaged:
                    self.hooks.on_damaged(sentence)
                before = self.seconds
                loss, figures = self._step(batch)
                self.step_s = self.seconds - before
                checked, saved = self._record(loss, figures)
                images, seconds = self.trainer.images, self.seconds
                progress = Progress(
                    images=images,
                    images_now=(n_now := images - self.first_images),
                    loss=loss,
                    images_per_second=n_now / (time.monotonic() - began),
                    seconds=seconds,
                    waiting=reader.waited / seconds,
                    validation=checked,
                    saved=saved,
                    skipped=self.trainer.skipped,
                )
                self.hooks.on_progress(progress)

    def _is_done(self) -> bool:
        """Whether this process would stop before the next step."""
        images = self.trainer.images
        if self.job.images is not None and images >= self.job.images:
            return True
        self.is_stopped = self.hooks.should_stop()
        if self.is_stopped:
            return True
        if self._is_late and images > self.first_images:  # however short the time, take a step
            return True
        return self.processes.is_first and self.validator.has_settled

    def _step(self, batch: TrainingBatch) -> tuple[float, dict[str, float]]:
        try:
            with device_errors(self.job.device):
                result = self.trainer.step(batch)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"out of memory on {self.job.device} with {self.config.batch_size} images a step; "
                "train into another folder with a smaller batch_size (--batch-size) or preset "
                "(--preset)"
            ) from error
        if self.trainer.skipped_in_a_row >= self.config.max_skipped:
            raise self._diverged(batch)
        return result

    def _diverged(self, batch: TrainingBatch) -> MriAmbientError:
        """The error after too many skipped steps; this process's part of the batch is kept."""
        part = f"-{self.processes.rank}" if self.processes.rank else ""
        path = self.job.run / f"skipped-{self.trainer.images:09d}{part}.safetensors"
        tensors = {
            f"{i}.{name}": value
            for i, group in enumerate(batch.groups)
            for name, value in vars(group.batch.to("cpu")).items()
            if value is not None
        }
        names = [list(group.names) for group in batch.groups]
        header = {"format": "batch/1", "step": self.trainer.n_steps, "slices": names}
        save_tensors(path, tensors, header)
        listed = ", ".join(name for group in names for name in group)
        return MriAmbientError(
            f"{self.job.run}: training diverged: {self.config.max_skipped} steps in a row gave no "
            f"finite loss or gradient; the last batch is in {path.name}. Look at its scans "
            f"({listed:.300}), or train into another folder with a smaller "
            "learning_rate (--learning-rate) or the precision fp32 (--precision fp32)"
        )

    def _record(
        self, loss: float, figures: dict[str, float]
    ) -> tuple[dict[str, float] | None, bool]:
        """Validate and save where it is time, and log the step.

        Gives the figures of a validation, if there was one, and whether a checkpoint was written.
        """
        validates = self._passes(self.config.check_every)
        saves = self._passes(self.config.save_every)
        if not self.processes.is_first:
            return None, saves
        images = self.trainer.images
        checked = None
        if validates:
            checked = self._validate()
            self.validator.keep_best()
        rate = self.config.learning_rate_at(images)
        self.log.write(images=images, loss=loss, learning_rate=rate, **figures, **(checked or {}))
        if saves:
            self._save()
        if validates:
            self._draw_curves()
        return checked, saves

    def _draw_curves(self) -> None:
        from ..plots import draw_curves, save_figure  # matplotlib is slow to import

        save_figure(
            draw_curves(self.log.records(), self.folder.ends.records()), self.job.run / "curves.png"
        )

    def _passes(self, every: int, more: int = 0) -> bool:
        """Whether the last step, or that after ``more`` images, passes a multiple of ``every``."""
        images = self.trainer.images + more
        return images // every > (images - self.config.batch_size) // every

    def _validate(self, deadline: float = math.inf) -> dict[str, float]:
        trainer = self.trainer
        return self.validator(
            trainer.average, images=trainer.images, skipped=trainer.skipped, deadline=deadline
        )

    def _save(self) -> None:
        trainer = self.trainer
        if trainer.images != self.saved_at:
            self.folder.save_checkpoint(trainer.images, trainer.tensors(), trainer.counts())
            self.saved_at = trainer.images

    def finish(self) -> Prior:
        """Validate, write the prior and a checkpoint, and give the prior to every process."""
        trainer = self.trainer
        if trainer.n_steps == 0:
            raise StoppedError(
                f"{self.job.run}: stopped before the first image was seen; the same command begins"
            )
        facts, weights = self.processes.from_first(self._write)
        if weights is not None:
            trainer.average.load_state_dict(weights)
        return Prior(trainer.average, facts)

    def _write(self) -> tuple[PriorFacts, dict[str, Tensor] | None]:
        """Facts of the run's prior and, with patience, its weights: they may be earlier ones."""
        draws = self.seconds < self.limit_s
        if self.is_stopped:  # who stops a run may not wait for a validation
            self._save()
        figures = self._validate(self.plan.started + self.limit_s)
        self._save()
        if figures and "n_slices" not in figures:
            self.folder.ends.write(images=self.trainer.images, **figures)
        if draws and "n_slices" not in figures:
            self._draw_curves()
        prior = self.validator.best()
        issue_weakness(prior, self.folder.prior)
        if not self.config.patience:
            return prior.facts, None
        return prior.facts, {name: value.cpu() for name, value in prior.net.state_dict().items()}
