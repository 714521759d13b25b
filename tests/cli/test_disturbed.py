"""Commands that are stopped, starved or hindered: run again, they end as if left alone.

tests/benchmarks/bench_kills.py kills them at random moments.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import pytest
from helpers import PROCESSES, load_script

from mri_ambient.cli import app
from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.errors import ConfigError
from mri_ambient.runtime import executor
from mri_ambient.runtime.files import LOCK, lock_file, locked

pytestmark = pytest.mark.filterwarnings("ignore::mri_ambient.errors.NumericalWarning")

bench = load_script("bench_kills")
SCANS = SimulateConfig(size=(24, 24), coils=3, acceleration=2.0, calib=8, slices=4, noise=0.01)
RECONSTRUCT = ["--method", "l1-wavelet", "--option", "n_iter=75", "--batch-size", "1"]
"""Slow enough that signals arrive in the middle."""

WORDS = {"prep": ["--no-pictures"], "reconstruct": ["--method", "zero-filled"]}
"""Of commands that no signal is sent to."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Two scans; the second has twice as many slices."""
    folder = tmp_path_factory.mktemp("raw")
    (path,) = simulate("phantom", folder, SCANS, count=1)
    path.rename(folder / "a.h5")
    (path,) = simulate("phantom", folder, SimulateConfig(**vars(SCANS) | {"slices": 8}), count=1)
    path.rename(folder / "b.h5")
    return folder


@pytest.fixture(scope="module")
def whole(cli, raw, tmp_path_factory) -> Path:
    """What undisturbed commands make of them."""
    folder = tmp_path_factory.mktemp("whole")
    for command, words in WORDS.items():
        cli(command, raw, "-o", folder / command, *words)
    cli("reconstruct", raw, "-o", folder / "slow", *RECONSTRUCT)
    return folder


def assert_equal(folder: Path, wanted: Path) -> None:
    """The same files and no others, equal to the byte but for seconds."""
    found, expected = bench.content(folder), bench.content(wanted)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@contextmanager
def file_limit(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond this size, as on a disk that becomes full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", ["prep", "reconstruct"])
def test_a_disk_that_becomes_full_in_the_middle_of_a_folder(command, cli, raw, whole, tmp_path):
    words = WORDS[command]
    sizes = [(whole / command / name).stat().st_size for name in ("a.h5", "b.h5")]
    with file_limit(sum(sizes) // 2):
        printed = cli(command, raw, "-o", tmp_path, *words, code=1)
    assert "b.h5" in printed.errors[0] and "free space" in printed.errors[0]
    assert (tmp_path / "a.h5").exists() and not (tmp_path / "b.h5").exists()
    assert not list(tmp_path.glob(".tmp-*"))
    cli(command, raw, "-o", tmp_path, *words)
    assert_equal(tmp_path, whole / command)


@contextmanager
def small_disk(place: Path, n_bytes: int) -> Iterator[None]:
    """A disk in memory; skipped where this process may not mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("command", ["prep", "reconstruct"])
def test_a_small_disk_that_becomes_full_in_the_middle_of_a_folder(
    command, cli, raw, whole, tmp_path
):
    """Nothing at all can be written then, also not what became of the scans."""
    words = WORDS[command]
    disk = tmp_path / "disk"
    size = (whole / command / "a.h5").stat().st_size + (
        whole / command / "b.h5"
    ).stat().st_size // 2
    with small_disk(disk, size):
        printed = cli(command, raw, "-o", disk / "out", *words, code=1)
        assert "free space" in printed.errors[0]
        assert not list(disk.rglob(".tmp-*"))
        assert not (disk / "out" / "b.h5").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        cli(command, raw, "-o", disk / "out", *words)
        assert_equal(disk / "out", whole / command)


def test_a_clock_that_jumps(cli, raw, whole, tmp_path):
    """Times of files lie in the future, then in the past: nothing is judged by them."""
    inputs, output = Path(shutil.copytree(raw, tmp_path / "raw")), tmp_path / "out"
    cli("reconstruct", inputs / "a.h5", "-o", output, *WORDS["reconstruct"])
    for jump_s in (10**9, -(10**9)):
        for path in [*inputs.iterdir(), *output.iterdir()]:
            os.utime(path, (time.time() + jump_s,) * 2)
        cli("reconstruct", inputs, "-o", output, *WORDS["reconstruct"])
    assert_equal(output, whole / "reconstruct")


def forked(act: Callable[[], object]) -> int:
    """A copy of this process that does something and ends; its number."""
    child = os.fork()
    if child:
        return child
    try:
        act()
    except SystemExit as stop:
        os._exit(stop.code or 0)
    finally:
        os._exit(1)


UNFINISHED = ".*.unfinished/*"
"""Slices of scans that are in work."""


def disturbed(
    words: Sequence[object], output: Path, *signals: signal.Signals, begun: str = UNFINISHED
) -> int:
    """Run a command in another process, which is sent signals when it has begun; its exit code.

    What it spreads over processes is done by those that tests use.
    """
    forkserver.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mri-ambient", *map(str, words), "-o", str(output)])
        patch.setattr(executor, "get_context", lambda _: PROCESSES)
        patch.setattr(forkserver._forkserver, "ensure_running", lambda: None)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell starts it
        child = forked(app.main)
        signal.signal(signal.SIGINT, before)
    while not list(output.glob(begun)):
        time.sleep(0.005)
    for number in signals:
        os.kill(child, number)
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_terminated_leaves_what_is_finished(number, cli, raw, whole, tmp_path):
    output = tmp_path / "out"
    assert disturbed(["reconstruct", raw, *RECONSTRUCT], output, number) == 143
    assert not list(output.rglob(".tmp-*"))
    assert list(output.glob(".*.unfinished/*"))
    cli("reconstruct", raw, "-o", output, *RECONSTRUCT)
    assert_equal(output, whole / "slow")


def is_in_work(output: Path) -> bool:
    """Whether a process still makes something there."""
    files = [lock_file(path) for path in output.glob(f"{LOCK}*")]
    for file in filter(None, files):
        file.close()
    return None in files


JOBS = {
    "prep": ("prep", ["--no-pictures"], ["--workers", 2], ".tmp-*"),
    "reconstruct": ("slow", RECONSTRUCT, ["--jobs", 2], UNFINISHED),
}


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("reconstruct", signal.SIGKILL, -9),
        ("prep", signal.SIGTERM, 143),
        ("reconstruct", signal.SIGINT, 130),
    ],
)
def test_its_processes_end_with_the_one_that_was_called(
    command, number, code, cli, raw, whole, tmp_path
):
    """In the middle of their scans; the same command is not hindered by them."""
    output = tmp_path / "out"
    wanted, words, jobs, begun = JOBS[command]
    assert disturbed([command, raw, *words, *jobs], output, number, begun=begun) == code
    deadline = time.monotonic() + 60
    while number == signal.SIGKILL and is_in_work(output):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert number == signal.SIGKILL or not list(output.rglob(".tmp-*"))
    assert not (output / "b.h5").exists()  # nobody went on with it
    cli(command, raw, "-o", output, *words)
    assert_equal(output, whole / wanted)


def test_a_process_that_is_stopped_and_goes_on(cli, raw, whole, tmp_path):
    output = tmp_path / "out"
    assert (
        disturbed(["reconstruct", raw, *RECONSTRUCT], output, signal.SIGSTOP, signal.SIGCONT) == 0
    )
    assert_equal(output, whole / "slow")


def test_two_processes_in_one_folder(cli, raw, whole, tmp_path):
    """What another process makes is left to it, and the rest is done."""
    for command, words in WORDS.items():
        output = tmp_path / command
        with locked(output / "a.h5"):
            printed = cli(command, raw, "-o", output, *words)
        assert printed.errors == []
        assert "left to another process" in printed.out + printed.err
        assert {path.name for path in output.glob("*.h5")} == {"b.h5"}
        cli(command, raw, "-o", output, *words)
        assert_equal(output, whole / command)


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A folder that every user may read; those of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_another(act: Callable[[], object]) -> None:
    """Do something in a copy of this process; as another user where this one is root."""

    def change_user() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        act()

    os.waitpid(forked(change_user), 0)


def test_a_folder_that_may_not_be_written(raw, seen_by_all):
    """Root may write everywhere."""
    inputs = Path(shutil.copytree(raw, seen_by_all / "raw"))
    said, output = seen_by_all / "said", seen_by_all / "shut" / "out"
    output.parent.mkdir(mode=0o555)
    said.touch()
    said.chmod(0o666)
    inputs.chmod(0o755)

    def prepare_as_another() -> None:
        try:
            prepare(inputs, output)
        except ConfigError as error:
            said.write_text(str(error))

    for mode in (0o555, 0o700):
        output.parent.chmod(mode)
        said.write_text("")
        as_another(prepare_as_another)
        assert said.read_text().startswith(f"{output}: cannot be created")
    assert not output.exists()


def test_a_place_that_may_not_be_written_is_refused_before_anything_is_computed(
    cli, raw, prior_file, seen_by_all
):
    inputs = Path(shutil.copytree(raw, seen_by_all / "raw"))
    inputs.chmod(0o755)
    prior = Path(shutil.copy(prior_file, seen_by_all))
    shut, said, file = (seen_by_all / name for name in ("shut", "said", "file"))
    shut.mkdir(mode=0o555)
    said.touch()
    said.chmod(0o666)
    file.touch()
    commands = [
        ("sample", "-m", prior, "--maps-from", "gone.h5"),
        ("audit", "memorization", prior, "gone"),
        ("audit", "stability", "gone.h5", "-m", prior),
        ("audit", "calibration", prior, "gone"),
        ("adapt", inputs, "-m", prior),
        ("adapt", inputs, "-m", prior, "--dry-run"),
        ("convert", inputs, "--to", "cfl"),
    ]

    def errors(output: Path) -> list[list[str]]:
        return [cli(*words, "-o", output, code=2).errors for words in commands]

    before = errors(file / "out")  # and all modules are there, which another may not read
    as_another(lambda: said.write_text(json.dumps(errors(shut / "out"))))
    for place, found in ((file, before), (shut, json.loads(said.read_text()))):
        assert [len(lines) for lines in found] == [1] * len(commands)
        assert all(str(place / "out") in line for (line,) in found)
    assert not list(shut.iterdir())
