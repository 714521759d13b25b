"""Batches of slices and samples: independent of their size, smaller when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from codes import warns
from gaussian import GaussianPrior
from helpers import random_maps, small_prior

from mri_ambient.data_prep.oversampling import remove_oversampling
from mri_ambient.errors import DeviceError, MriAmbientError
from mri_ambient.methods import Adps, Aos, Dds, Method, ZeroFilled
from mri_ambient.physics.crop import image_crop
from mri_ambient.physics.fourier import fft2c, ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.prior import DenoiserSource, Prior
from mri_ambient.recon.engine import (
    Engine,
    SliceImages,
    data_residual,
    to_file_units,
)
from mri_ambient.recon.recipe import ResolvedRecipe
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan

SHAPE = (6, 8)
CPU = Runtime("cpu")
TINY_GPU = Runtime(torch.device("mps"), batch_size=2)
"""A device that is not there: batches are kept from it by the tests."""


@pytest.fixture
def scan(rng) -> Scan:
    maps = random_maps((3, 4, *SHAPE), rng)
    mask = MaskSpec("random", 2, 2).draw(SHAPE, rng)
    ksp = SenseOp(maps, mask)(complex_normal((3, *SHAPE), rng))
    return Scan(
        ksp=ksp, mask=mask, scan_id="head", slices=(4, 5, 6), recon_shape=(4, 6),
        noise_std=0.1, maps=maps, scale=2.5,
    )  # fmt: skip


@pytest.fixture
def prior(rng) -> GaussianPrior:
    return GaussianPrior(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.05)


def run(
    scan: Scan,
    method: Method,
    prior: DenoiserSource | None = None,
    runtime: Runtime = CPU,
    n_samples: int = 1,
) -> SliceImages:
    (result,) = Engine(ResolvedRecipe(method, prior, n_samples=n_samples), runtime)([scan])
    return result


class Limited(ZeroFilled):
    """Zero filling on a device that has memory for a few images; it records how many it is given.

    Attributes:
        limit: the most images at once.
        error: raised for more.
    """

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit, self.error, self.sizes = limit, error, []

    def solve(self, op, ksp, noise_std):
        self.sizes.append(len(ksp))
        if len(ksp) > self.limit:
            raise self.error
        return super().solve(op, ksp, noise_std)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class TestImages:
    def test_samples_differ_and_average_to_the_image(self, scan, prior):
        result = run(scan, Adps(n_steps=5), prior, n_samples=3)
        assert result.samples.shape == (3, 3, *SHAPE)
        torch.testing.assert_close(result.img, result.samples.mean(dim=0))
        magnitude = result.samples.abs()
        spread = (magnitude - magnitude.mean(dim=0)).square().sum(dim=0) / 2  # K - 1 = 2
        torch.testing.assert_close(result.std, spread.sqrt())
        assert float(result.std.min()) > 0

    def test_one_image_has_no_standard_deviation(self, scan, prior):
        result = run(scan, Aos(), prior)
        assert result.std is None and result.samples is None
        assert result.provenance["n_samples"] == 1

    @pytest.mark.parametrize("batch_size", [1, 2, 9])
    def test_the_batch_size_changes_nothing(self, batch_size, scan, prior):
        base, other = (
            run(scan, Adps(n_steps=6), prior, replace(CPU, batch_size=size), n_samples=3).img
            for size in (4, batch_size)
        )
        torch.testing.assert_close(base, other, rtol=1e-4, atol=1e-5)

    def test_a_slice_alone_has_the_image_it_has_in_the_volume(self, scan, prior):
        alone = replace(scan, ksp=scan.ksp[1:2], maps=scan.maps[1:2], slices=scan.slices[1:2])
        method = Adps(n_steps=6)
        whole = run(scan, method, prior).img[1]
        torch.testing.assert_close(run(alone, method, prior).img[0], whole)

    def test_scans_together_have_the_images_they_have_alone(self, scan, prior):
        other = replace(scan, scan_id="other", ksp=scan.ksp[:2], maps=scan.maps[:2], slices=(0, 1))
        recipe = ResolvedRecipe(Adps(n_steps=6), prior, n_samples=3)
        engine = Engine(recipe, replace(CPU, batch_size=4))
        for one, result in zip((scan, other), engine([scan, other]), strict=True):
            (alone,) = engine([one])
            assert result.provenance.keys() == alone.provenance.keys()
            torch.testing.assert_close(result.samples, alone.samples, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(result.std, alone.std, rtol=1e-4, atol=1e-5)
            got, want = ([c["data_residual"] for c in r.checks] for r in (result, alone))
            assert got == pytest.approx(want, rel=1e-3)
        fewer = replace(scan, ksp=scan.ksp[:, :3], maps=scan.maps[:, :3])
        with pytest.raises(ValueError):
            engine([scan, fewer])

    def test_a_scan_that_is_not_prepared_is_refused(self, scan):
        for missing in ({"maps": None}, {"noise_std": None}):
            with pytest.raises(ValueError, match="head"):
                run(replace(scan, **missing), ZeroFilled())

    def test_seeds_and_scans_have_their_own_streams(self):
        draws = {
            float(torch.rand((), generator=rng_for(*keys)))
            for keys in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))
        }
        assert len(draws) == 4

    def test_an_image_of_nans_is_refused(self, scan):
        class Broken(ZeroFilled):
            def solve(self, op, ksp, noise_std):
                img = super().solve(op, ksp, noise_std)
                img[1, 0, 0] = complex("nan")
                return img

        with pytest.raises(MriAmbientError, match=r"\[5\]"):  # the slice
            run(scan, Broken(), runtime=replace(CPU, batch_size=3))

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_networks_compute_in_the_given_precision(self, precision, scan):
        prior, seen = small_prior(), []
        prior.net.nets[0].first.register_forward_hook(lambda *a: seen.append(a[2].dtype))
        result = run(scan, Dds(n_steps=2), prior, replace(CPU, precision=precision))
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert result.provenance["precision"] == precision
        assert run(scan, Aos(), prior).provenance["precision"] == "fp32"
        assert not prior.net.autocast

    def test_the_residual_is_in_units_of_the_noise(self, scan, rng):
        """A x = y but for noise of sigma_n: 1, within 5 standard errors of 96 complex numbers."""
        op = SenseOp(scan.maps, scan.mask)
        noise = 0.1 * scan.mask * complex_normal(tuple(scan.ksp.shape), rng)
        truth = complex_normal((3, *SHAPE), rng)
        batch = Batch.of([replace(scan, ksp=op(truth) + noise)])
        values = [data_residual(batch[[i]], truth[[i]]) for i in range(3)]
        assert values == pytest.approx([1.0] * 3, abs=5 / (2 * 96) ** 0.5)


class TestFileUnits:
    def test_they_undo_the_scale_and_crop(self, scan):
        img = torch.ones(3, *SHAPE, dtype=torch.complex64)
        out = to_file_units(img, scan)
        assert out.shape == (3, 4, 6)
        # Unit-norm maps and no coil transform: the weight is 1.
        torch.testing.assert_close(out, torch.full_like(out, 2.5), rtol=1e-5, atol=0)

    @pytest.mark.parametrize(("n", "c"), [(8, 4), (8, 5), (9, 4), (9, 5), (8, 8)])
    def test_images_are_cut_where_fastmri_cuts_its_targets(self, n, c):
        """From (n - c) // 2 on; tests marked fastmri compare with the package itself."""
        img = torch.arange(n * n).view(n, n)
        first = (n - c) // 2
        assert torch.equal(image_crop(img, (c, c)), img[first : first + c, first : first + c])

    @pytest.mark.parametrize("n_final", [5, 6, 7])
    @pytest.mark.parametrize(("n", "n_rows"), [(14, 7), (16, 8), (15, 8)])
    def test_two_cuts_of_the_readout_leave_what_one_would(self, n, n_rows, n_final, rng):
        """Oversampling removed, then cut to the final matrix: the pixels of a single crop."""
        img = complex_normal((1, 1, n, 6), rng)
        raw = Scan(
            ksp=fft2c(img), mask=torch.ones(1, n, 6, dtype=torch.bool), scan_id="head",
            slices=(0,), recon_shape=(n_final, 4),
        )  # fmt: skip
        cut = image_crop(ifft2c(remove_oversampling(raw, n_rows).ksp), raw.recon_shape)
        torch.testing.assert_close(cut, image_crop(img, raw.recon_shape), rtol=0, atol=1e-5)


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            OUT_OF_MEMORY,
            RuntimeError("CUDA error: out of memory"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`"),
            RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_batches_are_halved(self, error, scan):
        """Whichever library has no memory; where one image fits, all are reconstructed."""
        method = Limited(1, error)
        got = run(scan, method, runtime=replace(CPU, batch_size=3))
        assert method.sizes == [3, 1, 1, 1]
        assert got.provenance["fitted"] == 1
        torch.testing.assert_close(got.img, run(scan, ZeroFilled()).img)

    def test_no_memory_for_one_image_is_an_error(self, scan):
        with pytest.raises(DeviceError):
            run(scan, Limited(0, OUT_OF_MEMORY))

    def test_batches_stay_small(self, scan):
        """Memory runs out once, not once a call."""
        method = Limited(1, OUT_OF_MEMORY)
        engine = Engine(ResolvedRecipe(method), replace(CPU, batch_size=3))
        assert engine.slices_at_once(SHAPE) == 3
        engine([scan])
        engine([scan])
        assert method.sizes == [3, *[1] * 6]
        assert engine.slices_at_once(SHAPE) == 1

    def test_slices_at_once_leave_room_for_their_samples(self, prior):
        recipe = ResolvedRecipe(Adps(), prior, n_samples=3)
        for size, n in ((9, 3), (8, 2), (2, 1)):
            assert Engine(recipe, replace(CPU, batch_size=size)).slices_at_once(SHAPE) == n

    def test_other_errors_are_raised_as_they_are(self, scan):
        error = RuntimeError("sizes differ")
        with pytest.raises(RuntimeError) as caught:
            run(scan, Limited(0, error))
        assert caught.value is error


class TestFallback:
    def test_the_cpu_takes_over_if_that_is_allowed(self, scan, device_of_batches):
        """A GPU without memory for one image, here a name for the CPU."""
        where = device_of_batches

        class Greedy(ZeroFilled):
            def solve(self, op, ksp, noise_std):
                if where[-1] != "cpu":
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().solve(op, ksp, noise_std)

        with warns("W-CPU-FALLBACK"):
            got = run(scan, Greedy(), runtime=replace(TINY_GPU, cpu_fallback=True))
        assert where == ["mps", "mps", *["cpu"] * 6]  # three slices, and their data residuals
        assert got.provenance["device"] == "cpu"
        torch.testing.assert_close(got.img, run(scan, ZeroFilled()).img)
        with pytest.raises(DeviceError, match="--cpu-fallback"):
            run(scan, Greedy(), runtime=TINY_GPU)

    @pytest.mark.parametrize(
        "error", [OUT_OF_MEMORY, RuntimeError("CUDA error: out of memory")]
    )  # fmt: skip
    def test_a_prior_that_does_not_fit_goes_to_the_cpu(self, error, scan, monkeypatch):
        """Torch's own error, or the driver's; networks are not compiled there."""

        def full(*_):
            raise error

        prior = small_prior()
        expected = run(scan, Dds(n_steps=2), prior).img
        monkeypatch.setattr(Prior, "to", full)
        with pytest.raises(DeviceError, match="--cpu-fallback"):
            run(scan, Dds(n_steps=2), prior, TINY_GPU)
        runtime = replace(TINY_GPU, cpu_fallback=True, compile=True)
        with warns("W-CPU-FALLBACK"):
            result = run(scan, Dds(n_steps=2), prior, runtime)
        torch.testing.assert_close(result.img, expected)
        assert (result.provenance["device"], result.provenance["compiled"]) == ("cpu", False)

    def test_a_figure_without_memory_is_computed_on_the_cpu(self, scan):
        calls = []

        def figure(batch: Batch, img: torch.Tensor) -> float:
            calls.append(len(calls))
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return float(img.real.sum())

        img = torch.ones(3, *SHAPE, dtype=torch.complex64)
        engine = Engine(ResolvedRecipe(ZeroFilled()), CPU)
        assert engine.evaluate(figure, Batch.of([scan]), img) == img.numel()
        assert calls == [0, 1]

    def test_another_method_runs_on_the_same_device(self, prior):
        engine = Engine(
            ResolvedRecipe(Adps(), prior, seed=3, n_samples=4), replace(CPU, batch_size=2)
        )
        other = engine.variant(ZeroFilled())
        assert (other.recipe.method, other.prior, other.recipe.n_samples) == (ZeroFilled(), None, 1)
        assert (other.runtime, other.recipe.seed) == (engine.runtime, 3)


class TestWaiting:
    """For a GPU to compute and copy, here without one."""

    @pytest.fixture
    def pretend(self, scan, device_of_batches, monkeypatch) -> Callable[..., SliceImages]:
        """The scan on a "cuda" whose memory and errors are given."""

        def run_there(limit: int, error: Exception | None) -> SliceImages:
            def synchronize(_: object) -> None:
                if error is not None:
                    raise error

            class Greedy(ZeroFilled):
                def solve(self, op, ksp, noise_std):
                    if device_of_batches[-1] != "cpu" and len(ksp) > limit:
                        raise torch.OutOfMemoryError("CUDA out of memory")
                    return super().solve(op, ksp, noise_std)

            monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
            monkeypatch.setattr(Engine, "evaluate", lambda *_: 0.0)
            runtime = Runtime(torch.device("cuda"), batch_size=1, cpu_fallback=True)
            return run(scan, Greedy(), runtime=runtime)

        return run_there

    def test_a_gpu_that_was_lost_is_an_error(self, pretend):
        pretend(9, None)
        with pytest.raises(DeviceError, match="unspecified launch failure"):
            pretend(9, RuntimeError("CUDA error: unspecified launch failure"))

    def test_a_gpu_that_never_had_memory_is_not_waited_for(self, pretend):
        full = RuntimeError("CUDA error: out of memory")
        with warns("W-CPU-FALLBACK"):
            assert pretend(0, full).img.isfinite().all()
        with pytest.raises(DeviceError) as caught:  # its images are not ready
            pretend(9, full)
        assert str(full) in str(caught.value)
