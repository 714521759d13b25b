"""A volume: read ahead, computed in runs of slices, reported with each warning once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from copy import deepcopy
from dataclasses import replace
from functools import partialmethod
from typing import Any

import pytest
import torch
from codes import warns
from helpers import small_prior

from mri_ambient.errors import DeviceError, MriAmbientError, ScanFormatError, warn
from mri_ambient.io import ArrayFile, ScanFile, open_scan
from mri_ambient.methods import PRESETS, Aos, CgSense, Dds, Method, Msm, Pula
from mri_ambient.methods.base import StepInfo
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.denoisers import Denoiser
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.metrics import evaluate_volume
from mri_ambient.recon.pipeline import open_volume
from mri_ambient.recon.recipe import ESTIMATES, POSTERIOR, Checks, Recipe, ResolvedRecipe
from mri_ambient.recon.report import slice_lines, summary_line
from mri_ambient.recon.slice_store import SliceStore
from mri_ambient.recon.volume import (
    Volume,
    neighbouring_runs,
    reconstruct_volume,
)
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Scan


def report_of(volume: Volume, store: SliceStore | None = None, **more: Any) -> dict[str, Any]:
    return reconstruct_volume(volume, SliceStore() if store is None else store, **more)


def test_runs_are_of_neighbours():
    assert list(neighbouring_runs([0, 1, 2, 5, 6, 9], 2)) == [(0, 2), (2, 3), (5, 7), (9, 10)]
    assert list(neighbouring_runs([], 3)) == []


class TestReading:
    @pytest.fixture
    def when_reading(self, monkeypatch) -> Callable[..., None]:
        """Calls a function with the first slice index of what is read, once it is prepared."""

        def watch(volume: Volume, call: Callable[[int], None]) -> None:
            volume.preparation  # noqa: B018 -- reads all slices, so before the watch begins
            kind = type(volume.file)
            get = kind.__getitem__

            def watched(self, index):
                call(index.start)
                return get(self, index)

            monkeypatch.setattr(kind, "__getitem__", watched)

        return watch

    def test_the_next_slices_are_read_while_others_are_computed(self, make_volume, when_reading):
        """The first call of the method goes on once the slices of the second are read."""
        read, waited = threading.Event(), []

        class Slow(CgSense):
            def solve(self, op, ksp, noise_std):
                waited.append(read.wait(timeout=30))
                return super().solve(op, ksp, noise_std)

        volume = make_volume(Slow())
        when_reading(volume, lambda first: read.set() if first == 2 else None)
        report_of(volume)
        assert waited == [True, True, True]

    def test_slices_before_one_that_cannot_be_read_are_kept(
        self, make_volume, when_reading, tmp_path
    ):
        error = ScanFormatError("slice 4 is torn")

        def torn(first: int) -> None:
            if first == 4:
                raise error

        volume = make_volume(CgSense())
        when_reading(volume, torn)
        with pytest.raises(ScanFormatError) as caught:
            report_of(volume, SliceStore(tmp_path / "a", {}))
        assert caught.value is error
        assert SliceStore(tmp_path / "a", {}).done == {0, 1, 2, 3}

    @pytest.mark.parametrize("n_held_out", [0, 1])
    def test_progress_is_by_slice_and_by_step(self, n_held_out, make_volume):
        """Steps of the second reconstruction, for held-out lines, as well."""
        slices, steps = [], []
        checks = Checks(n_held_out=n_held_out)
        volume = make_volume(
            Dds(n_steps=3), small_prior(), n_samples=2, checks=checks,
            runtime=Runtime("cpu", batch_size=4),
        )  # fmt: skip
        with warns("W-UNCALIBRATED"):
            report_of(volume, on_slice=lambda *s: slices.append(s), on_step=steps.append)
        assert slices == [(2, 6), (4, 6), (6, 6)]
        n_steps = sum(info.n_images for info in steps)
        assert n_steps == 6 * volume.n_steps == (1 + n_held_out) * 3 * 2 * 6


class TestSeveralAtOnce:
    """With two threads, two batches of the six slices are computed at once."""

    @pytest.fixture(autouse=True)
    def two_threads(self):
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(1)

    def test_the_images_and_the_report_are_the_same_to_the_bit(self, make_volume):
        def once(n_threads: int) -> tuple[torch.Tensor, dict[str, Any]]:
            torch.set_num_threads(n_threads)
            volume, store = make_volume(Dds(n_steps=2), small_prior(), n_samples=2), SliceStore()
            with warns("W-UNCALIBRATED"):
                report = report_of(volume, store)
            del report["provenance"]["seconds"]
            return torch.stack([store.read(i).images["img"] for i in range(6)]), report

        (one, report), (two, report_of_two) = once(1), once(2)
        assert torch.equal(one, two) and report == report_of_two

    def test_a_batch_that_fails_is_raised_in_its_turn(self, make_volume, file, tmp_path):
        """After its warnings; what came before it is kept."""

        class SecondFails(CgSense):
            def __call__(self, prior, batch, rng, on_step=None):
                if torch.equal(batch.ksp, file[2:4].ksp):
                    warn("W-NOISY-CALIBRATION", "look here")
                    raise MriAmbientError("the second")
                return super().__call__(prior, batch, rng, on_step)

        with warns("W-NOISY-CALIBRATION"), pytest.raises(MriAmbientError):
            report_of(make_volume(SecondFails()), SliceStore(tmp_path / "a", {}))
        assert SliceStore(tmp_path / "a", {}).done == {0, 1}

    def test_a_sampler_ends_at_its_next_step_once_another_failed(self, make_volume, file):
        both, ended = threading.Barrier(2, timeout=30), []

        class FirstFails(CgSense):
            def __call__(self, prior, batch, rng, on_step=None):
                if torch.equal(batch.ksp, file[4:6].ksp):  # begun before the failure is known
                    return super().__call__(prior, batch, rng, on_step)
                both.wait()
                if torch.equal(batch.ksp, file[0:2].ksp):
                    raise MriAmbientError("the first")
                try:
                    while True:
                        on_step(StepInfo(0, 1, 0.1, batch.op, batch.measured, batch.measured))
                except CancelledError:
                    ended.append(True)
                    raise

        with pytest.raises(MriAmbientError):
            report_of(make_volume(FirstFails()))
        assert ended == [True]


class TestWarnings:
    def test_a_warning_of_every_batch_is_given_once(self, make_volume):
        volume = make_volume(Dds(n_steps=2, sigma_max=1e-3), small_prior())
        with warns("W-FIRST-LEVEL", "W-RESIDUAL") as given:
            report = report_of(volume)
        assert report["warnings"] == [warning.as_dict() for warning in given]
        assert report["doubts"] == [warning.text for warning in given]

    def test_those_of_finished_slices_are_reported_again(self, make_volume, tmp_path):
        """Whether or not they are shown again."""
        method, prior = Dds(n_steps=2, sigma_max=1e-3), small_prior()
        with warns("W-FIRST-LEVEL", "W-RESIDUAL"):
            whole = report_of(make_volume(method, prior), SliceStore(tmp_path / "a", {}))
        with warns("W-RESIDUAL"):
            again = report_of(make_volume(method, prior), SliceStore(tmp_path / "a", {}))
        assert again["warnings"] == whole["warnings"]

    def test_a_failure_comes_after_its_warnings(self, make_volume):
        class Doubtful(CgSense):
            def solve(self, op, ksp, noise_std):
                warn("W-NOISY-CALIBRATION", "look here")
                return super().solve(op, ksp, noise_std) * float("nan")

        with warns("W-NOISY-CALIBRATION"), pytest.raises(MriAmbientError):
            report_of(make_volume(Doubtful()))

    def test_foreign_warnings_are_passed_on_and_not_reported(self, make_volume):
        foreign = UserWarning("of a library")

        class Chatty(CgSense):
            def solve(self, op, ksp, noise_std):
                import warnings

                warnings.warn(foreign, stacklevel=1)
                return super().solve(op, ksp, noise_std)

        with pytest.warns(UserWarning) as caught:
            report = report_of(make_volume(Chatty()))
        assert [found.message for found in caught] == [foreign] * 3
        assert report["warnings"] == []

    def test_an_image_that_does_not_fit_the_data_has_one(self, make_volume):
        """A sampler that gives half of CG-SENSE's image; a baseline may."""

        class HalfDds(Dds):
            def __call__(self, prior, batch, rng, on_step=None):
                return CgSense()(None, batch, rng) / 2

        class HalfCg(CgSense):
            def solve(self, op, ksp, noise_std):
                return super().solve(op, ksp, noise_std) / 2

        prior = small_prior("conditioned", sigma_data=0.1)
        with warns("W-RESIDUAL"):
            report_of(make_volume(HalfDds(), prior))
        with warns():
            report_of(make_volume(HalfCg()))

    def test_other_errors_are_raised_as_they_are(self, make_volume):
        error = RuntimeError("sizes differ")

        class Mistake(CgSense):
            def solve(self, op, ksp, noise_std):
                raise error

        with pytest.raises(RuntimeError) as caught:
            report_of(make_volume(Mistake()))
        assert caught.value is error


class TestReport:
    def test_it_says_what_was_done(self, make_volume, file):
        report = report_of(make_volume(CgSense(), seed=3))
        assert report["scan_id"] == file.scan_id and report["input"] == file.path.name
        assert (report["slices"], report["coils"], report["matrix"]) == (6, 3, [24, 24])
        assert report["acceleration"] == pytest.approx(2.0)
        assert [check["slice"] for check in report["checks"]] == list(range(6))
        assert report["provenance"]["method"] == "cg-sense"
        assert report["provenance"]["seed"] == report["settings"]["seed"] == 3
        assert "metrics" not in report  # it is undersampled

    @pytest.mark.parametrize(
        ("kind", "n_samples", "named"),
        [("plain", 3, POSTERIOR), ("conditioned", 3, ESTIMATES), ("plain", 1, POSTERIOR)],
    )
    @pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
    def test_the_summary_calls_samples_what_they_are(
        self, kind, n_samples, named, make_volume, file, monkeypatch
    ):
        monkeypatch.setattr("mri_ambient.methods.dds.ENOUGH_STEPS", 3)
        volume = make_volume(Dds(n_steps=3), small_prior(kind), n_samples=n_samples)
        one = ArrayFile(file[0:1])
        report = report_of(replace(volume, file=one, full=one))
        assert report["provenance"]["samples_are"] == named
        said = f"dds (3 {named})" if n_samples > 1 else ": dds, R"
        assert said in summary_line(report)

    def test_the_summary_of_residuals_leaves_empty_slices_out(self, make_volume):
        report = report_of(make_volume(CgSense()))
        checks = [
            check | {"data_residual": 0.8 * (i > 1)} for i, check in enumerate(report["checks"])
        ]
        assert "residual 0.80 sigma_n" in summary_line(report | {"checks": checks})
        assert "residual 0.00 sigma_n" in summary_line(report | {"checks": checks[:2]})

    def test_the_summary_of_a_scored_volume_has_its_metrics(self, make_volume):
        report = report_of(make_volume(CgSense()))
        report |= {"acceleration": 2.0}  # at 1, SENSE is the image itself
        score = {"psnr": 31.5, "ssim": 0.9, "nmse": 0.01, "reference": "rss"}
        scores = {"metrics": score, "metrics_sense": score | {"psnr": 33.25, "reference": "sense"}}
        line = summary_line(report | scores)
        assert "31.50 dB" in line and "RSS" in line and "33.25 dB against SENSE" in line

    def test_every_slice_has_a_line(self, make_volume):
        """With its checks, where there are any."""
        with warns("W-FLAGGED"):  # a line is hard to predict without a prior
            report = report_of(make_volume(CgSense(), checks=Checks(n_held_out=1, flags=True)))
        lines = slice_lines(report)
        assert len(lines) == 6
        for line, check in zip(lines, report["checks"], strict=True):
            assert f"{check['data_residual']:.3f}" in line
            assert f"{check['held_out']['error']:.4f}" in line
            assert line.count(";") == len(check["flags"])
        (line,) = slice_lines({"checks": [report["checks"][0] | {"prior_share": 0.125}]})
        assert "12.5 %" in line


@pytest.mark.slow
def test_networks_are_compiled_once_for_a_volume(make_volume, monkeypatch):
    """Six slices, four at once: a graph for four and one for other numbers; the networks share."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    plainly = Denoiser.compile_networks
    network = UNetSpec(channels=(8,), blocks=1, embedding=16, passes=2)
    prior, images = small_prior("conditioned", network=network), []
    torch.compiler.reset()
    monkeypatch.setattr(Denoiser, "compile_networks", partialmethod(plainly, backend=backend))
    for compiled in (True, False):
        runtime, store = Runtime("cpu", batch_size=4, compile=compiled), SliceStore()
        report = report_of(make_volume(Dds(n_steps=3), deepcopy(prior), runtime=runtime), store)
        assert report["provenance"]["compiled"] == compiled
        assert len(graphs) == 2
        images.append(torch.stack([store.read(i).images["img"] for i in range(6)]))
    one, other = images
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))

    torch.compiler.reset()
    monkeypatch.setattr(Denoiser, "compile_networks", partialmethod(plainly, backend=broken))
    with pytest.raises(DeviceError, match="no compiler here"):
        report_of(make_volume(Aos(), prior, runtime=Runtime("cpu", compile=True)))


@pytest.fixture(scope="module")
def brain(real_scans) -> tuple[ScanFile, dict[str, torch.Tensor]]:
    """The real scan at 112 x 88, and its RSS and SENSE magnitudes."""
    ksp = center_crop(open_scan(real_scans / "espirit_brain8.h5")[:].ksp, (112, 88))
    full = ArrayFile(Scan.from_numpy(ksp.numpy()))
    reference = Volume(full, full, ResolvedRecipe(CgSense()), Runtime("cpu")).reference
    return full, reference.volumes()


SLOW_CASE = ("random", 1.5)
"""The one in which the slow methods run too."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("random", 1.0), ("random", 1.5), ("equispaced", 2.0), ("gaussian", 2.0), ("poisson", 2.0),
    ],
)  # fmt: skip
def test_with_little_undersampling_no_prior_makes_it_worse(kind, rate, brain):
    """The real scan, one sample: as near to RSS and SENSE as CG-SENSE, or nearer."""
    full, references = brain
    recipe = Recipe(
        CgSense(), n_samples=1, retrospective=None if rate == 1 else MaskSpec(kind, rate, 20)
    ).resolve()
    volume = open_volume(full, recipe, Runtime("cpu"))
    scan, prior = volume.preparation.apply(volume.file[:]), load_prior(default_prior())

    def scores(method: Method) -> list[float]:
        engine = Engine(replace(recipe, method=method, prior=prior), Runtime("cpu"))
        magnitude = to_file_units(engine([scan])[0].img, scan).abs().numpy()
        return [evaluate_volume(magnitude, ref.numpy()).psnr for ref in references.values()]

    bars = scores(CgSense())
    methods = [PRESETS["fast"].method]
    if (kind, rate) == SLOW_CASE:
        methods += [PRESETS["balanced"].method, Msm(n_steps=6, n_masks=2), Pula(6, sigma_max=0.3)]
    for method in methods:
        for ours, bar in zip(scores(method), bars, strict=True):
            assert ours >= bar, method.name
