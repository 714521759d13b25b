"""Adapting a prior to the scans that it will reconstruct, by its own objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

from .._version import __version__
from ..errors import ConfigError
from ..objectives import Ambient, Equivariant, Kspace, Objective, Ssdu, make_objective
from ..priors.facts import PriorFacts
from ..priors.prior import DenoiserSource, Prior
from ..priors.schedules import EDM_SIGMA_DATA, LogNormal
from ..recon.adaptation import Adaptation, AdaptationData, spared_lines
from ..recon.recipe import ResolvedRecipe
from ..runtime.config import check_number, parse_until
from ..runtime.device import Runtime
from .adapter import Adapter, AdaptProgress, AdaptRules, digest_of, weights_sha256
from .config import TrainConfig

ADAPTABLE: tuple[type[Objective], ...] = (Kspace, Ambient, Ssdu, Equivariant)
"""Objectives that learn from the measured lines of a single scan."""

WARMUP_STEPS = 5
"""Steps over which the learning rate rises: Adam's first ones have the size of the rate."""

N_CHECKED = 4
"""Slices on whose held-out lines the error is taken, at most."""

LEFT_OUT = ("sha256", "calibration", "held_out", "references", "steps_skipped")
"""What the card of a prior says about its own weights alone."""


def _unseen(_: AdaptProgress) -> None:
    """Nobody looks. Unlike a lambda, it can be sent to other processes."""


@dataclass(frozen=True)
class AdaptConfig(Adaptation):
    """Options of an adaptation.

    Attributes:
        until: "auto" (until the error on held-out lines has not fallen for ``patience`` checks), a
            time such as "90s", or a number of steps. With a time, the number of steps that were
            taken is in the report, and as ``until`` it gives the same bits.
        per: what the prior is adapted to anew: every "volume" or every "slice".
        n_slices: slices of a volume that it learns from, at most, evenly spaced.
        learning_rate: of Adam, after :data:`WARMUP_STEPS`.
        batch_size: slices, or blocks of rows of them, a step.
        rows: rows of a block, at most.
        ema_power: weights are averaged as in training (see :class:`TrainConfig`).
        check_every: steps between checks on held-out lines.
        patience: with "auto", checks in a row without a smaller error.
        most_steps: with "auto", steps at most.
        on_progress: called after every step.
    """

    until: str | int = "auto"
    per: str = "volume"
    n_slices: int = 8
    learning_rate: float = 2e-4
    batch_size: int = 1
    rows: int = 128
    ema_power: float = 6.94
    check_every: int = 10
    patience: int = 4
    most_steps: int = 150
    on_progress: Callable[[AdaptProgress], None] = field(default=_unseen, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.per not in ("volume", "slice"):
            raise ConfigError(f"a prior is adapted per volume or slice, got {self.per!r}")
        counts = ("n_slices", "batch_size", "rows", "check_every", "patience", "most_steps")
        for name in counts:
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("learning_rate", "ema_power"):
            check_number(name, getattr(self, name), above=0)
        self._limits()

    def _limits(self) -> tuple[int | None, float | None]:
        """Steps and seconds after which it stops."""
        steps, seconds = parse_until(str(self.until))
        return (self.most_steps, None) if self.until == "auto" else (steps, seconds)

    @override
    def settings(self) -> dict[str, Any]:
        options = {f: v for f, v in vars(self).items() if f != "on_progress"}
        return options | {"until": str(self.until)}

    @override
    def check(self, prior: DenoiserSource) -> None:
        own_objective(prior)

    def rules(self, prior: Prior, seed: int, precision: str) -> AdaptRules:
        """How a prior learns by these options."""
        steps, seconds = self._limits()
        train = TrainConfig(
            objective=own_objective(prior),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_images=WARMUP_STEPS * self.batch_size,
            decay_images=10**9,
            ema_power=self.ema_power,
            precision=precision,
            seed=seed,
        )
        return AdaptRules(
            train=train,
            rows=self.rows,
            steps=steps,
            seconds=seconds,
            patience=self.patience if self.until == "auto" else None,
            check_every=self.check_every,
            n_checked=N_CHECKED,
        )

    @override
    def __call__(self, data: AdaptationData, recipe: ResolvedRecipe, runtime: Runtime) -> Prior:
        start = recipe.prior
        own_objective(start)
        assert isinstance(start, Prior)
        rules = self.rules(start, recipe.seed, runtime.precision)
        adapter = Adapter(start, rules, runtime, data.identity, data.folder)
        adapter(data.read, self.on_progress)
        return _with_card(adapter, self, data.scans(), recipe)


def own_objective(prior: DenoiserSource | None) -> Objective:
    """The objective that a prior was trained by, with its options, for a single scan.

    Weights of unseen entries, which are shares of a whole data set, are left out, and the noise
    levels are those of :func:`noise_law`.

    Raises:
        ConfigError: its objective does not learn from a single scan, or it was not trained.
    """
    name = prior.facts.objective if isinstance(prior, Prior) else "none"
    if not isinstance(prior, Prior) or name not in {kind.name for kind in ADAPTABLE}:
        known = ", ".join(kind.name for kind in ADAPTABLE)
        raise ConfigError(
            f"a prior of objective {name!r} cannot be adapted to a scan; those of the objectives "
            f"{known} can"
        )
    options = prior.facts.card.get("objective_options", {})
    return _for_one_scan({"name": name} | options, noise_law(prior.facts))


def _for_one_scan(options: dict[str, Any], law: LogNormal) -> Objective:
    """An objective of a card, with its name, for a single scan."""
    options = dict(options)
    if "base" in options:
        options["base"] = _for_one_scan(options["base"], law)
    if "law" in options:
        options["law"] = law
    if "remove" in options:
        options["remove"] = tuple(options["remove"])
    objective = make_objective(options.pop("name"), options)
    if isinstance(objective, Kspace):
        return replace(objective, weights=False)
    return replace(objective, max_unseen=1.0) if isinstance(objective, Ssdu) else objective


def noise_law(facts: PriorFacts) -> LogNormal:
    """Noise levels around 1.4 times the smallest one of a prior.

    A prior reconstructs in one step at this level or, where it is higher, at that of the scan. At
    the higher levels of its training a few steps on one scan are noisier and teach less.
    """
    return LogNormal(math.log(1.4 * EDM_SIGMA_DATA * facts.sigma_min / facts.sigma_data), 0.5)


def _with_card(
    adapter: Adapter,
    config: AdaptConfig,
    scans: Sequence[tuple[str, str]],
    recipe: ResolvedRecipe,
) -> Prior:
    """The adapted prior, whose card says on what."""
    start, net, report = adapter.start, adapter.adapted_network(), adapter.report()
    known = start.facts.card
    card, digests = dict(known), {digest for _, digest in scans}
    report |= {
        "options": config.settings(),
        "start_sha256": known.get("sha256"),
        "adapted_weights_sha256": weights_sha256(net),
        "identity_sha256": adapter.digest,
        "settings_sha256": digest_of(recipe.choices(adapter.runtime), start),
        "scans": sorted(map(list, scans)),
        "new_scans": sorted(digests - {*known.get("trained_on", ())}),
        "spared": spared_lines(recipe),
    }
    if adapter.best_step:
        card = {name: value for name, value in known.items() if name not in LEFT_OUT} | {
            "trained_on": sorted(digests | {*known.get("trained_on", ())}),
            "init": known.get("sha256", "unsaved"),
            "images_seen_before": start.facts.images_seen,
            "images_seen": adapter.best_step * config.batch_size,
            "version": __version__,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
    card["adaptation"] = report
    return Prior(net, replace(start.facts, card=card))
