"""Raw data of Bruker ParaVision 5, 6, 7 and 360: a folder with ``fid`` or ``rawdata.job0``.

The parameters beside it (``acqp``, ``method``) say how its readouts are ordered, from the fastest:
lines of an echo train (``ACQ_phase_factor``), objects (slices and echoes, ``ACQ_obj_order``),
groups of lines, partitions, repetitions. ``PVM_EncSteps1`` holds the phase-encoding step of every
line, 0 at the centre of k-space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ScanFormatError
from ..runtime.files import file_sha256
from .geometry import Geometry
from .jcamp import Parameters, read_parameters
from .readouts import ReadoutFile, Readouts
from .scan_file import Contents

RAW_FILES = ("fid", "rawdata.job0")
"""Raw data of a scan; the first that is there is read."""

NOT_SUPPORTED = {
    "EPI": "EPI without its corrections",
    "EPSI": "spectroscopy",
    "SPIRAL": "spiral",
    "UTE": "radial",
    "ZTE": "radial",
    "RADIAL": "radial",
    "CSI": "spectroscopy",
    "PRESS": "spectroscopy",
    "STEAM": "spectroscopy",
    "ISIS": "spectroscopy",
    "SPECT": "spectroscopy",
    "SINGLEPULSE": "spectroscopy",
    "FIELDMAP": "the order of a field map",
}
"""What is not a Cartesian image, by a part of the name of its method or pulse program."""

WORDS = {
    "GO_32BIT_SGN_INT": "i4", "GO_16BIT_SGN_INT": "i2", "GO_32BIT_FLOAT": "f4",
    "STORE_32bit_signed": "i4", "STORE_64bit_float": "f8", "_32_BIT": "i4", "_16_BIT": "i2",
}  # fmt: skip

TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""From ParaVision's coordinates of the subject (R to L, P to A, F to H by their names: left,
front and head) to those of DICOM."""

SUBJECT_OF_MAGNET = {
    "Head_Supine": np.diag([-1.0, 1.0, -1.0]),
    "Head_Prone": np.diag([1.0, -1.0, -1.0]),
    "Head_Left": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]]),
    "Head_Right": np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]]),
    "Foot_Supine": np.eye(3),
    "Foot_Prone": np.diag([-1.0, -1.0, 1.0]),
    "Foot_Left": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    "Foot_Right": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}
"""From coordinates of the magnet, in which ParaVision 360 writes directions, to the subject's."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
