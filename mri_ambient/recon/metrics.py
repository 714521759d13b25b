"""Image quality against a reference, in the numbers of fastMRI's own evaluator.

One volume at a time: a volume is what a scanner normalises together, so its largest reference
value is the data range of PSNR and SSIM. The definitions are those of Zbontar et al. 2018
(arXiv 1811.08839); precision is that of the arrays given, as there, because SSIM subtracts
nearly equal numbers and float32 files would otherwise give other digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ScanFormatError
from ..physics.crop import image_crop

ReferenceKind = Literal["rss", "esc", "sense"]
"""What a reference image was made of: the root sum of squares of the coils, fastMRI's emulated
single coil, or a coil combination with maps."""

SSIM_WINDOW = 7
"""Side of SSIM's uniform window, in pixels."""


@dataclass(frozen=True)
class VolumeMetrics:
    """How near a reconstructed volume is to its reference.

    Attributes:
        nmse: squared error over squared reference, 0 when equal.
        psnr: peak signal-to-noise ratio in dB, infinite when equal.
        ssim: structural similarity, the mean over slices; 1 when equal.
        cropped: whether fastMRI's square crop was applied (it changes nothing on square images).
            False where images are wider than tall: fastMRI's evaluator refuses those, so such a
            score has no published counterpart.
        reference: what the reference is; the kinds differ by up to 0.15 in SSIM.
    """

    nmse: float
    psnr: float
    ssim: float
    cropped: bool
    reference: ReferenceKind = "rss"


def evaluate_volume(
    reconstruction: ArrayLike, target: ArrayLike, *, reference: ReferenceKind = "rss"
) -> VolumeMetrics:
    """Score a volume as ``fastmri.evaluate`` does, with its crop.

    Both volumes are cut to the central square as wide as the target. Images wider than tall have
    no such square; they are scored whole and ``cropped`` is False.

    Args:
        reconstruction: magnitudes ``(slice, y, x)``, in the units of ``target``; an array or an
            open HDF5 dataset. It may be larger than the square, never smaller.
        target: the reference, magnitudes ``(slice, y, x)``.
        reference: what the target is; stored in the result.

    Raises:
        ScanFormatError: the volumes do not fit each other, are empty, too small for SSIM, complex
            or not finite, or the target is zero everywhere.
    """
    target_volume = _volume(target, "reference")
    volume = _volume(reconstruction, "reconstruction")
    height, width = target_volume.shape[-2:]
    cropped = width <= height
    if cropped:
        target_volume, volume = _central_square(target_volume, volume, width)
    return VolumeMetrics(
        **volume_metrics(target_volume, volume), cropped=cropped, reference=reference
    )


def volume_metrics(target: ArrayLike, reconstruction: ArrayLike) -> dict[str, float]:
    """NMSE, PSNR and SSIM of one volume, uncropped; see :func:`evaluate_volume`.

    With the volume maximum m of the target t, and r the reconstruction:
    ``nmse = |t - r|^2 / |t|^2``, ``psnr = 10 log10(m^2 / mean((t - r)^2))``, and ``ssim`` the mean
    over slices of SSIM with data range m and a 7x7 uniform window.
    """
    from skimage.metrics import structural_similarity  # slow to import

    t, r = _volume(target, "reference"), _volume(reconstruction, "reconstruction")
    if t.shape != r.shape:
        raise ScanFormatError(
            f"the reconstruction is {r.shape} and the reference {t.shape} (slice, y, x); "
            "score volumes of the same slices and matrix"
        )
    if min(t.shape[-2:]) < SSIM_WINDOW:
        raise ScanFormatError(
            f"images of {t.shape[-2]}x{t.shape[-1]} pixels are smaller than SSIM's window; "
            f"both sides must be at least {SSIM_WINDOW}"
        )
    peak = t.max()
    if not peak > 0:
        raise ScanFormatError(
            f"the reference has maximum {peak:g}, so there is nothing to compare with; "
            "check that it holds magnitudes of the right scan"
        )
    nmse = float(np.linalg.norm(t - r) ** 2 / np.linalg.norm(t) ** 2)
    mse = float(np.mean((t - r) ** 2, dtype=np.float64))
    psnr = float(10 * np.log10(float(peak) ** 2 / mse)) if mse > 0 else float("inf")
    ssim = [  # of values near 1: their fourth power must be a number in single precision
        structural_similarity(a, b, data_range=1.0, win_size=SSIM_WINDOW)  # type: ignore[no-untyped-call]
        for a, b in zip(t / peak, r / peak, strict=True)
    ]
    return {"nmse": nmse, "psnr": psnr, "ssim": float(np.mean(ssim))}


def _volume(values: ArrayLike, name: str) -> NDArray[Any]:
    """The values as a real, finite ``(slice, y, x)`` array in their own precision."""
    volume = np.asarray(values)
    if volume.ndim != 3 or 0 in volume.shape:
        raise ScanFormatError(
            f"the {name} has shape {volume.shape}; a volume is (slice, y, x) and not empty"
        )
    if np.iscomplexobj(volume):
        raise ScanFormatError(f"the {name} is {volume.dtype}; take its magnitude first")
    if not np.issubdtype(volume.dtype, np.floating):
        volume = volume.astype(np.float64)
    n_bad = int(volume.size - np.isfinite(volume).sum())
    if n_bad:
        raise ScanFormatError(f"the {name} holds {n_bad} values that are not finite")
    return volume


def _central_square(
    target: NDArray[Any], reconstruction: NDArray[Any], side: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The middle ``side`` x ``side`` pixels of both volumes, as fastMRI cuts them."""
    height, width = reconstruction.shape[-2:]
    if height < side or width < side:
        raise ScanFormatError(
            f"the reconstruction's images are {height}x{width} pixels, smaller than the "
            f"{side}x{side} centre of the reference that fastMRI scores; reconstruct to the "
            "reference's matrix"
        )
    return image_crop(target, (side, side)), image_crop(reconstruction, (side, side))
