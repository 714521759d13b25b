"""The factor that the standard deviation of samples lacks, where it is known."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import h5py
import pytest
import torch
from gaussian import WholeGaussian
from helpers import random_maps, small_prior

from mri_ambient.data_prep import Preparation, SimulateConfig, simulate
from mri_ambient.errors import ConfigError, DeviceError, NumericalWarning, ScanFormatError
from mri_ambient.evaluation.calibration import (
    LEVELS,
    Calibration,
    calibrate_files,
    with_calibration,
)
from mri_ambient.io import open_scan
from mri_ambient.methods import Aos, Dds, Method
from mri_ambient.methods.base import data_consistency
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.prior import scan_digest
from mri_ambient.recon.engine import Engine
from mri_ambient.recon.recipe import Checks, ResolvedRecipe
from mri_ambient.rng import complex_normal
from mri_ambient.runtime.device import Runtime
from mri_ambient.runtime.files import json_text
from mri_ambient.scan import Scan

SHAPE = (24, 32)
SIGMA_N = 0.2
CPU = Runtime("cpu")


@pytest.fixture
def prior() -> WholeGaussian:
    return WholeGaussian(torch.full(SHAPE, 0.8, dtype=torch.float64), sigma_min=0.01)


@pytest.fixture
def scans(rng, prior) -> list[Scan]:
    """Two scans of two slices that follow the prior."""
    return [scan_of(prior, rng, f"scan{i}") for i in range(2)]


def scan_of(prior, rng, name: str) -> Scan:
    maps = random_maps((2, 2, *SHAPE), rng)
    mask = MaskSpec("random", 2, 6).draw(SHAPE, rng)
    x = prior.var.sqrt().float() * complex_normal((2, *SHAPE), rng)
    y = SenseOp(maps, mask)(x) + SIGMA_N * mask * complex_normal((2, 2, *SHAPE), rng)
    return Scan(
        ksp=y, mask=mask, scan_id=name, slices=(0, 1), recon_shape=SHAPE, noise_std=SIGMA_N,
        maps=maps, scale=1.0,
    )  # fmt: skip


def recipe(method: Method, prior: object, n_samples: int = 4, n_lines: int = 2) -> ResolvedRecipe:
    return ResolvedRecipe(method, prior, n_samples=n_samples, checks=Checks(n_lines))


@dataclass(frozen=True)
class Spread(Dds):
    """Posterior samples whose distance from the mean is multiplied by ``times``."""

    name: ClassVar[str] = "spread"

    times: float = 1.0

    def __call__(self, prior, batch, rng, on_step=None):
        out = super().__call__(prior, batch, rng)
        # The prior is white, so CG-SENSE with the right weight is the posterior mean.
        mean = data_consistency(
            batch.op, batch.ksp, torch.zeros_like(out), noise_std=batch.noise_std,
            tau=prior.sigma_data, n_iter=40,
        )  # fmt: skip
        return mean + self.times * (out - mean)


@pytest.mark.parametrize("times", [0.3, 1.0, 2.0])
def test_the_factor_is_what_the_spread_lacks(times, scans, prior):
    """Within 12 % of 1/times; 40 steps alone lose about 5 % of the standard deviation.

    About 1100 held-out numbers, of which noise is a part: 3 % is one standard error.
    """
    done = []
    method = Spread(n_steps=40, n_cg=10, times=times)
    found = calibrate_files(scans, recipe(method, prior, 8, n_lines=3), CPU, on_scan=done.append)
    assert found.factor * times == pytest.approx(1.05, rel=0.12)
    assert max(abs(a - b) for a, b in zip(found.after, LEVELS, strict=True)) < 0.1
    if times == 0.3:
        assert found.before[LEVELS.index(0.9)] < 0.8
    assert (found.n_slices, found.mask_kinds, done) == (4, ("lines",), [1, 2, 3, 4])


def test_slices_that_are_sampled_together_give_the_same_factor(scans, prior, monkeypatch):
    """Whether they share a call or not; those of different scans never do."""
    sizes, whole = [], Engine.__call__

    def spied(self, cuts):
        sizes.append(len(cuts))
        return whole(self, cuts)

    monkeypatch.setattr(Engine, "__call__", spied)
    alone, together = (
        calibrate_files(scans, recipe(Dds(n_steps=3), prior, 2), Runtime("cpu", batch_size=n))
        for n in (2, 4)
    )
    assert sizes == [1, 1, 1, 1, 2, 2]
    assert alone.factor == pytest.approx(together.factor, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "n_samples", "n_lines"), [(Aos(), 1, 2), (Dds(n_steps=2), 1, 2), (Dds(), 4, 0)]
)
def test_what_has_no_spread_or_no_held_out_lines_cannot_be_calibrated(
    method, n_samples, n_lines, scans, prior
):
    with pytest.raises(ConfigError):
        calibrate_files(scans, recipe(method, prior, n_samples, n_lines), CPU)


def test_scans_without_signal_cannot_be_used(scans, prior):
    empty = [replace(scan, ksp=torch.zeros_like(scan.ksp)) for scan in scans]
    for none in ([], empty):
        with pytest.raises(ScanFormatError):
            calibrate_files(none, recipe(Dds(n_steps=2), prior), CPU)


def test_samples_that_do_not_differ_are_refused(scans, prior):
    with pytest.raises(ConfigError, match="'spread'"):
        calibrate_files(scans, recipe(Spread(n_steps=2, times=0.0), prior, 2), CPU)


def test_a_prior_carries_its_factor_to_new_scans(scans, prior, tmp_path):
    """Through its file, into the standard deviation, for the very options it was fitted with."""
    plain, method = small_prior(), Dds(n_steps=2)
    used = recipe(method, prior, 3)
    found = replace(calibrate_files(scans, used, CPU), factor=2.5)
    save_prior(with_calibration(replace(used, prior=plain), found), tmp_path / "prior.safetensors")
    kept = load_prior(tmp_path / "prior.safetensors")

    def images(method: Method, prior: object, n_samples: int):
        return Engine(ResolvedRecipe(method, prior, n_samples=n_samples), CPU)([scans[0]])[0]

    before, after = (images(method, p, 3) for p in (plain, kept))
    torch.testing.assert_close(after.std, 2.5 * before.std)
    torch.testing.assert_close(after.img, before.img)
    assert after.provenance["std_factor"] == 2.5
    for other, n_samples in ((Dds(n_steps=3), 3), (method, 2)):
        assert images(other, kept, n_samples).provenance["std_factor"] == 1.0


def test_a_new_factor_replaces_only_that_of_the_same_method_options_and_samples():
    """What the card says of others is kept."""
    prior = small_prior()
    found = Calibration(1.5, (), (), 10, 2, 3, (2.0, 4.0), (0.1, 0.2), ("lines",))
    for steps, n_samples, factor in ((2, 3, 1.5), (2, 4, 1.6), (3, 3, 1.7), (2, 3, 1.8)):
        entry = replace(found, factor=factor, n_samples=n_samples)
        prior = with_calibration(recipe(Dds(n_steps=steps), prior, n_samples), entry)
    card = prior.facts.card["calibration"]
    assert sorted(entry["factor"] for entry in card) == [1.6, 1.7, 1.8]
    assert set(card[0]) == {
        "method", "options", "n_samples", "factor", "acceleration", "sigma_n", "mask_kinds",
        "n_slices", "n_hidden",
    }  # fmt: skip


def test_overestimated_noise_gives_no_factor(scans, prior):
    """A factor of 0 would call every image certain."""
    loud = [
        replace(scan, noise_std=20 * SIGMA_N, noise_source="outermost samples") for scan in scans
    ]
    with pytest.raises(ConfigError):
        calibrate_files(loud, recipe(Dds(n_steps=4), prior, 2), CPU)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    config = SimulateConfig(size=(32, 32), coils=3, acceleration=2, calib=8, slices=2)
    return simulate("phantom", tmp_path / "scans", config, count=2)


def test_files_give_the_factor_of_their_scans(files):
    """A damaged one is reported and left out; a training scan is warned of."""
    prior = small_prior("conditioned")
    digest = scan_digest(open_scan(files[0]).source_sha256)
    card = {**prior.facts.card, "trained_on": [digest]}
    prior = replace(prior, facts=replace(prior.facts, card=card))
    bad, failed = files[0].with_name("bad.h5"), []
    bad.write_bytes(b"no HDF5")
    used = recipe(Dds(n_steps=2), prior, 2)
    with pytest.warns(NumericalWarning) as caught:
        found = calibrate_files(
            [files[0], bad, files[1]], used, CPU, on_error=lambda path, _: failed.append(path)
        )
    assert [warning.message.code for warning in caught] == ["W-TRAINED-ON-SCAN"]
    assert failed == [bad]
    assert found.n_slices == 4
    report = json.loads(json_text(found.report(used)))
    assert report["factor"] == found.factor
    assert (report["method"], report["levels"]) == ("dds", list(LEVELS))
    with pytest.raises(ScanFormatError, match=bad.name):
        calibrate_files([bad], used, CPU)


def test_a_lost_device_ends_it_at_once(files, monkeypatch):
    def lost(*_, **__):
        raise DeviceError("device 'cuda' was lost")

    monkeypatch.setattr(Preparation, "apply", lost)
    failed = []
    with pytest.raises(DeviceError):
        calibrate_files(
            files, recipe(Dds(n_steps=2), small_prior(), 2), CPU,
            on_error=lambda *case: failed.append(case),
        )  # fmt: skip
    assert failed == []


def test_a_file_with_too_few_lines_is_left_out(files):
    """Before the slices that it would have shared a call with are sampled."""
    with h5py.File(files[0], "r+") as file:
        lines = file["mask"][()]
        outer = [i for i in range(32) if lines[i] and not 12 <= i < 20]
        lines[outer[1:]] = 0
        file["mask"][...] = lines
        file["kspace"][...] = file["kspace"][()] * lines
    failed = []
    found = calibrate_files(
        files, recipe(Dds(n_steps=2), small_prior(), 2), CPU,
        on_error=lambda path, error: failed.append((path, type(error))),
    )  # fmt: skip
    assert failed == [(files[0], ConfigError)]
    assert found.n_slices == 2
