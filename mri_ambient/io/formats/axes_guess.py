"""Which axes a k-space array has, judged by its sizes and its samples.

Y and x are the two longest axes, of which y comes first. Of every other axis the samples tell what
it can be. Along a phase encode, energy is concentrated at k = 0. Coils see one object: their small
images agree in every small patch up to a factor, which varies over the field of view. Slices differ
inside a patch about as much as over the field of view. Frames may be sampled at different places.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from ...errors import ScanFormatError, warn
from ..image_space import magnitudes
from ..names import name_of
from .named_axes import FLAT, PEAKED, SMALLEST_SIDE, Axes, NamedArray, check_centre, peak
from .stored_arrays import StoredArray

MAX_COILS = 128
LIKE_COILS, UNLIKE_COILS = 6.0, 3.0
"""How many times more the images of coils differ over the field of view than inside a patch.

Measured: 10 to 16 for the coils of three brain scans, 21 for BART's phantom, 1.5 to 2.3 for slices
of brains."""

FEWEST_ALONE = 3
"""Images of one coil, or coils of one slice, that are told from each other."""

SAME = 0.0005
"""Difference below which images may be copies of one slice; 0.008 to 0.1 between real slices."""

CENTRE = 24
"""Samples around k = 0 that the small images are made of."""

PATCH = 4
"""Side of a patch of these images, in pixels."""

FEWEST_PARTITIONS = 5
"""Of a 3-D scan that is recognised by its samples."""

PARTITIONS, BESIDE = 2.2, 0.2
"""Energy of all entries over the largest, and the largest energy of entries that are no neighbours
of that one, below which an axis is a phase encode. Partitions: at most 1.9 and 0.15 (2.5 and 0.16
of an animal, a phase to every slice); slices: at least 2.5 and 0.29, of five or more."""

FEW_PARTITIONS, FEW_BESIDE = 1.3, 0.1
"""The same for three or four entries, of which it is only a suspicion: slices have at least 1.3 and
0.15."""

TWO_SIDED = 0.04
"""Least energy of the weaker neighbour of the largest entry, over that of the other one: at least
0.08 along phase encodes; slices that darken away from a coil have less."""

ABOVE_NOISE = 4.0
"""Energy around k = 0 over that of the outer rows, above which an entry holds signal."""

FEW = 8
"""Entries of an axis that are compared where the format names the axes."""


def guess_axes(array: StoredArray) -> NamedArray:
    """Name the axes of an array if exactly one reading is plausible.

    Raises:
        ScanFormatError: none is, or there are several, which the message lists; or k = 0 is at an
            edge.
    """
    readings = plausible_axes(array)
    shape = " x ".join(map(str, array.shape))
    if len(readings) == 1:
        axes = ",".join(readings[0])
        return NamedArray(array, readings[0], f"the axes {shape} were taken to be {axes}")
    if not readings:
        raise ScanFormatError(
            f"{array.where} is {shape}, in which no k-space was recognised; name its axes "
            "(axes, e.g. --axes slice,coil,y,x)"
        )
    raise ScanFormatError(
        f"{array.where} is {shape}; which axes these are cannot be told from the data; name them: "
        f"{_listed(readings)}"
    )


def refuse_swapped_axes(array: StoredArray) -> None:
    """Refuse k-space ``(coil, slice, y, x)`` that is taken for ``(slice, coil, y, x)``.

    The images along the first axis must clearly be those of coils, and the others those of slices,
    if there is more than one.

    Raises:
        ScanFormatError: they are; damaged slices are left to those who read them.
    """
    n_slices, n_coils, *_ = array.shape
    if n_slices < FEWEST_ALONE if n_coils == 1 else n_slices == 1:
        return
    try:
        along_slices = coil_contrast(_few(array, 0))[0]
        along_coils = coil_contrast(_few(array, 1))[0] if n_coils > 1 else 0
    except ScanFormatError:
        return  # reading the damaged slice names it
    if along_slices > LIKE_COILS and along_coils < along_slices / 2:
        raise ScanFormatError(
            f"{array.where} is {' x '.join(map(str, array.shape))}, of which the first axis was "
            "taken for slices, but its images show one object, as those of coils do, and those of "
            "the second axis do not; name the axes (--axes coil,slice,y,x, or, if they are "
            "right, --axes slice,coil,y,x)"
        )


def refuse_phase_encoded_slices(array: StoredArray) -> None:
    """Refuse k-space ``(slice, coil, y, x)`` of a 3-D scan whose first axis is a phase encode.

    Raises:
        ScanFormatError: it is; damaged slices are left to those who read them.

    Warns:
        NumericalWarning: W-UNEVEN-SLICES: it may be.
    """
    n = array.shape[0]
    if n < FEWEST_ALONE:
        return
    try:
        energies = _signal(array)
        if not energies.any():
            energies = _signal(array, at_corner=True)
    except ScanFormatError:
        return  # reading the damaged slice names it
    found = is_phase_encode(energies)
    shape = " x ".join(map(str, array.shape))
    if found:
        raise ScanFormatError(
            f"{array.where} is {shape}, of which the first axis was taken for slices, but its "
            "energy is concentrated in one place, as along a phase encode; name the axes of a 3-D "
            "scan (--axes z,coil,y,x, y its readout) or, if they are slices, its axes (--axes "
            "slice,coil,y,x)"
        )
    if found is None:
        warn(
            "W-UNEVEN-SLICES",
            f"{name_of(array.path)}: of {n} slices, {int(energies.argmax())} holds most of the "
            "energy, as along the phase encode of a 3-D scan",
        )


def _signal(array: StoredArray, *, at_corner: bool = False) -> NDArray[np.float64]:
    """Energy around k = 0 ``(slice,)`` of k-space ``(slice, coil, y, x)``, 0 where it is noise.

    ``at_corner``: k = 0 lies at the first index of y and x.
    """
    rows, columns = map(_centre, array.shape[2:])
    edge = slice(max(1, array.shape[2] // 8))
    energies = np.zeros(array.shape[0])
    for index in range(len(energies)):
        if at_corner:
            plane = np.fft.fftshift(
                array.read((index, slice(None), slice(None), slice(None))), (1, 2)
            )
            parts = [plane[:, part, columns] for part in (rows, edge)]
        else:
            parts = [array.read((index, slice(None), part, columns)) for part in (rows, edge)]
        middle, outer = (float((np.abs(part).astype(float) ** 2).mean()) for part in parts)
        energies[index] = middle if middle > ABOVE_NOISE * outer else 0
    return energies


def is_phase_encode(energies: NDArray[np.float64]) -> bool | None:
    """Whether entries of an axis are those of a phase encode, by their energies around k = 0.

    Energy is concentrated in one entry, wherever it is, and its two neighbours; the first and last
    entry are neighbours too. Slices have about the same energy as those beside them.

    Args:
        energies: ``(entry,)``, 0 for entries without signal.

    Returns:
        None if it may be.
    """
    n, place = len(energies), int(energies.argmax())
    if n < FEWEST_ALONE or energies[place] == 0:
        return False
    from_peak = np.roll(energies, -place) / energies[place]
    whole, beside = float(from_peak.sum()), float(from_peak[2:-1].max(initial=0))
    if n < FEWEST_PARTITIONS:
        near = whole < PARTITIONS and n > FEWEST_ALONE and beside < FEW_BESIDE
        return None if whole < FEW_PARTITIONS or near else False
    if whole >= PARTITIONS:
        return False
    weaker, stronger = sorted((float(from_peak[1]), float(from_peak[-1])))
    alone = stronger == beside == 0 and place != n // 2
    certain = beside < BESIDE and weaker >= TWO_SIDED * stronger and not alone
    return True if certain else None


def _few(array: StoredArray, axis: int) -> NDArray[np.complex64]:
    """Samples around k = 0 of a few entries of axis 0 or 1, ``(entry, y, x)``."""
    selection = _middle(array)
    selection[2:] = [_centre(n) for n in array.shape[2:]]
    n = array.shape[axis]
    indices = np.unique(np.linspace(0, n - 1, min(n, FEW)).astype(int)).tolist()
    if axis == 1:  # of one slice, which is often compressed as a whole
        selection[1] = slice(None)
        coils: NDArray[np.complex64] = array.read(tuple(selection))[indices]
        return coils
    return np.stack([array.read((index, *selection[1:])) for index in indices])


def _centre(n: int) -> slice:
    """The samples around k = 0 of an axis."""
    n_kept = min(CENTRE, n)
    first = n // 2 - n_kept // 2
    return slice(first, first + n_kept)


def refuse_other_axes(array: StoredArray, axes: Axes) -> None:
    """Refuse an array whose sizes or samples contradict the names of its axes.

    Raises:
        ScanFormatError: there are more coils than rows or columns, or the slices are coils.
    """
    n = dict(zip(axes, array.shape, strict=True))
    n_coils = n.get("coil", 1)
    fits = n_coils <= min(MAX_COILS, n["y"], n["x"])
    if fits and ("coil" in axes or axes in (plausible_axes(array) or [axes])):
        return
    shape, named = " x ".join(map(str, array.shape)), ",".join(axes)
    raise ScanFormatError(
        f"{array.where} is {shape}, which are hardly {named}; name its axes: "
        f"{_listed(plausible_axes(array))}"
    )


def _listed(readings: list[Axes]) -> str:
    """As the argument and the option, at most four of them; an example where there are none."""
    words = [",".join(axes) for axes in readings[:4]] or ["y,x,coil,slice, for example"]
    return f"axes (--axes {' or '.join(words)})"


def plausible_axes(array: StoredArray) -> list[Axes]:
    """All readings of an array that its sizes and samples allow."""
    shape = array.shape
    order = sorted(range(len(shape)), key=lambda axis: -shape[axis])
    matrix, others = sorted(order[:2]), sorted(order[2:])
    if shape[order[1]] < SMALLEST_SIDE or not _is_plane(array, matrix):
        return []
    names = ["1" if shape[axis] == 1 else "" for axis in range(len(shape))]
    names[matrix[0]], names[matrix[1]] = _rows_and_columns(array, matrix)
    choices = [_names_of(array, axis, matrix) if not names[axis] else ["1"] for axis in others]
    readings = []
    for chosen in product(*choices):
        known = [name for name in chosen if name != "1"]
        if len(set(known)) == len(known):
            for axis, name in zip(others, chosen, strict=True):
                names[axis] = name
            readings.append(tuple(names))
    return readings


def _middle(array: StoredArray) -> list[int | slice]:
    """The indices of the entry in the middle."""
    return [n // 2 for n in array.shape]


def _plane(
    array: StoredArray, matrix: list[int], place: dict[int, int] | None = None
) -> NDArray[np.complex64]:
    """Samples over the two longest axes, in the middle of the others or at a given place."""
    selection = _middle(array)
    for axis, index in (place or {}).items():
        selection[axis] = index
    for axis in matrix:
        selection[axis] = slice(None)
    return array.read(tuple(selection))


def _is_plane(array: StoredArray, matrix: list[int]) -> bool:
    """Whether k = 0 lies in both of the longest axes."""
    energy = np.abs(_plane(array, matrix)).astype(float) ** 2
    for axis, name in enumerate("yx"):
        check_centre(energy.sum(axis=1 - axis), name, array.where)
    return all(peak(energy.sum(axis=axis)) > FLAT for axis in (0, 1))


def _rows_and_columns(array: StoredArray, matrix: list[int]) -> tuple[str, str]:
    """Y and x, or x and y where whole rows were left out: x is the phase encode."""
    sampled = _plane(array, matrix) != 0
    rows, columns = sampled.any(axis=1), sampled.any(axis=0)
    return ("x", "y") if columns.all() and not rows.all() else ("y", "x")


def _names_of(array: StoredArray, axis: int, matrix: list[int]) -> list[str]:
    """What an axis can be besides y and x."""
    if _sampling_varies(array, axis, matrix):
        return ["time"]
    selection = _middle(array)
    selection[axis] = slice(None)
    for along in matrix:
        selection[along] = _centre(array.shape[along])
    block = array.read(tuple(selection))
    block = np.moveaxis(block, sorted([*matrix, axis]).index(axis), 0)
    energies = (np.abs(block).astype(float) ** 2).sum(axis=(1, 2))
    height, encoded = peak(energies), is_phase_encode(energies)
    contrast, difference = coil_contrast(block)
    names = ["z"] if height > FLAT or encoded is not False else []
    if (height > PEAKED or encoded) and contrast <= UNLIKE_COILS:  # not compressed coils
        return names
    if contrast > UNLIKE_COILS and len(block) <= MAX_COILS:
        names.append("coil")
    if contrast < LIKE_COILS or len(block) > MAX_COILS:
        names += ["slice"] if difference > SAME else ["slice", "rep"]
    return names


def _sampling_varies(array: StoredArray, axis: int, matrix: list[int]) -> bool:
    """Whether entries of an axis hold samples at different places."""
    n = array.shape[axis]
    first, *others = (_plane(array, matrix, {axis: index}) != 0 for index in (0, n // 2, n - 1))
    # An empty slice tells nothing.
    return any(hit.any() and (hit ^ first).sum() > 0.1 * first.sum() > 0 for hit in others)


def coil_contrast(block: NDArray[np.complex64]) -> tuple[float, float]:
    """How much small images differ over the field of view, over that in patches, and by itself.

    The images are vectors over the first axis, one a pixel. What part of their energy lies outside
    one common direction is compared: one for the field of view, and one for every patch.

    Args:
        block: samples around k = 0, ``(image, y, x)``.
    """
    (n, ny, nx), side = block.shape, PATCH
    window = np.hanning(ny + 2)[1:-1, None] * np.hanning(nx + 2)[1:-1]
    images = magnitudes((block * window).astype(np.complex64)).astype(float)
    images = images[:, : ny // side * side, : nx // side * side]
    patches = images.reshape(n, ny // side, side, nx // side, side).transpose(1, 3, 0, 2, 4)
    patches = patches.reshape(-1, n, side * side)
    energy = (patches**2).sum(axis=(1, 2))
    patches = patches[energy > 0.1 * energy.max()]
    inside = patches @ patches.transpose(0, 2, 1)
    difference = _outside(inside.sum(axis=0)[None])
    return difference / max(_outside(inside), 1e-6), difference


def _outside(products: NDArray[np.float64]) -> float:
    """Part of the energy outside the main directions of matrices ``(n, image, image)``."""
    total = float(np.trace(products, axis1=1, axis2=2).sum())
    return 1 - float(np.linalg.eigvalsh(products)[:, -1].sum()) / total if total > 0 else 0.0
