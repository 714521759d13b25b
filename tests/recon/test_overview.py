"""The overview of a folder: every scan once, worst first, whatever else happens in the folder."""

from __future__ import annotations

import csv
import os
import threading
import time
from pathlib import Path

import pytest
from pages import Page, assert_is_sound

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.errors import MriAmbientError
from mri_ambient.methods import CgSense
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.recon.reconstruction import Reconstruction
from mri_ambient.recon.report import overview, write_overview
from mri_ambient.recon.states import DONE, FAILED, State
from mri_ambient.runtime.device import Runtime

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

EVIL = '=1+1"><script>alert(1)<_script>'


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    config = SimulateConfig(size=(24, 24), coils=3, full=True, noise=0.01)
    (path,) = simulate("phantom", tmp_path_factory.mktemp("raw"), config, count=1)
    return reconstruct(path, Recipe(CgSense()), Runtime("cpu"))


@pytest.fixture
def save(rec, tmp_path):
    """Save the reconstruction under a name, with warnings, a held-out error and a residual."""

    def save_as(
        name: str, *, n_warnings: int = 0, held_out: float | None = None, residual: float = 1.0
    ) -> Path:
        row = {"error": held_out, "noise": 0.0, "l1_wavelet": 0.5, "cg_sense": 0.5}
        check = {"slice": 0, "data_residual": residual} | ({"held_out": row} if held_out else {})
        warnings = [{"code": "W-ONE-COIL", "text": f"text {k}"} for k in range(n_warnings)]
        facts = {"input": f"{name}.h5", "checks": [check], "warnings": warnings}
        changed = Reconstruction(rec.complex, None, None, rec.voxel_mm, rec.report | facts)
        return changed.save(tmp_path)

    return save_as


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shown(folder: Path) -> list[str]:
    """Scans on the page, in its order."""
    rows = [one for one in Page(folder / "index.html").all("th") if one.get("scope") == "row"]
    return [one["data-value"] for one in rows]


def fail(folder: Path, scan: str, text: str = "is truncated") -> None:
    State(scan, FAILED, f"{scan}.h5: {text}").write(folder)


def test_worst_first(save, tmp_path):
    save("fine", held_out=0.2)
    save("high-residual", held_out=0.2, residual=3.0)
    save("wrong", held_out=0.9)
    save("warned", n_warnings=1)
    save("warned-twice", n_warnings=2)
    fail(tmp_path, "failed")
    write_overview(tmp_path)
    order = ["failed", "warned-twice", "warned", "wrong", "high-residual", "fine"]
    assert [row["scan"] for row in table(tmp_path)] == order == shown(tmp_path)


def test_a_scan_that_failed_has_no_figures_of_an_image_of_other_settings(save, tmp_path):
    save("a", held_out=0.25, n_warnings=2)
    State("a", FAILED, "is truncated", at=time.time() + 60).write(tmp_path)
    write_overview(tmp_path)
    (row,) = table(tmp_path)
    assert (row["status"], row["image"], row["n_warnings"]) == ("failed", "a.h5", "0")
    assert [row[name] for name in ("method", "R", "held_out_error", "residual", "psnr")] == [""] * 5


def test_a_line_holds_the_figures_of_the_report(save, rec, tmp_path):
    save("a", held_out=0.25, n_warnings=2, residual=1.5)
    write_overview(tmp_path)
    (row,) = table(tmp_path)
    for column, value in (
        ("R", rec.report["acceleration"]),
        ("noise", rec.report["sigma_n"]),
        ("residual", 1.5),
        ("held_out_error", 0.25),
        ("held_out_l1_wavelet", 0.5),
        ("psnr", rec.metrics["psnr"]),
        ("seconds", rec.report["provenance"]["seconds"]),
        ("n_warnings", 2),
    ):
        assert float(row[column]) == pytest.approx(value, rel=1e-5), column
    assert (row["status"], row["warnings"], row["error"]) == ("done", "W-ONE-COIL", "")
    assert (row["image"], row["json"], row["report"]) == ("a.h5", "a.json", "")


def test_a_failure_stands_there_until_the_scan_is_finished(save, tmp_path):
    fail(tmp_path, "a")
    fail(tmp_path, "b")
    write_overview(tmp_path)
    assert [row["error"] for row in table(tmp_path)] == ["a.h5: is truncated", "b.h5: is truncated"]
    path = save("a")
    State("a", DONE).write(tmp_path)
    write_overview(tmp_path)
    assert [row["status"] for row in table(tmp_path)] == ["failed", "done"]
    fail(tmp_path, "a", "was made with other settings")  # and its result is still there
    write_overview(tmp_path)
    (found,) = (row for row in table(tmp_path) if row["scan"] == "a")
    assert "other settings" in found["error"] and found["image"] == "a.h5"
    later = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(later, later))  # finished by a call that notes no failures
    write_overview(tmp_path)
    assert [row["status"] for row in table(tmp_path)] == ["failed", "done"]


def test_text_is_no_formula_and_no_markup(save, tmp_path):
    save(EVIL)
    fail(tmp_path, "@SUM(A1)", "-2\n+3 is not a scan")
    write_overview(tmp_path)
    cells = [cell for row in table(tmp_path) for cell in row.values()]
    texts = [cell for cell in cells if not cell.lstrip("-").replace(".", "").isdigit()]
    assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert {f"'{EVIL}", "'@SUM(A1)"} <= {row["scan"] for row in table(tmp_path)}
    page = Page(tmp_path / "index.html")
    assert_is_sound(page)
    assert len(page.all("script")) == 1 and EVIL in shown(tmp_path)
    assert {decoded.shape for decoded in page.images().values()} == {(96, 96)}


def test_other_files_are_left_out_and_damaged_ones_named(save, tmp_path):
    (tmp_path / "raw.h5").write_bytes(b"data of somebody")
    damaged, without = save("damaged"), save("without")
    damaged.with_suffix(".json").write_text("{")
    without.with_suffix(".json").unlink()
    write_overview(tmp_path)
    found = {row["scan"]: row["error"] for row in table(tmp_path)}
    assert found.keys() == {"damaged", "without"} and all(found.values())


def test_what_another_process_finishes_meanwhile_is_added(save, tmp_path, monkeypatch):
    save("a")
    read, calls = overview.read_rows, []

    def read_while_another_finishes(folder: Path) -> list[overview.Row]:
        rows = read(folder)
        if not calls:
            save("b")
        calls.append(len(rows))
        return rows

    monkeypatch.setattr(overview, "read_rows", read_while_another_finishes)
    write_overview(tmp_path)
    assert calls == [1, 2] and len(table(tmp_path)) == 2


def test_several_processes_may_write_it_at_once(save, tmp_path):
    for name in "abc":
        save(name)
    threads = [threading.Thread(target=write_overview, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["scan"] for row in table(tmp_path)] == ["a", "b", "c"] == shown(tmp_path)
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_empty_folder_has_an_empty_overview(tmp_path):
    write_overview(tmp_path)
    assert table(tmp_path) == []
    assert_is_sound(Page(tmp_path / "index.html"))
    (tmp_path / "file").touch()
    with pytest.raises(MriAmbientError):
        write_overview(tmp_path / "file")
