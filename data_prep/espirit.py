r"""Coil maps by ESPIRiT, an eigenvalue method for autocalibrated parallel imaging.

Every patch of ``k`` x ``k`` neighbouring samples in all coils of a calibration block is a row of
the calibration matrix ``A``. Its right singular vectors above a threshold are kernels
``v_1 .. v_n`` that span the patches this object and these coils can produce. With ``V_i(r)`` the
inverse Fourier transform of kernel ``i`` at pixel ``r``, a vector over coils, the matrix

.. math:: G(r) = k^{-2} \sum_i V_i(r) V_i(r)^H, \qquad 0 \le G(r) \le 1,

leaves the true sensitivities unchanged wherever there is signal, ``G(r) S(r) = S(r)``: the map is
the eigenvector of the largest eigenvalue, and an eigenvalue below 1 means that there is no signal.
A second eigenvalue near 1 means that two places of the object share the pixel, because the object
is larger than the field of view (:func:`second_map_share`). One map cannot describe that; a second
set of maps, the eigenvectors of the second eigenvalue, can (:mod:`mri_ambient.physics.map_sets`).

**Support.** sigpy keeps eigenvalues above 0.95, BART above 0.8. The default of 0.9 was chosen on
three real head scans, for calibration blocks of 24x24 and 24x20. Inside the head the eigenvalue is
above 0.99, so no anatomy is lost, even when the image is shaded 10:1 across the head, as surface
coils shade it; shaded 30:1, at most 1.2 % of the head is lost (at 0.95: 5 %). Where the head fits
into the field of view, more than half of the empty part is zeroed (at 0.8: 37 %).

**Phase.** Eigenvectors have any phase. Here the virtual coil that receives most, the first left
singular vector ``u`` of the calibration data (coil by sample), has real, non-negative sensitivity:
``u^H S(r) >= 0`` everywhere. The phase of the maps is therefore as smooth in space as the coils,
and depends on the object only through ``u``. The phase of ``u`` makes its largest entry real and
positive, so slices in which the same coil dominates have the same phase. In a 3-D scan, ``u``
is that of the whole volume, so that the phase does not jump between slices.

**Short calibration blocks.** With fewer than 2.5 ``k`` lines along an axis, the kernel is narrowed
along that axis (:func:`kernel_shape`). Otherwise there are fewer patches than the signal space has
dimensions, and the eigenvalue falls everywhere (24x8 samples, kernel 6x6: three quarters of a head
below 0.9; kernel 6x3: none of it).

**Speed.** The maps equal those of the textbook computation, for less work:

* The kernels come from the Gram matrix of the shorter side of ``A``, not from its full SVD.
* Kernels have ``k`` taps, so ``G`` is a trigonometric polynomial of degree ``k - 1`` along each
  axis: its values on ``2k - 1`` points determine it, and every pixel follows from them by a (real)
  Dirichlet interpolation, a matrix product.
* ``n`` power iterations are taken by repeated squaring, ``G^100 x = (G^32)^3 G^4 x``: the same
  iterate in exact arithmetic, and a chunk of pixels stays in the cache.
* Maps are smooth, so in most of the image they are computed on a coarse grid, with their phase, and
  interpolated: where neighbouring nodes agree, lie well inside the support and have no second map,
  or where all lie well outside. The rest, such as the border of the support, is computed pixel by
  pixel. The support is therefore the same, and on real scans the correlation with maps computed
  everywhere is at least 0.9999 in every pixel (``tests/data_prep/test_espirit.py``).

References:
    M. Uecker et al., "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI: where
    SENSE meets GRAPPA", Magn Reson Med 71:990-1001, 2014, doi:10.1002/mrm.24751.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import PrepError
from ..physics.crop import center_crop
from ..physics.map_sets import first_set
from ..physics.units import energy, nonzero_along
from .coarse_grid import CoarseGrid, over_corners, steepness

CROP = 0.9
"""Eigenvalue above which a pixel belongs to the support (see the module)."""

SECOND_MAP_SHARE = 0.03
"""Share of the support with a second map above which one map is not enough."""

SECOND_MAP = 0.95
"""Second eigenvalue above which a second map fits."""

N_ITER = 100
"""Power iterations."""

NODES_A_PERIOD = 16
"""Nodes of the coarse grid in the shortest period of ``G``."""

SMOOTH = 0.07
"""Largest distance of the maps of neighbouring nodes, of norm 1, between which to interpolate."""

MARGIN = 0.02
"""Largest error of an eigenvalue that is interpolated: that of a trigonometric polynomial between 0
and 1 with :data:`NODES_A_PERIOD` nodes in its shortest period, along both axes."""

_CHUNK_BYTES = {"cpu": 3 * 2**20, "cuda": 128 * 2**20}  # what a chunk of G may take
_TINY = 1e-30


@dataclass(frozen=True)
class EspiritMaps:
    """Coil maps and the eigenvalues they rest on.

    Attributes:
        maps: sensitivities, complex64 ``(slice, coil, y, x)``, or ``(slice, coil, set*y, x)``;
            sum_c |S_c|^2 is 1 in the support and the maps are exactly 0 outside.
        eigenvalue: the largest eigenvalue of ``G``, 0 to 1, ``(slice, y, x)``; within
            :data:`MARGIN` where it is interpolated.
        second_eigenvalue: the second largest, ``(slice, y, x)``; below 0.6 of the first it is a
            lower bound, seldom 0.01 too low.
    """

    maps: Tensor
    eigenvalue: Tensor
    second_eigenvalue: Tensor

    @property
    def support(self) -> Tensor:
        """Where there is a map, bool ``(slice, y, x)``: the support of the first set."""
        return nonzero_along(first_set(self.maps, self.n_sets), -3)

    @property
    def n_sets(self) -> int:
        """Number of sets of maps."""
        return self.maps.shape[-2] // self.eigenvalue.shape[-2]

    def to(self, device: torch.device | str) -> EspiritMaps:
        """The same on another device."""
        return EspiritMaps(
            self.maps.to(device), self.eigenvalue.to(device), self.second_eigenvalue.to(device)
        )


@torch.no_grad()
def espirit_maps(
    ksp: Tensor,
    calib_shape: tuple[int, int],
    *,
    kernel_width: int = 6,
    threshold: float = 0.02,
    crop: float = CROP,
    n_sets: int = 1,
    reference: Tensor | None = None,
) -> EspiritMaps:
    """Coil maps by ESPIRiT, slice by slice; 0 where the calibration block holds only zeros.

    Each slice is computed on its own, in chunks of pixels: memory beyond the result is that of one
    slice, and a slice does not depend on its batch. The device is that of ``ksp``.

    Args:
        ksp: k-space on the full field of view, complex ``(slice, coil, y, x)``; only its centred
            calibration block is read.
        calib_shape: sides ``(y, x)`` of the fully sampled block, in samples, as
            :func:`~mri_ambient.physics.patterns.calibration_block` finds it.
        kernel_width: side of a kernel, in samples.
        threshold: singular values to keep, relative to the largest.
        crop: eigenvalue above which a pixel belongs to the support.
        n_sets: sets of maps, 1 or 2.
        reference: the virtual coil, complex64 ``(coil,)``, whose sensitivity is real in all slices;
            that of each slice by default.

    Raises:
        PrepError: the calibration block is smaller than the kernel, or not finite.
    """
    if ksp.ndim != 4 or not ksp.is_complex():
        raise ValueError(
            f"ksp must be complex (slice, coil, y, x), got {ksp.dtype} {tuple(ksp.shape)}"
        )
    if n_sets not in (1, 2):
        raise ValueError(f"n_sets is 1 or 2, got {n_sets}")
    kernel = kernel_shape(calib_shape, kernel_width)
    calib = center_crop(ksp, calib_shape)
    _check_finite(calib)

    n_slices, n_coils, ny, nx = ksp.shape
    shape = (n_slices, n_coils, n_sets, ny, nx)
    maps = torch.zeros(shape, dtype=torch.complex64, device=ksp.device)
    values = torch.zeros((n_slices, 2, ny, nx), device=ksp.device)
    for i in torch.nonzero(calib.flatten(1).any(dim=1)).flatten().tolist():
        seen = _virtual_coil(calib[i]) if reference is None else reference
        pixels = _Pixels.of(calib[i], kernel, threshold, (ny, nx), seen)
        maps[i], values[i] = _interpolated(pixels, crop, n_sets)
    return EspiritMaps(maps.flatten(2, 3), values[:, 0], values[:, 1])


def second_map_share(result: EspiritMaps) -> Tensor:
    """Share ``(slice,)`` of the support that needs a second map: second eigenvalue above 0.95.

    Above :data:`SECOND_MAP_SHARE`, parts of the object alias onto each other and one map describes
    only their mixture. Real head scans, 24x24 or 24x20 calibration samples: 0.15 and 0.14 where the
    field of view cuts the head, 0.000 in two scans where it does not. With blocks down to 8x8 and
    noise added up to a tenth of the image's maximum: at least 0.058, and at most 0.003.
    """
    support = result.support
    both = support & (result.second_eigenvalue > SECOND_MAP)
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


Pair = tuple[Tensor, Tensor]
"""Eigenvectors ``(pixel, coil)`` of norm 1, and their eigenvalues, real ``(pixel,)``."""


def leading_eigenpairs(gram: Tensor, n_iter: int) -> tuple[Pair, Pair]:
    """The two largest eigenvalues of many small Hermitian matrices, and their eigenvectors.

    The first vector is ``G^n x / |G^n x|``, started from ones as in other software: where two
    eigenvalues are equal, the start decides. The second eigenvalue comes from iterations orthogonal
    to that vector, with falling powers of ``G``: a high power separates it best from the third, but
    rounding loses what is far below the first, and a low power recovers that.

    Args:
        gram: positive semidefinite matrices, complex ``(pixel, coil, coil)``.
        n_iter: power iterations, at least 1.

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
        for _ in range(2):  # what rounding leaves of x may be as large as the rest
            y = _unit(y - x * _inner(x, y))
    first, second = ((v[..., 0], _inner(v, gram @ v).real.flatten()) for v in (x, y))
    return first, second


def _check_finite(calib: Tensor) -> None:
    bad = torch.nonzero(~calib.abs().isfinite().flatten(1).all(dim=1)).flatten().tolist()
    if bad:
        raise PrepError(
            f"slice {bad[0]} of {len(calib)}: the {calib.shape[-2]} x {calib.shape[-1]} "
            "calibration block in the centre of k-space holds values that are not finite; the "
            "k-space is damaged, export the scan again"
        )


def _signal_kernels(block: Tensor, kernel: tuple[int, int], threshold: float) -> Tensor:
    """Orthonormal kernels, complex64 ``(coil, ky, kx, n)``, that span the patches of a block.

    Kernels below the threshold are left out; on a GPU, which would have to be waited for, they are
    0 instead. Double precision, because the Gram matrix squares the singular values.
    """
    (ky, kx), n_coils = kernel, block.shape[0]
    patches = block.to(torch.complex128).unfold(1, ky, 1).unfold(2, kx, 1)
    A = patches.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * ky * kx)
    tall = A.shape[0] >= A.shape[1]
    squares, vectors = torch.linalg.eigh(A.mH @ A if tall else A @ A.mH)  # rising
    below = squares <= threshold**2 * squares[-1]
    left_out = 0 if below.is_cuda else int(below.sum())
    V: Tensor = vectors[:, left_out:].masked_fill(below[left_out:], 0)
    if not tall:
        sizes = squares[left_out:].clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
        V = A.mH @ (V / sizes)
    return V.conj().reshape(n_coils, ky, kx, -1).to(torch.complex64)


def _virtual_coil(block: Tensor) -> Tensor:
    """The first left singular vector of the data (coil by sample), complex64 ``(coil,)``."""
    samples = block.to(torch.complex128).flatten(1)
    u: Tensor = torch.linalg.eigh(samples @ samples.mH).eigenvectors[:, -1]
    largest = u.index_select(0, u.abs().argmax()[None])
    return (u * largest.conj() / largest.abs()).to(torch.complex64)


@dataclass(frozen=True)
class _Pixels:
    """ESPIRiT at any pixels of a slice.

    Attributes:
        grid: nodes at which all else follows by interpolation where the maps are smooth.
        coarse: ``G`` on the points that determine it, real ``(point, coil*coil*2)``.
        weights: interpolation from these points along y and along x, ``(pixel, point)``, for all
            pixels and, beyond the image, all nodes.
        reference: the virtual coil that sees with real and positive sensitivity, ``(coil,)``.
    """

    grid: CoarseGrid
    coarse: Tensor
    weights: tuple[Tensor, Tensor]
    reference: Tensor

    @classmethod
    def of(
        cls,
        block: Tensor,
        kernel: tuple[int, int],
        threshold: float,
        shape: tuple[int, int],
        reference: Tensor,
    ) -> _Pixels:
        """From a calibration block ``(coil, y, x)``; sides of kernels and image ``(y, x)``."""
        kernels = _signal_kernels(block, kernel, threshold)
        n_points = [2 * k - 1 for k in kernel]
        values = torch.fft.ifft2(kernels, s=n_points, dim=(1, 2), norm="forward")
        values = values.permute(1, 2, 0, 3).flatten(0, 1)  # V_i at the points, (point, coil, i)
        coarse = torch.view_as_real(values @ values.mH / (kernel[0] * kernel[1])).flatten(1)
        sides = list(zip(shape, kernel, strict=True))
        n_nodes = NODES_A_PERIOD * max(1, max(kernel) - 1)
        step_y, step_x = (max(1, n // n_nodes) for n in shape)
        weights_y, weights_x = (_dirichlet(n, k, block.device) for n, k in sides)
        grid = CoarseGrid(shape, (step_y, step_x), block.device)
        return cls(grid, coarse, (weights_y, weights_x), reference)

    def at(self, places: Tensor, n_sets: int) -> tuple[Tensor, Tensor]:
        """Vectors ``(coil, set, pixel)`` and values ``(2, pixel)`` at ``places`` ``(2, pixel)``."""
        n_coils, n_pixels = len(self.reference), places.shape[1]
        vectors = torch.empty(
            n_coils, n_sets, n_pixels, dtype=torch.complex64, device=places.device
        )
        values = torch.empty(2, n_pixels, device=places.device)
        budget = _CHUNK_BYTES.get(places.device.type, _CHUNK_BYTES["cpu"])
        length = max(1, budget // (self.coarse.shape[1] * self.coarse.element_size()))
        for first in range(0, n_pixels, length):
            some = slice(first, first + length)
            y, x = (w[at] for w, at in zip(self.weights, places[:, some], strict=True))
            gram = (y[:, :, None] * x[:, None]).flatten(1) @ self.coarse
            gram = torch.view_as_complex(gram.view(-1, n_coils, n_coils, 2))
            for m, (vector, value) in enumerate(leading_eigenpairs(gram, N_ITER)):
                values[m, some] = value
                if m < n_sets:
                    vectors[:, m, some] = _align(vector, self.reference).T
        return vectors, values


def _interpolated(pixels: _Pixels, crop: float, n_sets: int) -> tuple[Tensor, Tensor]:
    """Maps ``(coil, set, y, x)`` and eigenvalues ``(2, y, x)`` of a slice.

    A cell of the grid is interpolated if it lies outside the support, or inside it where the map is
    smooth and there is no second one. All others are computed pixel by pixel.
    """
    grid = pixels.grid
    vectors, values = pixels.at(grid.nodes, n_sets)
    vectors, values = (v.view(*v.shape[:-1], *grid.n_nodes) for v in (vectors, values))
    least, largest = (over_corners(pick, values) for pick in (torch.minimum, torch.maximum))
    smooth = (steepness(vectors[:, 0]) < SMOOTH) & (largest[1] < min(crop, SECOND_MAP) - MARGIN)
    known = smooth & (least[0] > crop + MARGIN) | (largest[0] < crop - MARGIN)
    places = torch.nonzero(~grid.in_cells(known)).T

    maps, values = grid.interpolate(vectors), grid.interpolate(values)
    maps *= energy(maps, dim=(-4,)).clamp(min=_TINY).rsqrt()
    y, x = places
    maps[..., y, x], values[:, y, x] = pixels.at(places, n_sets)
    return torch.where(values[:n_sets] > crop, maps, 0), values


def _dirichlet(n: int, k: int, device: torch.device) -> Tensor:
    """Interpolation of a trigonometric polynomial of degree ``k - 1``, real ``(2n, 2k - 1)``.

    From the points ``j / (2k - 1)`` to ``n`` pixels with the origin at ``n // 2``, in units of the
    field of view; ``n`` more follow, where it repeats.
    """
    count = partial(torch.arange, dtype=torch.float64, device=device)
    pixels, points, degrees = (count(n) - n // 2) / n, count(2 * k - 1) / (2 * k - 1), count(1, k)
    angle = 2 * torch.pi * (pixels[:, None] - points)[..., None] * degrees
    kernel: Tensor = (1 + 2 * angle.cos().sum(dim=-1)) / (2 * k - 1)
    return kernel.float().repeat(2, 1)


def _chirp(like: Tensor) -> Tensor:
    """Column vectors without symmetry, so that no array of coils is orthogonal to them."""
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
