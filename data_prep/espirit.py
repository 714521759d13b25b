r"""Coil maps by ESPIRiT: where SENSE meets GRAPPA (Uecker et al. 2014, doi:10.1002/mrm.24751).

Every patch of ``k`` x ``k`` neighbouring samples in all ``C`` coils of a calibration block is a row
of the calibration matrix ``A``. Its right singular vectors above a threshold are kernels
``v_1 .. v_n`` that span the patches this object and these coils can produce. With ``V_i(r)`` the
inverse Fourier transform of kernel ``i`` at pixel ``r``, a vector over coils, the matrix

.. math:: G(r) = k^{-2} \sum_i V_i(r) V_i(r)^H, \qquad 0 \le G(r) \le 1,

leaves the true sensitivities unchanged wherever there is signal, ``G(r) S(r) = S(r)``: the map is
the eigenvector of the largest eigenvalue, and an eigenvalue below 1 says that nothing is there. A
second eigenvalue near 1 says that two places of the object share the pixel, because it is larger
than the field of view; one map cannot describe that (:func:`second_map_share`).

The maps equal those of the textbook computation; it is fast for three reasons.

* The kernels come from the Gram matrix of the shorter side of ``A``, not from its full SVD.
* Kernels have ``k`` taps, so ``G`` is a trigonometric polynomial of degree ``k - 1`` along each
  axis: its values on ``2k - 1`` points are all there is to know, and every pixel follows from them
  by a (real) Dirichlet interpolation, one small matrix product per axis.
* ``n`` power iterations are taken by repeated squaring, ``G^100 x = (G^32)^3 G^4 x``. In exact
  arithmetic this is the same iterate, and a chunk of pixels stays in the cache meanwhile.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import NumericalWarning, PrepError
from ..physics.fourier import center_crop
from ..physics.masks import MAX_CALIB, calibration_block

CROP = 0.9
"""Eigenvalue above which a pixel belongs to the support; :func:`espirit` says why."""

SECOND_MAP_LEVEL = 0.95
"""Eigenvalue above which a second map is as real as the first."""

SECOND_MAP_SHARE = 0.03
"""Share of the support with a second map above which one map is not enough."""

_CHUNK_BYTES = {"cpu": 3 * 2**20, "cuda": 128 * 2**20}  # what a chunk of G may take
_TINY = 1e-30


@dataclass(frozen=True)
class EspiritMaps:
    """Coil maps, and how far to trust them.

    Attributes:
        maps: sensitivities, complex64 ``(slice, coil, y, x)``; sum_c |S_c|^2 is 1 in the support
            and the maps are exactly 0 outside.
        eigenvalue: the largest eigenvalue of ``G``, 0 to 1, ``(slice, y, x)``.
        second_eigenvalue: the second largest, ``(slice, y, x)``; below 0.6 of the first it is a
            lower bound, seldom 0.01 too low.
    """

    maps: Tensor
    eigenvalue: Tensor
    second_eigenvalue: Tensor

    @property
    def support(self) -> Tensor:
        """Where there is a map, bool ``(slice, y, x)``."""
        return (self.maps != 0).any(dim=1)

    def to(self, device: torch.device | str) -> EspiritMaps:
        """The same on another device."""
        return EspiritMaps(
            self.maps.to(device), self.eigenvalue.to(device), self.second_eigenvalue.to(device)
        )


def espirit_maps(
    ksp: Tensor,
    calib_width: int = MAX_CALIB,
    *,
    kernel_width: int = 6,
    threshold: float = 0.02,
    crop: float = CROP,
    n_iter: int = 100,
) -> Tensor:
    """Coil maps from whatever calibration block the k-space holds.

    The block is the largest centred rectangle without gaps, each side at most ``calib_width``; a
    position counts as sampled where any coil of any slice is not exactly 0. Nothing else of the
    k-space is used. Where the mask is known, :func:`espirit` takes the block as given.

    Args:
        ksp: k-space on the full field of view, complex ``(slice, coil, y, x)``, 0 where it was not
            sampled.
        calib_width: longest side of the calibration block, in samples.
        kernel_width: see :func:`espirit`, as for the rest.
        threshold: see :func:`espirit`.
        crop: see :func:`espirit`.
        n_iter: see :func:`espirit`.

    Returns:
        Maps, complex64 ``(slice, coil, y, x)``.

    Raises:
        PrepError: the calibration block is smaller than the kernel, or holds only zeros or
            anything infinite in a slice.

    Warns:
        NumericalWarning: a slice has no pixel in the support.
    """
    _check_ksp(ksp)
    limit = (min(calib_width, ksp.shape[-2]), min(calib_width, ksp.shape[-1]))
    sampled = (center_crop(ksp, limit) != 0).any(dim=(0, 1)).cpu()
    calib_shape = calibration_block(sampled[None], limit=calib_width)
    found = espirit(
        ksp,
        calib_shape,
        kernel_width=kernel_width,
        threshold=threshold,
        crop=crop,
        n_iter=n_iter,
    )
    _check_calibration(center_crop(ksp, calib_shape), empty_too=True)
    _warn_if_empty(found.support, crop)
    return found.maps


@torch.no_grad()
def espirit(
    ksp: Tensor,
    calib_shape: tuple[int, int],
    *,
    kernel_width: int = 6,
    threshold: float = 0.02,
    crop: float = CROP,
    n_iter: int = 100,
) -> EspiritMaps:
    """Coil maps by ESPIRiT, slice by slice, with the eigenvalues they rest on.

    **Support.** 0.95 is usual in sigpy and 0.8 in BART. The default of 0.9 was chosen on three
    real head scans, for calibration blocks of 24x24 and 24x20. Inside the head the eigenvalue stays
    above 0.99, so no anatomy is lost. Nor is any when the image is shaded 10:1 across the head, as
    surface coils shade it; shaded 30:1, at most 1.2 % of the head is lost (at 0.95: 5 %). Where the
    head fits into the field of view, more than half of the empty part is zeroed (at 0.8: 37 %).

    **Phase.** Eigenvectors have no phase of their own. Here the virtual coil that receives most,
    the first left singular vector ``u`` of the calibration data (coil by sample), is given real,
    non-negative sensitivity: ``u^H S(r) >= 0`` everywhere. The phase of the maps is therefore as
    smooth in space as the coils, and does not depend on the object or its phase other than through
    ``u``. The phase of ``u`` itself makes its largest entry real and positive, so slices in which
    the same coil dominates share their gauge.

    **Short calibration blocks.** With fewer than 2.5 ``kernel_width`` lines along an axis, the
    kernel is narrowed along that axis (:func:`kernel_shape`). Otherwise there are fewer patches
    than the signal space has dimensions, and the eigenvalue falls everywhere (24x8 samples, kernel
    6x6: three quarters of a head below 0.9; kernel 6x3: none of it).

    **Empty slices.** A slice of which the calibration block holds only zeros has maps of 0.

    Each slice is computed on its own, in chunks of rows: memory beyond the result does not grow
    with slices or size, and a slice does not depend on the batch it came in. The device is that of
    ``ksp``; nothing waits for it but the eigenvalue decompositions of the calibration data.

    Args:
        ksp: k-space on the full field of view, complex ``(slice, coil, y, x)``; only its centred
            calibration block is looked at.
        calib_shape: sides ``(y, x)`` of the fully sampled block, in samples, as
            :func:`~mri_ambient.physics.masks.calibration_block` finds it.
        kernel_width: side of a kernel, in samples.
        threshold: singular values to keep, relative to the largest.
        crop: eigenvalue above which a pixel belongs to the support.
        n_iter: power iterations.

    Raises:
        PrepError: the calibration block is smaller than the kernel, or holds anything infinite.

    References:
        M. Uecker et al., "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI: where
        SENSE meets GRAPPA", Magn Reson Med 71:990-1001, 2014, doi:10.1002/mrm.24751.
    """
    _check_ksp(ksp)
    if n_iter < 1:
        raise ValueError(f"n_iter must be at least 1, got {n_iter}")
    kernel = kernel_shape(calib_shape, kernel_width)
    calib = center_crop(ksp, calib_shape)
    _check_calibration(calib)

    _, n_coils, ny, nx = ksp.shape
    maps = torch.zeros(ksp.shape, dtype=torch.complex64, device=ksp.device)
    first, second = (torch.zeros_like(maps[:, 0], dtype=torch.float32) for _ in range(2))
    for i in torch.nonzero(calib.flatten(1).any(dim=1)).flatten().tolist():
        block = calib[i]
        reference = _virtual_coil(block)
        for rows, gram in _pixel_grams(_signal_kernels(block, kernel, threshold), (ny, nx)):
            vector, value, second_value = leading_eigenpairs(gram, n_iter)
            vector = torch.where(value[:, None] > crop, _align(vector, reference), 0)
            maps[i, :, rows] = vector.view(-1, nx, n_coils).movedim(-1, 0)
            first[i, rows] = value.view(-1, nx)
            second[i, rows] = second_value.view(-1, nx)
    return EspiritMaps(maps, first, second)


def second_map_share(result: EspiritMaps, level: float = SECOND_MAP_LEVEL) -> Tensor:
    """The share of the support in which a second map is as real as the first.

    Above :data:`SECOND_MAP_SHARE`, parts of the object fold onto each other and one map describes
    only their mixture. Real head scans, 24x24 or 24x20 calibration samples: 0.15 and 0.14 where the
    field of view cuts the head, 0.000 in two scans where it does not. With blocks down to 8x8 and
    noise added up to a tenth of the image's maximum: at least 0.058, and at most 0.003.

    Returns:
        A share per slice, 0 to 1, ``(slice,)``; 0 where the support is empty.
    """
    support = result.support
    both = support & (result.second_eigenvalue > level)
    share: Tensor = both.sum(dim=(-2, -1)) / support.sum(dim=(-2, -1)).clamp_min(1)
    return share


def kernel_shape(calib_shape: tuple[int, int], kernel_width: int = 6) -> tuple[int, int]:
    """Sides ``(y, x)`` of the kernels: ``kernel_width``, or 2/5 of a shorter side of the block.

    Raises:
        PrepError: the calibration block is smaller than ``kernel_width``.
    """
    if kernel_width < 1:
        raise ValueError(f"kernel_width must be at least 1, got {kernel_width}")
    if min(calib_shape) < kernel_width:
        raise PrepError(
            f"the calibration block, {calib_shape[0]} x {calib_shape[1]} fully sampled positions "
            f"around the centre of k-space, is smaller than the ESPIRiT kernel of {kernel_width} x "
            f"{kernel_width}; coil maps need a scan with more calibration lines (20 to 24 are "
            "usual) or a smaller kernel"
        )
    y, x = (max(1, min(kernel_width, 2 * side // 5)) for side in calib_shape)
    return y, x


def leading_eigenpairs(gram: Tensor, n_iter: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first eigenvector and the two largest eigenvalues of many small Hermitian matrices.

    The vector is ``G^n x / |G^n x|``, started from ones as in other software: where two
    eigenvalues tie, the start decides. The second eigenvalue comes from iterations across that
    vector, with falling powers of ``G``: a high one separates it best from the third, but loses
    what is far below the first to rounding, and a low one finds that again.

    Args:
        gram: positive semidefinite matrices, complex ``(pixel, coil, coil)``.
        n_iter: power iterations, at least 1.

    Returns:
        Unit vectors ``(pixel, coil)``, their Rayleigh quotients and those of the second
        eigenvectors, both real ``(pixel,)``.
    """
    powers = [gram]  # G, G^2, G^4, ..., G^32, times a number each
    for _ in range(min(n_iter.bit_length() - 1, 5)):
        square = powers[-1] @ powers[-1]
        # An eigenvalue of 0.5 to the power of 128 would underflow; only directions matter.
        trace = square.diagonal(dim1=-2, dim2=-1).real.sum(dim=-1)
        powers.append(square.mul_(1 / trace.clamp_min(_TINY)[:, None, None]))
    # From here on a product with a vector is cheaper than a higher power.
    highest, rest = divmod(n_iter, 2 ** (len(powers) - 1))
    steps = [power for i, power in enumerate(powers) if rest >> i & 1] + highest * powers[-1:]

    x = torch.ones_like(gram[..., :1])
    for power in steps:
        x = _unit(power @ x)
    y = _chirp(x)
    for power in (powers[-1], *powers[:1:-1]):
        y = power @ y
        y = _unit(y - x * _inner(x, y))
    return x[..., 0], _inner(x, gram @ x).real.flatten(), _inner(y, gram @ y).real.flatten()


def _check_ksp(ksp: Tensor) -> None:
    if ksp.ndim != 4 or not ksp.is_complex():
        raise ValueError(
            f"ksp must be complex (slice, coil, y, x), got {ksp.dtype} {tuple(ksp.shape)}"
        )


def _check_calibration(calib: Tensor, *, empty_too: bool = False) -> None:
    """Refuse blocks that are not finite, and on request those that hold only zeros."""
    largest = calib.abs().amax(dim=(1, 2, 3))
    usable = largest.isfinite() & ((largest > 0) | (not empty_too))
    bad = torch.nonzero(~usable).flatten().tolist()
    if bad:
        raise PrepError(
            f"slice {bad[0]} of {len(largest)}: the {calib.shape[-2]} x {calib.shape[-1]} "
            "calibration block in the centre of k-space holds only zeros or values that are not "
            "finite; leave such slices out, or check that k = 0 is at the centre of the matrix"
        )


def _warn_if_empty(support: Tensor, crop: float) -> None:
    empty = torch.nonzero(~support.flatten(1).any(dim=1)).flatten().tolist()
    if empty:
        warnings.warn(
            f"slice {empty[0]} of {len(support)}: ESPIRiT found no pixel with an eigenvalue above "
            f"{crop:g}, so its coil maps are all 0; expect this only of slices without signal",
            NumericalWarning,
            stacklevel=3,
        )


def _signal_kernels(block: Tensor, kernel: tuple[int, int], threshold: float) -> Tensor:
    """Orthonormal kernels, complex64 ``(coil, ky, kx, n)``, that span the patches of a block.

    Kernels below the threshold are 0 instead of left out: no device has to tell how many they are.
    The Gram matrix squares the singular values, hence double precision.
    """
    (ky, kx), n_coils = kernel, block.shape[0]
    patches = block.to(torch.complex128).unfold(1, ky, 1).unfold(2, kx, 1)
    A = patches.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * ky * kx)
    if A.shape[0] >= A.shape[1]:
        squares, V = torch.linalg.eigh(A.mH @ A)
    else:
        squares, U = torch.linalg.eigh(A @ A.mH)
        V = A.mH @ (U / squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt())
    kept: Tensor = torch.where(squares > threshold**2 * squares[-1], V.conj(), 0)
    return kept.reshape(n_coils, ky, kx, -1).to(torch.complex64)


def _virtual_coil(block: Tensor) -> Tensor:
    """The first left singular vector of the data (coil by sample), complex64 ``(coil,)``."""
    samples = block.to(torch.complex128).flatten(1)
    u: Tensor = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1]
    largest = u.index_select(0, u.abs().argmax()[None])
    return (u * largest.conj() / largest.abs()).to(torch.complex64)


def _pixel_grams(kernels: Tensor, shape: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """``G(r)`` for a few image rows at a time, complex64 ``(row·x, coil, coil)``."""
    n_coils, ky, kx, _ = kernels.shape
    ny, nx = shape
    values = torch.fft.ifft2(kernels, s=(2 * ky - 1, 2 * kx - 1), dim=(1, 2), norm="forward")
    values = values.permute(1, 2, 0, 3)  # V_i on the coarse grid, (y, x, coil, i)
    coarse = values @ values.mH / (ky * kx)

    # (2 ky - 1, x·coil·coil·2), so that the matrix of a pixel will be contiguous.
    along_x = _dirichlet(nx, kx, coarse.device) @ torch.view_as_real(coarse).flatten(2)
    along_x = along_x.flatten(1)
    weights = _dirichlet(ny, ky, coarse.device)

    budget = _CHUNK_BYTES.get(coarse.device.type, _CHUNK_BYTES["cpu"])
    n_rows = max(1, budget // (along_x.shape[1] * along_x.element_size()))
    for top in range(0, ny, n_rows):
        rows = slice(top, min(top + n_rows, ny))
        gram = weights[rows] @ along_x
        yield rows, torch.view_as_complex(gram.view(-1, n_coils, n_coils, 2))


def _dirichlet(n: int, k: int, device: torch.device) -> Tensor:
    """Interpolation of a trigonometric polynomial of degree ``k - 1``, real ``(n, 2k - 1)``.

    From the points ``j / (2k - 1)`` to ``n`` pixels with the origin at ``n // 2``, in units of the
    field of view.
    """
    count = partial(torch.arange, dtype=torch.float64, device=device)
    pixels, points, degrees = (count(n) - n // 2) / n, count(2 * k - 1) / (2 * k - 1), count(1, k)
    angle = 2 * torch.pi * (pixels[:, None] - points)[..., None] * degrees
    kernel: Tensor = (1 + 2 * angle.cos().sum(dim=-1)) / (2 * k - 1)
    return kernel.float()


def _chirp(like: Tensor) -> Tensor:
    """Column vectors without symmetry, which no coil arrangement makes orthogonal to its maps."""
    c = torch.arange(like.shape[-2], device=like.device, dtype=like.real.dtype)
    return torch.polar(torch.ones_like(c), c.square())[:, None].expand_as(like)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """``a^H b`` of column vectors ``(pixel, coil, 1)``, as ``(pixel, 1, 1)``."""
    return (a.conj() * b).sum(dim=-2, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """Column vectors ``(pixel, coil, 1)`` with norm 1."""
    norm = torch.view_as_real(x).square().sum(dim=(1, 2, 3)).sqrt()
    return x * (1 / norm.clamp_min(_TINY))[:, None, None]


def _align(vector: Tensor, reference: Tensor) -> Tensor:
    """Turn the phase of each vector ``(pixel, coil)`` so that ``u^H v`` is real and >= 0."""
    seen = vector @ reference.conj()
    size = seen.abs()
    turn = torch.where(size > 0, seen.conj() / size.clamp_min(_TINY), 1)
    return vector * turn[:, None]
