"""Two sets of coil maps through every method, objective and report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from codes import warns
from folded import folded
from helpers import shaken, small_prior, streams
from toys import EVERY, batch_for, net_for

from mri_ambient.data_prep import PrepConfig
from mri_ambient.methods import METHODS
from mri_ambient.physics.map_sets import sets_as_items, split_sets
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.denoisers import Patched, Plain
from mri_ambient.priors.facts import UNetSpec
from mri_ambient.recon.engine import Engine, to_file_units
from mri_ambient.recon.held_out import hold_out_of_scan
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Checks, Recipe, ResolvedRecipe
from mri_ambient.rng import complex_normal
from mri_ambient.runtime.device import Runtime
from mri_ambient.scan import Batch, Scan

SHAPE = (32, 40)
SHORT = {name: {"n_steps": 2} for name in ("dds", "msm", "pula", "adps")}


@pytest.fixture
def raw(rng):
    return Scan.from_numpy(folded(SHAPE, 56, rng, noise=0.02).ksp.numpy())


def prepared(scene, maps, mask=None):
    """The noiseless scan with these maps ``(coil, set*y, x)``, by default fully sampled."""
    mask = torch.ones(1, *SHAPE, dtype=torch.bool) if mask is None else mask
    return Scan(
        ksp=torch.where(mask, scene.ksp, 0)[None], mask=mask, scan_id="head", slices=(0,),
        recon_shape=SHAPE, noise_std=0.02, maps=maps[None],
    )  # fmt: skip


def recipe(method, **more):
    prior = small_prior("conditioned")
    given = {"options": SHORT.get(method, {}), "prior": prior, "retrospective": 1.7, "n_samples": 2}
    return Recipe(method, **given | more)


@pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_one_image_of_both_sets(raw, method):
    checks = Checks(2, flags=True) if method == "aos" else Checks()
    result = reconstruct(raw, recipe(method, keep_samples=True, checks=checks))
    assert result.report["map_sets"] == 2
    assert result.complex.shape == (1, *SHAPE) and np.isfinite(result.complex).all()
    if METHODS[method].stochastic:
        assert result.samples.shape == (1, 2, *SHAPE)
        spread = np.abs(result.samples).std(axis=1, ddof=1)
        np.testing.assert_allclose(result.std, spread, rtol=1e-3, atol=1e-5)
    (check,) = result.checks
    assert 0 < check["data_residual"] < 10
    assert not checks.n_held_out or check["held_out"]["error"] > 0


def test_held_out_lines_are_predicted_from_both_sets(rng):
    scene = folded(SHAPE, 56, rng)
    scan = prepared(scene, scene.maps)
    img = Batch.of([scan]).op.adjoint(scan.ksp)[0]
    assert hold_out_of_scan(scan, 4, 0).error(0, img) < 1e-6


@pytest.mark.parametrize("map_sets", [1, "auto"])
def test_two_sets_remove_the_artefact(raw, map_sets):
    chosen = recipe("cg-sense", preparation=PrepConfig(map_sets=map_sets))
    codes = ("W-FOLDED-FOV",) if map_sets == 1 else ("W-MAP-SETS",)
    with warns(*codes):
        psnr = reconstruct(raw, chosen).metrics["psnr"]
    assert psnr < 20 if map_sets == 1 else psnr > 26


@pytest.mark.parametrize("method", ["zero-filled", "cg-sense", "l1-wavelet", "aos", "dds", "msm"])
def test_an_empty_second_set_changes_nothing(method, rng):
    scene = folded(SHAPE, 36, rng)
    mask = torch.rand(1, *SHAPE, generator=rng) < 0.6
    first, second = scene.maps.chunk(2, dim=-2)
    assert not bool(second.any())
    made = recipe(method, retrospective=None).resolve()
    scans = [prepared(scene, maps, mask) for maps in (first.contiguous(), scene.maps)]
    (one,), (two,) = (Engine(made, Runtime("cpu"))([scan]) for scan in scans)
    assert not bool(two.img[:, SHAPE[0] :].any())
    torch.testing.assert_close(two.img[:, : SHAPE[0]], one.img, rtol=0, atol=1e-4)


def test_the_basis_of_the_sets_does_not_show(rng):
    scene = folded(SHAPE, 56, rng)
    turn = torch.linalg.qr(complex_normal((2, 2), rng)).Q
    turned = torch.einsum("csyx,st->ctyx", split_sets(scene.maps, 2), turn).flatten(1, 2)
    images = []
    for maps in (scene.maps, turned):
        scan = prepared(scene, maps)
        (result,) = Engine(ResolvedRecipe(METHODS["cg-sense"]()), Runtime("cpu"))([scan])
        images.append(to_file_units(result.img, scan).abs())
    torch.testing.assert_close(*images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [Plain, Patched])
def test_the_network_sees_every_set_by_itself(kind, rng):
    maps = folded(SHAPE, 56, rng).maps[None]
    mask, sigma = torch.rand(1, 1, *SHAPE, generator=rng) < 0.5, torch.tensor([0.3])
    net = shaken(kind(UNetSpec(channels=(8, 12), blocks=1, embedding=16), 0.4))
    z = complex_normal((1, 8, *SHAPE), rng)
    with torch.no_grad():
        both = sets_as_items(net(SenseOp(maps, mask, 2), z, sigma), 2)
        for m, alone in enumerate(split_sets(maps, 2).unbind(dim=2)):
            torch.testing.assert_close(both[[m]], net(SenseOp(alone, mask), z, sigma))


@pytest.mark.parametrize("name", [name for name in EVERY if "consistency" not in name])
def test_an_empty_second_set_changes_no_loss(name):
    objective = EVERY[name]
    batch, net = batch_for(objective), net_for(objective)
    padded = torch.cat([batch.maps, torch.zeros_like(batch.maps)], dim=-2)
    img = None if batch.img is None else torch.cat([batch.img, torch.zeros_like(batch.img)], -2)
    losses = [
        float(objective(net, one, streams(0, len(batch))).backward.detach())
        for one in (batch, replace(batch, maps=padded, img=img))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_scans_with_one_and_with_two_sets_share_a_batch(rng):
    narrow, wide = (folded(SHAPE, width, rng) for width in (36, 56))
    one = prepared(narrow, narrow.maps[:, : SHAPE[0]].contiguous())
    two = prepared(wide, wide.maps)
    batch = Batch.of([one, two])
    assert (one.n_sets, two.n_sets, batch.n_sets) == (1, 2, 2)
    images = batch.op.adjoint(batch.ksp)
    torch.testing.assert_close(images[:1, : SHAPE[0]], Batch.of([one]).op.adjoint(one.ksp))
    torch.testing.assert_close(images[1:], Batch.of([two]).op.adjoint(two.ksp))


def test_augmentation_and_rows_keep_measurements_of_both_sets(rng):
    scene = folded(SHAPE, 56, rng)
    n, whole = 8, torch.ones(8, 1, *SHAPE, dtype=torch.bool)
    img = complex_normal((n, 2 * SHAPE[0], SHAPE[1]), rng)
    op = SenseOp(scene.maps.expand(n, -1, -1, -1), whole, 2)
    batch = replace(Batch.of_measurement(op, op(img), torch.zeros(n)), img=img)
    for changed in (batch.augmented(streams(0, n)), batch.rows(5, 12)):
        torch.testing.assert_close(changed.op(changed.img), changed.ksp, rtol=0, atol=1e-4)
