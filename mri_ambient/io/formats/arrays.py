"""Scans in memory, read like files: k-space of Python users, raw or prepared."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArrayError, ScanFormatError
from ...physics.patterns import calibration_block
from ..hdf5 import check_finite
from ..sampling import Ksp, Sampling, find_sampling
from ..scan_file import ScanFile
from .axes_guess import refuse_other_axes, refuse_phase_encoded_slices, refuse_swapped_axes
from .stored_arrays import StoredArray

if TYPE_CHECKING:
    from ...scan import Scan


class ArrayFile(ScanFile):
    """A scan held in memory, raw or prepared; its path is only a name, for outputs.

    Slices count from 0, whatever slices of a volume the scan holds. A prepared scan has the facts
    and maps of a :class:`~mri_ambient.io.PreparedFile`.

    Raises:
        ArrayError: the scan is neither raw nor prepared.
        ScanFormatError: its k-space holds NaN or Inf.
    """

    format = "array"

    def __init__(self, scan: Scan) -> None:
        import torch  # of which scans are made

        super().__init__(f"{scan.scan_id}.h5")
        self.scan_id = scan.scan_id
        self.prepared = _is_prepared(scan)
        self._scan = replace(scan, ksp=scan.ksp.to("cpu", torch.complex64).resolve_conj())
        check_finite(self._scan.ksp.numpy(), f"{self.path}: k-space")
        n_slices, n_coils = scan.ksp.shape[:2]
        self.shape = (n_slices, n_coils, *scan.shape)
        self.recon_shape, self.voxel_mm = scan.recon_shape, scan.voxel_mm
        self.noise = None if scan.noise is None else scan.noise.numpy(force=True)
        self.noise_std, self.noise_source = scan.noise_std, scan.noise_source
        self.scale = scan.scale
        self.calib_shape = calibration_block(scan.mask)
        if scan.calib is not None and not self.prepared:
            self.calib_mask = scan.calib.flatten(0, 1).any(dim=0)[None].numpy(force=True)
        self.qc: dict[str, Any] = {}

    def check_axes(self) -> None:
        """Refuse a raw scan whose axes are hardly ``(slice, coil, y, x)``, as files are refused.

        Raises:
            ArrayError: its sizes or samples contradict them.
        """
        if self.prepared:
            return
        ksp = self._scan.ksp.numpy()
        array = StoredArray(Path(self.scan_id), "k-space", ksp.shape, partial(nullcontext, ksp))
        try:
            refuse_other_axes(array, ("slice", "coil", "y", "x"))
            refuse_swapped_axes(array)
            refuse_phase_encoded_slices(array)
        except ScanFormatError as error:
            reason = str(error).partition("; name ")[0]  # after which files are named options
            raise ArrayError(
                f"{reason}; transpose it to (slice, coil, y, x), of a 3-D scan after a Fourier "
                "transform along its readout; if these are its axes, give mri_ambient.io.ArrayFile("
                "scan), scan = Scan.from_numpy(array)"
            ) from None

    @cached_property
    def sampling(self) -> Sampling:
        """Where k-space was sampled: by the mask; columns never acquired are found as in a file."""
        mask = self._scan.mask.numpy(force=True)
        if self.prepared or self._scan.acquired is not None:
            return Sampling(mask, self._scan.acquired_columns.numpy(force=True))
        return find_sampling(self.path, self.read_ksp, self.shape, mask[0])

    @cached_property
    def sha256(self) -> str:
        """Hash of all that a reconstruction depends on."""
        scan, digest = self._scan, hashlib.sha256()
        for part in (scan.ksp, scan.mask, scan.noise, scan.maps, scan.calib):
            if part is not None:
                digest.update(part.numpy(force=True).tobytes())
        columns = None if scan.acquired is None or bool(scan.acquired.all()) else scan.acquired
        others = {
            "acquired": columns,
            "given_maps": scan.given_maps,
            "coil_transform": scan.coil_transform,
        }
        for name, part in others.items():
            if part is not None:
                digest.update(name.encode() + part.numpy(force=True).tobytes())
        if (scan.noise_std, scan.scale) != (None, 1.0):
            digest.update(repr((scan.noise_std, scan.scale)).encode())
        return digest.hexdigest()

    def read_ksp(self, index: int) -> Ksp:
        """K-space of one slice, complex64 ``(coil, y, x)``."""
        return self._scan.ksp[index].clone().numpy()

    def read_calib(self, index: int) -> Ksp | None:
        """Separate calibration lines of one slice, complex64 ``(coil, y, x)``, or None."""
        calib = self._scan.calib
        return None if calib is None else calib[index].clone().numpy(force=True)

    def __getitem__(self, index: int | slice) -> Scan:
        if self._scan.maps is None:
            return super().__getitem__(index)
        chosen = self._chosen(index)
        ksp, maps = self._scan.ksp[list(chosen)], self._scan.maps[list(chosen)]
        return replace(
            self._scan, ksp=ksp, maps=maps, slices=chosen, acquired=self._scan.acquired_columns
        )


def _is_prepared(scan: Scan) -> bool:
    if scan.maps is not None and scan.noise_std is not None:
        return True
    if (scan.maps, scan.noise_std, scan.coil_transform, scan.scale) == (None, None, None, 1.0):
        return False
    raise ArrayError(
        f"{scan.scan_id}: neither raw nor prepared (steps: {', '.join(scan.steps) or 'none'}); "
        "give the scan as measured, or with both maps and noise_std"
    )
