from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from gaussian import GaussianPrior
from helpers import random_maps, small_prior

from mri_ambient.data_prep.oversampling import remove_oversampling
from mri_ambient.errors import ConfigError, DeviceError, MriAmbientError, NumericalWarning
from mri_ambient.methods import Adps, Aos, Dds
from mri_ambient.methods.baselines import CgSense, ZeroFilled
from mri_ambient.methods.presets import with_options
from mri_ambient.physics.fourier import fft2c, ifft2c, image_crop
from mri_ambient.physics.masks import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.prior import Prior
from mri_ambient.recon.engine import (
    Options,
    _residual,
    _Work,
    here_or_on_the_cpu,
    on_cpu,
    reconstruct,
    reconstruct_many,
    to_file_units,
)
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import lost
from mri_ambient.scan import Batch, Scan

SHAPE = (6, 8)


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


def test_samples_differ_and_average_to_the_image(scan, prior):
    result = reconstruct(scan, Adps(n_steps=5), prior, Options(n_samples=3))
    assert result.samples.shape == (3, 3, *SHAPE)
    torch.testing.assert_close(result.img, result.samples.mean(dim=0))
    magnitude = result.samples.abs()
    spread = (magnitude - magnitude.mean(dim=0)).square().sum(dim=0) / 2  # K - 1 = 2
    torch.testing.assert_close(result.std, spread.sqrt())
    assert float(result.std.min()) > 0


def test_a_deterministic_method_runs_once(scan, prior):
    result = reconstruct(scan, Aos(), prior, Options(n_samples=3))
    assert result.std is None
    assert result.provenance["n_samples"] == 1


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_the_batch_size_changes_nothing(batch_size, scan, prior):
    base = reconstruct(scan, Adps(n_steps=6), prior, Options(n_samples=3, batch_size=4))
    other = reconstruct(scan, Adps(n_steps=6), prior, Options(n_samples=3, batch_size=batch_size))
    torch.testing.assert_close(base.img, other.img, rtol=1e-4, atol=1e-5)


def test_a_slice_alone_gets_the_image_it_gets_in_the_volume(scan, prior):
    alone = replace(scan, ksp=scan.ksp[1:2], maps=scan.maps[1:2], slices=scan.slices[1:2])
    method = Adps(n_steps=6)
    whole = reconstruct(scan, method, prior).img[1]
    torch.testing.assert_close(reconstruct(alone, method, prior).img[0], whole)


def test_scans_together_get_the_images_they_get_alone(scan, prior, rng):
    other = replace(scan, scan_id="other", ksp=scan.ksp[:2], maps=scan.maps[:2], slices=(0, 1))
    method, options = Adps(n_steps=6), Options(n_samples=3, batch_size=4)
    together = reconstruct_many([scan, other], method, prior, options)
    for one, result in zip((scan, other), together, strict=True):
        alone = reconstruct(one, method, prior, options)
        assert (result.scan_id, result.slices) == (one.scan_id, one.slices)
        assert result.provenance.keys() == alone.provenance.keys()
        torch.testing.assert_close(result.samples, alone.samples, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(result.std, alone.std, rtol=1e-4, atol=1e-5)
        got, want = ([c["data_residual"] for c in r.checks] for r in (result, alone))
        assert got == pytest.approx(want, rel=1e-3)
    fewer = replace(scan, ksp=scan.ksp[:, :3], maps=scan.maps[:, :3])
    with pytest.raises(ValueError, match="several sizes or numbers of coils"):
        reconstruct_many([scan, fewer], method, prior, options)


def test_the_residual_is_in_units_of_the_noise(scan, rng):
    """A x = y but for noise of sigma_n: 1, within 5 standard errors of 3 x 96 complex numbers."""
    op = SenseOp(scan.maps, scan.mask)
    noise = 0.1 * scan.mask * complex_normal(tuple(scan.ksp.shape), rng)
    truth = complex_normal((3, *SHAPE), rng)
    noisy = replace(scan, ksp=op(truth) + noise)
    batch = Batch.of([noisy])
    values = [_residual(batch[[i]], truth[[i]]) for i in range(3)]
    assert values == pytest.approx([1.0] * 3, abs=5 / (2 * 96) ** 0.5)


def test_file_units_undo_the_scale_and_crop(scan):
    img = torch.ones(3, *SHAPE, dtype=torch.complex64)
    out = to_file_units(img, scan)
    assert out.shape == (3, 4, 6)
    # Unit-norm maps and no coil transform: the weight is 1.
    torch.testing.assert_close(out, torch.full_like(out, 2.5), rtol=1e-5, atol=0)


def test_a_sampler_of_ones_own_is_a_sampler(scan, prior):
    @dataclass(frozen=True)
    class Mine(Aos):
        """In no list."""

    torch.testing.assert_close(
        reconstruct(scan, Mine(), prior).img, reconstruct(scan, Aos(), prior).img
    )


def test_a_sampler_needs_a_prior(scan):
    with pytest.raises(ConfigError, match="needs a prior"):
        reconstruct(scan, Aos())


def test_options_a_method_lacks_are_named():
    assert with_options(CgSense, {"lam": 0.5, "n_steps": None}) == CgSense(lam=0.5)
    with pytest.raises(ConfigError, match="n_steps"):
        with_options(CgSense, {"n_steps": 4})


def test_seeds_and_scans_have_streams_of_their_own():
    draws = {
        float(torch.rand((), generator=rng_for(*keys)))
        for keys in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))
    }
    assert len(draws) == 4


@pytest.mark.parametrize(("n", "c"), [(8, 4), (8, 5), (9, 4), (9, 5), (8, 8)])
def test_images_are_cut_where_fastmri_cuts_its_targets(n, c):
    """From (n - c) // 2 on; tests marked fastmri compare with the package itself."""
    img = torch.arange(n * n).view(n, n)
    first = (n - c) // 2
    assert torch.equal(image_crop(img, (c, c)), img[first : first + c, first : first + c])


@pytest.mark.parametrize("n_final", [5, 6, 7])
@pytest.mark.parametrize(("n", "n_rows"), [(14, 7), (16, 8), (15, 8)])
def test_two_cuts_of_the_readout_leave_what_one_would(n, n_rows, n_final, rng):
    """Oversampling removed, then cut to the final matrix: the pixels of a single crop."""
    img = complex_normal((1, 1, n, 6), rng)
    raw = Scan(
        ksp=fft2c(img), mask=torch.ones(1, n, 6, dtype=torch.bool), scan_id="head", slices=(0,),
        recon_shape=(n_final, 4),
    )  # fmt: skip
    cut = image_crop(ifft2c(remove_oversampling(raw, n_rows).ksp), raw.recon_shape)
    torch.testing.assert_close(cut, image_crop(img, raw.recon_shape), rtol=0, atol=1e-5)


def test_out_of_memory_halves_the_batch(scan):
    """A method that takes two images at most still gives all of them."""
    sizes = []

    @dataclass(frozen=True)
    class Greedy(ZeroFilled):
        def __call__(self, op, ksp, *, noise_std):
            sizes.append(len(ksp))
            if len(ksp) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().__call__(op, ksp, noise_std=noise_std)

    limit = 1
    got = reconstruct(scan, Greedy(), options=Options(batch_size=3)).img
    assert sizes == [3, 1, 1, 1]
    torch.testing.assert_close(got, reconstruct(scan, ZeroFilled()).img)
    limit = 0
    with pytest.raises(DeviceError, match="single image"):
        reconstruct(scan, Greedy())


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
    ],
)
def test_libraries_without_memory_are_given_less(words, scan):
    sizes = []

    class Greedy(ZeroFilled):
        def __call__(self, op, ksp, *, noise_std):
            sizes.append(len(ksp))
            if len(ksp) > 1:
                raise RuntimeError(words)
            return super().__call__(op, ksp, noise_std=noise_std)

    reconstruct(scan, Greedy(), options=Options(batch_size=3))
    assert sizes == [3, 1, 1, 1]


def test_the_cpu_takes_over_where_that_is_wanted(scan, monkeypatch):
    """A GPU without room for one image (here: a name for the CPU) hands over, and is told of."""
    where = []
    monkeypatch.setattr(Batch, "to", lambda batch, device: where.append(str(device)) or batch)

    @dataclass(frozen=True)
    class Greedy(ZeroFilled):
        def __call__(self, op, ksp, *, noise_std):
            if where[-1] != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().__call__(op, ksp, noise_std=noise_std)

    options = Options(batch_size=2, device="mps", cpu_fallback=True)
    with pytest.warns(NumericalWarning, match="going on with the CPU"):
        got = reconstruct(scan, Greedy(), options=options).img
    assert where == ["mps", "mps", *["cpu"] * 6]  # its slices, and what they leave unexplained
    torch.testing.assert_close(got, reconstruct(scan, ZeroFilled()).img)
    with pytest.raises(DeviceError, match="--cpu-fallback"):
        reconstruct(scan, Greedy(), options=Options(batch_size=2, device="mps"))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
)
def test_a_device_without_room_for_the_prior_hands_over(error, scan, monkeypatch):
    """Torch's own error, or the driver's."""

    def full(*_):
        raise error

    prior = small_prior()
    expected = reconstruct(scan, Dds(n_steps=2), prior, Options(n_samples=1)).img
    monkeypatch.setattr(Prior, "to", full)
    options = Options(n_samples=1, device="mps")
    with pytest.raises(DeviceError, match=r"the prior does not fit on mps.*--cpu-fallback"):
        reconstruct(scan, Dds(n_steps=2), prior, options)
    with pytest.warns(NumericalWarning, match="going on with the CPU"):
        result = reconstruct(scan, Dds(n_steps=2), prior, replace(options, cpu_fallback=True))
    torch.testing.assert_close(result.img, expected)
    assert result.provenance["device"] == "cpu"


def test_a_check_without_room_is_made_by_the_cpu(scan, monkeypatch):
    where = []

    def check(batch, img):
        where.append(len(where))
        if len(where) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float(img.real.sum())

    batch, img = Batch.of([scan]), torch.ones(3, *SHAPE, dtype=torch.complex64)
    assert here_or_on_the_cpu(check, batch, img, "cpu") == img.numel()
    assert where == [0, 1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_networks_compute_in_the_precision_asked_for(precision, scan, rng):
    prior = small_prior()
    seen = []
    prior.net.nets[0].first.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    reconstruct(scan, Dds(n_steps=2), prior, Options(precision=precision))
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    result = reconstruct(scan, Aos(), prior, Options(precision=precision))
    assert result.provenance["precision"] == precision
    assert reconstruct(scan, Aos(), prior).provenance["precision"] == "fp32"  # of a CPU
    assert not prior.net.autocast
    with pytest.raises(ConfigError, match="fp16"):
        Options(precision="fp16")


def test_the_prior_goes_to_the_cpu_and_its_first_stays(scan):
    prior = small_prior()
    moved = on_cpu(prior)
    assert moved.net is not prior.net
    assert not any(parameter.requires_grad for parameter in moved.net.parameters())
    images = [reconstruct(scan, Dds(n_steps=2), one).img for one in (prior, moved)]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("words", "is_lost"),
    [
        ("CUDA error: unspecified launch failure", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("cuFFT error: CUFFT_EXEC_FAILED", True),
        ("sizes differ", False),
    ],
)
def test_a_device_is_lost_whichever_library_says_so(words, is_lost):
    assert (lost(RuntimeError(words), "cuda") is not None) == is_lost


def test_an_image_of_nans_is_refused(scan):
    @dataclass(frozen=True)
    class Broken(ZeroFilled):
        def __call__(self, op, ksp, *, noise_std):
            img = super().__call__(op, ksp, noise_std=noise_std)
            img[1, 0, 0] = complex("nan")
            return img

    with pytest.raises(MriAmbientError, match=r"not finite in slices \[5\]"):
        reconstruct(scan, Broken(), options=Options(batch_size=3))


def test_nothing_is_waited_for_on_a_gpu_that_never_had_room(monkeypatch):
    full = "CUDA error: out of memory"
    said = [full, full, "CUDA error: unspecified launch failure"]

    def refuse(*_):
        raise RuntimeError(said.pop(0))

    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    work = _Work(ZeroFilled(), None, Options(device="cuda", cpu_fallback=True), None)
    with pytest.raises(DeviceError, match="out of memory"):  # what it computes is not ready
        work.wait()
    with pytest.warns(NumericalWarning, match="going on with the CPU"):
        work.move_to_cpu()
    work.wait()
    with pytest.raises(DeviceError, match="was lost"):
        work.wait()
    assert said == []
