"""The pages in a browser: keys, mouse, sorting, width; needs Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from mri_ambient.data_prep import SimulateConfig, simulate
from mri_ambient.methods import CgSense
from mri_ambient.recon.pipeline import reconstruct
from mri_ambient.recon.recipe import Recipe
from mri_ambient.recon.report import write_overview
from mri_ambient.runtime.device import Runtime

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

REPORT_SCRIPT = """
const at = (id) => document.getElementById(id);
const key = (name, target) =>
  target.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true, cancelable: true}));
const state = () => {
  const now = document.querySelector(".slice.current");
  const drawn = [...now.querySelectorAll("figure")].filter((one) => one.checkVisibility());
  return [now.id, drawn.map((one) => one.dataset.kind).sort().join(" ")];
};
const seen = [state()];
key("ArrowRight", document.body); seen.push(state());
key("ArrowRight", document.body); seen.push(state());
key("ArrowLeft", document.body); seen.push(state());
key("ArrowRight", at("divider")); seen.push(state());
at("left").value = "l1-wavelet"; at("left").dispatchEvent(new Event("change")); seen.push(state());
document.querySelector("[data-mode=all]").click(); seen.push(state());
document.querySelector("[data-mode=slider]").click();
at("divider").value = 20; at("divider").dispatchEvent(new Event("input"));
key("]", at("divider"));
const left = document.querySelector(".current .at-left"), box = left.getBoundingClientRect();
const clip = getComputedStyle(left).clipPath;
const under = document.elementFromPoint(box.left + 5, box.top + 30).id;
const hidden = [...document.images].filter((one) => !(one.complete && one.naturalWidth > 0)).length;
"""

OVERVIEW_SCRIPT = """
const order = () =>
  [...document.querySelectorAll("tbody tr")].map((row) => row.cells[1].dataset.value).join(" ");
const heads = [...document.querySelectorAll("thead button")];
const seen = [order()];
heads[0].click(); seen.push(order());
heads[0].click(); seen.push(order());
const clip = heads[0].closest("th").getAttribute("aria-sort"), under = document.querySelectorAll(
  "button, a, summary, [tabindex]").length, hidden = 0;
"""

ANSWER = """
document.body.insertAdjacentHTML("beforeend", "<pre id=answer></pre>");
document.getElementById("answer").textContent = JSON.stringify(
  {seen, clip, under, hidden, width: document.documentElement.scrollWidth, alerts});
"""


def answer_of(page: Path, script: str, *options: str) -> dict:
    """What a script finds that runs in a page as soon as its images are there."""
    watch = "<script>const alerts = []; window.alert = (text) => alerts.push(text);</script>"
    run = f"<script>addEventListener('load', () => {{ {script} {ANSWER} }});</script>"
    text = page.read_text("utf-8").replace("<body>", f"<body>{watch}")
    copy = page.with_name("with-script.html")
    copy.write_text(text.replace("</body>", f"{run}</body>"), "utf-8")
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", *options, "--dump-dom"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [*words, profile, copy.as_uri()], capture_output=True, text=True, timeout=60
    )
    (found,) = re.findall(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(unescape(found))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_pages_work_with_keys_and_mouse_and_on_a_telephone(tmp_path):
    config = SimulateConfig(size=(24, 24), coils=3, full=True, noise=0.01, slices=3)
    for scan in simulate("phantom", tmp_path, config, count=2):
        named = scan.rename(tmp_path / f"{scan.stem}<img src=x onerror=alert(1)>.h5")
        path = reconstruct(named, Recipe(CgSense()), Runtime("cpu")).save(
            tmp_path / "out", formats="report"
        )
    report = path.with_name(f"{path.stem}_report.html")
    found = answer_of(report, REPORT_SCRIPT, "--window-size=1200,900")
    assert [slice_id for slice_id, _ in found["seen"]] == [
        "slice-1", "slice-2", "slice-2", "slice-1", "slice-1", "slice-1", "slice-1"
    ]  # fmt: skip
    pairs = [kinds for _, kinds in found["seen"]]
    assert pairs[0] == "own zero-filled" and pairs[5] == "l1-wavelet own"
    assert pairs[6] == "l1-wavelet own reference zero-filled"
    assert found["clip"].startswith("inset(0px 75%") and found["under"] == "divider"
    assert found["hidden"] == 0 and found["alerts"] == []

    write_overview(tmp_path / "out")
    index = tmp_path / "out" / "index.html"
    narrow = ("--window-size=500,900",)  # the least that a window of Chromium has
    found = answer_of(index, OVERVIEW_SCRIPT, *narrow)
    assert found["seen"][1] != found["seen"][2] and found["clip"] == "descending"
    assert found["width"] <= 500 and found["alerts"] == []
    assert answer_of(report, REPORT_SCRIPT, *narrow)["width"] <= 500
