"""The chain as a whole: units, noise, what it may see, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from codes import warns
from helpers import run_forked
from memory_scan import MemoryScan, exported, head, noise_only, random_cov, simulated_scan

from mri_ambient.data_prep import PrepConfig, SimulateConfig, espirit_maps, plan_preparation
from mri_ambient.errors import (
    ConfigError,
    DeviceError,
    PrepError,
)
from mri_ambient.io import ArrayFile, Undersampled
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.physics.units import rss_weight
from mri_ambient.recon.reference import Reference
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.scan import UPPER_BOUND

# Units


@pytest.mark.parametrize("oversampling", [1, 2])
def test_a_full_scan_comes_back_as_its_root_sum_of_squares(oversampling):
    # Unequal, correlated noise (whitening) and 16 coils made 8 (compression). Noise is low: in an
    # RSS image it adds up, in a combined one it averages out.
    file = head(noise=2e-4, full=True, coils=16, readout_oversampling=oversampling)
    preparation = plan_preparation(file, PrepConfig(n_coils=8))
    scan = preparation.apply(file[0])
    rows = slice(32, 96) if oversampling == 2 else slice(None)
    rss = ifft2c(file[0].ksp).abs().square().sum(dim=1).sqrt()[:, rows]
    inside = (scan.maps != 0).any(dim=1) & (rss > 0.1 * rss.max())
    assert scan.n_coils == 8
    error = (exported(scan) - rss)[inside]
    assert error.norm() / rss[inside].norm() < 0.01
    assert (error.abs() / rss[inside]).median() < 0.01


def test_the_first_rows_pseudo_inverse_would_not_come_back():
    # Why the transform is kept whole (see mri_ambient.physics.units).
    file = head(noise=2e-4, full=True, coils=16)
    scan = plan_preparation(file, PrepConfig(n_coils=3)).apply(file[0])
    pinv = torch.linalg.pinv(scan.coil_transform[:3]).to(torch.complex64)
    naive = torch.einsum("cv,svyx->scyx", pinv, scan.maps).abs().square().sum(dim=1).sqrt()
    weight = rss_weight(scan.maps, scan.coil_transform)
    assert (naive - weight).norm() / weight.norm() > 0.05


def test_prepared_images_are_about_1_whatever_the_files_units():
    small = head(units=1e-4)
    large = MemoryScan(small.ksp * 1e7, small.mask)
    a, b = (plan_preparation(file).apply(file[0]) for file in (small, large))
    torch.testing.assert_close(a.ksp, b.ksp, rtol=1e-3, atol=1e-4)
    assert (a.maps - b.maps).abs().max() < 1e-2
    torch.testing.assert_close(1e7 * exported(a), exported(b), rtol=1e-3, atol=1e-3)
    top = SenseOp(a.maps, a.mask).adjoint(a.ksp).abs().quantile(0.99)
    assert 0.5 < top < 2


# Phase of the maps


def test_the_phase_of_maps_does_not_jump_between_slices_of_a_3d_scan():
    one = head(noise=2e-3, full=True).ksp[0]
    louder = torch.ones(2, 8, 1, 1)
    louder[0, 0] = louder[1, 4] = 4.0  # another coil dominates in each slice
    file = MemoryScan(one * louder, torch.ones(1, *one.shape[1:], dtype=torch.bool))
    jumps = {}
    for file.is_3d in (False, True):
        maps = plan_preparation(file, PrepConfig(map_sets=1)).apply(file[:]).maps
        jumps[file.is_3d] = (maps[0].conj() * maps[1]).sum(dim=0)
    strongest = maps[:, 0]
    assert strongest.imag.abs().max() < 1e-3 and strongest.real.min() >= 0
    inside = jumps[True] != 0
    torch.testing.assert_close(jumps[True].abs(), jumps[False].abs(), rtol=0, atol=1e-3)
    together, apart = (jumps[kind][inside].angle().square().mean().sqrt() for kind in (True, False))
    assert together < 0.5 * apart


# Noise


def test_prepared_noise_is_white_and_as_strong_as_the_scan_says():
    # The same scan twice with fresh noise: the difference is noise. 8 x 64 x 64 complex samples
    # know the standard deviation to 0.4 %; the noise scan to 0.3 %.
    cov = random_cov(8)
    clean = head(noise=0.0, full=True, units=2000.0).ksp
    first, second = (clean + noise_only(8, (64, 64), cov, seed)[None] for seed in (1, 2))
    scan_noise = noise_only(8, (100, 100), cov, 3).flatten(1)
    preparation = plan_preparation(MemoryScan(first, noise=scan_noise))
    a, b = (preparation.apply(MemoryScan(ksp, noise=scan_noise)[0]) for ksp in (first, second))
    assert a.noise_source == "noise-scan"
    assert a.noise_std == pytest.approx(1 / a.scale)
    noise = (a.ksp - b.ksp).transpose(0, 1).flatten(1) / 2**0.5
    assert noise.real.std() == pytest.approx(a.noise_std, rel=0.02)
    assert noise.imag.std() == pytest.approx(a.noise_std, rel=0.02)
    white = noise @ noise.mH / (2 * a.noise_std**2 * noise.shape[1])
    assert (white - torch.eye(8)).abs().max() < 0.1


def test_a_given_noise_level_is_taken():
    file = head()
    preparation = plan_preparation(file, PrepConfig(noise_std=3e-6))
    scan = preparation.apply(file[0])
    assert scan.noise_source == "given"
    # In the file's units, whatever was done to the coils: W keeps lengths up to the level.
    assert torch.linalg.svdvals(scan.coil_transform) * 3e-6 == pytest.approx(torch.ones(8))


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize(("times", "warned"), [(0.01, True), (0.5, False), (2, False), (50, True)])
def test_a_given_noise_level_far_from_that_of_the_scan_is_a_warning(times, warned):
    file = head()
    own = plan_preparation(file).noise.std
    found = plan_preparation(file, PrepConfig(noise_std=times * own))
    assert found.noise.std == pytest.approx(times * own)
    assert [w.code for w in found.warnings] == (["W-NOISE-GIVEN"] if warned else [])
    assert not warned or f"{times:.2g} times" in found.warnings[0].text


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize(("factor", "warned"), [(1, False), (0.1, True), (10, True)])
@pytest.mark.parametrize("options", [{"full": True}, {"readout_oversampling": 2}])
def test_a_noise_scan_of_another_size_is_warned_of(factor, warned, options):
    scan, cov = simulated_scan("a", SimulateConfig((64, 64), 6, calib=16, **options))
    scan.noise = factor * noise_only(6, (64, 64), cov).flatten(1).numpy()
    found = plan_preparation(scan)
    assert found.noise.source == "noise-scan"
    assert [one.code for one in found.warnings] == ["W-NOISE-GIVEN"] * warned


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_the_right_level_beside_a_wrong_noise_scan_is_no_warning():
    scan, cov = simulated_scan("a", SimulateConfig((64, 64), 6, calib=16, full=True))
    scan.noise = 50 * noise_only(6, (64, 64), cov).flatten(1).numpy()
    level = float(cov.diagonal().real.mean().sqrt())
    for times, codes in ((1, []), (50, ["W-NOISE-GIVEN"])):
        found = plan_preparation(scan, PrepConfig(noise_std=times * level))
        assert [one.code for one in found.warnings] == codes


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize(("n_coils", "missed"), [(6, [3]), (6, [0, 2, 5]), (2, [1])])
def test_a_noise_scan_that_missed_coils_is_refused(n_coils, missed):
    """Unless they are dead in the scan too, or of a small gain in both."""
    scan, cov = simulated_scan("a", SimulateConfig((64, 64), n_coils, calib=16, full=True))
    whole = noise_only(n_coils, (64, 64), cov).flatten(1).numpy()
    scan.noise = whole.copy()
    scan.noise[missed] = 0
    with pytest.raises(PrepError, match=str(missed).replace("[", r"\[")):
        plan_preparation(scan)
    assert plan_preparation(scan, PrepConfig(noise_std=1e-6)).noise.source == "given"
    for gain in (0.005, 0.0):
        scan.ksp[:, missed] *= gain
        scan.noise[missed] = gain * whole[missed]
        assert plan_preparation(scan).noise.source == "noise-scan"


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize("options", [{"full": True}, {"acceleration": 2}])
def test_a_noise_scan_is_compared_with_noise_alone(options):
    """Filters leave little noise in outer samples; and slices may be empty."""
    scan, cov = simulated_scan("a", SimulateConfig((64, 64), 6, calib=16, slices=4, **options))
    scan.noise = noise_only(6, (64, 64), cov).flatten(1).numpy()
    window = torch.hann_window(66, periodic=False)[1:-1]
    scan.ksp *= window[:, None] * window
    assert "W-NOISE-GIVEN" not in [one.code for one in plan_preparation(scan).warnings]
    scan.ksp[1:] = 0
    assert "W-NOISE-GIVEN" not in [one.code for one in plan_preparation(scan).warnings]


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_less_noise_than_an_upper_bound_is_no_warning():
    """One coil, whose outer samples hold signal: the true noise is far below the bound."""
    config = SimulateConfig(size=(48, 40), coils=1, acceleration=2.0, calib=12, noise=1e-3)
    file, _ = simulated_scan("head", config)
    own = plan_preparation(file).noise
    assert own.source == UPPER_BOUND
    for times, warned in ((0.01, False), (30, True)):
        found = plan_preparation(file, PrepConfig(noise_std=times * own.std)).warnings
        assert ("W-NOISE-GIVEN" in [w.code for w in found]) == warned


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
def test_a_filter_that_leaves_no_noise_is_warned_of():
    """A Fermi filter, as some exports apply it."""
    file = head()
    assert plan_preparation(file).warnings == ()
    y, x = (torch.linspace(-0.5, 0.5, n) for n in file.shape[2:])
    filtered = file.ksp / (1 + ((torch.hypot(y[:, None], x) - 0.3) / 0.01).exp())
    found = plan_preparation(MemoryScan(filtered, file.mask))
    assert [w.code for w in found.warnings] == ["W-NOISE-LOW"]
    given = plan_preparation(MemoryScan(filtered, file.mask), PrepConfig(noise_std=0.01))
    assert "W-NOISE-LOW" not in [w.code for w in given.warnings]


# What it may see


@pytest.mark.parametrize("kind", ["random", "poisson"])
def test_samples_that_were_not_selected_leave_no_trace(kind):
    full = head(full=True, slices=2)
    spec = MaskSpec(kind, 3.0, 12)
    masked = Undersampled(full, spec, seed=4)
    hidden = complex_normal(full.shape, rng_for(1))
    other = MemoryScan(
        torch.where(torch.from_numpy(masked.mask), full.ksp, hidden), scan_id=full.scan_id
    )
    a, b = (Undersampled(file, spec, seed=4) for file in (full, other))
    plans = plan_preparation(a), plan_preparation(b)
    one, two = (p.apply(file[1]) for p, file in zip(plans, (a, b), strict=True))
    assert plans[0].scale == plans[1].scale
    assert torch.equal(plans[0].noise.cov, plans[1].noise.cov)
    assert torch.equal(one.ksp, two.ksp)
    assert torch.equal(one.maps, two.maps)


def test_slices_may_come_alone_or_together():
    file = head(slices=3)
    preparation = plan_preparation(file)
    together = preparation.apply(file[0:3])
    for index in (2, 0):
        alone = preparation.apply(file[index])
        torch.testing.assert_close(alone.ksp[0], together.ksp[index], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.maps[0], together.maps[index], rtol=1e-3, atol=1e-4)


# What it refuses, and warns of


def test_noise_of_a_prepared_scan_in_memory_is_that_of_its_coils():
    """In the units before normalisation: 1 after whitening, what the user says otherwise."""
    file = head(noise=0.01)
    white = plan_preparation(file).apply(file[:])
    assert plan_preparation(ArrayFile(white)).noise.std == pytest.approx(1)
    own = replace(white, coil_transform=None, noise_std=0.02, scale=50.0)
    assert plan_preparation(ArrayFile(own)).noise.std == pytest.approx(1)
    assert plan_preparation(ArrayFile(replace(own, scale=30.0))).noise.std == pytest.approx(0.6)


def test_a_scan_of_zeros_is_refused():
    mask = torch.ones(1, 32, 32, dtype=torch.bool)
    with pytest.raises(PrepError, match=r"scan\.h5"):
        plan_preparation(MemoryScan(torch.zeros(1, 4, 32, 32, dtype=torch.complex64), mask))


def test_too_few_central_lines_are_refused():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[..., :20:4] = True
    mask[..., 29:36] = True
    with pytest.raises(PrepError, match=r"24x7.*8x8"):
        plan_preparation(MemoryScan(complex_normal((1, 4, 64, 64), rng_for(0)), mask))


def test_a_line_that_is_missing_in_the_middle_is_named():
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    mask[..., 33] = False
    with pytest.raises(PrepError, match=r"columns \[33\] hold no samples.*if they were lost"):
        plan_preparation(MemoryScan(complex_normal((1, 4, 64, 64), rng_for(0)), mask))


def test_slices_that_were_scaled_apart_are_warned_of():
    file = head(slices=3, noise=0.005, readout_oversampling=2)
    plan_preparation(file)
    file.ksp[1] *= 5
    with warns("W-NOISE-SLICES") as found:
        plan_preparation(file)
    assert "slice 1 has 5" in found[0].text


def test_a_single_coil_has_unit_maps_and_a_warning():
    file = head(coils=1, noise=0.02)
    with warns("W-ONE-COIL") as found:
        preparation = plan_preparation(file)
    assert found == list(preparation.warnings)
    scan = preparation.apply(file[0])
    assert torch.equal(scan.maps, torch.ones_like(scan.ksp))
    assert "espirit" not in scan.steps


@pytest.mark.parametrize(
    "options",
    [{"n_coils": 0}, {"energy": 0.0}, {"energy": 1.1}, {"calib_width": 7}, {"noise_std": 0.0}],
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        PrepConfig(**options)


# Memory


STREAM = """
import ctypes, resource, torch
from memory_scan import MemoryScan
from mri_ambient.data_prep import PrepConfig, plan_preparation

torch.set_num_threads(1)
# What is freed goes back at once; or else fragments of the heap, which grow, count too.
M_MMAP_THRESHOLD = -3
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)


class Stream(MemoryScan):
    def read_ksp(self, index):
        return (self.ksp[0] * (1 + 0.01 * index)).numpy()


ksp = 1e-3 * torch.randn(1, 4, 256, 256, dtype=torch.complex64)
ksp[..., 120:136, 120:136] += 10
for n_slices in (6, 26):
    file = Stream(ksp)
    file.shape = (n_slices, *file.shape[1:])
    preparation = plan_preparation(file, PrepConfig(n_coils=1))  # spares ESPIRiT
    for index in range(n_slices):
        preparation.apply(file[index])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # the peak so far
"""


def test_memory_does_not_grow_with_the_number_of_slices(server):
    # 20 more slices of 2 MiB, or as many of the 1 MiB they are made into, would show.
    done = run_forked(subprocess.run, [sys.executable, "-c", STREAM], check=True)
    few, many = (int(kib) / 2**10 for kib in done.stdout.split())
    assert many <= few + 14  # 7 were measured


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
)
def test_coil_maps_are_computed_on_the_cpu_where_that_is_wanted(error, monkeypatch):
    """A GPU without room for ESPIRiT (here: a device that holds nothing) hands over."""
    where = []

    def crowded(ksp, *args, **options):
        where.append(ksp.device.type)
        if ksp.device.type != "cpu":
            raise error
        return espirit_maps(ksp, *args, **options)

    file = head(full=True, size=(40, 40), coils=4)
    expected = plan_preparation(file).apply(file[0])
    monkeypatch.setattr("mri_ambient.data_prep.preparation.espirit_maps", crowded)
    with pytest.raises(DeviceError, match=r"--cpu-fallback"):
        plan_preparation(file, device="meta").apply(file[0])
    with warns("W-CPU-FALLBACK"):
        scan = plan_preparation(file, device="meta", cpu_fallback=True).apply(file[0])
    assert where == ["meta", "meta", "cpu"]
    torch.testing.assert_close(scan.maps, expected.maps, rtol=0, atol=0)
    reference = Reference(file, plan_preparation(file, device="meta", cpu_fallback=True))
    wanted = Reference(file, plan_preparation(file)).volumes()
    torch.testing.assert_close(reference.volumes(), wanted, rtol=0, atol=0)
