"""Errors and warnings a user can meet.

The command line turns an error into one line and an exit code. Every message says what was found,
what was wanted and what to do. It names the argument of Python and, in parentheses behind it, the
option of the command line: ``noise_std (--noise-std)``. Programmer mistakes are ``ValueError`` and
``TypeError`` and keep their traceback; of several scans, one fails by an :class:`InternalError`.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = str(Path(__file__).parent) + os.sep


class MriAmbientError(Exception):
    """Anything a user can cause and repair."""


class ScanFormatError(MriAmbientError):
    """A file is not a scan we can read, or its content cannot be right."""


class ArrayError(ScanFormatError, ValueError):
    """An array in memory is no scan, or what was given with it does not fit it."""


class PrepError(MriAmbientError):
    """A scan was read but cannot be prepared (no calibration block, all zeros, ...)."""


class CheckpointError(MriAmbientError):
    """A prior or checkpoint file is damaged, foreign, or does not fit what it is used for."""


class ConfigError(MriAmbientError):
    """Options that cannot work, alone or together."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error about a name that there is not, with those that there are."""
    names = list(known)
    hint = close_to(name, names)
    return ConfigError(f"{what} {name!r} is unknown{hint}; choose from {', '.join(names)}")


def close_to(name: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)`` where a name is nearly one of those known, whatever the case."""
    names = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), list(names), 1)
    return f" (did you mean {names[close[0]]}?)" if close else ""


class OutputExistsError(MriAmbientError):
    """What would be written is there already and was made with other settings."""


class BusyError(MriAmbientError):
    """Another process is making what would be written.

    Attributes:
        settings: what it makes it with, where it says so.
    """

    def __init__(self, message: str, settings: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.settings = settings


class StoppedError(MriAmbientError):
    """Stopped before there was anything to keep."""


class DeviceError(MriAmbientError):
    """No usable device, or out of memory after backing off."""


class DeviceLostError(DeviceError):
    """The device no longer works; another one may."""


class InternalError(MriAmbientError):
    """A mistake of ours that cost one of several cases; the others go on.

    Attributes:
        trace: its traceback, as text.
    """

    def __init__(self, text: str, trace: str = "") -> None:
        super().__init__(text)
        self.trace = trace

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """That of an exception which nobody expected."""
        text = f"internal error: {type(error).__name__}: {error} (please report it)"
        return cls(text, "".join(traceback.format_exception(error)))


WARNINGS: dict[str, str] = {
    # runtime
    "W-CPU-FALLBACK": "The device has too little memory; the rest is computed on the CPU.",
    # io
    "W-ATTRIBUTE": "An attribute of the file is damaged and was left out.",
    "W-AXES-GUESSED": "Check the image, or name the axes (axes, --axes).",
    "W-EVEN-PARTITIONS": "Look at the image; if these are slices, name them so (axes, --axes).",
    "W-UNEVEN-SLICES": "Look at the image; name the axes of a 3-D scan (axes, --axes z,coil,y,x).",
    "W-NO-HEADER": "Voxel size and final matrix come from an ISMRMRD header with the k-space.",
    "W-HEADER-MISMATCH": "The header belongs to another matrix; export both together.",
    "W-HEADER-LIMITS": "The header's encoding limits contradict the data and are ignored.",
    "W-IMAGE-SPACE": "Look at the image; centre (--centre header) takes it as k-space.",
    "W-CENTRE": "Look at the image; centre (--centre Y,X or header) says where k = 0 is.",
    "W-HALF-FOV": "Look at the image; centre (--centre header) leaves it where it was.",
    "W-RESIDUE": "Give the mask of what was measured (mask, --mask) if that is wrong.",
    "W-WEAK-SAMPLES": "Give the mask of what was measured: mask (--mask FILE).",
    "W-HEADER-COUNTS": "The data decides; check that header and data belong together.",
    "W-NOISE-DATASET": "Store noise-only samples as complex (coil, sample), or rename the dataset.",
    "W-EMPTY-SLICES": "These slices hold zeros only; their images are zero.",
    "W-MISSING-COLUMNS": "Check that the file is complete; these columns count as not sampled.",
    "W-MASK-ZEROS": "The mask calls positions sampled that hold zeros; they count as not sampled.",
    "W-OUTSIDE-MASK": "Data outside the mask is ignored; delete the mask to use it.",
    "W-MISSING-SLICES": "Check that the file is complete; the other slices are not affected.",
    "W-MISSING-LINES": "Check that the file is complete; these lines count as not sampled.",
    "W-GEOMETRY": "Images carry their voxel size only; export the scan again.",
    "W-SLICE-POSITIONS": "Check that no slice is missing; formats with one affine are refused.",
    "W-PARTIAL-READOUT": "Slices are less sharp along the readout; measure without partial echo.",
    "W-CALIBRATION-LINES": "Coil maps come from the centre of the image's own k-space.",
    "W-CENTRE-APART": "Look at the image; they must be of the same scan.",
    "W-REPETITIONS": "Look at the image; average only repetitions of an object that lay still.",
    "W-AVERAGES": "Look at the image; average only what differs by nothing but noise.",
    "W-TEMPLATE-OFFSET": "Other formats keep the scan's positions; check that it is this scan's.",
    "W-OLDER-FILES": "Save these formats again (formats, --save), or remove the files.",
    # data preparation
    "W-SPIKE": "Look at the image for stripes, and have the scanner checked.",
    "W-INTERFERENCE": "Look at the image for a line or point, and have the scanner checked.",
    "W-NOISE-COIL": "Have these coils checked; the image is that of the others.",
    "W-CUT-OFF": "Look at the image, and check the field of view that the header states.",
    "W-LOST-COIL": "Leave them out of all slices, or measure again; images are too dark near them.",
    "W-LINE-PHASE": "Look at the image for a ghost, and correct the phase of the lines (EPI).",
    "W-LINES": "Look at the image for movement or ghosts, and at how its lines were put together.",
    "W-CLIPPED": "Measure again with less gain; without its largest samples the image is wrong.",
    "W-CONJUGATE": "Export what was measured, or give the mask of it (mask, --mask).",
    "W-INTERPOLATED": "Export k-space as it was acquired, before any step that makes images of it.",
    "W-ONE-COIL": "Nothing but the mask separates aliased images; use several coils.",
    "W-NOISE-GIVEN": "K-space has another noise; check noise_std (--noise-std), or the noise scan.",
    "W-NOISE-SLICES": "Export the slices with one scale, or each into a file of its own.",
    "W-NOISE-LOW": "Give its noise (noise_std, --noise-std), or export the scan without a filter.",
    "W-BLANK-CALIBRATION": "No coil maps can be estimated there; these images are zero.",
    "W-FOLDED-FOV": "Use two sets of coil maps (map_sets=2, --map-sets 2).",
    "W-MAP-SETS": "Look at the image; other causes are moving heads and lines of unequal phase.",
    "W-SECOND-MAP": "Noise or a small field of view; compare with a less noisy scan.",
    "W-NOISY-CALIBRATION": "Acquire more calibration lines, or do not trust these slices.",
    "W-EMPTY-SUPPORT": "Look at the slices: ESPIRiT found nearly no signal.",
    "W-SCAN-FAILED": "The other scans are prepared.",
    "W-DUPLICATES": "Remove all but one file of each acquisition.",
    "W-COVERAGE": "Use scans with other masks, or vary the mask from scan to scan.",
    # methods
    "W-FIRST-LEVEL": "Choose sigma_max within the noise levels the prior was trained on.",
    # reconstruction
    "W-PRIOR-ACCELERATION": "Use a prior trained at this acceleration, and check held-out lines.",
    "W-PRIOR-MASK-KIND": "Use a prior trained on this kind of mask, and check held-out lines.",
    "W-PRIOR-EQUISPACED": "Use a prior trained on equispaced masks, and check held-out lines.",
    "W-PRIOR-WEAK": "Train longer or on more scans, use another prior, or a method without one.",
    "W-PRIOR-ONE-STEP": "Use method dds, or a mask-conditioned prior.",
    "W-UNCALIBRATED": "Run `mri-ambient audit calibration` to find the factor.",
    "W-CALIBRATION-OPTIONS": "Use the calibrated options, or calibrate these.",
    "W-CALIBRATION-RANGE": "Calibrate on scans like this one.",
    "W-TRAINED-ON-SCAN": "Judge the prior on scans it was not trained on.",
    "W-RESIDUAL": "Take more steps or another method, and look at the coil maps.",
    "W-FLAGGED": "Look at these slices; the JSON file says what each flag is.",
    "W-HELD-OUT-SKIPPED": "The image itself is not affected.",
    "W-REFERENCE": "The stored reference is not usable; the RSS of the k-space was used.",
    "W-NOT-SCORED": "Check that the reference fits the reconstruction.",
    # training
    "W-DAMAGED": "Prepare the file again, or restore it; the rest is used.",
    "W-PATIENTS-MIXED": "Add scans of more patients, and store patient_id.",
    "W-ROUND-KEPT": "Delete the later rounds to train this one further.",
}
"""Every warning by its code, and what to do about it; docs/reference/warnings.md explains each."""


WRONG_SAMPLES = frozenset(
    {
        "W-EVEN-PARTITIONS",
        "W-UNEVEN-SLICES",
        "W-WEAK-SAMPLES",
        "W-AVERAGES",
        "W-REPETITIONS",
        "W-LOST-COIL",
        "W-LINE-PHASE",
        "W-LINES",
        "W-CLIPPED",
        "W-CONJUGATE",
        "W-INTERPOLATED",
    }
)
"""Warnings that an image of all samples may be wrong: nothing is scored against it."""


class NumericalWarning(UserWarning):
    """The result was computed but deserves a look; it stands in the report as code and text.

    Attributes:
        code: a key of :data:`WARNINGS`, stable between versions.
        text: what was found.
    """

    def __init__(self, code: str, text: str) -> None:
        if code not in WARNINGS:
            raise ValueError(f"warning code {code!r} is not listed in errors.WARNINGS")
        super().__init__(code, text)
        self.code, self.text = code, text

    def __str__(self) -> str:
        return f"[{self.code}] {with_remedy(self.code, self.text)}"

    def as_dict(self) -> dict[str, str]:
        """Code and text, as reports hold them."""
        return {"code": self.code, "text": self.text}


def with_remedy(code: str, text: str) -> str:
    """The text of a warning, and what to do about it."""
    return f"{text}. {WARNINGS[code]}"


def warn(code: str, text: str) -> None:
    """Warn with a code of :data:`WARNINGS`; see :func:`issue`."""
    issue(NumericalWarning(code, text))


def issue(warning: NumericalWarning) -> None:
    """Issue a warning that names the line outside this package that led to it.

    Inside a block of :func:`collected`, it is put into its list instead.
    """
    if (given := _collected.get()) is not None:
        given.append(warning)
        return
    depth, level, frame = 1, 1, sys._getframe()
    while frame.f_back is not None:  # functions of other packages may lie between ours
        depth, level = depth + 1, depth + 1 if _is_ours(frame) else level
        frame = frame.f_back
    warnings.warn(warning, stacklevel=level)


_collected: ContextVar[list[NumericalWarning] | None] = ContextVar("collected", default=None)


@contextmanager
def collected() -> Iterator[list[NumericalWarning]]:
    """The numerical warnings of the block, of its thread alone; they are not issued."""
    given: list[NumericalWarning] = []
    before = _collected.set(given)
    try:
        yield given
    finally:
        _collected.reset(before)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PACKAGE)
