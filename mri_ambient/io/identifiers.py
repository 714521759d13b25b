"""What tells who was scanned, when, where and by whom: it is read, but goes into no output.

Outputs carry only the attributes of :data:`NUMBERS` and :data:`TEXTS`, and of an ISMRMRD header
only what is in :data:`KEPT`. Patients are told apart by a hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .grid import ACQUIRED, REVERSED

NUMBERS = (
    "acceleration", "max", "norm", "num_low_frequency", "padding_left", "padding_right",
    "thickness_mm", "is_3d",
)  # fmt: skip
TEXTS = ("geometry", "mri_ambient_simulation")
"""Attributes of scans that are no identifiers: those that hold numbers, and text."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "acquisition": (
        "AXT1", "AXT1PRE", "AXT1POST", "AXT2", "AXFLAIR", "CORPD_FBK", "CORPDFS_FBK", "SIMULATED",
    ),
    "orientation_source": (ACQUIRED, REVERSED),
}  # fmt: skip
"""Those that may hold these words, of fastMRI and ours; anything else could be a name."""

KEPT: Mapping[str, tuple[str, ...] | None] = {
    "experimentalConditions": None,
    "encoding": (
        "encodedSpace", "reconSpace", "encodingLimits", "trajectory", "parallelImaging",
        "echoTrainLength",
    ),
    "sequenceParameters": None,
    "acquisitionSystemInformation": (
        "systemVendor", "systemFieldStrength_T", "relativeReceiverNoiseBandwidth",
        "receiverChannels",
    ),
    "measurementInformation": ("patientPosition", "protocolName"),
}  # fmt: skip
"""Elements of an ISMRMRD header, and of each its elements; None for all of them."""

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
ElementTree.register_namespace("", NAMESPACE)


def without_identifiers(attributes: Mapping[str, object]) -> dict[str, object]:
    """The attributes that outputs may carry; a patient's id as a hash."""
    found = {name: attributes[name] for name in NUMBERS if _is_number(attributes.get(name))}
    found |= {name: attributes[name] for name in TEXTS if isinstance(attributes.get(name), str)}
    found |= {
        name: attributes[name]
        for name, words in WORDS.items()
        if str(attributes.get(name)) in words
    }
    if patient := attributes.get("patient_id"):
        is_hash = re.fullmatch("[0-9a-f]{64}", str(patient)) is not None
        digest = hashlib.sha256(str(patient).encode("utf-8", "replace")).hexdigest()
        found["patient_id"] = str(patient) if is_hash else digest
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def header_without_identifiers(xml: str) -> str:
    """An ISMRMRD header, valid XML, with the elements of :data:`KEPT`; as it is if all are."""
    root = ElementTree.fromstring(xml)
    dropped = [_drop(root, tuple(KEPT))]
    dropped += [_drop(part, names) for part in root if (names := KEPT[_name(part)]) is not None]
    return ElementTree.tostring(root, encoding="unicode") if any(dropped) else xml


def _drop(parent: Element, kept: tuple[str, ...]) -> bool:
    """Remove other elements; whether there were any."""
    others = [child for child in parent if _name(child) not in kept]
    for child in others:
        parent.remove(child)
    return bool(others)


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]
