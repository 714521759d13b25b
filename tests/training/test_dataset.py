from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest
import torch
from training_runs import SCANS

from mri_ambient.data_prep import simulate
from mri_ambient.errors import ScanFormatError
from mri_ambient.io.formats.prepared import mask_facts
from mri_ambient.physics.coverage import sampling_densities
from mri_ambient.training.dataset import BatchSequence, Dataset, load_dataset, patient_of

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")


@pytest.fixture(scope="module")
def data(scans) -> Dataset:
    return load_dataset(scans, n_validation=2, seed=0)


def ids(items: object) -> set[str]:
    return {item.scan_id for item in items}


def name_patients(folder: Path, n_patients: int) -> None:
    """Scan i is one of patient i modulo their number."""
    for i, path in enumerate(sorted(folder.glob("*.h5"))):
        with h5py.File(path, "r+") as file:
            file.attrs["patient_id"] = f"patient {i % n_patients}"


# Batches


def test_every_item_goes_to_one_process(data):
    whole = BatchSequence(data, 6, seed=1)[3]
    parts = [BatchSequence(data, 6, 1, rank, world=2)[3] for rank in (0, 1)]
    (group,) = whole.groups
    places = [place for part in parts for place in part.groups[0].positions]
    assert sorted(places) == list(group.positions) == list(range(6))
    for part in parts:
        (mine,) = part.groups
        for i, place in enumerate(mine.positions):
            torch.testing.assert_close(mine.batch.ksp[i], group.batch.ksp[place])


def test_every_epoch_shows_every_slice_once(data):
    batches = BatchSequence(data, 3, seed=5)
    shown = [i for n in range(8) for i in batches.indices(n)]
    first, second, third = shown[:8], shown[8:16], shown[16:24]
    assert sorted(first) == sorted(second) == sorted(third) == list(range(8))
    assert first != second


def test_batches_have_the_sampling_density_of_all_scans(data):
    """Not the scan's own lines: two scans with other masks have the same density."""
    (density,) = sampling_densities(mask_facts(item.file) for item in data.train).values()
    (group,) = BatchSequence(data, 4, seed=0)[0].groups
    assert len({mask.numpy().tobytes() for mask in group.batch.mask}) > 1
    for own in group.batch.density:
        torch.testing.assert_close(own, density.expand_as(own))


# Folders


def test_temporary_files_are_no_scans(own_scans):
    first = min(own_scans.glob("*.h5"))
    (own_scans / f".tmp-0123-{first.name}").write_bytes(first.read_bytes())
    (own_scans / ".tmp-4567-torn.h5").write_bytes(b"torn")
    data = load_dataset(own_scans, n_validation=2, seed=0)
    assert len(ids(data.train) | ids(data.validation)) == 10


def test_folders_without_prepared_scans_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    simulate("phantom", tmp_path / "raw", SCANS, count=1)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/scan.h5").write_bytes(b"torn")
    for name in ("empty", "nowhere", "raw", "torn"):
        with pytest.raises(ScanFormatError) as error:
            load_dataset(tmp_path / name, n_validation=0, seed=0)
        assert name in str(error.value)


def test_two_files_of_one_scan_are_refused(own_scans):
    """Targets, splits and cards know a scan by its name."""
    first = min(own_scans.glob("*.h5"))
    shutil.copy(first, own_scans / "again.h5")
    with pytest.raises(ScanFormatError) as error:
        load_dataset(own_scans, n_validation=2, seed=0)
    assert first.stem in str(error.value) and "again.h5" in str(error.value)


def test_duplicate_acquisitions_are_refused(own_scans):
    """Under another name, too: together they would be one scan with two masks."""
    first = min(own_scans.glob("*.h5"))
    shutil.copy(first, own_scans / "again.h5")
    with h5py.File(own_scans / "again.h5", "r+") as file:
        file.attrs["scan_id"] = "again"
    with pytest.raises(ScanFormatError) as error:
        load_dataset(own_scans, n_validation=2, seed=0)
    assert first.name in str(error.value) and "again.h5" in str(error.value)


# Validation scans


def test_validation_scans_are_never_trained_on(data):
    assert len(ids(data.validation)) == 2
    assert not ids(data.train) & ids(data.validation)


def test_a_file_that_is_gone_leaves_the_others_where_they_were(data, own_scans):
    (own_scans / data.train[0].file.path.name).unlink()
    rest = load_dataset(own_scans, n_validation=2, seed=0)
    assert ids(rest.validation) < ids(data.validation), "nine scans set one aside, ten two"


def test_validation_scans_can_be_given(own_scans):
    """Those of a run that is resumed, also where they have become more than a fifth."""
    names = sorted(path.stem for path in own_scans.glob("*.h5"))
    (own_scans / f"{names[0]}.h5").unlink()
    found = load_dataset(own_scans, n_validation=2, seed=0, validation_scans=names[1:3])
    assert ids(found.validation) == set(names[1:3])
    assert ids(found.train) == set(names[3:])


def test_patients_are_on_one_side(own_scans):
    """Whatever the seed; where every patient has too many scans, single scans are set aside."""
    for i, path in enumerate(sorted(own_scans.glob("*.h5"))[:5]):  # fifteen scans in all
        with h5py.File(shutil.copy(path, own_scans / f"more{i}.h5"), "r+") as file:
            file.attrs["scan_id"] = f"more{i}"
            del file.attrs["center_sha256"]  # of another acquisition
    name_patients(own_scans, 5)  # three scans each, and a fifth of all is three
    for seed in range(4):
        data = load_dataset(own_scans, n_validation=2, seed=seed)
        assert len({patient_of(item.file) for item in data.validation}) == 1
        assert len(ids(data.validation)) == 3
        assert data.mixes_patients is False
    name_patients(own_scans, 3)
    data = load_dataset(own_scans, n_validation=2, seed=0)
    assert len(ids(data.validation)) == 2
    assert data.mixes_patients is True
    name_patients(own_scans, 1)
    with h5py.File(min(own_scans.glob("*.h5")), "r+") as file:
        file.attrs["patient_id"] = "another"
    data = load_dataset(own_scans, n_validation=3, seed=0)
    assert len(data.validation) == 3, "one scan of another patient is too little"
    assert data.mixes_patients is True


@pytest.mark.parametrize("n_validation", [2, 0])
def test_whether_patients_are_mixed_may_be_unknown(n_validation, own_scans):
    """Where files do not name them, or nothing is set aside."""
    for path in own_scans.glob("*.h5") if n_validation else ():
        with h5py.File(path, "r+") as file:
            del file.attrs["patient_id"]
    assert load_dataset(own_scans, n_validation=n_validation, seed=0).mixes_patients is None
