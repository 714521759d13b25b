"""A volume that is cut off goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import threading
import warnings
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from helpers import small_prior
from mri_ambient.recon.finished import Finished

from mri_ambient.data_prep import SimulateConfig, plan, simulate
from mri_ambient.errors import (
    DeviceError,
    MriAmbientError,
    NumericalWarning,
    OutputExistsError,
    ScanFormatError,
)
from mri_ambient.io import Undersampled, open_scan
from mri_ambient.methods import Aos, Dds, Msm, Pula
from mri_ambient.methods.baselines import CgSense
from mri_ambient.methods.descent import ENOUGH_STEPS
from mri_ambient.methods.presets import SAMPLINGS
from mri_ambient.physics.masks import MaskSpec, achieved_acceleration
from mri_ambient.priors.checkpoint import load_prior
from mri_ambient.priors.denoisers import Denoiser
from mri_ambient.priors.prior import Prior, scan_digest
from mri_ambient.priors.weights import default_prior
from mri_ambient.recon.checks import Checking, _flags, _hidden_flags
from mri_ambient.recon.engine import Options
from mri_ambient.recon.reference import plan_reference
from mri_ambient.recon.volume import _runs, is_done, reconstruct_file, settings, summary_line
from mri_ambient.recon.warnings import doubt_prior
from mri_ambient.rng import rng_for
from mri_ambient.scan import Scan

# Slices so small that one set of coil maps is not always enough.
pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Six slices of a phantom."""
    config = SimulateConfig(size=(24, 24), coils=3, acceleration=2.0, calib=8, slices=6, noise=0.02)
    (path,) = simulate("phantom", tmp_path_factory.mktemp("raw"), config, count=1)
    return path


@dataclass(frozen=True)
class Unlucky(CgSense):
    """CG-SENSE on a device that is lost at the n-th call; ``calls`` counts over all."""

    fails_at: int = 0
    calls: tuple[list[int], ...] = ([],)

    def __call__(self, op, ksp, *, noise_std):
        self.calls[0].append(len(ksp))
        if len(self.calls[0]) == self.fails_at:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return super().__call__(op, ksp, noise_std=noise_std)


def run(volume, output, method, batch_size=2, *, made_with=True, **more):
    file = open_scan(volume)
    options = Options(batch_size=batch_size)
    known = settings(file, CgSense(), None, options, **more) if made_with else None
    return reconstruct_file(file, plan(file), method, None, output, options, made_with=known)


def images(folder):
    with h5py.File(next(folder.glob("*.h5"))) as file:
        return file["reconstruction_complex"][()]


def test_finished_slices_are_kept_and_gone_on_with(volume, tmp_path):
    """The device is lost at the third of three calls; the next run makes one call only."""
    with pytest.raises(DeviceError, match=r"was lost .* run the same command again"):
        run(volume, tmp_path / "cut", Unlucky(fails_at=3, calls=([],)))
    (hidden,) = (tmp_path / "cut").iterdir()
    assert len(list(hidden.iterdir())) == 4
    calls: list[int] = []
    resumed = run(volume, tmp_path / "cut", Unlucky(calls=(calls,)))
    assert calls == [2]
    whole = run(volume, tmp_path / "whole", CgSense())
    np.testing.assert_array_equal(images(tmp_path / "cut"), images(tmp_path / "whole"))
    assert resumed["checks"] == whole["checks"]
    assert set(resumed["doubts"]) == set(whole["doubts"]) != set()
    assert len(list((tmp_path / "cut").iterdir())) == 2


def test_slices_finished_with_other_settings_are_not_dropped_unasked(volume, tmp_path):
    with pytest.raises(DeviceError):
        run(volume, tmp_path, Unlucky(fails_at=3, calls=([],)))
    file = open_scan(volume)
    same, other = (settings(file, CgSense(), None, Options(seed=seed)) for seed in (0, 1))
    assert not is_done(tmp_path, file.scan_id, same)
    with pytest.raises(OutputExistsError, match="4 slices were finished with other settings"):
        is_done(tmp_path, file.scan_id, other)
    assert not is_done(tmp_path, file.scan_id, other, overwrite=True)


def test_what_another_device_chose_is_said_where_a_call_goes_on(volume, tmp_path):
    """A GPU's "auto" is bf16, a CPU's fp32; methods without networks have neither."""
    file, prior = open_scan(volume), prior_of("conditioned")
    on_gpu, on_cpu = (Options(device=device) for device in ("cuda", "cpu"))
    made = settings(file, Aos(), prior, on_gpu)
    reconstruct_file(file, plan(file), Aos(), prior, tmp_path, on_cpu, made_with=made)
    with pytest.raises(OutputExistsError, match=r"other settings \(--precision bf16\)"):
        is_done(tmp_path, file.scan_id, settings(file, Aos(), prior, on_cpu))
    same = (settings(file, CgSense(), None, options) for options in (on_gpu, on_cpu))
    assert next(same) == next(same)


def test_empty_slices_do_not_thin_the_residual(volume, tmp_path):
    report = run(volume, tmp_path, CgSense())
    checks = [check | {"data_residual": 0.8 * (i > 1)} for i, check in enumerate(report["checks"])]
    assert "residual 0.80 sigma_n" in summary_line(report | {"checks": checks})
    assert "residual 0.00 sigma_n" in summary_line(report | {"checks": checks[:2]})


def test_a_doubt_about_every_batch_is_told_once(volume, tmp_path):
    file, prior = open_scan(volume), prior_of("plain")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = reconstruct_file(
            file, plan(file), Dds(n_steps=2, sigma_max=1e-3), prior, tmp_path,
            Options(n_samples=1, batch_size=2),
        )  # fmt: skip
    told = [str(w.message) for w in caught if "the first noise level" in str(w.message)]
    assert len(told) == 1
    assert told[0] in report["doubts"]


@pytest.mark.parametrize("n_hidden", [0, 1])
def test_steps_are_told_of_where_hidden_lines_are_predicted_too(n_hidden, volume, tmp_path):
    file, prior, steps = open_scan(volume), prior_of("plain"), []
    reconstruct_file(
        file, plan(file), Dds(n_steps=3), prior, tmp_path, Options(n_samples=2),
        checking=Checking(n_hidden=n_hidden), on_step=lambda info: steps.append(info.residual),
    )  # fmt: skip
    times = 1 + n_hidden
    assert sum(len(residual) for residual in steps) == times * 3 * 2 * len(file)


def test_a_batch_that_fitted_is_kept_to(volume, tmp_path, monkeypatch):
    """Memory runs out once, not once a batch; how many were thought to fit may change."""
    sizes, guesses = [], iter([3, 3, 4, 2])
    monkeypatch.setattr("mri_ambient.recon.engine.images_at_once", lambda *_: next(guesses))

    class Greedy(CgSense):
        def __call__(self, op, ksp, *, noise_std):
            sizes.append(len(ksp))
            if len(ksp) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(op, ksp, noise_std=noise_std)

    file = open_scan(volume)
    reconstruct_file(file, plan(file), Greedy(), None, tmp_path)
    assert sizes == [3, *[1] * 6]
    # Where nothing ran out, a small guess is no limit.
    sizes.clear()
    guesses = iter([3, 1, 3])
    reconstruct_file(file, plan(file), Roomy(sizes=(sizes,)), None, tmp_path)
    assert sizes == [1, 1, 1, 3]


@dataclass(frozen=True)
class Roomy(CgSense):
    """CG-SENSE that remembers how many images it was given."""

    sizes: tuple[list[int], ...] = ([],)

    def __call__(self, op, ksp, *, noise_std):
        self.sizes[0].append(len(ksp))
        return super().__call__(op, ksp, noise_std=noise_std)


def test_networks_are_compiled_once_for_a_volume(volume, tmp_path, monkeypatch):
    """Six slices, four at once: a graph for four and one for other numbers; the networks share."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    plainly = Denoiser.compile_networks
    monkeypatch.setattr(Denoiser, "compile_networks", partialmethod(plainly, backend=backend))
    file, prior = open_scan(volume), prior_of("conditioned")
    for compiled in (True, False):
        options = Options(n_samples=1, batch_size=4, compiled=compiled)
        made = deepcopy(prior)
        reconstruct_file(file, plan(file), Dds(n_steps=3), made, tmp_path / str(compiled), options)
        assert len(graphs) == 2
    one, other = (images(tmp_path / name) for name in ("True", "False"))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch.compiler.reset()
    monkeypatch.setattr(Denoiser, "compile_networks", partialmethod(plainly, backend=broken))
    with pytest.raises(DeviceError, match=r"cannot be compiled .*leave --compile out"):
        reconstruct_file(file, plan(file), Aos(), prior, tmp_path, Options(compiled=True))


def test_slices_made_with_other_settings_are_dropped(volume, tmp_path):
    with pytest.raises(DeviceError):
        run(volume, tmp_path, Unlucky(fails_at=3, calls=([],)))
    calls: list[int] = []
    run(volume, tmp_path, Unlucky(calls=(calls,)), mask="another")
    assert calls == [2, 2, 2]


def test_without_settings_nothing_is_gone_on_with(volume, tmp_path):
    for output in (tmp_path / "a", tmp_path / "a"):
        calls: list[int] = []
        with pytest.raises(DeviceError):
            run(volume, output, Unlucky(fails_at=2, calls=(calls,)), made_with=False)
        assert calls == [2, 2]


def test_a_torn_slice_is_done_again(volume, tmp_path):
    with pytest.raises(DeviceError):
        run(volume, tmp_path, Unlucky(fails_at=3, calls=([],)))
    path = sorted(next(tmp_path.iterdir()).iterdir())[1]
    path.write_bytes(path.read_bytes()[:40])
    calls: list[int] = []
    run(volume, tmp_path, Unlucky(calls=(calls,)))
    assert calls == [1, 2]


def test_the_next_slices_are_read_while_the_present_are_computed(volume, tmp_path, monkeypatch):
    """The first call of the method goes on once the slices of the second have been read."""
    read, waited = threading.Event(), []

    class Slow(CgSense):
        def __call__(self, op, ksp, *, noise_std):
            waited.append(read.wait(timeout=30))
            return super().__call__(op, ksp, noise_std=noise_std)

    file = open_scan(volume)
    preparation, read_ksp = plan(file), type(file).read_ksp

    def noting(self, index):
        if index == 2:
            read.set()
        return read_ksp(self, index)

    monkeypatch.setattr(type(file), "read_ksp", noting)
    reconstruct_file(file, preparation, Slow(), None, tmp_path, Options(batch_size=2))
    assert waited == [True, True, True]


def test_slices_before_one_that_cannot_be_read_are_kept(volume, tmp_path, monkeypatch):
    file = open_scan(volume)
    preparation, read_ksp = plan(file), type(file).read_ksp

    def torn(self, index):
        if index == 4:
            raise ScanFormatError("slice 4 is torn")
        return read_ksp(self, index)

    monkeypatch.setattr(type(file), "read_ksp", torn)
    known = settings(file, CgSense(), None, Options(batch_size=2))
    with pytest.raises(ScanFormatError, match="slice 4 is torn"):
        reconstruct_file(
            file, preparation, CgSense(), None, tmp_path, Options(batch_size=2), made_with=known
        )
    (hidden,) = tmp_path.iterdir()
    assert len(list(hidden.iterdir())) == 4


def test_what_fails_tells_of_its_doubts_first(volume, tmp_path):
    @dataclass(frozen=True)
    class Doubtful(CgSense):
        def __call__(self, op, ksp, *, noise_std):
            warnings.warn("this is doubtful", NumericalWarning, stacklevel=2)
            return super().__call__(op, ksp, noise_std=noise_std) * float("nan")

    with (
        pytest.warns(NumericalWarning, match="this is doubtful"),
        pytest.raises(MriAmbientError, match="not finite"),
    ):
        run(volume, tmp_path, Doubtful())


def test_other_errors_keep_their_name(volume, tmp_path):
    class Mistake(CgSense):
        def __call__(self, op, ksp, *, noise_std):
            raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        run(volume, tmp_path, Mistake())


def test_a_full_disk_is_told_of(volume, tmp_path, monkeypatch):
    def full(*_):
        raise MriAmbientError("no space left")

    monkeypatch.setattr("mri_ambient.recon.finished.save_tensors", full)
    with pytest.raises(MriAmbientError, match="no space left"):
        run(volume, tmp_path, CgSense())


def test_runs_of_neighbours():
    assert list(_runs([0, 1, 2, 5, 6, 9], 2)) == [(0, 2), (2, 3), (5, 7), (9, 10)]
    assert list(_runs([], 3)) == []


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("random", 1.0), ("random", 1.5), ("random", 2.0), ("equispaced", 2.0), ("gaussian", 2.0),
        ("poisson", 2.0),
    ],
)  # fmt: skip
def test_with_little_undersampling_no_prior_makes_it_worse(kind, rate, real_scans, tmp_path):
    """The real scan, one sample: as near to RSS and SENSE as CG-SENSE, or nearer."""
    file = full = open_scan(real_scans / "espirit_brain8.h5")
    if rate > 1:
        file = Undersampled(full, MaskSpec(kind, rate, 20), 0)
    preparation, prior = plan(file), load_prior(default_prior())
    reference = plan_reference(full, made=preparation if file is full else None)

    def scores(method):
        report = reconstruct_file(
            file, preparation, method, prior, tmp_path / method.name, Options(n_samples=1),
            reference=reference,
        )  # fmt: skip
        return [report[key]["psnr"] for key in ("metrics", "metrics_sense")]

    bars = scores(CgSense())
    samplers = Msm(n_steps=6, n_masks=2), Pula(20, sigma_max=0.3)
    for method in (*(SAMPLINGS[name].method for name in ("fast", "balanced")), *samplers):
        for ours, bar in zip(scores(method), bars, strict=True):
            assert ours >= bar, method.name


def prior_of(kind: str, coverage: str = "lines") -> Prior:
    card = {"coverage": [{"kind": coverage}], "sha256": "ab"}
    return small_prior(kind, objective="kspace", tau=0.1, card=card)


def test_samples_are_kept_where_that_is_wanted_and_called_what_they_are(volume, tmp_path):
    file = open_scan(volume)
    for prior, name in (
        (prior_of("plain"), "posterior samples"),
        (prior_of("conditioned"), "estimates with a spread"),
    ):
        options = Options(n_samples=3, keep_samples=True)
        output = tmp_path / name
        method = Dds(n_steps=ENOUGH_STEPS)
        report = reconstruct_file(file, plan(file), method, prior, output, options)
        with h5py.File(output / f"{file.scan_id}.h5") as found:
            samples, std = found["reconstruction_samples"][()], found["reconstruction_std"][()]
            image = found["reconstruction_complex"][()]
        assert samples.shape == (6, 3, 24, 24)
        np.testing.assert_allclose(samples.mean(axis=1), image, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.abs(samples).std(axis=1, ddof=1), std, rtol=1e-3, atol=1e-6)
        assert report["provenance"]["samples_are"] == name
        assert f"dds (3 {name})" in summary_line(report)
        single = reconstruct_file(
            file, plan(file), method, prior, tmp_path / "single", Options(n_samples=1)
        )
        assert single["provenance"]["samples_are"] == name
        assert ": dds, R" in summary_line(single)


def test_another_kind_of_mask_than_in_training_is_told_of(volume, tmp_path):
    """A prior that saw 2-D masks only, on a scan of whole lines, and the other way round."""
    file = open_scan(volume)
    for coverage, doubted in (("samples", True), ("lines", False)):
        prior = prior_of("conditioned", coverage)
        report = reconstruct_file(file, plan(file), Aos(), prior, tmp_path / coverage)
        told = any("saw 2-D masks only in training" in doubt for doubt in report["doubts"])
        assert told == doubted


def test_a_calibration_for_something_else_is_told_of_once(volume, tmp_path):
    """For another number of steps or samples; a single sample has no spread to speak of."""
    file = open_scan(volume)
    plain = prior_of("plain")
    entry = {"method": "dds", "options": asdict(Dds(n_steps=2)), "n_samples": 3, "factor": 2.0}
    entry |= {"acceleration": [1.5, 2.5], "sigma_n": [0.0, 9.0]}
    card = plain.facts.card | {"calibration": [entry]}
    prior = replace(plain, facts=replace(plain.facts, card=card))
    for changed, words in (
        ({}, ""),
        ({"mask_kinds": ["lines"]}, ""),
        ({"acceleration": [8.0, 9.0]}, "acceleration 8 to 9"),
        ({"sigma_n": [7.0, 9.0]}, "sigma_n 7 to 9"),
        ({"mask_kinds": ["samples"]}, "masks of samples, and this scan has another"),
    ):
        known = entry | changed
        card = plain.facts.card | {"calibration": [known]}
        other = replace(plain, facts=replace(plain.facts, card=card))
        where = tmp_path / "-".join(["w", *changed, words[:1]])
        report = reconstruct_file(
            file, plan(file), Dds(n_steps=2), other, where, Options(n_samples=3)
        )
        said = [doubt for doubt in report["doubts"] if "it may be far off" in doubt]
        assert len(said) == bool(words)
        assert all(words in doubt for doubt in said)
        with h5py.File(where / f"{file.scan_id}.h5") as written:
            facts = {name: written.attrs[name] for name in ("samples_are", "std_factor")}
        assert facts == {"samples_are": "estimates with a spread", "std_factor": 2.0}
    for steps, n_samples, told in ((2, 3, 0), (3, 3, 1), (2, 2, 1), (3, 1, 0)):
        options = Options(n_samples=n_samples, batch_size=1)
        report = reconstruct_file(
            file, plan(file), Dds(n_steps=steps), prior, tmp_path / f"{steps}-{n_samples}", options
        )
        assert sum("was calibrated for dds with other" in d for d in report["doubts"]) == told


@pytest.mark.parametrize(
    ("kind", "n_samples", "n_steps", "told"),
    [
        ("conditioned", 3, 2, 1),
        ("conditioned", 1, 2, 0),
        ("plain", 3, 2, 1),
        ("plain", 3, ENOUGH_STEPS, 0),
    ],
)
def test_spreads_that_were_never_calibrated_are_doubted(
    kind, n_samples, n_steps, told, volume, tmp_path
):
    """Those of estimates; posterior samples have about the spread they should."""
    file, options, method = open_scan(volume), Options(n_samples=n_samples), Dds(n_steps=n_steps)
    report = reconstruct_file(file, plan(file), method, prior_of(kind), tmp_path, options)
    assert sum("was never calibrated" in doubt for doubt in report["doubts"]) == told
    estimates = report["provenance"]["samples_are"] == "estimates with a spread"
    assert estimates == (kind == "conditioned" or n_steps < ENOUGH_STEPS)


@pytest.mark.parametrize(("known", "n_hidden", "told"), [(True, 1, 1), (True, 0, 0), (False, 1, 0)])
def test_hidden_lines_that_a_prior_has_seen_are_told_of(known, n_hidden, told, volume, tmp_path):
    file, prior = open_scan(volume), prior_of("conditioned")
    digests = [scan_digest(file.source_sha256)] if known else []
    card = prior.facts.card | {"trained_on": digests}
    prior = replace(prior, facts=replace(prior.facts, card=card))
    report = reconstruct_file(
        file, plan(file), Aos(), prior, tmp_path, checking=Checking(n_hidden=n_hidden)
    )
    assert sum("trained on this scan" in doubt for doubt in report["doubts"]) == told


def test_a_slow_disk_is_waited_for(volume, tmp_path, monkeypatch):
    """Of a result every slice, no more than a few wait to be written."""
    calls, free, slow = [], threading.Event(), Finished._write

    def write(*rest):
        free.wait(timeout=60)
        slow(*rest)

    def add(finished, *rest):
        calls.append(free.is_set())
        if len(calls) == 3:  # two wait, and this one until there is room
            threading.Timer(0.2, free.set).start()
        plainly(finished, *rest)
        calls[-1] = calls[-1], free.is_set()

    plainly = Finished.add
    monkeypatch.setattr(Finished, "add", add)
    monkeypatch.setattr(Finished, "_write", write)
    monkeypatch.setattr("mri_ambient.recon.finished.MOST_WAITING", 2)
    run(volume, tmp_path, CgSense(), 1)
    assert calls[:3] == [(False, False), (False, False), (False, True)]
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("mask", "rate", "regular", "told"),
    [
        ("random", 4.1, 0, "far from R = 4"),
        ("random", 3.0, 0, ""),
        ("equispaced", 3.0, 0, "next to no equispaced masks"),
        ("equispaced", 3.0, 20, ""),
    ],
)
def test_scans_unlike_the_training_scans_are_doubted(mask, rate, regular, told):
    """The prior was trained at R = 2, on 100 scans of which so many were equispaced."""
    prior = prior_of("conditioned")
    card = {"coverage": [{"kind": "lines", "n_scans": 100, "n_regular": regular}]}
    prior = replace(prior, facts=replace(prior.facts, card=card))
    drawn = MaskSpec(mask, rate, 8).draw((16, 128), rng_for(0))
    file = SimpleNamespace(path=Path("a.h5"), mask=drawn, acceleration=achieved_acceleration(drawn))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        doubt_prior(file, Dds(), prior)
    assert len(caught) == bool(told)
    assert all(told in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("error", "l1", "noise", "flagged"),
    [
        (0.3, 0.2, 0.1, "than L1-wavelet"),
        (0.21, 0.2, 0.1, ""),  # a tenth more than L1-wavelet's part that is no noise
        (1.2, 1.1, 0.5, "worse than nothing"),
        (1.1, 1.2, 0.5, ""),  # L1-wavelet is no better
        (1.1, 1.1, 0.5, ""),  # it is L1-wavelet
        (0.56, 0.53, 0.5, "than L1-wavelet"),  # a tenth more in all, twice as much beyond the noise
        (1.01, 0.98, 0.95, ""),  # these lines hold noise alone
        (0.49, 0.47, 0.5, ""),
        (1.6, 4.9, 0.5, "worse than nothing"),  # L1-wavelet broke down
    ],
)
def test_hidden_lines_flag_what_noise_does_not_explain(error, l1, noise, flagged):
    row = {"error": error, "l1_wavelet": l1, "noise": noise}
    said = list(_hidden_flags(row))
    assert len(said) == bool(flagged)
    assert all(flagged in one for one in said)
    for chi_square, n_more in ((3.9, 0), (4.1, 1)):
        more = list(_hidden_flags(row | {"chi_square": chi_square}))[len(said) :]
        assert len(more) == (n_more if noise < 0.9 else 0)
        assert all("spread" in one for one in more)


@pytest.mark.parametrize(
    ("n_coils", "residual", "flagged"), [(4, 0.3, True), (4, 0.4, False), (1, 0.01, False)]
)
def test_noise_that_is_fitted_is_flagged(n_coils, residual, flagged):
    """At R = 2, least squares leaves 0.71 of the noise of four coils; of one coil, nothing."""
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[..., ::2] = True
    ksp = torch.ones(1, n_coils, 16, 16, dtype=torch.complex64) * mask
    scan = Scan(ksp=ksp, mask=mask, scan_id="a", slices=(0,), recon_shape=(16, 16), noise_std=0.05)
    prior = prior_of("plain")
    said = list(_flags({"data_residual": residual}, 0.3, scan, Dds(), prior))
    assert any("better than its noise allows" in one for one in said) == flagged


def test_the_gravest_flag_is_told_of_first():
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    scan = SimpleNamespace(noise_std=0.05, mask=mask, n_coils=1, shape=(4, 4))
    held_out = {"error": 3.0, "noise": 0.1, "cg_sense": 0.5, "l1_wavelet": 0.4}
    check = {"data_residual": 5.0, "held_out": held_out}
    said = list(_flags(check, 0.3, scan, Dds(), prior_of("conditioned")))
    assert said[0] == "predicts hidden lines worse than nothing would (error 3.000)"
    assert said[1] == "leaves 5.0 sigma_n of the measurement unexplained"


def test_data_that_are_left_unexplained_are_flagged_and_told_of(volume, tmp_path):
    """Methods that answer with half of CG-SENSE's image; one of them has steps to take more of."""

    def half(self, prior, op, ksp, *, noise_std, rng, on_step=None):
        return CgSense()(op, ksp, noise_std=noise_std) / 2

    half_dds, half_aos = (type("Half", (kind,), {"__call__": half})() for kind in (Dds, Aos))
    file = open_scan(volume)
    prior = prior_of("conditioned")
    for name, method, found in (
        ("dds", half_dds, "take more steps, another method"),
        ("aos", half_aos, "take another method"),
        ("whole", CgSense(), ""),
    ):
        report = reconstruct_file(
            file, plan(file), method, prior if found else None, tmp_path / name,
            checking=Checking(flags=True),
        )  # fmt: skip
        flags = [flag for check in report["checks"] for flag in check["flags"]]
        told = [doubt for doubt in report["doubts"] if "does not fit the data" in doubt]
        assert any("of the measurement unexplained" in flag for flag in flags) == bool(found)
        assert len(told) == bool(found)
        assert all(found in doubt for doubt in told)
        assert all(("prior_share" in check) == bool(found) for check in report["checks"])


def test_scans_outside_the_training_range_are_flagged():
    """The shipped prior; its card says nothing of noise, but its smallest trained level does."""
    prior = load_prior(default_prior())
    check = {"data_residual": 1.0}

    def flags(rms: float, noise_std: float, known: Prior = prior) -> str:
        scan = SimpleNamespace(
            noise_std=noise_std, mask=torch.ones(1, 4, 4), n_coils=1, shape=(4, 4)
        )
        return "; ".join(_flags(check, rms * prior.sigma_data, scan, Aos(), known))

    assert flags(1.0, prior.sigma_min) == ""
    assert "0.4500, the prior's training scans at most" in flags(1.0, 0.45)
    assert "10.00 times as bright" in flags(10.0, prior.sigma_min)
    card = {**prior.facts.card, "sigma_n": [0.001, 0.002, 0.5]}
    knowing = replace(prior, facts=replace(prior.facts, card=card))
    assert flags(1.0, 0.45, knowing) == ""
