"""Adaptation: what it learns from, what it keeps, and that it comes again to the bit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian import WholeGaussian
from helpers import random_maps, small_prior

from mri_ambient.errors import ConfigError, OutputExistsError, PrepError
from mri_ambient.methods import Aos
from mri_ambient.objectives import Ambient, Equivariant, Kspace, Objective, Ssdu
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.checkpoint import load_prior, save_prior
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.schedules import LogNormal
from mri_ambient.recon.adaptation import (
    adapted_to,
    evenly_spaced,
    hashed_name,
    knows_held_out_lines,
)
from mri_ambient.recon.adapted import slices_to_learn
from mri_ambient.recon.pipeline import open_volume, reconstruct
from mri_ambient.recon.recipe import Checks, Recipe
from mri_ambient.recon.result_file import reconstruct_to_folder
from mri_ambient.recon.volume import Volume
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Scan
from mri_ambient.training import adapt_scans
from mri_ambient.training import adapter as module
from mri_ambient.training.adapt import AdaptConfig, noise_law, own_objective
from mri_ambient.training.adapt_scans import adapt
from mri_ambient.training.adapter import HELD_OUT, NO_LINES, STEPS, TIME, random_rows

SHAPE, CPU = (16, 24), Runtime("cpu")
QUICK = AdaptConfig(4, batch_size=2, rows=8, check_every=2, learning_rate=1e-3)


def test_a_prior_is_adapted_in_the_precision_of_its_network():
    spec, fast = UNetSpec((8, 12), 1, 16, per_group=16), Runtime("cpu", auto_bf16_on_cpu=True)
    for network, wanted in ((spec, True), (replace(spec, per_group=4), False)):
        prior = small_prior("conditioned", network=network)
        adapter = module.Adapter(prior, QUICK.rules(prior, 0, fast.precision), fast, {})
        assert adapter.trainer.net.autocast == wanted


def scan_of(n_slices: int = 2, *, kind: str = "random", name: str = "scan") -> Scan:
    """Noisy measurements of random images, prepared."""
    rng = rng_for(0, name)
    maps = random_maps((n_slices, 3, *SHAPE), rng)
    spec = MaskSpec("random", 1.0) if kind == "full" else MaskSpec(kind, 2.0, 4)
    mask = spec.draw(SHAPE, rng)
    img = 0.3 * complex_normal((n_slices, *SHAPE), rng)
    ksp = SenseOp(maps, mask)(img) + 0.02 * mask * complex_normal((n_slices, 3, *SHAPE), rng)
    return Scan(
        ksp=ksp, mask=mask, scan_id=name, slices=tuple(range(n_slices)), recon_shape=SHAPE,
        noise_std=0.02, maps=maps,
    )  # fmt: skip


@pytest.fixture
def scan() -> Scan:
    return scan_of()


@pytest.fixture
def prior() -> Prior:
    return small_prior("conditioned", tau=0.1)


def recipe(prior: Prior, config: AdaptConfig = QUICK, **fields: object) -> Recipe:
    return Recipe("aos", prior=prior, adapt=config, **fields)


def errors_are(values: Iterable[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors that the checks on held-out lines find, in this order, spread over lines."""
    found = (torch.full((8,), value / 8, dtype=torch.float64) for value in values)
    monkeypatch.setattr(module, "held_out_errors", lambda *_: next(found))


def same_weights(a: Prior, b: Prior) -> bool:
    pairs = zip(a.net.state_dict().values(), b.net.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


class TestWhatItKeeps:
    def test_the_seed_decides_the_weights_and_the_start_is_left_as_it_was(
        self, scan, prior, monkeypatch
    ):
        errors_are([3.0, 2.0, 1.0] * 3, monkeypatch)
        before = {name: value.clone() for name, value in prior.net.state_dict().items()}
        a, b = (adapt(scan, recipe(prior), CPU) for _ in range(2))
        c = adapt(scan, recipe(prior, seed=1), CPU)
        assert same_weights(a, b)
        assert not same_weights(a, c) and not same_weights(a, prior)
        assert all(torch.equal(before[name], v) for name, v in prior.net.state_dict().items())

    def test_the_start_where_the_error_on_held_out_lines_does_not_fall(
        self, scan, prior, monkeypatch
    ):
        errors_are([1.0, 1.0, 1.5], monkeypatch)
        card = {"trained_on": ["abc"], "calibration": []}
        prior = replace(prior, facts=replace(prior.facts, card=card))
        adapted = adapt(scan, recipe(prior), CPU)
        report = adapted.card["adaptation"]
        assert same_weights(adapted, prior)
        assert (report["kept"], report["kept_step"], report["steps"]) == ("start", 0, 4)
        assert report["held_out_before"] == report["held_out_after"] == 1.0
        assert adapted.card["trained_on"] == ["abc"] and "calibration" in adapted.card

    def test_errors_that_are_not_finite_keep_the_start(self, scan, prior):
        config = replace(QUICK, learning_rate=1e8)
        assert same_weights(adapt(scan, recipe(prior, config), CPU), prior)

    def test_the_best_average_and_it_stops_by_patience(self, scan, prior, monkeypatch):
        config = replace(QUICK, until="auto", patience=2)
        errors_are([1.0, 0.9, 0.95, 0.92], monkeypatch)
        adapted = adapt(scan, recipe(prior, config), CPU)
        report = adapted.card["adaptation"]
        assert report["curve"] == [[0, 1.0], [2, 0.9], [4, 0.95], [6, 0.92]]
        assert (report["stopped_by"], report["steps"], report["kept_step"]) == (HELD_OUT, 6, 2)
        errors_are([1.0, 0.9], monkeypatch)
        assert same_weights(adapted, adapt(scan, recipe(prior, replace(QUICK, until=2)), CPU))

    def test_a_fall_within_its_standard_error_is_none(self, scan, prior, monkeypatch):
        """Errors of 100 lines fall by 0.1 on average; their differences deviate by 0.5 or 5."""
        sign = torch.ones(100, dtype=torch.float64)
        sign[::2] = -1
        for deviation, kept in ((5.0, "start"), (0.5, "adapted")):
            errors = iter([9.0 + 0 * sign, 8.9 + deviation * sign, 9.0 + 0 * sign])
            monkeypatch.setattr(module, "held_out_errors", lambda *_, e=errors: next(e))
            report = adapt(scan, recipe(prior), CPU).card["adaptation"]
            assert report["kept"] == kept

    def test_the_error_of_a_line_alone_has_to_fall_by_a_quarter(self, scan, prior, monkeypatch):
        for after, kept in ((0.8, "start"), (0.7, "adapted")):
            errors = (torch.tensor([error], dtype=torch.float64) for error in (1.0, 1.0, after))
            monkeypatch.setattr(module, "held_out_errors", lambda *_, e=errors: next(e))
            report = adapt(scan, recipe(prior), CPU).card["adaptation"]
            assert report["kept"] == kept

    @pytest.mark.parametrize("kind", ["random", "poisson"])
    def test_errors_are_those_of_lines_or_of_single_samples(self, kind, prior):
        cases = module.held_out_cases([scan_of(kind=kind)], 0)
        errors = module.held_out_errors(prior, cases, CPU)
        n_samples = sum(int(case.held_out.sum()) for case in cases)
        assert len(errors) == (n_samples if kind == "poisson" else n_samples / SHAPE[0])
        with torch.no_grad():
            images = [Aos()(prior, case.batch, [rng_for(0, "held out", 0)]) for case in cases]
        energies = [case.energy for case in cases]
        each = [case.error(img) for case, img in zip(cases, images, strict=True)]
        assert float(errors.sum()) == pytest.approx(np.average(each, weights=energies), rel=1e-5)

    def test_the_steps_of_a_time_limit_give_the_same_bits(self, scan, prior, monkeypatch):
        errors_are([0.9**k for k in range(100)], monkeypatch)
        limited = adapt(scan, recipe(prior, replace(QUICK, until="0.3s", check_every=50)), CPU)
        report = limited.card["adaptation"]
        assert report["stopped_by"] == TIME and report["seconds"] >= 0.3
        config = replace(QUICK, until=report["steps"], check_every=50)
        again = adapt(scan, recipe(prior, config), CPU)
        assert again.card["adaptation"]["stopped_by"] == STEPS
        assert same_weights(limited, again)


class TestWhatItLearnsFrom:
    def test_held_out_samples_never_enter_a_step(self, scan, prior, monkeypatch):
        cases = module.held_out_cases([scan], 0)
        whole = recipe(prior)
        errors_are([0.9**k for k in range(6)], monkeypatch)
        want = adapt(scan, whole, CPU)
        for case in cases:
            assert case.held_out.any() and not (case.held_out & case.batch.mask).any()
            case.batch.ksp[case.held_out.expand_as(case.batch.ksp)] = complex("nan+nanj")
        monkeypatch.setattr(module, "held_out_cases", lambda *_: cases)
        got = adapt(scan, whole, CPU)
        assert same_weights(got, want) and not same_weights(got, prior)

    @pytest.mark.parametrize("kind", ["random", "poisson"])
    def test_blocks_of_rows_only_where_the_readout_is_full(self, kind):
        (case, *_) = module.held_out_cases([scan_of(kind=kind)], 0)
        block = random_rows(case.batch, 8, rng_for(0))
        assert block.ksp.shape[-2] == (8 if kind == "random" else SHAPE[0])
        assert not block.ksp[~block.mask.expand_as(block.ksp)].any()

    def test_lines_that_checks_hold_out_are_unknown_to_it(self, scan, prior, monkeypatch):
        """Other values there change no bit of the adapted weights."""
        checked = recipe(prior, checks=Checks(n_held_out=2))
        (kept,) = slices_to_learn(open_volume(scan, checked.resolve(), CPU), [0])
        hidden = scan.mask & ~kept.mask
        assert int(hidden[0, 0].sum()) == 2
        other = replace(scan, ksp=torch.where(hidden, 2 * scan.ksp, scan.ksp))
        found = []
        for one in (scan, other):
            errors_are([3.0, 2.0, 1.0], monkeypatch)
            found.append(adapt(one, checked, CPU))
        assert same_weights(*found) and not same_weights(found[0], prior)

    def test_lines_that_were_set_aside_are_those_of_the_scan_under_its_name(
        self, scan, prior, monkeypatch
    ):
        errors_are([3.0, 2.0, 1.0], monkeypatch)
        checked = recipe(prior, checks=Checks(n_held_out=2))
        adapted = replace(checked, prior=adapt(scan, checked, CPU), adapt=None).resolve()
        for name in ("scan", "renamed"):
            file = open_volume(replace(scan, scan_id=name), adapted, CPU).file
            assert adapted_to(adapted.prior, file)
            assert knows_held_out_lines(adapted, file) == (name == "renamed")

    def test_a_scan_without_outer_lines_keeps_the_start(self, prior):
        mask = MaskSpec("random", 1.0).draw(SHAPE, rng_for(0)) & (torch.arange(SHAPE[1]) < 16)
        mask &= torch.arange(SHAPE[1]) > 7
        scan = scan_of(kind="full")
        scan = replace(scan, mask=mask, ksp=torch.where(mask, scan.ksp, 0))
        adapted = adapt(scan, recipe(prior), CPU)
        assert adapted.card["adaptation"]["stopped_by"] == NO_LINES
        assert same_weights(adapted, prior)

    @pytest.mark.parametrize(
        "objective", [Kspace(), Ambient(), Ssdu(), Equivariant(Kspace())], ids=lambda o: o.name
    )
    def test_it_learns_by_the_objective_of_the_prior(self, objective, scan, monkeypatch):
        prior = trained_by(objective)
        errors_are([3.0, 2.0, 1.0], monkeypatch)
        assert not same_weights(adapt(scan, recipe(prior), CPU), prior)
        assert isinstance(own_objective(prior), type(objective))

    def test_the_options_of_the_objective_are_kept_but_for_weights_of_a_data_set(self):
        prior = trained_by(Kspace(remove=(0.1, 0.2), margin=1.5))
        law = noise_law(prior.facts)
        found = own_objective(prior)
        assert found == Kspace(law=law, remove=(0.1, 0.2), margin=1.5, weights=False)
        assert own_objective(trained_by(Ambient(LogNormal(-2.0, 0.5)))) == Ambient(law)
        assert own_objective(trained_by(Ssdu(remove=(0.1, 0.2)))).max_unseen == 1
        moved = Equivariant(Ssdu(remove=(0.1, 0.2)), rotation=15.0)
        alone = Equivariant(Ssdu(remove=(0.1, 0.2), max_unseen=1.0), rotation=15.0)
        assert own_objective(trained_by(moved)) == alone

    def test_half_of_the_noise_levels_are_below_1_4_times_the_smallest_of_the_prior(self, prior):
        law = noise_law(prior.facts)
        rng = [rng_for(0, k) for k in range(1000)]
        drawn = law.draw(torch.full((1000,), 1e-6), prior.sigma_data, rng)
        share = (drawn < 1.4 * prior.sigma_min).float().mean()
        assert share == pytest.approx(0.5, abs=0.05)  # three standard deviations

    def test_other_priors_are_refused(self, scan):
        gaussian = WholeGaussian(torch.ones(SHAPE, dtype=torch.float64), sigma_min=0.01)
        for prior in (small_prior("plain"), small_prior("plain", objective="gsure"), gaussian):
            with pytest.raises(ConfigError):
                recipe(prior).resolve()


def trained_by(objective: Objective) -> Prior:
    kind = objective.wrapper
    return small_prior(
        kind, objective=objective.name, mask_conditioned=True, tau=0.1,
        card={"objective_options": objective.as_dict()},
    )  # fmt: skip


class TestFiles:
    def test_one_that_was_interrupted_ends_as_if_left_alone(
        self, scan, prior, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)

        def stop(progress: module.AdaptProgress) -> None:
            if progress.step == 5:
                raise KeyboardInterrupt

        config = replace(QUICK, until=8)
        path = tmp_path / "prior.safetensors"
        with pytest.raises(KeyboardInterrupt):
            adapt(scan, recipe(prior, replace(config, on_progress=stop)), CPU, output=path)
        assert not path.exists()
        steps: list[int] = []
        watched = replace(config, on_progress=lambda progress: steps.append(progress.step))
        resumed = adapt(scan, recipe(prior, watched), CPU, output=path)
        whole = adapt(scan, recipe(prior, config), CPU)
        assert steps == [5, 6, 7, 8]
        assert same_weights(resumed, whole)
        assert resumed.card["adaptation"]["curve"] == whole.card["adaptation"]["curve"]
        assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]

    def test_the_file_holds_the_prior_and_on_what_it_was_adapted(
        self, scan, prior, tmp_path, monkeypatch
    ):
        start = tmp_path / "start.safetensors"
        save_prior(prior, start)
        bits = start.read_bytes()
        errors_are([3.0, 2.0, 1.0], monkeypatch)
        output = tmp_path / "adapted.safetensors"
        adapted = adapt(scan, recipe(start), CPU, output=output)
        card, known = load_prior(output).card, load_prior(start).card
        digest = open_volume(scan, Recipe("cg-sense").resolve(), CPU).file.source_sha256
        assert adapted.was_trained_on(digest) and card["trained_on"] == [digest[:12]]
        assert card["init"] == card["adaptation"]["start_sha256"] == known["sha256"]
        assert (card["images_seen"], card["adaptation"]["kept_step"]) == (8, 4)
        assert start.read_bytes() == bits

    def test_a_finished_one_is_read_and_another_is_not_replaced(self, scan, prior, tmp_path):
        path = tmp_path / "prior.safetensors"
        first = adapt(scan, recipe(prior), CPU, output=path)
        made = path.stat().st_mtime_ns
        assert same_weights(adapt(scan, recipe(prior), CPU, output=path), first)
        for other in (recipe(prior, seed=1), recipe(prior, replace(QUICK, until=6))):
            with pytest.raises(OutputExistsError):
                adapt(scan, other, CPU, output=path)
        assert path.stat().st_mtime_ns == made
        adapt(scan, recipe(prior, seed=1), CPU, output=path, overwrite=True)
        assert path.stat().st_mtime_ns > made
        path.write_bytes(b"something else")
        with pytest.raises(OutputExistsError):
            adapt(scan, recipe(prior), CPU, output=path)

    def test_scans_that_cannot_be_read_are_left_out(self, scan, prior, tmp_path):
        (tmp_path / "bad.h5").write_bytes(b"no scan")
        failed: list[object] = []
        adapted = adapt(
            [tmp_path / "bad.h5", scan], recipe(prior), CPU, on_error=lambda s, _: failed.append(s)
        )
        assert len(failed) == 1 and len(adapted.card["adaptation"]["scans"]) == 1
        with pytest.raises(PrepError):
            adapt([tmp_path / "bad.h5"], recipe(prior), CPU, on_error=lambda *_: None)

    def test_scans_that_cannot_be_prepared_are_not_in_the_card(
        self, scan, prior, tmp_path, monkeypatch
    ):
        def only_good(volume: Volume, indices: list[int]) -> list[Scan]:
            if volume.file.scan_id == "bad":
                raise PrepError("bad")
            return slices_to_learn(volume, indices)

        monkeypatch.setattr(adapt_scans, "slices_to_learn", only_good)
        errors_are([3.0, 2.0, 1.0], monkeypatch)
        bad, failed = scan_of(name="bad"), []
        card = adapt([bad, scan], recipe(prior), CPU, on_error=lambda *e: failed.append(e)).card
        known = hashed_name(open_volume(scan, recipe(prior).resolve(), CPU).file)
        assert len(failed) == 1 and card["trained_on"] == [known[1]]
        assert card["adaptation"]["scans"] == [list(known)]
        assert card["adaptation"]["n_slices"] == 2
        path = tmp_path / "none.safetensors"
        with pytest.raises(PrepError):
            adapt([bad], recipe(prior), CPU, on_error=lambda *_: None, output=path)
        assert not path.exists()

    @pytest.mark.parametrize("given", ["start.safetensors", "link.safetensors", "run"])
    def test_the_start_is_never_written_over(self, given, scan, prior, tmp_path):
        (tmp_path / "run").mkdir()
        file = tmp_path / ("run/prior.safetensors" if given == "run" else "start.safetensors")
        save_prior(prior, file)
        (tmp_path / "link.safetensors").symlink_to(file)
        start, output = tmp_path / given, file if given == "run" else tmp_path / given
        bits = output.read_bytes()
        with pytest.raises(ConfigError):
            adapt(scan, recipe(start), CPU, output=output, overwrite=True)
        assert output.read_bytes() == bits

    def test_the_order_of_scans_decides_nothing(self, scan, prior, monkeypatch):
        """Nor that of those with one name; all of them are in the card."""
        scans = [scan, scan_of(name="other"), replace(scan_of(name="third"), scan_id="scan")]
        errors_are([3.0, 2.0, 1.0] * 2, monkeypatch)
        a, b = (adapt(given, recipe(prior), CPU) for given in (scans, scans[::-1]))
        assert same_weights(a, b) and not same_weights(a, prior)
        assert len(a.card["adaptation"]["scans"]) == len(a.card["trained_on"]) == 3


class TestReconstruction:
    def test_the_image_is_that_of_the_adapted_prior_and_all_measured_lines(
        self, scan, prior, monkeypatch
    ):
        errors_are([3.0, 2.0, 1.0] * 2, monkeypatch)
        adapted = adapt(scan, recipe(prior), CPU)
        got = reconstruct(scan, recipe(prior), CPU)
        want = reconstruct(scan, Recipe("aos", prior=adapted), CPU)
        assert (got.complex == want.complex).all()
        assert (got.complex != reconstruct(scan, Recipe("aos", prior=prior), CPU).complex).any()
        report = got.report["adaptation"]
        assert report["kept"] == "adapted" and report["n_slices"] == 2
        assert got.report["settings"]["adapt"]["until"] == "4"

    def test_every_slice_has_a_prior_of_its_own(self, scan, prior):
        rec = reconstruct(scan, recipe(prior, replace(QUICK, per="slice")), CPU)
        hashes = {check["adaptation"]["adapted_weights_sha256"] for check in rec.checks}
        assert len(hashes) == 2 and "adaptation" not in rec.report
        alone = reconstruct(one_slice(scan, 1), recipe(prior), CPU)
        assert alone.report["adaptation"]["n_slices"] == 1

    def test_a_volume_that_was_interrupted_keeps_its_adaptation(
        self, scan, prior, tmp_path, monkeypatch
    ):
        """And does it no second time, which with a time limit would have another result."""
        save_prior(prior, tmp_path / "start.safetensors")
        steps: list[int] = []
        config = replace(QUICK, until="0.2s", on_progress=lambda p: steps.append(p.step))
        resolved = recipe(tmp_path / "start.safetensors", config).resolve()
        one_at_once = Runtime("cpu", batch_size=1)

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            volume = open_volume(scan, resolved, one_at_once)
            reconstruct_to_folder(volume, tmp_path / "out", on_slice=stop)
        taken = steps[-1]
        volume = open_volume(scan, resolved, one_at_once)
        report = reconstruct_to_folder(volume, tmp_path / "out")
        assert steps[-1] == taken == report["adaptation"]["steps"]
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scan.h5", "scan.json"]
        config = replace(QUICK, until=taken)
        same = reconstruct(scan, recipe(prior, config), one_at_once)
        sha = "adapted_weights_sha256"
        assert same.report["adaptation"][sha] == report["adaptation"][sha]

    def test_baselines_adapt_nothing(self, scan):
        rec = reconstruct(scan, Recipe("cg-sense", adapt=QUICK), CPU)
        assert rec.report["settings"]["adapt"] is None and "adaptation" not in rec.report


def one_slice(scan: Scan, index: int) -> Scan:
    kept = slice(index, index + 1)
    return replace(scan, ksp=scan.ksp[kept], maps=scan.maps[kept], slices=(index,))


class TestOptions:
    @pytest.mark.parametrize(
        ("until", "limits"),
        [("auto", (300, None)), ("80", (80, None)), (80, (80, None)), ("90s", (None, 90.0)),
         ("1.5m", (None, 90.0))],
    )  # fmt: skip
    def test_what_ends_it(self, until, limits, prior):
        rules = AdaptConfig(until, most_steps=300).rules(prior, 0, "fp32")
        assert (rules.steps, rules.seconds) == limits
        assert (rules.patience is None) == (until != "auto")

    @pytest.mark.parametrize(
        "options",
        [{"until": "soon"}, {"until": 0}, {"until": "0s"}, {"until": -3}, {"until": 80.0},
         {"until": "80.0"}, {"per": "coil"}, {"rows": 0}, {"learning_rate": 0.0}],
    )  # fmt: skip
    def test_options_that_cannot_be(self, options):
        with pytest.raises(ConfigError):
            AdaptConfig(**options)

    @pytest.mark.parametrize(
        ("n", "most", "want"), [(1, 8, [0]), (3, 8, [0, 1, 2]), (20, 4, [2, 7, 12, 17]), (0, 4, [])]
    )
    def test_slices_are_evenly_spaced(self, n, most, want):
        assert evenly_spaced(n, most) == want
