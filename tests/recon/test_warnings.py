"""When each warning is given, by its code: one warning a cause, and none for an ordinary scan."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from codes import warns
from helpers import small_prior

from mri_ambient.data_prep import PrepConfig
from mri_ambient.io import ArrayFile, open_scan
from mri_ambient.methods import Aos, CgSense, Dds, Method, Msm, Pula
from mri_ambient.methods.dds import ENOUGH_STEPS
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.patterns import achieved_acceleration
from mri_ambient.priors.prior import Prior, scan_digest
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Checks, Recipe, ResolvedRecipe
from mri_ambient.recon.warnings import issue_after, issue_before
from mri_ambient.rng import rng_for
from mri_ambient.scan import Scan

DIGEST = "ab" * 32
"""Hash of the raw file of every scan here."""


def scan(kind: str = "random", rate: float = 3.0) -> Any:
    """What the table reads of a file: 128 columns under a mask."""
    mask = MaskSpec(kind, rate, 8).draw((16, 128), rng_for(0)).numpy()
    return SimpleNamespace(
        path=Path("a.h5"), mask=mask, acceleration=achieved_acceleration(mask),
        source_sha256=DIGEST,
    )  # fmt: skip


def prior(kind: str = "conditioned", **card: object) -> Prior:
    """Trained at R = 2 on 100 scans of lines, 20 of them equispaced."""
    groups = [{"kind": "lines", "n_scans": 100, "n_regular": 20}]
    return small_prior(kind, tau=0.1, card={"coverage": groups, **card})


def check(residual: float = 1.0, index: int = 0, *flags: str) -> dict[str, Any]:
    return {"slice": index, "data_residual": residual, "flags": list(flags)}


def recipe(method: Method | None = None, prior: Prior | None = None, **more: Any) -> ResolvedRecipe:
    return ResolvedRecipe(method or Dds(), prior, **more)


class TestBeforeTheImage:
    @pytest.mark.parametrize(
        ("kind", "rate", "n_regular", "codes"),
        [
            ("random", 4.1, 20, ["W-PRIOR-ACCELERATION"]),
            ("random", 3.0, 0, []),
            ("equispaced", 3.0, 4, ["W-PRIOR-EQUISPACED"]),
            ("equispaced", 3.0, 5, []),
            ("equispaced", 4.6, 4, ["W-PRIOR-ACCELERATION", "W-PRIOR-EQUISPACED"]),
        ],
    )
    def test_scans_unlike_the_training_scans(self, kind, rate, n_regular, codes):
        groups = [{"kind": "lines", "n_scans": 100, "n_regular": n_regular}]
        with warns(*codes):
            issue_before(scan(kind, rate), recipe(prior=prior(coverage=groups)))
        with warns():  # plain priors are given no masks
            issue_before(scan(kind, rate), recipe(prior=prior("plain", coverage=groups)))

    @pytest.mark.parametrize(
        ("rates", "codes"),
        [
            ([1.5, 2.0, 4.2], []),  # a single scan in 20 more than the largest is none
            ([1.5, 2.0, 3.5], ["W-PRIOR-ACCELERATION"]),
            ([1.9, 2.0, 2.1], ["W-PRIOR-ACCELERATION"]),
        ],
    )
    def test_no_scan_is_too_fast_that_was_trained_on(self, rates, codes):
        assert scan(rate=4.1).acceleration > 4.05
        with warns(*codes) as found:
            issue_before(scan(rate=4.1), recipe(prior=prior(acceleration=rates)))
        assert all(f"up to {rates[-1]:.1f}" in one.text for one in found)

    @pytest.mark.parametrize(
        ("trained", "scanned", "codes"),
        [
            ("samples", "random", ["W-PRIOR-MASK-KIND"]),
            ("samples", "equispaced", ["W-PRIOR-MASK-KIND"]),  # which says it all
            ("lines", "poisson", ["W-PRIOR-MASK-KIND"]),
            ("samples", "poisson", []),
            ("lines", "random", []),
        ],
    )
    def test_another_kind_of_mask_than_in_training(self, trained, scanned, codes):
        groups = [{"kind": trained, "n_scans": 100, "n_regular": 20}]
        with warns(*codes):
            issue_before(scan(scanned), recipe(prior=prior(coverage=groups)))

    @pytest.mark.parametrize(
        ("method", "kind", "rate", "codes"),
        [
            (Aos(), "plain", 3.0, ["W-PRIOR-ONE-STEP"]),
            (Dds(start="aos"), "plain", 3.0, ["W-PRIOR-ONE-STEP"]),
            (Pula(start="aos"), "plain", 3.0, ["W-PRIOR-ONE-STEP"]),
            (Dds(), "plain", 3.0, []),
            (Aos(), "plain", 1.0, []),
            (Aos(), "conditioned", 3.0, []),
        ],
    )
    def test_one_step_of_a_plain_prior(self, method, kind, rate, codes):
        with warns(*codes):
            issue_before(scan(rate=rate), recipe(method, prior(kind)))

    @pytest.mark.parametrize(
        ("known", "n_held_out", "codes"),
        [(True, 1, ["W-TRAINED-ON-SCAN"]), (True, 0, []), (False, 1, [])],
    )
    def test_held_out_lines_of_a_training_scan(self, known, n_held_out, codes):
        card = {"trained_on": [scan_digest(DIGEST)]} if known else {}
        checks = Checks(n_held_out=n_held_out)
        with warns(*codes):
            issue_before(scan(), recipe(prior=prior(**card), checks=checks))

    @pytest.mark.parametrize(
        ("kind", "error", "wavelet", "codes"),
        [
            ("conditioned", 0.9, 1.2, []),
            ("conditioned", 1.0, 1.2, ["W-PRIOR-WEAK"]),
            ("conditioned", 0.9, 0.8, ["W-PRIOR-WEAK"]),
            ("plain", 1.9, 1.2, []),  # the error of a sample, up to twice that of the mean
            ("plain", 2.0, 1.2, ["W-PRIOR-WEAK"]),
            ("plain", 1.9, 0.9, ["W-PRIOR-WEAK"]),
        ],
    )
    def test_a_prior_worse_than_none(self, kind, error, wavelet, codes):
        found = {"held_out": error, "held_out_cg_sense": 1.0, "held_out_l1_wavelet": wavelet}
        with warns(*codes):
            issue_before(scan(), recipe(prior=prior(kind, held_out=found)))

    @pytest.mark.parametrize(
        ("card", "codes"),
        [
            ({"images_seen": 8}, ["W-PRIOR-WEAK"]), ({}, []),
            ({"images_seen": 8, "adaptation": {}}, []),
            ({"images_seen": 8, "held_out": {}}, ["W-PRIOR-WEAK"]),
        ],
    )  # fmt: skip
    def test_a_prior_of_which_nothing_shows_that_it_is_better_than_none(self, card, codes):
        with warns(*codes):
            issue_before(scan(), recipe(prior=prior("conditioned", **card)))

    def test_baselines_have_none(self):
        checks = Checks(n_held_out=1)
        with warns():
            issue_before(scan("equispaced", 6.0), recipe(CgSense(), checks=checks))


class TestUncertainty:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({}, ""),
            ({"mask_kinds": ["lines"]}, ""),
            ({"acceleration": [2.0, 2.1]}, ""),  # within a factor of 1.5
            ({"acceleration": [8.0, 9.0]}, "acceleration 8 to 9"),
            ({"sigma_n": [7.0, 9.0]}, "sigma_n 7 to 9"),
            ({"sigma_n": [7.0, 9.0], "acceleration": [8.0, 9.0]}, "acceleration 8 to 9"),
            ({"mask_kinds": ["samples"]}, "samples"),
        ],
    )
    def test_a_calibration_for_other_scans_is_said_once(self, changed, said):
        entry = {"method": "dds", "options": asdict(Dds()), "n_samples": 3, "factor": 2.0}
        entry |= {"acceleration": [1.5, 3.5], "sigma_n": [0.0, 9.0], **changed}
        known = recipe(prior=prior(calibration=[entry]), n_samples=3)
        with warns(*["W-CALIBRATION-RANGE"] * bool(said)) as given:
            issue_after(scan(), known, 0.02, [check()])
        assert all(said in warning.text for warning in given)

    @pytest.mark.parametrize(
        ("method", "n_samples", "codes"),
        [
            (Dds(n_steps=2), 3, []),
            (Dds(n_steps=3), 3, ["W-CALIBRATION-OPTIONS"]),
            (Dds(n_steps=2), 2, ["W-CALIBRATION-OPTIONS"]),
            (Msm(n_steps=2), 3, ["W-CALIBRATION-OPTIONS"]),
            (Dds(n_steps=3), 1, []),  # a single sample has no standard deviation
        ],
    )
    def test_a_calibration_for_other_options(self, method, n_samples, codes):
        entry = {"method": "dds", "options": asdict(Dds(n_steps=2)), "n_samples": 3, "factor": 2.0}
        known = recipe(method, prior(calibration=[entry]), n_samples=n_samples)
        with warns(*codes):
            issue_after(scan(), known, 0.02, [check()])

    @pytest.mark.parametrize(
        ("kind", "n_samples", "n_steps", "codes"),
        [
            ("conditioned", 3, 2, ["W-UNCALIBRATED"]),
            ("conditioned", 1, 2, []),
            ("plain", 3, 2, ["W-UNCALIBRATED"]),
            ("plain", 3, ENOUGH_STEPS, []),  # posterior samples
        ],
    )
    def test_estimates_that_were_never_calibrated(self, kind, n_samples, n_steps, codes):
        known = recipe(Dds(n_steps=n_steps), prior(kind), n_samples=n_samples)
        with warns(*codes):
            issue_after(scan(), known, 0.02, [check()])


class TestResidualsAndFlags:
    def test_a_high_residual_is_said_once_for_the_worst_slice(self):
        checks = [check(0.9, 0), check(2.5, 1), check(7.25, 2)]
        with warns("W-RESIDUAL") as given:
            issue_after(scan(), recipe(prior=prior()), 0.02, checks)
        assert "7.2" in str(given[0]) and "slice 2" in str(given[0])
        with warns():  # what a baseline leaves is its regularisation
            issue_after(scan(), recipe(CgSense()), 0.02, checks)

    def test_with_little_noise_a_residual_is_compared_with_more(self):
        """0.002 counts as 0.01: up to 10 sigma_n are small."""
        for residual, codes in ((9.9, []), (10.1, ["W-RESIDUAL"])):
            with warns(*codes):
                issue_after(scan(), recipe(prior=prior()), 0.002, [check(residual)])

    @pytest.mark.parametrize(
        ("flags", "method", "given", "codes"),
        [
            ([], Dds(), (), ["W-RESIDUAL"]),
            (["a"], Dds(), (), ["W-RESIDUAL"]),  # the flag of that residual
            (["a", "b"], Dds(), (), ["W-RESIDUAL", "W-FLAGGED"]),
            (["a"], CgSense(), (), ["W-FLAGGED"]),
            ([], Dds(), ("W-FOLDED-FOV",), []),  # the field of view explains the residual
            (["a"], Dds(), ("W-FOLDED-FOV",), []),
            (["a"], CgSense(), ("W-FOLDED-FOV",), []),
            (["a", "b"], Dds(), ("W-FOLDED-FOV",), ["W-FLAGGED"]),
        ],
    )
    def test_one_cause_has_one_warning(self, flags, method, given, codes):
        known = recipe(method, prior() if method.needs_prior else None)
        with warns(*codes):
            issue_after(scan(), known, 0.02, [check(5.0, 3, *flags)], given)

    def test_flags_are_said_once_a_scan(self):
        checks = [check(1.0, 0), check(1.0, 1, "is dark", "is bright"), check(1.0, 2, "is dark")]
        with warns("W-FLAGGED") as given:
            issue_after(scan(), recipe(prior=prior()), 0.02, checks)
        assert "(1, 2)" in str(given[0]) and "slice 1 is dark" in str(given[0])


@pytest.mark.parametrize(
    ("name", "shape", "map_sets", "codes", "rate"),
    [
        ("espirit_brain8", (230, 180), "auto", [], 4.0),
        ("alias_brain8", (128, 112), "auto", ["W-MAP-SETS"], None),
        ("alias_brain8", (128, 112), "auto", ["W-MAP-SETS"], 4.0),
        ("alias_brain8", (128, 112), 1, ["W-FOLDED-FOV"], 4.0),
    ],
)
def test_an_ordinary_scan_has_no_warning_and_a_folded_one_has_one(
    name, shape, map_sets, codes, rate, real_scans
):
    """With the shipped prior, slices checked, as measured and at R = 4."""
    ksp = center_crop(open_scan(real_scans / f"{name}.h5")[:].ksp, shape)
    file = ArrayFile(Scan.from_numpy(ksp.numpy()))
    preparation = PrepConfig(map_sets=map_sets)
    recipe = Recipe(retrospective=rate, checks=Checks(flags=True), preparation=preparation)
    with warns(*codes) as given:
        result = reconstruct(file, recipe)
    assert result.warnings == [warning.as_dict() for warning in given]
    assert result.report["doubts"] == [warning.text for warning in given]
