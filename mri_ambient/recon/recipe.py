"""The recipe: everything that decides a reconstruction, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from .._version import __version__
from ..data_prep import PrepConfig
from ..errors import ConfigError
from ..io.scan_file import ScanFile
from ..methods.base import Method
from ..methods.presets import PRESETS, default_method, method_with_options
from ..physics.mask_spec import MaskSpec
from ..priors.checkpoint import load_prior
from ..priors.prior import DenoiserSource
from ..priors.weights import default_prior
from ..runtime.config import check_number
from ..runtime.device import Runtime
from ..runtime.files import as_json
from .adaptation import Adaptation

DEFAULT_SAMPLES = 4
"""Samples of a stochastic method, unless a number or a preset is given."""

POSTERIOR, ESTIMATES = "posterior samples", "estimates with a spread"
"""What samples are called."""


@dataclass(frozen=True)
class Checks:
    """What is checked of every slice beside the data residual, without a reference.

    Attributes:
        n_held_out: measured outer lines to hold out, for a second reconstruction that predicts
            them; 0 for none.
        flags: flag slices that do not fit the prior or the data.
    """

    n_held_out: int = 0
    flags: bool = False

    def __post_init__(self) -> None:
        check_number("lines to hold out", self.n_held_out, 0, whole=True)


@dataclass(frozen=True)
class Recipe:
    """How to reconstruct: all that decides the result.

    Attributes:
        method: a key of ``METHODS``, a preset ("fast", "balanced", "quality"), or an instance with
            its own options, e.g. ``L1Wavelet(lam=0.01)``; by default what suits the prior.
        options: of the method, if it is given by its name: values, or the text of values.
        prior: a prior, its file, a run folder or the name of a shipped prior; by default the one
            that ships with the package. Baselines do not use it.
        seed: of all random numbers.
        n_samples: samples per slice of a stochastic method, whose mean is the image; by default
            that of the preset, or 4.
        keep_samples: keep the samples beside their mean.
        checks: what is checked of every slice.
        preparation: noise, coils, calibration.
        retrospective: a mask for a fully sampled scan, or the acceleration of random lines.
        adapt: how the prior is adapted to the scan first, e.g. ``AdaptConfig()``; by default it is
            used as it is.
    """

    method: str | Method | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    prior: DenoiserSource | str | Path | None = None
    seed: int = 0
    n_samples: int | None = None
    keep_samples: bool = False
    checks: Checks = field(default_factory=Checks)
    preparation: PrepConfig = field(default_factory=PrepConfig)
    retrospective: MaskSpec | float | None = None
    adapt: Adaptation | None = None

    def __post_init__(self) -> None:
        for name, kinds, wanted in (
            ("method", (str, Method, NoneType), "a name or an instance, e.g. L1Wavelet()"),
            ("prior", (str, Path, DenoiserSource, NoneType), "a prior or the path of one"),
            ("options", Mapping, "a dictionary"),
            ("seed", Integral, "a whole number"),
            ("n_samples", (Integral, NoneType), "a whole number"),
            ("checks", Checks, "Checks(...)"),
            ("preparation", PrepConfig, "PrepConfig(...)"),
            ("retrospective", (MaskSpec, Real, NoneType), "MaskSpec(...) or a number"),
            ("adapt", (Adaptation, NoneType), "AdaptConfig(...)"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ConfigError(f"{name} of a recipe is {value!r}, wanted {wanted}")

    def resolve(self) -> ResolvedRecipe:
        """The recipe with its method made and its prior loaded, on the CPU.

        Raises:
            ConfigError: there is no such method or option, options were given with a preset or a
                method instance, or the prior cannot be adapted.
            CheckpointError: the prior cannot be read.
        """
        prior, chosen = self.prior, self.method
        if chosen is None:
            prior = _loaded(prior)
            chosen = default_method(prior)
        method, n_samples = _method(chosen, self.options)
        n_samples = n_samples if self.n_samples is None else self.n_samples
        if n_samples < 1:
            raise ConfigError(f"at least one sample is needed, got {n_samples} (n_samples)")
        mask = self.retrospective
        if mask is not None and not isinstance(mask, MaskSpec):
            mask = MaskSpec("random", float(mask))
        loaded = _loaded(prior) if method.needs_prior else None
        if loaded is not None and self.adapt is not None:
            self.adapt.check(loaded)
        return ResolvedRecipe(
            method=method,
            prior=loaded,
            seed=self.seed,
            n_samples=n_samples if method.stochastic else 1,
            keep_samples=self.keep_samples and method.stochastic,
            checks=self.checks,
            preparation=self.preparation,
            mask=mask,
            adapt=None if loaded is None else self.adapt,
        )


def _method(chosen: str | Method, options: Mapping[str, Any]) -> tuple[Method, int]:
    """The method, and the number of samples it draws by default."""
    if isinstance(chosen, str) and chosen not in PRESETS:
        return method_with_options(chosen, options), DEFAULT_SAMPLES
    if options:
        raise ConfigError(
            f"a preset or a method instance has its own options, got {sorted(options)} as well; "
            "leave them out, or name the method"
        )
    if isinstance(chosen, Method):
        return chosen, DEFAULT_SAMPLES
    return PRESETS[chosen].method, PRESETS[chosen].n_samples


def _loaded(prior: DenoiserSource | str | Path | None) -> DenoiserSource:
    if prior is None or isinstance(prior, (str, Path)):
        return load_prior(prior or default_prior())
    return prior


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with its method made and its prior loaded; the rest as in :class:`Recipe`.

    Attributes:
        prior: that of the method; None for baselines.
        n_samples: samples per slice; 1 for methods that are not stochastic.
        mask: the retrospective mask, or None.
        adapt: how the prior is adapted first; None for baselines.
    """

    method: Method
    prior: DenoiserSource | None = None
    seed: int = 0
    n_samples: int = 1
    keep_samples: bool = False
    checks: Checks = field(default_factory=Checks)
    preparation: PrepConfig = field(default_factory=PrepConfig)
    mask: MaskSpec | None = None
    adapt: Adaptation | None = None

    def resolve(self) -> ResolvedRecipe:
        """Itself."""
        return self

    def with_method(self, method: Method) -> ResolvedRecipe:
        """The same for one image by a method that needs no prior."""
        changes: dict[str, Any] = {"prior": None, "n_samples": 1, "keep_samples": False}
        return replace(self, method=method, adapt=None, **changes)

    @property
    def prior_sha256(self) -> str | None:
        """Hash of the prior's file; None for one that has no file, and for baselines."""
        return None if self.prior is None else self.prior.card.get("sha256")

    @property
    def reproducible(self) -> bool:
        """Whether :meth:`settings` identify the result; not so for a prior that has no file."""
        return self.prior is None or self.prior_sha256 is not None

    @property
    def calibration(self) -> dict[str, Any] | None:
        """The entry of the prior's card for this method, its options and number of samples."""
        if self.prior is None:
            return None
        wanted = (self.method.name, method_options(self.method), self.n_samples)
        entries = self.prior.card.get("calibration", ())
        same = (e for e in entries if (e["method"], e["options"], e["n_samples"]) == wanted)
        return next(same, None)

    @property
    def std_factor(self) -> float:
        """What the standard deviation of the samples is multiplied by; 1 if it is uncalibrated."""
        return 1.0 if self.calibration is None else float(self.calibration["factor"])

    @property
    def samples_are(self) -> str | None:
        """What the samples may be called; None if the method is not stochastic.

        Only a plain prior, which is given the whole state, samples the posterior: one under masks
        uses the data a second time, or is never given all of the state. And the method must do so
        with these options; A-DPS never does.
        """
        if not self.method.stochastic:
            return None
        plain = self.prior is not None and not self.prior.mask_conditioned
        return POSTERIOR if plain and self.method.draws_posterior else ESTIMATES

    def precision(self, runtime: Runtime) -> str:
        """The precision of the networks; fp32 for methods without."""
        return "bf16" if self.method.needs_prior and runtime.bf16 else "fp32"

    def settings(self, file: ScanFile, runtime: Runtime) -> dict[str, Any]:
        """All that decides the result, as plain values: how a finished file is recognised."""
        facts: dict[str, Any] = {"input_sha256": file.sha256}
        if file.volume:
            facts["volume"] = file.volume
        of_recipe = {"retrospective"} if self.mask is not None else set()
        if reading := {key: v for key, v in file.reading.items() if key not in of_recipe}:
            facts["reading"] = reading
        return as_json(facts) | self.choices(runtime)

    def choices(self, runtime: Runtime | None = None) -> dict[str, Any]:
        """The settings without those of the scan; without a runtime, those that do more than round.

        Two machines may share the scans of a folder, and compute in different precision.
        """
        rounding: dict[str, Any] = {}
        if runtime is not None:
            rounding["precision"] = self.precision(runtime)
            rounding["compiled"] = runtime.compile and self.method.needs_prior
        return as_json(
            {
                "method": {"name": self.method.name} | method_options(self.method),
                "prior_sha256": self.prior_sha256,
                "seed": self.seed,
                "n_samples": self.n_samples,
                "keep_samples": self.keep_samples,
                **rounding,
                "version": __version__,
                "prep": self.preparation.as_dict(),
                "mask": None if self.mask is None else asdict(self.mask),
                "adapt": None if self.adapt is None else self.adapt.settings(),
                "checking": {"n_hidden": self.checks.n_held_out, "flags": self.checks.flags},
            }
        )

    def provenance(self, runtime: Runtime) -> dict[str, Any]:
        """How images are made: method, prior, seed, samples, precision, versions, device."""
        return {
            "method": self.method.name,
            "method_options": method_options(self.method),
            "prior_sha256": self.prior_sha256,
            "seed": self.seed,
            "n_samples": self.n_samples,
            "samples_are": self.samples_are,
            "precision": self.precision(runtime),
            "version": __version__,
            "torch": torch.__version__,
            "std_factor": self.std_factor,
            "device": str(runtime.torch_device),
        }


def settings_that_differ(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> set[str]:
    """Names of settings that differ.

    Args:
        wanted: of :meth:`ResolvedRecipe.settings`, or some of them.
        stored: what something was made with; what only this has counts for nothing, but how a scan
            was read if ``wanted`` is about a scan.
    """
    of_scan = {"reading"} if "input_sha256" in wanted else set()
    return {key for key in wanted.keys() | of_scan if wanted.get(key) != stored.get(key)}


CALLED = {
    "prior_sha256": "prior (-m)",
    "checking": "checks: n_held_out, flags (--holdout, --warn)",
    "input_sha256": "another file of this name",
    "prep": "preparation: noise_std, map_sets, ... (--noise-std, --map-sets, ...)",
    "mask": "retrospective (--retrospective)",
    "reading": "how the file is read: mask, axes, dataset, centre, acs "
    "(--mask, --axes, --dataset, --centre, --acs)",
}
"""What settings are called where they differ."""


def in_words(differing: Iterable[str], wanted: Mapping[str, Any]) -> str:
    """Settings that differ; those that follow from another method are left out.

    Args:
        differing: their names, as of :func:`settings_that_differ`.
        wanted: the settings of the call.
    """
    other = {"fp32": "bf16", "bf16": "fp32"}.get(wanted.get("precision", ""), "")
    called = {**CALLED, "precision": f"precision (--precision {other})"}
    follow = {"precision", "prior_sha256", "compiled"} if "method" in differing else set()
    names = sorted(key for key in differing if key not in follow)
    return ", ".join(called.get(key, key) for key in names)


def method_options(method: Method) -> dict[str, Any]:
    """The options of a method by name."""
    return asdict(method)  # type: ignore[call-overload, no-any-return]
