"""One training step: loss, gradients of all processes, Adam, and the average of the weights."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ..priors.denoisers import Denoiser
from ..priors.facts import PriorFacts
from ..priors.prior import Prior
from ..rng import rng_for
from ..runtime.process_group import ProcessGroup
from .config import TrainConfig
from .dataset import SizeGroup, TrainingBatch

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's running means of the gradient and of its square, as torch names them."""


class Trainer:
    """What a run changes: the weights, their average and the optimiser; and how far it is.

    The processes share every batch, and the denoiser is on the device where it is trained.

    Attributes:
        average: the denoiser with averaged weights.
        n_steps: steps taken or skipped.
        skipped, skipped_in_a_row: steps without a finite loss and gradient, which changed nothing
            else, and the last ones of them.
    """

    def __init__(self, net: Denoiser, config: TrainConfig, processes: ProcessGroup) -> None:
        self.net, self.config, self.processes = net, config, processes
        self.average = deepcopy(net).requires_grad_(False).eval()
        self.parameters = list(net.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=config.learning_rate, betas=(0.9, 0.99)
        )
        self.n_steps = self.skipped = self.skipped_in_a_row = 0
        self.figure_names: list[str] = []

    @property
    def images(self) -> int:
        """Images seen."""
        return self.n_steps * self.config.batch_size

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self.parameters[0].device

    def step(self, batch: TrainingBatch) -> tuple[float, dict[str, float]]:
        """One optimiser step; slices of different sizes are weighted by their number.

        Args:
            batch: this process's part of a batch.

        Returns:
            The loss and the objective's figures over all processes; NaN and nothing for a step
            that is skipped.
        """
        self.net.train()
        self.net.vary(rng_for(self.config.seed, "vary", self.n_steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss, own = self._backward(batch)
        figures = self._sum(loss, own)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.n_steps += 1
        if not math.isfinite(float(loss + norm)):
            self.skipped += 1
            self.skipped_in_a_row += 1
            return math.nan, {}
        self.skipped_in_a_row = 0
        self._update()
        return float(loss), {name: float(value) for name, value in figures.items()}

    def _backward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of this process's part; gradients are in the parameters."""
        total = torch.zeros((), device=self.device)
        figures: dict[str, Tensor] = {}
        for group in batch.groups:
            slices = group.batch.to(self.device)
            if self.config.augment:
                slices = slices.augmented(self._streams(group, "augment"))
            loss = self.config.objective(self.net, slices, self._streams(group, "step"))
            share = len(slices) / self.config.batch_size
            (loss.backward * share).backward()  # type: ignore[no-untyped-call]
            total += loss.backward.detach() * share
            for name, value in loss.log.items():
                figures[name] = figures.get(name, 0.0) + value * share
        return total, figures

    def _streams(self, group: SizeGroup, what: str) -> list[torch.Generator]:
        """A generator for each slice, whichever process computes it."""
        return [rng_for(self.config.seed, what, self.n_steps, i) for i in group.positions]

    def _sum(self, loss: Tensor, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum loss and gradients over all processes, in place; return the sums of the figures."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # A process whose slices could not be read has no figures of its own.
        self.figure_names = self.figure_names or self.processes.from_first(lambda: sorted(own))
        figures = {
            name: torch.as_tensor(own.get(name, 0.0), device=self.device)
            for name in self.figure_names
        }
        gradients = (p.grad for p in self.parameters if p.grad is not None)
        self.processes.sum_([loss, *figures.values(), *gradients])
        return figures

    def _update(self) -> None:
        """Change the weights and their average."""
        for options in self.optimizer.param_groups:
            options["lr"] = self.config.learning_rate_at(self.images)
        self.optimizer.step()
        keep = self.config.ema_decay_at(self.n_steps)
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.parameters, strict=True)
            for average, weight in pairs:
                average.lerp_(weight, 1 - keep)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by name."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            # Empty before the first step, and if all were skipped.
            state = self.optimizer.state.get(parameter, {})
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = state.get(moment, torch.zeros_like(parameter))
        return tensors

    def counts(self) -> dict[str, int]:
        """All numbers of the state, by name."""
        return {
            "step": self.n_steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, tensors: dict[str, Tensor], counts: dict[str, Any]) -> None:
        """Take over a stored state.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it is that of another network.
        """

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}

        self.n_steps = int(counts["step"])
        self.skipped = int(counts.get("skipped", 0))
        self.skipped_in_a_row = int(counts.get("skipped_in_a_row", 0))
        self.net.load_state_dict(part("net"))
        self.average.load_state_dict(part("average"))
        if (n_updates := self.n_steps - self.skipped) == 0:
            return
        moments = {moment: part(moment) for moment in MOMENTS}
        for name, parameter in self.net.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(n_updates)),
                **{moment: moments[moment][name].to(parameter.device) for moment in MOMENTS},
            }


def first_network(facts: PriorFacts, seed: int, init: Prior | None) -> Denoiser:
    """A network with weights of a prior, or from the seed.

    The global random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng_for(seed, "initial weights").initial_seed())
        net = facts.build()
    if init is not None:
        net.start_as(init.net)
    return net
