"""ESPIRiT against its definition, against known coils, and against sigpy."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from mri_ambient.data_prep.espirit import (
    MARGIN,
    SECOND_MAP_SHARE,
    EspiritMaps,
    espirit_maps,
    kernel_shape,
    leading_eigenpairs,
    second_map_share,
)
from mri_ambient.errors import PrepError
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import fft2c, ifft2c
from mri_ambient.physics.map_sets import split_sets
from mri_ambient.rng import complex_normal, rng_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of imports of sigpy
    import sigpy.mri


def birdcage(n_coils: int, shape: tuple[int, int]) -> Tensor:
    """Known, smooth maps with sum_c |S_c|^2 = 1, (coil, y, x)."""
    return torch.from_numpy(sigpy.mri.birdcage_maps((n_coils, *shape), dtype=np.complex64))


def ellipse(shape: tuple[int, int], size: float = 0.7) -> Tensor:
    """An ellipse that fills ``size`` of the field of view, bool (y, x)."""
    y, x = (torch.linspace(-1, 1, n) for n in shape)
    return (y[:, None] ** 2 + (1.2 * x) ** 2).sqrt() < size


def phantom(shape: tuple[int, int], rng: Generator, size: float = 0.7) -> Tensor:
    """An ellipse with texture and smooth phase, complex (y, x)."""
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 1, 12, 12, generator=rng), shape, mode="bicubic", align_corners=True
    )[0, 0]
    phase = torch.linspace(-1, 1, shape[0])[:, None] * torch.linspace(0, 2, shape[1])
    return ellipse(shape, size) * torch.polar(0.5 + texture.abs(), phase)


def simulated(
    shape: tuple[int, int], rng: Generator, n_coils: int = 8, noise: float = 0.01
) -> Tensor:
    """K-space of a phantom seen by a birdcage, (1, coil, y, x)."""
    ksp = fft2c(birdcage(n_coils, shape) * phantom(shape, rng))
    return (ksp + noise * complex_normal(tuple(ksp.shape), rng))[None]


def real_ksp(folder: Path, name: str) -> Tensor:
    with h5py.File(folder / f"{name}.h5") as file:
        return torch.from_numpy(file["kspace"][()])


def anatomy(ksp: Tensor, level: float = 0.1) -> Tensor:
    """The head without its holes, bool (y, x): RSS above a share of its maximum."""
    rss = ifft2c(ksp[0]).norm(dim=0)
    head = ndimage.binary_opening((rss > level * rss.max()).numpy())
    return torch.from_numpy(ndimage.binary_fill_holes(head))


def by_sigpy(ksp: Tensor, calib_width: int = 24) -> tuple[Tensor, Tensor]:
    """Maps (coil, y, x), not cropped, and the largest eigenvalue (y, x)."""
    app = sigpy.mri.app.EspiritCalib(
        ksp[0].numpy(), calib_width, crop=0, output_eigenvalue=True, show_pbar=False
    )
    maps, eigenvalue = app.run()
    return torch.from_numpy(maps), torch.from_numpy(eigenvalue).reshape(ksp.shape[-2:])


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """|<a, b>| per pixel of unit maps (coil, y, x): 1 where they span the same line."""
    return (a.conj() * b).sum(dim=0).abs()


def definition(
    block: Tensor, kernel: tuple[int, int], threshold: float, shape: tuple[int, int]
) -> Tensor:
    """G(r) as the paper defines it: full SVD, zero-padded kernels, one FFT each; (y, x, C, C)."""
    data, n_coils = block.to(torch.complex128), block.shape[0]
    rows = [
        data[:, y : y + kernel[0], x : x + kernel[1]].flatten()
        for y in range(data.shape[1] - kernel[0] + 1)
        for x in range(data.shape[2] - kernel[1] + 1)
    ]
    _, s, Vh = torch.linalg.svd(torch.stack(rows), full_matrices=False)
    kernels = Vh[s > threshold * s[0]].reshape(-1, n_coils, *kernel)
    V = torch.fft.fftshift(torch.fft.ifft2(kernels, s=shape, norm="forward"), dim=(-2, -1))
    return torch.einsum("icyx,idyx->yxcd", V, V.conj()) / (kernel[0] * kernel[1])


@pytest.mark.parametrize(
    ("shape", "calib"), [((32, 24), (16, 16)), ((33, 27), (15, 17)), ((24, 31), (20, 9))]
)
def test_the_eigenpairs_are_those_of_the_definition(
    shape: tuple[int, int], calib: tuple[int, int], rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ksp = simulated(shape, rng, n_coils=4)
    gram = definition(center_crop(ksp[0], calib), kernel_shape(calib), 0.02, shape)
    values, vectors = torch.linalg.eigh(gram)
    # Enough iterations that only eigenvalues closer than the tolerances stay mixed.
    monkeypatch.setattr("mri_ambient.data_prep.espirit.N_ITER", 3_000)
    found = espirit_maps(ksp, calib, crop=0.0)
    torch.testing.assert_close(found.eigenvalue[0].double(), values[..., -1], rtol=0, atol=1e-5)
    short = values[..., -2] - found.second_eigenvalue[0]
    assert short.min() > -1e-3
    assert short[values[..., -2] > 0.6 * values[..., -1]].max() < 1e-3
    assert short.max() < 0.3  # a lower bound far below the first
    clear = values[..., -1] - values[..., -2] > 0.01
    assert clear.float().mean() > 0.9
    first = vectors[..., -1].movedim(-1, 0).to(torch.complex64)
    assert correlation(found.maps[0], first)[clear].min() > 0.9999


@pytest.mark.parametrize("n_iter", [1, 2, 7, 100])
def test_squaring_gives_the_iterate_of_the_plain_loop(n_iter: int, rng: Generator) -> None:
    A = complex_normal((20, 5, 5), rng, dtype=torch.complex128)
    gram = A @ A.mH / 100
    want = torch.ones(20, 5, 1, dtype=torch.complex128)
    for _ in range(n_iter):
        want = gram @ want
        want = want / want.norm(dim=1, keepdim=True)
    (vector, value), _ = leading_eigenpairs(gram, n_iter)
    torch.testing.assert_close(vector, want[..., 0], rtol=0, atol=1e-9)
    quotient = (want.mH @ gram @ want).real.flatten()
    torch.testing.assert_close(value, quotient, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("second", "atol"), [(0.99, 1e-5), (0.7, 1e-4), (0.45, 1e-3), (0.2, 0.05)])
def test_the_second_eigenvalue_is_found_far_below_the_first(
    second: float, atol: float, rng: Generator
) -> None:
    U, _ = torch.linalg.qr(complex_normal((200, 6, 6), rng))
    values = torch.tensor([1.0, second, 0.6 * second, 0.3 * second, 0.01, 0.0])
    gram = (U * values) @ U.mH
    (vector, first), (_, found) = leading_eigenpairs(gram, 4096)
    torch.testing.assert_close(first, torch.ones(200), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, torch.full((200,), second), rtol=0, atol=atol)
    assert (vector.conj() * U[..., 0]).sum(dim=-1).abs().min() > 0.9999


@pytest.mark.parametrize("shape", [(64, 48), (41, 53)])
def test_known_coils_are_recovered(shape: tuple[int, int], rng: Generator) -> None:
    found = espirit_maps(simulated(shape, rng), (24, 24)).maps
    inside = ellipse(shape)
    match = correlation(found[0], birdcage(8, shape))[inside]
    assert match.min() > 0.999  # nothing of the object is cropped, either
    assert match.quantile(0.05) > 0.9998


def test_maps_have_unit_norm_in_the_support_and_are_zero_outside(rng: Generator) -> None:
    result = espirit_maps(simulated((48, 40), rng), (24, 24))
    norm = result.maps.norm(dim=1)
    support = result.eigenvalue > 0.9
    assert torch.equal(result.support, support)
    assert 0 < support.float().mean() < 1
    torch.testing.assert_close(norm[support], torch.ones_like(norm[support]), rtol=0, atol=1e-6)
    assert norm[~support].count_nonzero() == 0
    assert result.eigenvalue.max() < 1.0001
    assert (result.second_eigenvalue <= result.eigenvalue + 1e-4).all()
    assert result.second_eigenvalue.min() > -1e-4


def test_a_slice_does_not_depend_on_its_batch(rng: Generator) -> None:
    ksp = torch.cat([simulated((40, 36), rng, n_coils=5) for _ in range(3)])
    together = espirit_maps(ksp, (20, 16))
    for i in range(3):
        alone = espirit_maps(ksp[i : i + 1], (20, 16))
        for name in ("maps", "eigenvalue", "second_eigenvalue"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0])


def test_only_the_calibration_block_matters(rng: Generator) -> None:
    ksp = simulated((40, 36), rng, n_coils=5)
    block = torch.zeros(40, 36, dtype=torch.bool)
    center_crop(block, (20, 16))[:] = True
    changed = torch.where(block, ksp, 100 * complex_normal(tuple(ksp.shape), rng))
    assert torch.equal(espirit_maps(ksp, (20, 16)).maps, espirit_maps(changed, (20, 16)).maps)
    assert not torch.equal(espirit_maps(ksp, (20, 16)).maps, espirit_maps(changed, (20, 18)).maps)


def test_the_virtual_coil_sees_with_real_and_positive_sensitivity(rng: Generator) -> None:
    ksp = simulated((48, 40), rng)
    calib = center_crop(ksp[0], (24, 24)).flatten(1)
    u = torch.linalg.svd(calib, full_matrices=False).U[:, 0]
    u = u * u[u.abs().argmax()].conj().sgn()
    found = espirit_maps(ksp, (24, 24))
    seen = torch.einsum("c,cyx->yx", u.conj(), found.maps[0])
    assert seen.imag.abs().max() < 1e-5
    assert seen[found.support[0]].real.min() > 0


def test_the_phase_follows_the_coils_and_not_the_object(rng: Generator) -> None:
    # Two objects with unlike phase, in the same coils: the same maps, phase included.
    shape, coils = (48, 40), birdcage(8, (48, 40)) * torch.linspace(2, 1, 8)[:, None, None]
    turn = torch.polar(torch.tensor(1.0), torch.tensor(2.0))
    images = [phantom(shape, rng), turn * phantom(shape, rng).conj()]
    ksp = torch.stack([fft2c(coils * img) for img in images])
    noisy = ksp + 0.01 * complex_normal(tuple(ksp.shape), rng)
    first, second = espirit_maps(noisy, (24, 24)).maps
    inside = ellipse(shape)
    assert (first - second).norm(dim=0)[inside].quantile(0.95) < 0.1
    # Smooth in space: neighbouring pixels differ by what the coils differ, not by a random phase.
    step = (first[:, 1:] - first[:, :-1]).norm(dim=0)[inside[1:] & inside[:-1]]
    coils = coils / coils.norm(dim=0)
    own = (coils[:, 1:] - coils[:, :-1]).norm(dim=0)[inside[1:] & inside[:-1]]
    assert step.max() < 1.5 * own.max()


@pytest.mark.parametrize("shape", [(64, 48), (41, 53)])
def test_simulated_maps_equal_those_of_sigpy(shape: tuple[int, int], rng: Generator) -> None:
    ksp = simulated(shape, rng, n_coils=6)
    want, eigenvalue = by_sigpy(ksp)
    found = espirit_maps(ksp, (24, 24), crop=0.0)
    inside = ellipse(shape)
    assert correlation(found.maps[0], want)[inside].min() > 0.9999
    torch.testing.assert_close(found.eigenvalue[0][inside], eigenvalue[inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["espirit_brain8", "alias_brain8"])
def test_maps_of_real_scans_equal_those_of_sigpy(real_scans: Path, name: str) -> None:
    whole = real_ksp(real_scans, name)
    ksp = center_crop(whole, (whole.shape[-2] // 2, whole.shape[-1] // 2)).contiguous()
    want, _ = by_sigpy(ksp)
    found = espirit_maps(ksp, (24, 24), crop=0.0).maps[0]
    rss = ifft2c(ksp[0]).norm(dim=0)
    # Every pixel of the object, quantile 0; where the head folds (alias) two eigenvalues tie and
    # agreement means the same start and the same number of iterations.
    assert correlation(found, want)[rss > 0.05 * rss.max()].min() > 0.9999


@pytest.mark.parametrize(
    ("name", "calib"),
    [
        ("espirit_brain8", (24, 24)), ("alias_brain8", (24, 24)), ("alias_brain8", (24, 8)),
        ("poisson_brain8", (24, 8)),
    ],
)  # fmt: skip
def test_interpolated_maps_equal_those_of_every_pixel(
    real_scans: Path, name: str, calib: tuple[int, int]
) -> None:
    ksp = real_ksp(real_scans, name)
    found = espirit_maps(ksp, calib, n_sets=2)
    # Without a support, no cell of the coarse grid is known to have no second map.
    want = espirit_maps(ksp, calib, n_sets=2, crop=0.0)
    for m, eigenvalue in enumerate((want.eigenvalue[0], want.second_eigenvalue[0])):
        maps, everywhere = (split_sets(r.maps[0], 2)[:, m] for r in (found, want))
        inside = eigenvalue > 0.9
        assert torch.equal((maps != 0).any(dim=0), inside)
        assert (correlation(maps, everywhere)[inside] > 0.9999).all()
        assert ((maps - everywhere).norm(dim=0)[inside] < 0.02).all()  # the phase, too
    assert (found.eigenvalue - want.eigenvalue).abs().max() < MARGIN


@pytest.mark.parametrize("calib", [(24, 24), (24, 20), (24, 8), (12, 12)])
@pytest.mark.parametrize("name", ["espirit_brain8", "alias_brain8", "poisson_brain8"])
def test_no_anatomy_is_lost_in_real_scans_and_one_larger_than_its_field_of_view_is_noticed(
    real_scans: Path, name: str, calib: tuple[int, int]
) -> None:
    ksp = real_ksp(real_scans, name)
    # The zero-filled image of the undersampled scan has aliases up to a fifth of its maximum.
    head = anatomy(ksp, level=0.25 if name.startswith("poisson") else 0.1)
    result = espirit_maps(ksp, calib)
    assert result.support[0][head].all()
    if min(calib) >= 20 and name != "alias_brain8":  # in alias_brain8 the head is everywhere
        assert result.eigenvalue[0][head].min() > 0.99
        assert (~result.support[0][~head]).float().mean() > 0.5
    share = float(second_map_share(result))
    if name == "alias_brain8":
        assert share > 1.5 * SECOND_MAP_SHARE
    else:
        assert share < SECOND_MAP_SHARE / 5


@pytest.mark.parametrize("axis", [-2, -1])
def test_shading_by_surface_coils_loses_no_anatomy(real_scans: Path, axis: int) -> None:
    ksp = real_ksp(real_scans, "espirit_brain8")
    n = ksp.shape[axis]
    shade = (10 ** -torch.linspace(0, 1, n)).reshape(n, *[1] * (-1 - axis))
    result = espirit_maps(fft2c(ifft2c(ksp) * shade), (24, 20))
    assert result.support[0][anatomy(ksp)].all()


@pytest.mark.parametrize("calib", [(24, 24), (16, 16), (24, 8), (8, 8)])
def test_a_head_larger_than_the_field_of_view_is_noticed_in_noise(
    real_scans: Path, calib: tuple[int, int], rng: Generator
) -> None:
    def share(name: str) -> float:
        ksp = real_ksp(real_scans, name)
        scale = 0.1 * float(ifft2c(ksp[0]).norm(dim=0).max()) / 2**0.5
        noisy = ksp + scale * complex_normal(tuple(ksp.shape), rng)
        half = center_crop(noisy, (ksp.shape[-2] // 2, ksp.shape[-1] // 2))  # fewer pixels
        return float(second_map_share(espirit_maps(half, calib)))

    assert share("alias_brain8") > 1.5 * SECOND_MAP_SHARE
    assert share("espirit_brain8") < SECOND_MAP_SHARE / 5
    assert share("poisson_brain8") < SECOND_MAP_SHARE / 5


def test_a_folded_phantom_needs_a_second_map(rng: Generator) -> None:
    # Every second phase-encode line halves the field of view: the ellipse wraps onto itself.
    ksp = fft2c(birdcage(8, (64, 96)) * phantom((64, 96), rng, size=0.9))[None]
    ksp = ksp + 0.01 * complex_normal(tuple(ksp.shape), rng)
    whole, folded = espirit_maps(ksp, (24, 24)), espirit_maps(ksp[..., ::2].contiguous(), (24, 24))
    assert float(second_map_share(whole)) < SECOND_MAP_SHARE
    assert float(second_map_share(folded)) > 2 * SECOND_MAP_SHARE


def test_the_share_counts_pixels_of_the_support() -> None:
    maps = torch.ones(2, 3, 4, 5, dtype=torch.complex64)
    maps[0, :, 2:] = 0
    maps[1] = 0
    second = torch.zeros(2, 4, 5)
    second[0, 0] = 0.99  # 5 of the 10 pixels of the support
    second[0, 3] = 0.99  # outside
    result = EspiritMaps(maps, torch.ones(2, 4, 5), second)
    assert second_map_share(result).tolist() == [0.5, 0.0]


def test_kernels_are_narrowed_only_in_short_blocks() -> None:
    assert kernel_shape((24, 24)) == (6, 6)
    assert kernel_shape((24, 15)) == (6, 6)
    assert kernel_shape((24, 14)) == (6, 5)
    assert kernel_shape((8, 24)) == (3, 6)
    assert kernel_shape((24, 24), kernel_width=4) == (4, 4)


def test_a_block_smaller_than_the_kernel_is_refused(rng: Generator) -> None:
    ksp = simulated((32, 32), rng, n_coils=4)
    with pytest.raises(PrepError, match=r"24 x 4.*6 x 6"):
        espirit_maps(ksp, (24, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_calibration_block_that_is_not_finite_is_refused(value: float, rng: Generator) -> None:
    ksp = torch.cat([simulated((32, 32), rng, n_coils=4)] * 2)
    ksp[1] = value
    with pytest.raises(PrepError, match=r"\b1 \w+ 2\b.*24 x 24"):
        espirit_maps(ksp, (24, 24))


def test_an_empty_slice_among_others_has_maps_of_zero(rng: Generator) -> None:
    ksp = torch.cat([simulated((32, 32), rng, n_coils=4)] * 3)
    want = espirit_maps(ksp[:1], (24, 24))
    ksp[1, :, 4:28, 4:28] = 0
    got = espirit_maps(ksp, (24, 24))
    for field in ("maps", "eigenvalue", "second_eigenvalue"):
        values = getattr(got, field)
        assert values[1].count_nonzero() == 0
        assert torch.equal(values[[0, 2]], torch.cat([getattr(want, field)] * 2))
    ksp[2, 0, 16, 16] = float("nan")
    with pytest.raises(PrepError, match=r"\b2 \w+ 3\b.*24 x 24"):
        espirit_maps(ksp, (24, 24))


def test_misuse_is_a_value_error() -> None:
    ksp = complex_normal((1, 4, 32, 32), rng_for(0))
    for bad in (ksp[0], ksp.real):
        with pytest.raises(ValueError, match=r"\(slice, coil, y, x\)"):
            espirit_maps(bad, (24, 24))
    with pytest.raises(ValueError, match="40, 24"):
        espirit_maps(ksp, (40, 24))
    with pytest.raises(ValueError, match="kernel_width"):
        espirit_maps(ksp, (24, 24), kernel_width=0)
