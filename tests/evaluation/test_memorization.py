from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import damage_samples

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.errors import ConfigError, ScanFormatError
from mri_ambient.evaluation.memorization import feature, find_copies, nearest
from mri_ambient.io import open_scan
from mri_ambient.methods import CgSense
from mri_ambient.priors.prior import DenoiserSource
from mri_ambient.rng import rng_for
from mri_ambient.training.config import Hooks
from mri_ambient.training.dataset import load_dataset

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    config = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, noise=0.01)
    prepare(simulate("phantom", folder / "raw", config, count=10), folder / "prepared")
    return folder / "prepared"


class Stub(DenoiserSource):
    """A prior whose denoised images are given ones, whatever the state."""

    sigma_min, sigma_data, tau, mask_conditioned = 0.01, 0.3, 0.1, False

    def __init__(self, images: list[torch.Tensor], known: list[str]) -> None:
        self.images, self.n = images, 0
        self.known = known
        self.facts = SimpleNamespace(card={"trained_on": known})

    def was_trained_on(self, source_sha256: str) -> bool:
        return source_sha256 in self.known

    def denoiser(self, op, rng, further="scan"):
        img = self.images[self.n % len(self.images)]
        self.n += 1
        return lambda z, sigma: img[None].expand(len(z), -1, -1)


def cg_images(scans: Path) -> list[torch.Tensor]:
    batches = [item.read() for item in load_dataset(scans, n_validation=0, seed=0).train]
    return [CgSense()(None, batch, [])[0] for batch in batches]


@pytest.fixture
def known(scans) -> list[str]:
    paths = sorted(scans.glob("*.h5"))
    return [open_scan(path).source_sha256 for path in paths[3:]]


def test_copies_of_training_scans_are_found_and_paired(scans, known):
    """Noisy, mirrored, rescaled copies of three training scans."""
    images = cg_images(scans)
    chosen = [3, 5, 8]
    noisy = [
        2 * (images[i] + 0.02 * torch.randn(32, 32, generator=rng_for(i))).flip(-1) for i in chosen
    ]
    found = find_copies(Stub(noisy, known), scans, n_samples=3, n_steps=2)
    names = sorted(path.stem for path in scans.glob("*.h5"))
    assert found.nearest == tuple(f"{names[i]}/0" for i in chosen)
    assert found.n_suspects == 3
    assert found.expected == pytest.approx(3 / 4)
    assert max(found.sample_distances) < 0.1 < min(found.held_out_distances)
    assert not found.drawn_are_unlike
    assert found.report["suspects"] == 3
    assert found.report["nearest"] == found.nearest
    assert found.line.startswith("3 of 3 ")


def test_scans_that_were_not_trained_on_are_no_copies(scans, known):
    images = cg_images(scans)
    found = find_copies(Stub(images[:3], known), scans, n_samples=3, n_steps=2)
    assert found.n_suspects == 0
    assert found.sample_distances == pytest.approx(found.held_out_distances, abs=1e-3)


def test_images_unlike_all_scans_show_nothing(scans, known):
    noise = [torch.randn(32, 32, generator=rng_for(i)) for i in range(3)]
    found = find_copies(Stub(noise, known), scans, n_samples=3, n_steps=2)
    assert found.drawn_are_unlike
    assert found.n_suspects == 0


def test_there_must_be_scans_of_both_kinds(scans):
    everything = [open_scan(path).source_sha256 for path in scans.glob("*.h5")]
    for names in ([], everything):
        with pytest.raises(ConfigError, match=str(scans)):
            find_copies(Stub([torch.ones(32, 32)], names), scans, n_samples=1)


def test_a_card_without_training_scans_is_refused(scans):
    prior = Stub([torch.ones(32, 32)], [])
    prior.facts.card.clear()
    with pytest.raises(ConfigError):
        find_copies(prior, scans, n_samples=1)


def test_damaged_scans_are_named_and_left_out(scans, known, tmp_path):
    """One of each kind; and none of a kind that is left."""
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    paths = sorted(folder.glob("*.h5"))
    paths[0].write_bytes(paths[0].read_bytes()[:5000])
    damage_samples(paths[3])
    lines: list[str] = []
    images = cg_images(scans)
    found = find_copies(Stub(images[4:5], known), folder, n_samples=1, n_steps=2,
                        hooks=Hooks(on_damaged=lines.append))  # fmt: skip
    assert len(lines) == 2
    assert paths[0].name in lines[0]
    assert paths[3].name in lines[1]
    assert len(found.held_out_distances) == 2
    assert found.nearest == (f"{paths[4].stem}/0",)
    for path in paths[1:3]:
        damage_samples(path)
    with pytest.raises(ScanFormatError, match=str(folder)):
        find_copies(Stub(images[4:5], known), folder, n_samples=1)


def test_the_distance_is_blind_to_scale_and_mirrors():
    img = torch.rand(40, 36, generator=rng_for(0))
    same = torch.stack([feature(img), feature(3 * img.flip(-2)), feature(img.flip((-1, -2)))])
    distances, index = nearest(same, feature(img)[None])
    torch.testing.assert_close(distances, torch.zeros(3), rtol=0, atol=1e-5)
    assert index.tolist() == [0, 0, 0]
    other = feature(torch.rand(40, 36, generator=rng_for(1)))[None]
    assert float(nearest(other, feature(img)[None])[0]) > 0.7
