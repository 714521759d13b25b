"""Options as the records that the library takes: a recipe and a runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mri_ambient as ma
from mri_ambient.errors import ConfigError, unknown_name

from .console import print_line
from .parse import merge_options

if TYPE_CHECKING:
    from mri_ambient.recon.folder import Destination
    from mri_ambient.recon.recipe import ResolvedRecipe

FLAGS = {"n_steps": "--steps", "lam": "--lambda", "final_dc": "--no-final-dc"}
"""Options of methods with an option of their own."""

NVIDIA = Path("/dev/nvidiactl")
"""Is there if the machine has an NVIDIA GPU with its driver."""


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


def retrospective_mask(
    acceleration: float | None, mask_type: str | None, calib_lines: int | None
) -> ma.MaskSpec | None:
    """The mask that undersamples full scans, if there is to be one."""
    if acceleration is not None:
        lines = 20 if calib_lines is None else calib_lines
        return ma.MaskSpec(mask_type or "random", acceleration, lines)
    if mask_type is not None or calib_lines is not None:
        raise ConfigError(
            "--mask-type and --calib-lines describe the mask of --retrospective; give it too"
        )
    return None
