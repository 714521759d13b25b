"""Removing readout oversampling, exactly and in the image domain."""

from torch import Tensor

from ..physics.axis_fourier import fftc, ifftc
from ..physics.patterns import readout_is_full
from ..scan import Scan


def remove_oversampling(scan: Scan, n_rows: int) -> Scan:
    """Cut the readout's field of view to its central ``n_rows`` rows.

    The transforms are orthonormal, so pixel values and the noise per sample do not change. This
    cut and the later crop to the final matrix keep the same pixels as fastMRI's single crop.

    Raises:
        ValueError: the readout is not fully sampled, or has fewer than ``n_rows`` rows.
    """
    if n_rows == scan.shape[0]:
        return scan
    if n_rows > scan.shape[0] or not readout_is_full(scan.mask):
        raise ValueError(f"cannot cut the readout of {scan.scan_id} {scan.shape} to {n_rows} rows")
    n_final = min(scan.recon_shape[0], n_rows)
    top = (scan.shape[0] - n_final) // 2 - (n_rows - n_final) // 2
    mask = scan.mask[:, :n_rows]
    calib = None if scan.calib is None else _cut_rows(scan.calib, top, n_rows)
    ksp = _cut_rows(scan.ksp, top, n_rows).masked_fill_(~mask, 0)
    return scan.with_step("remove-oversampling", ksp=ksp, mask=mask, calib=calib)


def _cut_rows(ksp: Tensor, top: int, n_rows: int) -> Tensor:
    """K-space ``(slice, coil, n_rows, x)`` of the image rows from ``top`` on."""
    cut = ksp.new_empty((*ksp.shape[:2], n_rows, ksp.shape[-1]))
    for new, coil in zip(cut.flatten(0, 1), ksp.flatten(0, 1), strict=True):
        # One coil at a time: a whole slice would need several times its memory.
        new.copy_(fftc(ifftc(coil, dim=-2)[top : top + n_rows], dim=-2))
    return cut
