"""Validation without a reference: hold measured lines out, reconstruct, compare them."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MriAmbientError
from ..methods import Aos, CgSense, Dds, L1Wavelet, Method, ZeroFilled
from ..methods.base import FINAL_CG, floored_variance
from ..physics.map_sets import magnitude
from ..physics.masks import subsample_further
from ..physics.solve import shifted_solutions
from ..priors.checkpoint import load_prior, save_prior
from ..priors.denoisers import Denoiser
from ..priors.facts import PriorFacts
from ..priors.prior import DenoiserSource, Prior
from ..priors.unet import n_parameters
from ..rng import rng_for
from ..runtime.files import atomic_path, json_object, write_json
from ..scan import Batch
from .run import RunFolder

TAUS = tuple(0.3 * 2 ** (-k / 2) for k in range(13))
"""Candidate errors of an estimate, relative to sigma_data / 0.3: 0.3 down to 0.005."""

AS_GOOD = 0.002
"""Share by which errors differ that are taken to be equal."""

N_CASES = 16
"""Validation slices, at most."""

N_PREVIEWS = 4
"""Validation slices that preview.png shows."""


@dataclass(frozen=True)
class HeldOutSlice:
    """A slice with some of its measured outer lines held out.

    :class:`~mri_ambient.recon.held_out.HeldOutScan` is the same for slices of one scan together.

    Attributes:
        batch: one slice, ``mask`` without the held-out lines.
        held_out: bool ``(1, 1, y, x)``.
        name: of the slice.
    """

    batch: Batch
    held_out: Tensor
    name: str = ""

    @property
    def energy(self) -> float:
        """Energy of the held-out lines, normalised units."""
        return float(torch.where(self.held_out, self.batch.ksp, 0).abs().square().sum())

    @property
    def usable(self) -> bool:
        """Whether there is signal on the held-out lines."""
        return self.energy > 0

    def error(self, img: Tensor) -> float:
        """Energy of ``F S x - y`` over that of ``y``, on the held-out lines."""
        y = torch.where(self.held_out, self.batch.ksp, 0)
        K = torch.where(self.held_out, self.batch.op.expand(img), 0)
        return float((K - y).abs().square().sum() / y.abs().square().sum())

    def to(self, device: torch.device | str) -> HeldOutSlice:
        """The slice on another device."""
        return HeldOutSlice(self.batch.to(device), self.held_out.to(device), self.name)


def hold_out_of_slice(batch: Batch, scan_id: str, *, seed: int) -> HeldOutSlice:
    """Hold out a fixed random fifth of one slice's sampled outer lines; four of a full scan's."""
    fraction = 0.8 if bool((batch.mask[0] | ~batch.acquired[0]).all()) else 0.2
    kept = subsample_further(batch.mask[0].cpu(), fraction, rng_for(seed, "hold out", scan_id))
    kept = kept.to(batch.mask.device)[None]
    return HeldOutSlice(replace(batch, mask=kept), batch.mask & ~kept, scan_id)


@torch.no_grad()
def estimate(prior: DenoiserSource, case: HeldOutSlice) -> Tensor:
    """The prior's image before the last data consistency: one step, or a short sample.

    A prior that is not mask-conditioned cannot take one step.
    """
    one_step: Method = Aos(final_dc=False)
    method = one_step if prior.mask_conditioned else Dds(n_steps=8, final_dc=False)
    return method(prior, case.batch, [rng_for(0, "held out", 0)])


@torch.no_grad()
def fit_tau(
    prior: DenoiserSource,
    cases: Sequence[HeldOutSlice],
    is_next: Callable[[int], bool] = lambda done: True,
) -> tuple[float, float, float]:
    """The expected error of one step (or short sample), found on held-out lines.

    It is the largest one whose errors are within 0.2 % of the least: a smaller one takes over more
    of the noise of the lines that were measured, which those held out do not show. Errors are
    compared by their geometric mean: the arithmetic one, of scans with little and with much noise,
    is that of the noise on the held-out lines.

    ``is_next`` says after every case, by how many are done, whether another one is to follow.

    Returns:
        tau, the mean held-out error at this tau, and the one without data consistency.
    """
    taus = [tau * prior.sigma_data / 0.3 for tau in TAUS]
    errors = []
    for case in cases:
        x0 = estimate(prior, case)
        errors.append([case.error(img) for img in (*_consistent(case, x0, taus), x0)])
        if not is_next(len(errors)):
            break
    found = torch.tensor(errors, dtype=torch.float64)
    relative, mean = found[:, :-1].log().mean(dim=0).exp(), found.mean(dim=0)
    best = int((relative <= (1 + AS_GOOD) * relative.min()).int().argmax())  # taus fall
    return taus[best], float(mean[best]), float(mean[-1])


def _consistent(case: HeldOutSlice, x0: Tensor, taus: Sequence[float]) -> Tensor:
    """Images that agree with the data, for every tau, by the iterations of ``data_consistency``."""
    op, ridge = case.batch.op, floored_variance(case.batch.noise_std)
    residual = op.adjoint(case.batch.measured) - op.normal(x0)
    shifts = torch.stack([ridge / tau**2 for tau in taus])
    return x0 + shifted_solutions(op.normal, residual, shifts, n_iter=FINAL_CG)


REFERENCES = {"held_out_cg_sense": CgSense(), "held_out_l1_wavelet": L1Wavelet()}
"""The classical methods, which every prior must beat, by the names of their held-out errors."""


@torch.no_grad()
def reference_errors(case: HeldOutSlice) -> dict[str, float]:
    """Held-out errors of the classical methods on a slice."""
    images = {name: method(None, case.batch, []) for name, method in REFERENCES.items()}
    return {name: case.error(img) for name, img in images.items()}


class References:
    """Held-out errors of the classical methods, measured once a slice and kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, float]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json_object(path.read_bytes())
            self.known = {k: {n: float(e[n]) for n in REFERENCES} for k, e in stored.items()}

    def of(self, case: HeldOutSlice) -> dict[str, float]:
        """Those of a slice."""
        if case.name not in self.known:
            self.known[case.name] = reference_errors(case)
            write_json(self.path, self.known)
        return self.known[case.name]

    def mean(self, cases: Sequence[HeldOutSlice]) -> dict[str, float]:
        """The means over slices."""
        known = [self.of(case) for case in cases]
        return {name: sum(errors[name] for errors in known) / len(known) for name in REFERENCES}


class Validator:
    """Validates the averaged weights of a run and writes them as its prior.

    ``facts`` are those of the prior before the first step. Without ``cases``, the validation
    slices, weights are only checked to be finite. ``errors`` are the held-out errors so far, and
    ``seconds`` is what a validation takes, once it is known.
    """

    def __init__(
        self,
        run: RunFolder,
        facts: PriorFacts,
        cases: Sequence[HeldOutSlice],
        patience: int,
        on_case: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.run, self.facts, self.cases, self.patience = run, facts, cases, patience
        self.on_case, self.seconds = on_case, 0.0
        self.references = References(run.references)
        self.errors: list[float] = []
        self.checked_at: int | None = None
        self.prior: Prior
        self.figures: dict[str, float] = {}

    @property
    def has_settled(self) -> bool:
        """Whether the held-out error has not fallen for ``patience`` validations."""
        if not self.patience or not self.errors:
            return False
        return len(self.errors) - 1 - int(np.argmin(self.errors)) >= self.patience

    def measure_time(self, net: Denoiser) -> None:
        """Find out on one slice what a validation takes, its pictures included."""
        started = time.monotonic()
        if self.cases:
            self._fit(net, self.cases[:1])
            n_previews = min(N_PREVIEWS, len(self.cases))
            self.seconds = (time.monotonic() - started) * (len(self.cases) + n_previews)

    def _fit(
        self, net: Denoiser, cases: Sequence[HeldOutSlice], deadline: float = math.inf
    ) -> dict[str, float]:
        """The figures on these cases, or on the first, where no more fit in before the deadline."""
        n_done, started = len(cases), time.monotonic()

        def is_next(done: int) -> bool:
            nonlocal n_done
            n_done = done
            self.references.of(cases[done - 1])
            self.on_case(done, len(cases))
            now = time.monotonic()
            return now + (now - started) / done < deadline

        tau, error, without = fit_tau(Prior(net, self.facts), cases, is_next)
        figures = {"held_out": error, "held_out_no_dc": without, "tau": tau}
        figures |= self.references.mean(cases[:n_done])
        return figures if n_done == len(cases) else figures | {"n_slices": n_done}

    def __call__(
        self, net: Denoiser, *, images: int, skipped: int, deadline: float = math.inf
    ) -> dict[str, float]:
        """Validate averaged weights, fit tau, and write the prior and its previews.

        It ends without previews where no further slice fits in before the deadline (of
        ``time.monotonic``), and the figures say on how many slices they were measured.

        Returns:
            Held-out errors of the prior and of the classical methods, and tau; empty without cases.

        Raises:
            MriAmbientError: the prior gives values that are not finite, or cannot be written.
        """
        if self.checked_at == images:
            return self.figures
        started = time.monotonic()
        figures: dict[str, float] = {}
        if self.cases:
            figures = self._fit(net, self.cases, deadline)
        finite = all(bool(parameter.isfinite().all()) for parameter in net.parameters())
        if not (finite and math.isfinite(figures.get("held_out", 0.0))):
            raise MriAmbientError(
                f"{self.run.path}: training diverged: after {images} images the prior gives values "
                "that are not finite, and was not written; train into another folder with a "
                "smaller learning_rate (--learning-rate) or the precision fp32 (--precision fp32)"
            )
        self.prior = self._prior(net, figures, images, skipped)
        self.checked_at, self.figures = images, figures
        save_prior(self.prior, self.run.prior)
        if "n_slices" not in figures:
            self._draw_previews(self.prior, figures.get("tau", 0.0))
        self.seconds = time.monotonic() - started
        return figures

    def _prior(self, net: Denoiser, figures: dict[str, float], images: int, skipped: int) -> Prior:
        card: dict[str, Any] = {
            **self.facts.card,
            "images_seen": images,
            "steps_skipped": skipped,
            "parameters": n_parameters(net),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        }
        facts = self.facts
        if figures:
            card["held_out"] = figures
        if figures and Prior(net, facts).mask_conditioned:  # the others' is the error of a sample
            facts = replace(facts, tau=figures["tau"])
        return Prior(net, replace(facts, card=card))

    def keep_best(self) -> None:
        """With patience, keep the prior just validated if its error is the smallest so far."""
        error = self.figures.get("held_out", math.nan)
        if self.patience and error < min(self.errors, default=math.inf):
            save_prior(self.prior, self.run.best_prior)
        if math.isfinite(error):
            self.errors.append(error)

    def best(self) -> Prior:
        """The prior just validated or, with patience, the best one, which becomes the run's prior.

        Without validation slices that can still be read, the errors cannot be compared; nor those
        on a part of them.
        """
        if not (self.patience and self.run.best_prior.exists() and self.figures):
            return self.prior
        best = load_prior(self.run.best_prior)
        known = best.facts.card["held_out"]
        if known["held_out"] >= self.figures["held_out"] and "n_slices" not in self.figures:
            return self.prior
        with atomic_path(self.run.prior) as path:
            shutil.copyfile(self.run.best_prior, path)
        if "n_slices" not in self.figures:
            self._draw_previews(best, known["tau"])
        return best

    @torch.no_grad()
    def _draw_previews(self, prior: Prior, tau: float) -> None:
        """Draw magnitudes of some validation slices, by method."""
        from ..plots import draw_previews, save_figure  # matplotlib is slow to import

        rows = []
        for case in self.cases[:N_PREVIEWS]:
            estimated = estimate(prior.to(case.batch.ksp.device), case)
            images = {
                "zero-filled": ZeroFilled()(None, case.batch, []),
                "CG-SENSE": CgSense()(None, case.batch, []),
                "prior + data consistency": _consistent(case, estimated, [tau])[0],
            }
            n_sets = case.batch.op.n_sets
            rows.append({k: magnitude(img, n_sets)[0].cpu() for k, img in images.items()})
        if rows:
            save_figure(draw_previews(rows), self.run.path / "preview.png")
