"""Folders of scans: the tree is mirrored, what happened is written down, nothing is lost."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import pickle
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from helpers import small_prior

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig
from mri_ambient.errors import (
    ConfigError,
    InternalError,
    NumericalWarning,
    OutputExistsError,
    ScanFormatError,
    collected,
)
from mri_ambient.io import FastmriFile, SaveOptions, find_scans
from mri_ambient.recon import folder
from mri_ambient.recon.dry_run import cost_line, plan_folder
from mri_ambient.recon.folder import Destination, Outcome
from mri_ambient.recon.states import STATES, State, read_states
from mri_ambient.runtime.executor import attempt, received
from mri_ambient.runtime.files import locked

CG, CPU = ma.Recipe("cg-sense"), ma.Runtime("cpu")
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two scans."""
    config = SimulateConfig(size=(24, 20), coils=3, acceleration=2, calib=8, noise=0.01)
    one, two = ma.simulate("phantom", tmp_path_factory.mktemp("made"), config, count=2)
    return one, two


@pytest.fixture
def study(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """Scans of the same name in two folders, and a damaged one."""
    study = tmp_path / "study"
    for place, path in zip(("a/monday", "b"), made, strict=True):
        (study / place).mkdir(parents=True)
        shutil.copy(path, study / place / "head.h5")
    (study / "b" / "cut.h5").write_bytes(made[0].read_bytes()[:4000])
    return study


def statuses(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.scan.key, outcome.status) for outcome in outcomes]


def image(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["reconstruction"][()]


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


def test_the_tree_is_mirrored_and_a_failure_costs_the_others_nothing(study, tmp_path):
    out = tmp_path / "out"
    outcomes = ma.reconstruct_folder(study, out, CG, CPU)
    assert statuses(outcomes) == [
        ("a/monday/head", "done"),
        ("b/cut", "failed"),
        ("b/head", "done"),
    ]
    assert isinstance(outcomes[1].error, ScanFormatError)
    for place in ("a/monday", "b"):
        alone = ma.reconstruct(study / place / "head.h5", CG, CPU).magnitude
        np.testing.assert_allclose(image(out / place / "head.h5"), alone, rtol=1e-6)
    assert sorted(path.name for path in (out / "b").iterdir()) == ["head.h5", "head.json"]
    rows = summary(out)
    assert {scan: row["status"] for scan, row in rows.items()} == {
        "a/monday/head": "done", "b/cut": "failed", "b/head": "done",
    }  # fmt: skip
    assert rows["b/head"]["image"] == "b/head.h5"
    rate = json.loads((out / "b" / "head.json").read_text())["acceleration"]
    assert float(rows["b/head"]["R"]) == pytest.approx(rate, rel=1e-5)
    assert "truncated" in rows["b/cut"]["error"]
    assert float(rows["b/cut"]["seconds"]) > 0


def test_a_scan_that_fails_at_once_took_some_time(study, tmp_path, monkeypatch):
    """Less than half a millisecond was rounded to none."""
    clock = itertools.count()
    monkeypatch.setattr(folder, "time", SimpleNamespace(monotonic=lambda: next(clock) * 1e-4))
    out = tmp_path / "out"
    ma.reconstruct_folder(study / "b" / "cut.h5", Destination(out, listed=True), CG, CPU)
    assert 0 < read_states(out)["cut"].seconds < 5e-4
    assert float(summary(out)["cut"]["seconds"]) > 0


def test_every_scan_is_written_down_as_it_goes(study, tmp_path):
    seen: list[tuple[list[str], int]] = []

    def look(_: Outcome) -> None:
        seen.append((list(read_states(tmp_path)), len(summary(tmp_path))))
        assert all(float(row["seconds"]) > 0 for row in summary(tmp_path).values())

    ma.reconstruct_folder(study, tmp_path, CG, CPU, on_outcome=look)
    assert seen == [
        (["a/monday/head"], 1), (["a/monday/head", "b/cut"], 2),
        (["a/monday/head", "b/cut", "b/head"], 3),
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / STATES).read_text().splitlines()]
    assert [line["status"] for line in lines] == ["done", "failed", "done"]
    assert all(line["seconds"] > 0 and line["source"].startswith(str(study)) for line in lines)
    assert "truncated" in lines[1]["reason"]


def test_only_what_failed_is_tried_again(study, made, tmp_path, monkeypatch):
    """By a later version, too."""
    out = tmp_path / "out"
    ma.reconstruct_folder(study, out, CG, CPU)
    monkeypatch.setattr("mri_ambient.recon.recipe.__version__", "99")
    (study / "a" / "monday" / "head.h5").unlink()  # would fail if it were opened
    shutil.copy(made[0], study / "b" / "cut.h5")
    outcomes = ma.reconstruct_folder(study, out, CG, CPU, retry_failed=True)
    assert statuses(outcomes) == [("b/cut", "done")]
    assert ma.reconstruct_folder(study, out, CG, CPU, retry_failed=True) == []
    assert {row["status"] for row in summary(out).values()} == {"done"}


def test_what_failed_is_not_made_otherwise_than_the_rest(study, made, tmp_path):
    """Unless nothing of the rest stays."""
    out, other = tmp_path / "out", ma.Recipe("zero-filled")
    ma.reconstruct_folder(study, out, other, CPU)
    shutil.copy(made[0], study / "b" / "cut.h5")
    for to in (out, Destination(out, overwrite=True)):
        with pytest.raises(OutputExistsError, match=r"head.h5: .*\(method"):
            ma.reconstruct_folder(study, to, CG, CPU, retry_failed=True)
    assert not (out / "b" / "cut.h5").exists()
    refused = ma.reconstruct_folder(study / "b", out / "b", CG, CPU)
    assert [outcome.status for outcome in refused] == ["done", "refused"]
    assert ma.reconstruct_folder(study / "b", out / "b", CG, CPU, retry_failed=True) == []


def test_finished_is_skipped_and_a_replaced_file_is_done_again(study, made, tmp_path):
    out = tmp_path / "out"
    ma.reconstruct_folder(study, out, CG, CPU)
    again = ma.reconstruct_folder(study, out, CG, CPU)
    assert [outcome.status for outcome in again] == ["skipped", "failed", "skipped"]
    shutil.copy(made[0], study / "b" / "head.h5")
    outcomes = ma.reconstruct_folder(study, out, CG, CPU)
    assert [outcome.status for outcome in outcomes] == ["skipped", "failed", "done"]
    np.testing.assert_array_equal(image(out / "b/head.h5"), image(out / "a/monday/head.h5"))


@pytest.mark.parametrize("why", ["replaced", "overwritten", "saved"])
def test_files_that_show_an_image_that_was_replaced_are_named(why, study, made, tmp_path):
    """And stay, as one of such a name may be the user's; the older report is linked no more."""
    out, scan = tmp_path / "out", study / "b" / "head.h5"
    out.mkdir()
    (out / "head.mrd").write_bytes(b"the user's, older than all")
    os.utime(out / "head.mrd", (1, 1))
    to = Destination(out, ("nifti", "png", "report", "bids"), SaveOptions(bids="sub-7"))
    ma.reconstruct_folder([scan], to, CG, CPU)
    before = sorted(out.rglob("*"))
    assert summary(out)["head"]["report"]
    if why == "replaced":
        shutil.copy(made[0], scan)
    recipe = CG if why == "replaced" else ma.Recipe("zero-filled")
    with collected() as given:
        if why == "saved":
            ma.reconstruct(scan, recipe, CPU).save(out, formats="png", overwrite=True)
        else:
            again = Destination(out, ("png",), overwrite=why == "overwritten")
            ma.reconstruct_folder([scan], again, recipe, CPU)
            assert not summary(out)["head"]["report"]
    (older,) = [warning.text for warning in given if warning.code == "W-OLDER-FILES"]
    assert re.findall(r"head[.\w]*", older.partition("which")[2]) == [
        "head.nii.json", "head.nii.gz", "head_report.html",
    ]  # fmt: skip
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("formats", [(), ("png",)])
def test_no_file_is_older_where_nothing_was_replaced(formats, study, tmp_path):
    out, scan = tmp_path / "out", study / "b" / "head.h5"
    out.mkdir()
    (out / "head.nii.gz").write_bytes(b"the user's")
    for _ in range(2):
        with collected() as given:
            ma.reconstruct_folder([scan], Destination(out, formats), CG, CPU)
        assert "W-OLDER-FILES" not in [warning.code for warning in given]


def test_results_of_another_file_or_other_settings_are_kept(study, tmp_path):
    out = tmp_path / "out"
    ma.reconstruct_folder(study / "b", out, CG, CPU)
    before = image(out / "head.h5")
    for _ in range(2):  # another head.h5, whose failure does not make it the input of the result
        other = ma.reconstruct_folder(study / "a" / "monday", out, CG, CPU)
    settings = ma.reconstruct_folder(study / "b", out, ma.Recipe("zero-filled"), CPU)
    for outcome in (other[0], settings[1]):
        assert isinstance(outcome.error, OutputExistsError)
        assert "overwrite=True" in str(outcome.error)
    np.testing.assert_array_equal(image(out / "head.h5"), before)
    assert (other[0].status, settings[1].status) == ("refused", "refused")
    assert read_states(out)["head"].status == "refused"
    assert summary(out)["head"]["method"] == "cg-sense" and summary(out)["head"]["error"] == ""
    for how in ({"output": Destination(out, overwrite=True)}, {"output": out, "overwrite": True}):
        (again,) = ma.reconstruct_folder(study / "a" / "monday", recipe=CG, runtime=CPU, **how)
        assert again.status == "done" and again.error is None


def test_a_refused_scan_is_refused_by_the_next_call_too(study, tmp_path):
    """Also where nothing says from which file the result was made."""
    out = tmp_path / "out"
    ma.reconstruct_folder(study / "a" / "monday" / "head.h5", out, CG, CPU)  # no status.jsonl
    before = image(out / "head.h5")
    for _ in range(2):
        outcomes = {one.scan.key: one for one in ma.reconstruct_folder(study / "b", out, CG, CPU)}
        assert outcomes["head"].status == "refused"
    np.testing.assert_array_equal(image(out / "head.h5"), before)


def test_what_another_process_makes_or_has_made_is_left_to_it(study, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    (study / "b" / "cut.h5").unlink()
    ma.reconstruct_folder(study, other, CG, CPU)
    done = folder.FolderWork._done

    def meanwhile(work, begun):
        """The other process finishes the first scan when this one is about to begin it."""
        if begun.scan.folder.name == "monday":
            shutil.copytree(other / "a", out / "a")
        return done(work, begun)

    monkeypatch.setattr(folder.FolderWork, "_done", meanwhile)
    with locked(out / "b" / "head.h5"):
        outcomes = ma.reconstruct_folder(study, out, CG, CPU)
    assert [(o.status, o.state.reason, o.error) for o in outcomes] == 2 * [
        ("skipped", folder.LEFT, None)
    ]
    assert not (out / "b").exists() or not list((out / "b").glob("*.h5"))
    assert {key: row["status"] for key, row in summary(out).items()} == {"a/monday/head": "done"}


def test_what_another_process_makes_with_other_settings_is_refused(made, tmp_path):
    """With the same ones it is left to that process."""
    path = tmp_path / "out" / made[0].name
    ma.reconstruct_folder(made[0], tmp_path / "other", CG, CPU)
    settings = json.loads((tmp_path / "other" / made[0].name).with_suffix(".json").read_text())[
        "settings"
    ]
    for theirs, status in ((settings, "skipped"), (settings | {"seed": 7}, "failed")):
        with locked(path, theirs):
            (outcome,) = ma.reconstruct_folder(made[0], path.parent, CG, CPU)
        assert outcome.status == status
        assert isinstance(outcome.error, OutputExistsError) == (status == "failed")
        assert not path.exists()


def test_a_destination_may_be_text(made, tmp_path):
    to = Destination(str(tmp_path / "out"), formats="nifti", listed=True)
    (outcome,) = ma.reconstruct_folder(made[0], to, CG, CPU)
    assert outcome.path == tmp_path / "out" / made[0].name
    assert (tmp_path / "out" / STATES).exists() and len(outcome.written) == 2


def test_a_destination_that_cannot_get_what_was_asked_for_is_refused(made, tmp_path):
    for to in (
        Destination(tmp_path / "a", formats=["nifti"], options=SaveOptions(("std",))),
        Destination(tmp_path / "a.h5"),
    ):
        with pytest.raises(ConfigError):
            ma.reconstruct_folder(made[0], to, CG, CPU)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [STATES, "summary.csv", "index.html"])
def test_a_folder_in_the_place_of_a_list_is_refused_before_a_scan_is_opened(name, made, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=name):
        ma.reconstruct_folder(made[0].parent, tmp_path, CG, CPU)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_results_below_the_input_are_no_scans(study):
    for out in (study / "out", study / "other"):
        outcomes = ma.reconstruct_folder(study, out, CG, CPU)
        assert len(outcomes) == 3
    assert len(ma.reconstruct_folder(study, study / "out", CG, CPU)) == 3


class OtherProcesses:
    """All that goes to another process and back is pickled; the last scan ends first."""

    def map(self, task, cases):
        for index, case in reversed(list(enumerate(cases))):
            sent = attempt(pickle.loads(pickle.dumps(task)), case)
            yield index, received(pickle.loads(pickle.dumps(sent)))


def test_several_jobs_do_the_same(study, tmp_path):
    recipe = ma.Recipe("dds", {"n_steps": 2}, small_prior("conditioned"), n_samples=2)
    with pytest.warns(NumericalWarning) as one:
        ma.reconstruct_folder(study, tmp_path / "one", recipe, CPU)
    with pytest.warns(NumericalWarning) as two:
        outcomes = ma.reconstruct_folder(
            study, tmp_path / "two", recipe, CPU, jobs=OtherProcesses()
        )
    issued = [[str(warning.message) for warning in each] for each in (one, two)]
    assert sorted(issued[0]) == sorted(issued[1])
    named = {name for text in issued[0] for name in re.findall(r"\S*head\.h5(?=:)", text)}
    assert named == {"a/monday/head.h5", "b/head.h5"}
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    for place in ("a/monday", "b"):
        one, two = (tmp_path / name / place / "head.h5" for name in ("one", "two"))
        np.testing.assert_array_equal(image(one), image(two))
    assert {state.status for state in read_states(tmp_path / "two").values()} == {"done", "failed"}


@pytest.mark.parametrize("busy", [("cpu",), ()], ids=["read", "read and prepared"])
def test_the_next_scan_is_begun_meanwhile_and_nothing_else_changes(
    busy, study, tmp_path, monkeypatch
):
    """Also not the order of warnings; on a GPU it is prepared too, here as if this were one."""
    monkeypatch.setattr(folder, "BUSY", busy)
    recipe = ma.Recipe("dds", {"n_steps": 2}, small_prior("conditioned"))
    begin, begun = folder.FolderWork.begin, threading.Event()

    def noted(work, scan):
        result = begin(work, scan)
        if scan.key == "b/head":
            begun.set()
        return result

    def wait(name, volume, _):
        assert volume.file.path.parent.name == "b" or begun.wait(timeout=20)
        return None, None

    monkeypatch.setattr(folder.FolderWork, "begin", noted)
    (study / "b" / "cut.h5").unlink()
    to = Destination(tmp_path / "one")
    with pytest.warns(NumericalWarning) as one:
        folder.reconstruct_scans(find_scans(study), to, recipe.resolve(), CPU, on_volume=wait)
    monkeypatch.setattr(folder, "MOST_AHEAD", -1)
    with pytest.warns(NumericalWarning) as two:
        ma.reconstruct_folder(study, tmp_path / "two", recipe, CPU)
    assert [str(warning.message) for warning in one] == [str(warning.message) for warning in two]
    for place in ("a/monday", "b"):
        one, two = (json.loads((tmp_path / n / place / "head.json").read_text()) for n in NAMES)
        one["provenance"].pop("seconds"), two["provenance"].pop("seconds")
        assert one == two
        one, two = (image(tmp_path / name / place / "head.h5") for name in NAMES)
        np.testing.assert_array_equal(one, two)


def test_a_folder_that_cannot_be_written_is_refused_before_a_scan_is_opened(study, tmp_path):
    (tmp_path / "file").touch()
    outcomes: list[Outcome] = []
    with pytest.raises(ConfigError, match="file"):
        ma.reconstruct_folder(study, tmp_path / "file", CG, CPU, on_outcome=outcomes.append)
    assert outcomes == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").touch()  # in the way of one of the folders
    found = ma.reconstruct_folder(study, tmp_path / "out", CG, CPU)
    assert [outcome.status for outcome in found] == ["done", "failed", "failed"]


def test_what_would_be_done_is_known_before(study, tmp_path):
    out, recipe = tmp_path / "out", CG.resolve()
    shutil.copytree(study / "b", study / "c")
    ma.reconstruct_folder(study / "c", Destination(out / "c"), CG, CPU)
    before = sorted(out.rglob("*"))
    scans = [outcome.scan for outcome in ma.reconstruct_folder(study, tmp_path / "x", CG, CPU)]
    plan = plan_folder(scans, Destination(out), recipe, CPU)
    assert (len(plan.todo), plan.n_slices, plan.n_pixels) == (2, 2, 2 * 24 * 20)
    assert plan.n_refused == 2
    assert str(out / "b" / "head.h5") in plan.lines[2]
    line = cost_line(plan)
    assert "24x20" in line and "2 slices of 2 scans" in line
    assert sorted(out.rglob("*")) == before
    with pytest.raises(ConfigError, match="cannot be written"):
        plan_folder(scans, Destination(study / "b" / "cut.h5"), recipe, CPU)


def test_a_scan_that_cannot_be_measured_is_refused_and_another_one_measured(study, tmp_path):
    """Its header is whole; all that was measured is 0."""
    with h5py.File(study / "a" / "monday" / "head.h5", "a") as file:
        file["kspace"][...] = 0
    scans = find_scans(study)
    plan = plan_folder(scans, Destination(tmp_path), CG.resolve(), CPU)
    assert [one.scan.key for one in plan.todo] == ["a/monday/head", "b/head"]
    assert "1 slices of 1 scan " in cost_line(plan)
    assert [one.scan.key for one in plan.todo] == ["b/head"] and plan.n_refused == 2
    assert "would fail" in plan.lines[0]
    plan.refuse(plan.todo[0], ScanFormatError("is damaged"))
    assert "nothing" in cost_line(plan)


def test_two_scans_of_one_stem_cost_the_others_nothing(study, tmp_path):
    shutil.copy(study / "b" / "head.h5", study / "b" / "head.hdf5")
    outcomes = ma.reconstruct_folder(study, tmp_path / "out", CG, CPU)
    assert statuses(outcomes) == [
        ("a/monday/head", "done"), ("b/cut", "failed"), ("b/head", "failed"), ("b/head", "failed"),
    ]  # fmt: skip
    for outcome in outcomes[2:]:
        assert isinstance(outcome.error, ConfigError)
        assert all(name in str(outcome.error) for name in ("head.h5", "head.hdf5"))
    again = ma.reconstruct_folder(study, tmp_path / "out", CG, CPU, retry_failed=True)
    assert statuses(again) == statuses(outcomes)[1:]
    alone = ma.reconstruct_folder(study / "a" / "monday", tmp_path / "a", CG, CPU)
    shutil.copy(study / "b" / "head.h5", study / "b" / "good.h5")
    one_folder = ma.reconstruct_folder(study / "b", tmp_path / "b", CG, CPU)
    found = [outcome.status for outcome in (*alone, *one_folder)]
    assert found == [
        "done",
        "failed",
        "done",
        "failed",
        "failed",
    ]
    with pytest.raises(ConfigError, match="head"):
        ma.reconstruct_folder(sorted((study / "b").glob("head*")), tmp_path / "c", CG, CPU)


def test_files_that_the_system_refuses_cost_the_others_nothing(made, tmp_path, monkeypatch):
    """One may not be read, the results of another would have too long a name."""
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a", "b", "x" * 250):
        shutil.copy(made[0], place / f"{name}.h5")
    recognises = FastmriFile.recognises

    def refused(contents):
        if contents.path.name == "a.h5":  # as for others than root
            raise PermissionError(errno.EACCES, "Permission denied")
        return recognises(contents)

    monkeypatch.setattr(FastmriFile, "recognises", refused)
    done = ma.reconstruct_folder(place, tmp_path / "out", CG, CPU)
    assert [outcome.status for outcome in done] == ["failed", "done", "failed"]


@pytest.mark.parametrize("where", ["__init__", "read_ksp"])
def test_a_mistake_of_ours_costs_one_scan_of_several(where, study, tmp_path, monkeypatch):
    """In this process and in others; a single scan ends in its traceback."""
    works = getattr(FastmriFile, where)

    def breaks(file, *args, **options):
        if "monday" in str(args[0] if where == "__init__" else file.path):
            raise AttributeError("no such thing")
        return works(file, *args, **options)

    monkeypatch.setattr(FastmriFile, where, breaks)
    for jobs in (1, OtherProcesses()):
        out = tmp_path / str(jobs == 1)
        found = ma.reconstruct_folder(study, out, CG, CPU, jobs=jobs)
        assert [outcome.status for outcome in found] == ["failed", "failed", "done"]
        assert isinstance(found[0].error, InternalError) and "in breaks" in found[0].error.trace
        assert "AttributeError: no such thing" in read_states(out)["a/monday/head"].reason
        assert "AttributeError" in summary(out)["a/monday/head"]["error"]
    plan = plan_folder(find_scans(study), Destination(tmp_path / "x"), CG.resolve(), CPU)
    assert "nothing" not in cost_line(plan) and [one.scan.key for one in plan.todo] == ["b/head"]
    for single in (study / "a", study / "a" / "monday" / "head.h5"):
        with pytest.raises(AttributeError):
            ma.reconstruct_folder(single, tmp_path / "single", CG, CPU)


def test_names_that_are_not_utf8_are_written_with_escapes(made, tmp_path):
    """As of files that came from an old Windows; a folder of such a name is no output."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/Stra\xdfe"))
    place.mkdir(parents=True)
    shutil.copy(made[0], os.fsdecode(os.fsencode(place) + b"/M\xfcller.h5"))
    shutil.copy(made[1], tmp_path / "in")
    done = ma.reconstruct_folder(tmp_path / "in", tmp_path / "out", CG, CPU)
    names = {"Stra%DFe/M%FCller", made[1].stem}
    assert {outcome.scan.key for outcome in done} == names == summary(tmp_path / "out").keys()
    assert {outcome.status for outcome in done} == {"done"}
    ma.reconstruct_folder(made[0], tmp_path / "plain", CG, CPU)
    same = image(tmp_path / "plain" / made[0].name)
    assert np.array_equal(image(tmp_path / "out" / "Stra%DFe" / "M%FCller.h5"), same)
    with pytest.warns(NumericalWarning):  # few scans
        ma.prepare(tmp_path / "in", tmp_path / "prepared")
    assert (tmp_path / "prepared" / "M%FCller.h5").exists()
    with pytest.raises(ConfigError):
        ma.reconstruct_folder(made, place, CG, CPU)


def test_a_state_is_read_back_and_nothing_else(tmp_path):
    State("a/x", "failed", "is empty").write(tmp_path)
    state = State("a/x", "done", seconds=2.0)
    state.write(tmp_path)
    for name in ("../x", "x" * 253, "x/" * 1100):
        State(name, "failed").write(tmp_path)
    State("d", "done", source="/a/d.h5").write(tmp_path)
    State("d", "failed", "no", source="/b/d.h5").write(tmp_path)
    with (tmp_path / STATES).open("a") as file:
        file.write('{"scan": "\\ud800", "status": "failed"}\n')
        file.write('{"scan": "b"}\n[1]\n{"scan": 3, "status": "done"}\n')
        file.write('{"scan": "e", "status": "done", "at": "now"}\n' + 9999 * "[" + '\n{"scan": "c')
    states = read_states(tmp_path)
    assert states.pop("a/x") == state
    assert (states["d"].status, states["d"].source) == ("failed", "/a/d.h5")
    assert list(states) == ["d"]
    assert read_states(tmp_path / "nowhere") == {}
