"""A recipe becomes a method, a prior and a number of samples, and says what identifies a result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from gaussian import WholeGaussian
from helpers import small_prior

from mri_ambient.errors import CheckpointError, ConfigError
from mri_ambient.methods import PRESETS, Adps, Aos, CgSense, Dds, L1Wavelet, Msm
from mri_ambient.methods.dds import ENOUGH_STEPS
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.weights import DEFAULT, default_prior
from mri_ambient.recon.recipe import ESTIMATES, POSTERIOR, Checks, Recipe, ResolvedRecipe
from mri_ambient.runtime.device import Runtime


@pytest.fixture
def plain() -> WholeGaussian:
    return WholeGaussian(torch.ones(4, 4, dtype=torch.float64), sigma_min=0.05)


class TestResolve:
    def test_by_default_what_suits_the_prior(self, plain):
        shipped = Recipe().resolve()
        assert shipped.method == Aos()
        assert shipped.prior_sha256 == load_prior(default_prior()).card["sha256"]
        other = Recipe(prior=plain).resolve()
        assert (other.method, other.prior, other.n_samples) == (Dds(), plain, 4)

    @pytest.mark.parametrize(
        ("recipe", "method", "n_samples"),
        [
            (Recipe("dds", {"n_steps": "7", "eta": 0.2}), Dds(n_steps=7, eta=0.2), 4),
            (Recipe("aos", n_samples=3), Aos(), 1),
            (Recipe("cg-sense", {"lam": 0.1}), CgSense(lam=0.1), 1),
            (Recipe(L1Wavelet(n_iter=3), n_samples=9), L1Wavelet(n_iter=3), 1),
            (Recipe(Msm(n_steps=5), n_samples=2), Msm(n_steps=5), 2),
            (Recipe("fast"), PRESETS["fast"].method, 1),
            (Recipe("quality"), PRESETS["quality"].method, PRESETS["quality"].n_samples),
            (Recipe("balanced", n_samples=2), PRESETS["balanced"].method, 2),
        ],
    )
    def test_a_name_a_preset_or_an_instance_is_a_method(self, recipe, method, n_samples, plain):
        resolved = replace(recipe, prior=plain, keep_samples=True).resolve()
        assert (resolved.method, resolved.n_samples) == (method, n_samples)
        assert resolved.keep_samples == method.stochastic
        assert (resolved.prior is plain) == method.needs_prior

    def test_a_method_of_ones_own_is_a_method(self, plain):
        @dataclass(frozen=True)
        class Mine(Aos):
            """In no list."""

        assert Recipe(Mine(), prior=plain).resolve().method == Mine()

    @pytest.mark.parametrize(
        ("recipe", "said"),
        [
            (Recipe("magic"), "magic"),
            (Recipe("cg-sense", {"n_steps": 4}), "n_steps"),
            (Recipe("fast", {"n_cg": 4}), "n_cg"),
            (Recipe(Aos(), {"n_cg": 4}), "n_cg"),
            (Recipe("dds", prior=small_prior(), n_samples=0), "0"),
        ],
    )
    def test_what_cannot_work_is_refused(self, recipe, said):
        with pytest.raises(ConfigError, match=said):
            recipe.resolve()
        with pytest.raises(ConfigError):
            Checks(n_held_out=-1)

    def test_a_prior_is_an_object_a_file_a_run_or_a_name(self, tmp_path):
        prior = small_prior("conditioned")
        save_prior(prior, tmp_path / "prior.safetensors")
        by_file, by_run = (
            Recipe("aos", prior=where).resolve()
            for where in (tmp_path / "prior.safetensors", str(tmp_path))
        )
        assert by_file.prior_sha256 == by_run.prior_sha256 is not None
        assert Recipe("aos", prior=DEFAULT).resolve().prior_sha256 == (
            Recipe("aos").resolve().prior_sha256
        )
        assert Recipe("aos", prior=prior).resolve().prior is prior
        with pytest.raises(CheckpointError):
            Recipe("aos", prior="nowhere").resolve()
        assert Recipe("cg-sense", prior="nowhere").resolve().prior is None  # it is not read

    def test_an_acceleration_is_a_mask_of_random_lines(self):
        assert Recipe("cg-sense", retrospective=3.0).resolve().mask == MaskSpec("random", 3.0)
        mask = MaskSpec("poisson", 4.0, 8)
        assert Recipe("cg-sense", retrospective=mask).resolve().mask is mask


class TestSettings:
    def test_settings_change_with_all_that_decides_the_result(self, file):
        base = ResolvedRecipe(Dds(), small_prior(card={"sha256": "ab"}), n_samples=2)
        runtime = Runtime("cpu")
        others = [
            replace(base, method=Dds(n_steps=3)),
            replace(base, prior=small_prior(card={"sha256": "cd"})),
            replace(base, seed=1),
            replace(base, n_samples=3),
            replace(base, keep_samples=True),
            replace(base, checks=Checks(n_held_out=1)),
            replace(base, checks=Checks(flags=True)),
            replace(base, preparation=replace(base.preparation, n_coils=2)),
            replace(base, mask=MaskSpec("random", 2.0)),
        ]
        known = base.settings(file, runtime)
        assert all(other.settings(file, runtime) != known for other in others)
        for other in (Runtime("cpu", precision="bf16"), Runtime("cpu", compile=True)):
            assert base.settings(file, other) != known
        assert base.settings(file, Runtime("cpu", batch_size=1)) == known
        assert json.loads(json.dumps(known)) == known
        assert known["checking"] == {"n_hidden": 0, "flags": False}  # as in files

    def test_the_precision_follows_from_the_device_unless_there_are_no_networks(self, file):
        """A GPU's "auto" is bf16, a CPU's fp32."""
        gpu, cpu = (Runtime(torch.device(name)) for name in ("cuda", "cpu"))
        prior = small_prior("conditioned")
        of_prior = ResolvedRecipe(Aos(), prior)
        assert (of_prior.precision(gpu), of_prior.precision(cpu)) == ("bf16", "fp32")
        assert (
            of_prior.choices(gpu).items()
            > of_prior.choices().items()
            < of_prior.choices(cpu).items()
        )
        baseline = ResolvedRecipe(CgSense())
        assert baseline.settings(file, gpu) == baseline.settings(file, cpu)

    def test_a_prior_without_a_file_does_not_identify_a_result(self):
        assert not ResolvedRecipe(Dds(), small_prior()).reproducible
        assert ResolvedRecipe(Dds(), small_prior(card={"sha256": "ab"})).reproducible
        assert ResolvedRecipe(CgSense()).reproducible


class TestSamples:
    @pytest.mark.parametrize(
        ("method", "kind", "named"),
        [
            (Dds(n_steps=ENOUGH_STEPS), "plain", POSTERIOR),
            (Dds(n_steps=ENOUGH_STEPS - 1), "plain", ESTIMATES),
            (Dds(n_steps=ENOUGH_STEPS), "conditioned", ESTIMATES),
            (Adps(), "plain", ESTIMATES),
            (Aos(), "plain", None),
        ],
    )
    def test_samples_are_called_what_they_are(self, method, kind, named):
        assert ResolvedRecipe(method, small_prior(kind)).samples_are == named

    def test_a_calibration_is_for_its_method_options_and_number_of_samples(self):
        entry = {"method": "dds", "options": asdict(Dds(n_steps=2)), "n_samples": 3, "factor": 2.0}
        prior = small_prior(card={"calibration": [entry | {"n_samples": 8}, entry]})
        calibrated = ResolvedRecipe(Dds(n_steps=2), prior, n_samples=3)
        assert (calibrated.calibration, calibrated.std_factor) == (entry, 2.0)
        for other in (
            replace(calibrated, n_samples=4),
            replace(calibrated, method=Dds(n_steps=3)),
            replace(calibrated, method=Msm(n_steps=2)),
            calibrated.with_method(CgSense()),
        ):
            assert (other.calibration, other.std_factor) == (None, 1.0)
