"""The same scan by methods that need no prior, and the image of all of its samples if it has them.

These are what a report shows beside a reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ScanFormatError, collected
from ..methods.baselines import Baseline, L1Wavelet, ZeroFilled
from ..runtime.prefetch import prefetch
from .engine import Engine
from .metrics import ReferenceKind, evaluate_volume
from .recipe import Checks, ResolvedRecipe
from .slice_store import SliceStore
from .volume import OnSlice, Volume

COMPARED: tuple[Baseline, ...] = (ZeroFilled(), L1Wavelet())
"""What a reconstruction is compared with, unless it was made by one of them."""


@dataclass(frozen=True)
class Comparison:
    """Images of a scan beside its reconstruction, magnitudes in the units of the file.

    Attributes:
        volume: the scan, and the recipe of the reconstruction.
        stores: finished slices of the other methods, by name of the method.
        reference: what the image of all samples is, and its slices ``(slice, y, x)``; None if the
            scan is undersampled.
        metrics: of the other methods against it, by name of the method.
    """

    volume: Volume
    stores: dict[str, SliceStore]
    reference: tuple[ReferenceKind, Tensor] | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def images(self, index: int) -> dict[str, Tensor]:
        """One slice ``(y, x)`` by every other method, by name of the method."""
        return {name: _magnitude(store, index) for name, store in self.stores.items()}

    def residuals(self, name: str) -> list[float]:
        """Data residual of every slice by a method, in units of the noise."""
        checks, _, _ = self.stores[name].report()
        return [check["data_residual"] for check in checks]


def compare(volume: Volume, folder: Path, on_slice: OnSlice | None = None) -> Comparison:
    """Reconstruct a scan by the methods of :data:`COMPARED`; a slice is prepared once for all.

    Args:
        volume: the scan, and the recipe of the reconstruction that it is compared with.
        folder: where finished slices are kept, so that an interrupted call can be resumed; it can
            be removed when the comparison is no longer used.
        on_slice: called with (done, total) after every slice.

    Raises:
        MriAmbientError: a slice cannot be reconstructed or stored.
    """
    others = [method for method in COMPARED if method.name != volume.recipe.method.name]
    recipes = {method.name: _by(method, volume.recipe) for method in others}
    stores = {
        name: SliceStore(folder / name, recipe.settings(volume.file, volume.runtime))
        for name, recipe in recipes.items()
    }
    with collected():  # the reconstruction gave them
        _reconstruct_missing(volume, recipes, stores, on_slice)
        reference = None if volume.reference is None else volume.reference.main()
    metrics = {} if reference is None else _scores(stores, *reference)
    return Comparison(volume, stores, reference, metrics)


def _by(method: Baseline, recipe: ResolvedRecipe) -> ResolvedRecipe:
    return replace(recipe.with_method(method), checks=Checks())


def _reconstruct_missing(
    volume: Volume,
    recipes: Mapping[str, ResolvedRecipe],
    stores: Mapping[str, SliceStore],
    on_slice: OnSlice | None,
) -> None:
    file, preparation = volume.file, volume.preparation
    engines = {name: Engine(recipe, volume.runtime) for name, recipe in recipes.items()}
    missing = [i for i in range(len(file)) if not all(i in store for store in stores.values())]
    scans = prefetch(file[i] for i in missing)
    with closing(scans), ExitStack() as writing:
        for store in stores.values():
            writing.enter_context(store)
        for done, scan in enumerate(scans, start=1 + len(file) - len(missing)):
            prepared = preparation.apply(scan)
            for name, engine in engines.items():
                (result,) = engine([prepared])
                stores[name].add(prepared, result, preparation.noise.std, [])
            if on_slice is not None:
                on_slice(done, len(file))


def _scores(
    stores: Mapping[str, SliceStore], kind: ReferenceKind, reference: Tensor
) -> dict[str, dict[str, Any]]:
    """Metrics by method; none if the reference does not fit, of which the report has a warning."""
    scores = {}
    for name, store in stores.items():
        images = torch.stack([_magnitude(store, index) for index in range(len(reference))])
        with suppress(ScanFormatError):
            metrics = evaluate_volume(images.numpy(), reference.numpy(), reference=kind)
            scores[name] = asdict(metrics)
    return scores


def _magnitude(store: SliceStore, index: int) -> Tensor:
    return store.read(index).images["img"].abs()
