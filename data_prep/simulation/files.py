"""Simulated multi-coil scans, written as fastMRI files (see :mod:`.scan_model`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ...errors import ConfigError, ScanFormatError
from ...io.hdf5 import LOCK, H5Writer, open_h5, read_attributes
from ...io.header import build_header
from ...physics.crop import image_crop
from ...physics.fourier import ifft2c
from ...physics.patterns import achieved_acceleration, is_line_mask
from ...rng import rng_for
from ...runtime.executor import Processes, completed
from ...runtime.files import json_object, make_folder
from .images import ImageSource, open_images
from .scan_model import ScanModel, SimulateConfig


def simulate(
    images: str | Path | ImageSource,
    output: str | Path,
    config: SimulateConfig | None = None,
    *,
    count: int | None = None,
    workers: int = 0,
    overwrite: bool = False,
    on_scan: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Simulate scans, one fastMRI file for each, named after its image; in the seed's order.

    No image is scanned twice, because two masks of one image together sample more than one scan.
    The choice of images and every number in a file follow from the seed and the image's name alone.
    Existing scans are kept, so an interrupted call can be repeated.

    Args:
        images: a folder or zip archive of pictures, NIfTI, ``"phantom"`` or a source.
        output: folder for the files; made if needed.
        config: how to simulate; the defaults if None.
        count: number of scans; by default one for every image.
        workers: processes to spread the scans over; 0 works in this one.
        overwrite: replace existing scans.
        on_scan: called with each file when it is finished, or if it existed.

    Raises:
        ConfigError: no images, fewer than ``count``, an unreadable one, or files in ``output``
            that were simulated with another configuration.
    """
    config, output, source = config or SimulateConfig(), Path(output), open_images(images)
    names = _choose(source, config, count)
    make_folder(output)
    paths = [output / f"{name}.h5" for name in names]
    for path in paths:
        _check_replaceable(path, config, overwrite=overwrite)
    finished = {} if overwrite else {path: None for path in paths if path.exists()}
    todo = [job for job in zip(names, paths, strict=True) if job[1] not in finished]
    task = partial(_simulate_one, source, config)
    made = (path for _, path in completed(Processes(workers), task, todo))
    for path in chain(finished, made):
        if on_scan is not None:
            on_scan(path)
    return paths


def _simulate_one(source: ImageSource, config: SimulateConfig, job: tuple[str, Path]) -> Path:
    name, path = job
    rng = rng_for(config.seed, name, "object")
    anatomy = source.read(name, config.size, config.slices, rng)
    write_scan(ScanModel(anatomy, config, name), path)
    return path


def write_scan(model: ScanModel, path: Path) -> None:
    """Write a scan in the fastMRI layout, slice by slice, under a temporary name first."""
    with LOCK, H5Writer(path) as writer:
        _write_slices(writer.file, model)
        _write_facts(writer.file, model)


def _write_slices(file: h5py.File, model: ScanModel) -> None:
    n_slices, config = len(model.img), model.config
    shape = (model.n_coils, *model.encoded_shape)
    # Undersampled k-space is mostly zeros: gzip removes them and is readable everywhere.
    storage: dict[str, Any] = {} if config.full else {
        "chunks": (1, *shape), "compression": "gzip", "compression_opts": 1, "shuffle": True,
    }  # fmt: skip
    kspace = file.create_dataset("kspace", (n_slices, *shape), np.complex64, **storage)
    target = np.empty((n_slices, *config.size), np.float32)
    for index in range(n_slices):
        ksp = model.measure(index)
        kspace[index] = ksp.numpy()
        if config.full:
            rss = ifft2c(ksp).abs().square().sum(dim=0).sqrt()
            target[index] = image_crop(rss, config.size).numpy()
    if config.full:
        file.create_dataset("reconstruction_rss", data=target)
        file.attrs["max"] = float(target.max())
        file.attrs["norm"] = float(np.linalg.norm(target))


def _write_facts(file: h5py.File, model: ScanModel) -> None:
    config, mask = model.config, model.mask
    fov_y, fov_x = model.fov_mm
    file["ismrmrd_header"] = build_header(
        encoded_shape=model.encoded_shape,
        recon_shape=config.size,
        encoded_fov_mm=(config.readout_oversampling * fov_y, fov_x),
        recon_fov_mm=model.fov_mm,
        slice_mm=model.slice_mm,
        n_slices=len(model.img),
        n_coils=model.n_coils,
        padding=model.acquired,
    )
    if not config.full:
        by_line = is_line_mask(mask)
        file["mask"] = (mask[0, 0] if by_line else mask[0]).numpy()
        acquired = torch.zeros(mask.shape[-1], dtype=torch.bool)
        acquired[slice(*model.acquired)] = True
        file.attrs["acceleration"] = achieved_acceleration(mask, acquired)
        file.attrs["num_low_frequency"] = config.calib
    file.attrs["acquisition"] = "SIMULATED"
    file.attrs["patient_id"] = hashlib.sha256(model.subject.encode()).hexdigest()
    file.attrs["mri_ambient_simulation"] = json.dumps(model.provenance(), sort_keys=True)


def _choose(source: ImageSource, config: SimulateConfig, count: int | None) -> list[str]:
    """Names of the images to scan, in an order that adding images does not change."""
    if count is not None and count < 1:
        raise ConfigError(f"the number of scans must be at least 1, got {count}")
    names = source.names(count, config.slices)
    if count is not None and count > len(names):
        raise ConfigError(
            f"{count} scans need {count} images, found {len(names)}; no image is scanned twice, so "
            "simulate fewer scans or give more images"
        )

    def place(name: str) -> str:
        return hashlib.sha256(f"{config.seed}/{name}".encode()).hexdigest()

    return sorted(names, key=place)[:count]


def _check_replaceable(path: Path, config: SimulateConfig, *, overwrite: bool) -> None:
    """Refuse to replace anything but a simulated scan, or one of other settings by accident."""
    if not path.exists():
        return
    try:
        with open_h5(path, for_text=True) as file:
            found = json_object(str(read_attributes(file)["mri_ambient_simulation"]))["config"]
            found = SimulateConfig().as_json() | found  # options that there were not yet
    except (ScanFormatError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: exists and is not a simulated scan, so it is not overwritten; choose another "
            "folder"
        ) from error
    if found != config.as_json() and not overwrite:
        raise ConfigError(
            f"{path}: was simulated with other settings; give overwrite=True (--overwrite) or "
            "choose another folder"
        )
