"""ParaVision scans: a folder with raw data and its parameter files, written from k-space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def text_of(value: object) -> str:
    """A parameter's value: strings in brackets, arrays on lines after their shape, names as is."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence | np.ndarray):
        flat = np.asarray(value)
        shape = ", ".join(str(n) for n in flat.shape)
        words = [str(x) for x in flat.ravel().tolist()]
        lines = [" ".join(words[i : i + 10]) + " " for i in range(0, len(words), 10)]
        return f"( {shape} )\n" + "\n".join(lines)
    return str(value)


def parameter_file(values: Mapping[str, object]) -> str:
    """As ParaVision writes it, with comments."""
    lines = [f"##${name}={text_of(value)}" for name, value in values.items()]
    head = "##TITLE=Parameter List, ParaVision 6.0.1\n##JCAMPDX=4.24\n$$ 2026-01-01 user@host\n"
    middle = len(lines) // 2
    body = [*lines[:middle], "$$ @vis= ACQ_size", *lines[middle:]]
    return head + "\n".join(body) + "\n##END=\n"


def parameters(
    shape: tuple[int, ...], n_coils: int, n_slices: int = 1, **other: object
) -> dict[str, object]:
    """Of a fully sampled scan of matrix ``shape`` (readout, lines[, partitions])."""
    is_3d = len(shape) == 3
    values: dict[str, object] = {
        "Method": "<Bruker:FLASH>",
        "PULPROG": "( 32 )\n<FLASH.ppg>",
        "ACQ_protocol_name": "( 64 )\n<T2 test>",
        "ACQ_sw_version": "( 65 )\n<PV 6.0.1>",
        "ACQ_patient_pos": "Head_Supine",
        "ACQ_dim": len(shape),
        "ACQ_dim_desc": f"( {len(shape)} )\n" + " ".join(["Spatial"] * len(shape)),
        "ACQ_size": [2 * shape[0], *shape[1:]],
        "ACQ_phase_factor": 1,
        "NI": n_slices,
        "NSLICES": n_slices,
        "NR": 1,
        "ACQ_obj_order": list(range(n_slices)),
        "ACQ_grad_matrix": np.tile(np.eye(3), (n_slices, 1, 1)),
        "ACQ_read_offset": [0.0] * n_slices,
        "ACQ_phase1_offset": [0.0] * n_slices,
        "ACQ_slice_offset": [2.0 * i for i in range(n_slices)],
        "ACQ_n_echo_images": 1,
        "ACQ_word_size": "_32_BIT",
        "AQ_mod": "qdig",
        "BYTORDA": "little",
        "GO_raw_data_format": "GO_32BIT_SGN_INT",
        "GO_block_size": "Standard_KBlock_Format",
        "PVM_EncNReceivers": n_coils,
        "PVM_EncMatrix": list(shape),
        "PVM_Matrix": list(shape),
        "PVM_EncSteps1": [i - shape[1] // 2 for i in range(shape[1])],
        "PVM_EncSteps2": [i - shape[2] // 2 for i in range(shape[2])] if is_3d else [0],
        "PVM_Fov": [2.0 * n for n in shape],
        "PVM_SliceThick": 1.5,
        "PVM_SpatDimEnum": "<3D>" if is_3d else "<2D>",
    }
    return values | other


def write_scan(
    folder: Path,
    readouts: NDArray[np.complex64],
    values: Mapping[str, object],
    *,
    name: str = "fid",
    word: str = "<i4",
    fill_up: bool = True,
) -> Path:
    """Readouts ``(readout, coil, sample)`` in the order acquired, and the parameters.

    Args:
        folder: of the scan.
        readouts: whole numbers, unless ``word`` is a float.
        values: parameters.
        name: of the raw data.
        word: type of a number.
        fill_up: whether every readout of all coils fills blocks of 1024 bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.stack([readouts.real, readouts.imag], axis=-1).reshape(len(readouts), -1)
    numbers = numbers.astype(word)
    if fill_up:
        block = -(-numbers.shape[1] * numbers.itemsize // 1024) * 1024 // numbers.itemsize
        numbers = np.pad(numbers, [(0, 0), (0, block - numbers.shape[1])])
    numbers.tofile(folder / name)
    is_acqp = {key: key.startswith(("ACQ", "N", "GO", "BYT", "AQ", "PULP")) for key in values}
    for file, wanted in (("acqp", True), ("method", False)):
        chosen = {key: value for key, value in values.items() if is_acqp[key] == wanted}
        (folder / file).write_text(parameter_file(chosen), "latin-1")
    return folder
