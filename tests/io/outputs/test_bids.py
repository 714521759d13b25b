"""Names in a BIDS dataset, and what the official validator says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from patient import save_images

from mri_ambient.errors import ConfigError
from mri_ambient.io import WRITERS, SaveOptions
from mri_ambient.io.outputs.bids import contrast_of
from mri_ambient.rng import complex_normal

BIDS = WRITERS["bids"]
ALL = ("mag", "phase", "std")


def save(folder: Path, stem: str, name: str, rng, **attributes: object) -> list[Path]:
    std = torch.rand((3, 6, 9), generator=rng)
    result = save_images(folder / f"{stem}.h5", complex_normal((3, 6, 9), rng), std, **attributes)
    options = SaveOptions(ALL, bids=name)
    BIDS.check(stem, result.grid, options)
    BIDS.write(result, folder, options)
    return [folder / output for output in BIDS.outputs(result, options)]


def test_files_have_the_names_of_bids(tmp_path, rng):
    given = save(tmp_path, "brain_t2-a_rep-2", "sub-01/ses-b/PDw", rng)
    start = "bids/sub-01/ses-b/anat/sub-01_ses-b_acq-brainT2ARep2_rec-aos"
    names = [f"{start}{part}_PDw" for part in ("", "_part-phase", "_desc-std")]
    want = [tmp_path / f"{name}{end}" for name in names for end in (".json", ".nii.gz")]
    assert given == want and all(path.exists() for path in want)
    assert nibabel.load(want[1]).shape == (9, 6, 3)
    assert json.loads(want[0].read_text())["OrientationSource"] == "none (voxel size only)"
    description = json.loads((tmp_path / "bids/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "mri-ambient"


def test_scans_of_one_call_have_names_of_their_own(tmp_path, rng):
    stems = ("a", "b", "é", "è")
    paths = [path for stem in stems for path in save(tmp_path, stem, "sub-1", rng)]
    assert len(set(paths)) == 6 * len(stems) and all(str(p.name).isascii() for p in paths)


def test_the_contrast_is_given_or_that_of_the_protocol(tmp_path, rng):
    for name, protocol, want in (
        ("sub-1/T1w", "AXT2", "T1w"), ("sub-1", "AXT2", "T2w"), ("sub-1", "localizer", "MRI"),
    ):  # fmt: skip
        path = save(tmp_path, "scan", name, rng, protocol=protocol)[0]
        assert path.stem.endswith(f"_{want}")
    assert "*_MRI.*" in (tmp_path / "bids/.bidsignore").read_text()


@pytest.mark.parametrize(
    ("protocol", "contrast"),
    [
        ("AXT1POST", "T1w"), ("AXT2", "T2w"), ("AXFLAIR", "FLAIR"), ("t2_tse_dark-fluid", "FLAIR"),
        ("CORPDFS_FBK", "PDw"), ("t1_mprage_sag", "T1w"), ("t2_star_gre", "T2starw"), ("gre", None),
    ],
)  # fmt: skip
def test_protocols_of_common_names(protocol, contrast):
    assert contrast_of(protocol) == contrast


@pytest.mark.parametrize(
    "name", [None, "", "01", "sub-01/ses_01", "sub-01/T2", "sub-0 1", "ses-1", "sub-01/anat/x"]
)
def test_a_wrong_name_is_refused_before_computing(name, tmp_path, rng):
    grid = save_images(tmp_path / "scan.h5", complex_normal((1, 4, 4), rng)).grid
    with pytest.raises(ConfigError, match="bids='sub-01/ses-01/T2w'"):
        BIDS.check("scan", grid, SaveOptions(bids=name))


@pytest.mark.skipif(shutil.which("bids-validator-deno") is None, reason="no bids-validator-deno")
def test_the_validator_accepts_the_dataset(tmp_path, rng):
    save(tmp_path, "scan", "sub-01/ses-01/T2w", rng)
    save(tmp_path, "scan.other_con-1", "sub-02_FLAIR", rng)
    save(tmp_path, "unknown", "sub-03", rng)
    words = ["bids-validator-deno", "--format", "json", tmp_path / "bids"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    issues = [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"]
    assert (done.returncode, issues) == (0, [])
    assert found["summary"]["totalFiles"] >= 12
    assert np.size(found["summary"]["subjects"]) == 2
