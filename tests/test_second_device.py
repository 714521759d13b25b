"""Everything that runs on a GPU runs on a second device, which tests/second_device.py provides.

It computes on the CPU and raises where a GPU would: for tensors on the wrong device, generators of
the wrong device, and hidden ``.numpy()``. One fault of each kind is planted here and must be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from codes import warns
from helpers import small_prior, streams
from memory_scan import simulated_scan
from second_device import DeviceMismatchError, DeviceTensor, make_generator, second_device
from toys import EVERY, SPEC, batch_for, make_batch, net_for
from training_runs import QUICK, prepared

from mri_ambient.data_prep import SimulateConfig, plan_preparation
from mri_ambient.errors import DeviceError
from mri_ambient.methods import (
    METHODS,
    Adps,
    Aos,
    CgSense,
    Dds,
    L1Wavelet,
    Method,
    Msm,
    PriorOnly,
    Pula,
    ZeroFilled,
)
from mri_ambient.objectives import Kspace
from mri_ambient.objectives.base import Loss
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.denoisers import DENOISERS
from mri_ambient.recon.checks import check_slices
from mri_ambient.recon.engine import Engine, SliceImages
from mri_ambient.recon.recipe import Checks, ResolvedRecipe
from mri_ambient.recon.sample import draw_images, uniform_maps
from mri_ambient.rng import complex_normals, on_device, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan
from mri_ambient.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

SHORT = (
    Aos(), Dds(n_steps=2), Dds(n_steps=2, start="aos", renoise="diffpir"), Msm(n_steps=2),
    Pula(n_steps=2), Adps(n_steps=2), ZeroFilled(), CgSense(), L1Wavelet(n_iter=5),
)  # fmt: skip
"""Every method, in few steps."""

FLAT = replace(SPEC, channels=(8,), passes=1)
"""Of one level and one pass; those with more are run by themselves."""

CONFIG = SimulateConfig(size=(32, 28), coils=3, acceleration=2.0, calib=12, noise=0.02)


@pytest.fixture
def device() -> Iterator[torch.device]:
    with second_device() as device:
        yield device


@pytest.fixture(scope="module")
def raw() -> Any:
    return simulated_scan("head", CONFIG)[0]


@pytest.fixture(scope="module")
def scan(raw) -> Scan:
    """Prepared on the CPU."""
    return plan_preparation(raw).apply(raw[0])


def on_the_device(value: torch.Tensor) -> torch.Tensor:
    assert isinstance(value, DeviceTensor)
    return value.cpu()


def run(method: Method, scan: Scan, device: Any, **recipe: Any) -> SliceImages:
    """An image and its checks."""
    prior = small_prior("conditioned", tau=0.1, network=FLAT) if method.needs_prior else None
    engine = Engine(ResolvedRecipe(method, prior, **recipe), Runtime(torch.device(device)))
    (result,) = engine([scan])
    assert prior is None or prior.net.nets[0].first.weight.device.type == torch.device(device).type
    return check_slices(engine, scan, result)


class TestNothingIsLeftBehind:
    def test_coil_maps(self, raw, scan, device):
        """They come back to the CPU, and are those of the CPU."""
        maps = plan_preparation(raw, device=device).apply(raw[0]).maps
        assert not isinstance(maps, DeviceTensor)
        torch.testing.assert_close(maps, scan.maps)

    @pytest.mark.parametrize("name", EVERY)
    def test_a_training_step_of_every_objective(self, name, device):
        """Augmentation, loss, gradients and an Adam step."""
        objective = EVERY[name]
        net = net_for(objective, FLAT).to(device).train()
        optimizer = torch.optim.Adam(net.parameters())
        batch = batch_for(objective).to(device).augmented(streams(0, 2))
        loss = objective(net, batch, streams(1, 2))
        loss.backward.backward()
        before = net.nets[0].first.weight.detach().clone()
        optimizer.step()
        assert bool(on_the_device(loss.backward.detach()).isfinite())
        assert all(on_the_device(value).ndim == 0 for value in loss.log.values())
        assert bool((on_the_device(net.nets[0].first.weight.detach()) != before.cpu()).any())

    @pytest.mark.parametrize("kind", DENOISERS)
    def test_every_denoiser(self, kind, device):
        net = DENOISERS[kind](SPEC, 0.3).to(device)
        batch = make_batch().to(device)
        for training in (True, False):
            net.train(training)
            out = net(batch.op, batch.measured, torch.full((2,), 0.1, device=device))
            assert on_the_device(out.detach()).shape == (2, 16, 20)

    @pytest.mark.parametrize("method", SHORT, ids=lambda method: method.name)
    def test_every_method_and_the_flags(self, method, scan):
        """The images are those of the CPU; wavelets have another library there."""
        recipe = {"n_samples": 2, "checks": Checks(flags=True)}
        here = run(method, scan, "cpu", **recipe)
        with second_device() as device:
            there = run(method, scan, device, **recipe)
        assert not isinstance(there.img, DeviceTensor)
        assert float((there.img - here.img).norm() / here.img.norm()) < 1e-4
        assert there.checks[0].keys() == here.checks[0].keys() >= {"data_residual", "flags"}

    def test_none_is_missing(self):
        assert {type(method) for method in SHORT} == set(METHODS.values())

    def test_held_out_lines(self, scan, monkeypatch):
        monkeypatch.setattr("mri_ambient.recon.held_out.L1Wavelet", partial(L1Wavelet, n_iter=5))
        recipe = {"n_samples": 2, "checks": Checks(n_held_out=1)}
        here = run(Dds(n_steps=2), scan, "cpu", **recipe)
        with second_device() as device:
            there = run(Dds(n_steps=2), scan, device, **recipe)
        assert there.checks[0]["held_out"] == pytest.approx(here.checks[0]["held_out"], rel=1e-3)

    @pytest.mark.parametrize("kind", ["conditioned", "plain"])
    def test_images_drawn_from_a_prior(self, kind):
        sampler = PriorOnly(n_steps=2, guidance=0.01 if kind == "conditioned" else 0.0)
        maps = uniform_maps((16, 20))

        def draw(where: torch.device) -> torch.Tensor:
            prior = small_prior(kind, noise_filled=kind == "plain")
            return draw_images(prior, sampler, maps, n_images=2, runtime=Runtime(where))

        here = draw(torch.device("cpu"))
        with second_device() as device:
            there = draw(device)
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)

    def test_a_training_run(self, tmp_path):
        """Loading, steps, checkpoint and prior file."""
        data = prepared(tmp_path, CONFIG, count=2)
        with second_device() as device:
            train(data, tmp_path / "run", QUICK, images=4, runtime=Runtime(device))
        prior = load_prior(tmp_path / "run")
        assert prior.facts.images_seen == 4
        assert all(bool(tensor.isfinite().all()) for tensor in prior.net.state_dict().values())

    def test_priors_are_saved_from_and_loaded_onto_a_device(self, tmp_path, device):
        prior = small_prior("conditioned")
        save_prior(prior.to(device), tmp_path / "prior.safetensors")
        for where in (device, "cpu"):
            loaded = load_prior(tmp_path / "prior.safetensors", where)
            weight = loaded.net.nets[0].first.weight
            assert weight.device.type == torch.device(where).type
            assert torch.equal(weight.detach().cpu(), prior.net.nets[0].first.weight.detach().cpu())

    def test_the_cpu_takes_over(self, scan, device):
        """With the prior that was on the device."""

        class Large(Dds):
            def __call__(self, prior, batch, rng, on_step=None):
                if isinstance(batch.ksp, DeviceTensor):
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().__call__(prior, batch, rng, on_step)

        prior = small_prior("conditioned", tau=0.1)
        runtime = Runtime(device, cpu_fallback=True)
        with warns("W-CPU-FALLBACK"):
            (result,) = Engine(ResolvedRecipe(Large(n_steps=2), prior), runtime)([scan])
        assert result.provenance["device"] == "cpu"
        assert bool(result.img.isfinite().all())
        with pytest.raises(DeviceError):
            Engine(ResolvedRecipe(Large(n_steps=2), prior), Runtime(device))([scan])

    def test_noise_drawn_there_has_its_own_streams(self, device):
        there = on_device(streams(0, 2), device)
        assert all(stream.device.type == device.type for stream in there)
        noise = complex_normals((3, 4), there, device=device)
        assert on_the_device(noise).shape == (2, 3, 4)
        assert on_the_device(complex_normals((3, 4), streams(0, 2), device=device)).shape[0] == 2


# Planted faults


class LeftOnTheCpu(CgSense):
    """A tensor that was not moved."""

    def solve(self, op, ksp, noise_std):
        window = torch.ones(op.ishape)
        return super().solve(op, ksp, noise_std) * window


class WrongGenerator(CgSense):
    """Noise drawn on the device by a generator of the CPU."""

    def solve(self, op, ksp, noise_std):
        noise = torch.randn(op.ishape, generator=rng_for(0), device=noise_std.device)
        return super().solve(op, ksp, noise_std) + noise


class HiddenNumpy(CgSense):
    """A detour by NumPy, which works on the CPU."""

    def solve(self, op, ksp, noise_std):
        img = super().solve(op, ksp, noise_std)
        return img * torch.from_numpy(op.support.numpy()).to(img.device)


class TestFaultsAreFound:
    @pytest.mark.parametrize("method", [LeftOnTheCpu, WrongGenerator, HiddenNumpy])
    def test_in_a_method(self, method, scan):
        """It works on the CPU and not on the device."""
        run(method(), scan, "cpu")
        with second_device() as device, pytest.raises(DeviceMismatchError):
            run(method(), scan, device)

    @pytest.mark.parametrize(
        "fault",
        [
            lambda batch, rng: (batch.density * torch.ones(batch.mask.shape)).mean(),
            lambda batch, rng: torch.rand((), generator=on_device(rng, batch.ksp.device)[0]),
            lambda batch, rng: float(batch.noise_std.numpy().mean()),
        ],
        ids=["tensor", "generator", "numpy"],
    )
    def test_in_an_objective(self, fault: Callable[[Batch, Any], Any]):
        class Faulty(Kspace):
            def __call__(self, net, batch, rng):
                loss = super().__call__(net, batch, rng)
                return Loss(loss.backward * fault(batch, rng), loss.log)

        objective = Faulty()
        net, batch = net_for(objective), batch_for(objective)
        objective(net, batch, streams(1, 2)).backward.backward()
        with second_device() as device, pytest.raises(DeviceMismatchError):
            objective(net.to(device), batch.to(device), streams(1, 2))

    def test_in_single_calls(self, device):
        """What a GPU refuses, and what it allows."""
        x = torch.arange(6.0).view(2, 3).to(device)
        rng = make_generator(device)
        refused: list[Callable[[], object]] = [
            lambda: x + torch.ones(2, 3),
            lambda: torch.cat([x, torch.ones(2, 3)]),
            lambda: torch.stack([x.sum(), torch.tensor(1.0)]),
            lambda: torch.where(torch.ones(2, 3) > 0, x, 0),
            lambda: torch.ones(2, 3)[x.long()],
            lambda: torch.rand(2, generator=rng),
            lambda: torch.rand(2, generator=rng_for(0), device=device),
            lambda: x.numpy(),
            lambda: np.asarray(x),
            lambda: torch.nn.Linear(3, 3)(x),
        ]
        for call in refused:
            with pytest.raises(DeviceMismatchError):
                call()
        allowed = [
            x + torch.tensor(1.0),
            x[torch.tensor([0, 1])],
            torch.empty(2, 3).to(device).copy_(torch.ones(2, 3)),
            torch.rand(2, generator=rng, device=device),
            torch.zeros_like(x) + x.new_ones(3),
        ]
        assert all(isinstance(value, DeviceTensor) for value in allowed)
        assert x.cpu().numpy().shape == x.numpy(force=True).shape == (2, 3)
        assert float(x.sum()) == 15 and x[1].tolist() == [3, 4, 5]
        assert torch.equal(torch.empty(2, 3).copy_(x), x.cpu())
