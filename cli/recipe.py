"""Options of reconstructions, and the recipe and the runtime that the library takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mri_ambient as ma
from mri_ambient.errors import ConfigError, unknown_name

from . import options as opt
from .console import print_line
from .parse import merge_options, parse_map_sets

if TYPE_CHECKING:
    from mri_ambient.data_prep import PrepConfig
    from mri_ambient.recon.folder import Destination
    from mri_ambient.recon.recipe import ResolvedRecipe

FLAGS = {"n_steps": "--steps", "lam": "--lambda", "final_dc": "--no-final-dc"}
"""Options of methods with an option of their own."""

NVIDIA = Path("/dev/nvidiactl")
"""Is there if the machine has an NVIDIA GPU with its driver."""


@dataclass(frozen=True)
class MethodAndPrior:
    """What reconstructs: :func:`make_recipe` takes the fields by their names."""

    method: opt.Method = None
    preset: opt.SamplingPreset = None
    prior: opt.PriorPath = None


@dataclass(frozen=True)
class MethodOptions:
    """How a method computes its images."""

    samples: opt.Samples = None
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Write the samples too (reconstruction_samples).")
    ] = False
    steps: opt.Steps = None
    final_dc: Annotated[
        bool,
        typer.Option(help="End with data consistency: aos; mask-conditioned dds, msm and pula."),
    ] = True
    option: opt.MethodOption = None
    lam: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Regularisation of cg-sense and l1-wavelet, for normalised images.",
            show_default="1.0 and 0.3 times the noise",
        ),
    ] = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of :func:`make_recipe`."""
        final_dc = None if self.final_dc else False
        return {
            "flags": {"n_steps": self.steps, "lam": self.lam, "final_dc": final_dc},
            "option": self.option,
            "samples": self.samples,
            "keep_samples": self.keep_samples,
        }


@dataclass(frozen=True)
class Preparing:
    """How raw scans are prepared."""

    noise_std: opt.NoiseStd = None
    map_sets: opt.MapSets = "auto"
    coils: opt.Coils = None
    energy: opt.Energy = None
    calib_width: opt.CalibWidth = 24

    @property
    def config(self) -> PrepConfig:
        """The options as the library takes them."""
        from mri_ambient.data_prep import PrepConfig

        return PrepConfig(
            n_coils=self.coils,
            energy=self.energy,
            calib_width=self.calib_width,
            noise_std=self.noise_std,
            map_sets=parse_map_sets(self.map_sets),
        )


@dataclass(frozen=True)
class Undersampling:
    """The mask that undersamples full scans, if there is to be one."""

    retrospective: opt.Retrospective = None
    mask_type: opt.MaskType = None
    calib_lines: opt.CalibLines = None

    @property
    def mask(self) -> ma.MaskSpec | None:
        """The mask as the library takes it."""
        if self.retrospective is not None:
            lines = 20 if self.calib_lines is None else self.calib_lines
            return ma.MaskSpec(self.mask_type or "random", self.retrospective, lines)
        if self.mask_type is not None or self.calib_lines is not None:
            raise ConfigError(
                "--mask-type and --calib-lines describe the mask of --retrospective; give it too"
            )
        return None


@dataclass(frozen=True)
class Computing:
    """How images are computed, on whatever device."""

    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Slices x samples computed at once.",
            show_default="2^16 pixels on a CPU, 2^22 on a GPU; halved if memory runs out",
        ),
    ] = None
    precision: opt.Precision = "auto"
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the networks first: minutes once, for volumes."),
    ] = False
    cpu_fallback: Annotated[
        bool, typer.Option("--cpu-fallback", help="Go on with the CPU where a GPU is too small.")
    ] = False

    def runtime(self, device: str, *, elsewhere: bool = False) -> ma.Runtime:
        """See :func:`make_runtime`."""
        options: dict[str, Any] = {"precision": self.precision, "batch_size": self.batch_size}
        options |= {"compile": self.compiled, "cpu_fallback": self.cpu_fallback}
        return make_runtime(device, elsewhere=elsewhere, **options)


def make_recipe(
    *,
    flags: Mapping[str, Any],
    option: Sequence[str] | None = None,
    method: str | None = None,
    preset: str | None = None,
    prior: Path | None = None,
    samples: int | None = None,
    keep_samples: bool = False,
    **more: Any,  # noqa: ANN401 -- any field of a recipe
) -> ResolvedRecipe:
    """The recipe of a command's options, with a note on every option that has no effect on it.

    ``flags`` are options of the method with an option of their own (None: not given), ``option``
    holds others as ``NAME=VALUE``, and ``more`` other fields of
    :class:`~mri_ambient.recon.recipe.Recipe`.

    Raises:
        ConfigError: there is no such method, option or preset, or a preset beside them.
        CheckpointError: the prior cannot be read.
    """
    from mri_ambient.methods import PRESETS

    options = merge_options(flags, option)
    if preset is not None:
        if method is not None or options:
            raise ConfigError(
                "--preset names a method with its options; leave out --method and options"
            )
        if preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS)
    try:
        recipe = ma.Recipe(
            preset or method, options, prior, n_samples=samples, keep_samples=keep_samples, **more
        ).resolve()
    except ConfigError as error:
        raise ConfigError(name_flags(str(error), flags)) from error
    if not recipe.method.stochastic and ((samples or 1) > 1 or keep_samples):
        print_line(f"note: {recipe.method.name} gives one image, so there are no samples")
    elif keep_samples and recipe.n_samples == 1:
        print_line("note: a single sample is the image itself, and is not written a second time")
    if prior is not None and recipe.prior is None:
        print_line(f"note: {recipe.method.name} does not use a prior, so {prior} is ignored")
    return recipe


def used_options(recipe: ResolvedRecipe, prior: Path | None) -> dict[str, Any]:
    """What a recipe took for options that may be left out, by their names without dashes.

    A preset is there as its method, options and samples: nothing depends on a default of today.
    ``prior`` is the one that was given, if one was.
    """
    from mri_ambient.priors.weights import DEFAULT
    from mri_ambient.recon.recipe import method_options

    options = {key: v for key, v in method_options(recipe.method).items() if v is not None}
    flags = {key: flag.removeprefix("--").removeprefix("no-") for key, flag in FLAGS.items()}
    used = {name: options.pop(key) for key, name in flags.items() if key in options}
    used |= {"preset": None, "method": recipe.method.name, "holdout": recipe.checks.n_held_out}
    used["option"] = [f"{key}={value}" for key, value in options.items()]
    if recipe.prior is not None:
        used["prior"] = str(prior or DEFAULT)
    if recipe.method.stochastic:
        used["samples"] = recipe.n_samples
    if recipe.mask is not None:
        used |= {"mask-type": recipe.mask.kind, "calib-lines": recipe.mask.calib}
    return used


def note_unused(to: Destination, recipe: ResolvedRecipe, adapt: str | None) -> None:
    """Print a note on what was asked for of the files and of an adaptation, and is not there."""
    from mri_ambient.recon.saving import formats_with_parts

    parts = to.options.parts
    if adapt is not None and recipe.adapt is None:
        print_line(f"note: {recipe.method.name} does not use a prior, so none is adapted")
    if parts != ("mag",) and not formats_with_parts(to.formats):
        print_line(
            f"note: --parts is for the formats {', '.join(formats_with_parts())}, none of which is "
            "saved (--save); the HDF5 file holds all"
        )
    elif "std" in parts and recipe.n_samples == 1:
        print_line("note: a single image has no standard deviation, so std is not saved")


def name_flags(text: str, flags: Mapping[str, Any]) -> str:
    """The text, with the flags given for options that it quotes: ``'n_steps' (--steps)``."""
    for name in (name for name, value in flags.items() if value is not None):
        text = text.replace(repr(name), f"{name!r} ({FLAGS[name]})")
    return text


def make_runtime(
    device: str,
    *,
    elsewhere: bool = False,
    **options: Any,  # noqa: ANN401 -- of the runtime
) -> ma.Runtime:
    """A runtime; a line is printed where torch cannot use a GPU that the machine has.

    ``elsewhere``: it is for the workers of a cluster, which look for the device themselves.

    Raises:
        DeviceError: the machine has no such device.
    """
    runtime = ma.Runtime(device, **options)
    if elsewhere:
        return runtime
    on_cpu = runtime.torch_device.type == "cpu"
    if device == "auto" and on_cpu and NVIDIA.exists():
        print_line("note: torch cannot use the GPU of this machine, computing on the CPU")
    return runtime
