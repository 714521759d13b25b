"""Many scans: on a cluster whose worker is killed, 1 to 1000 in one process, and 10 000 volumes.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_cluster.py [--costs] [--quick]

1. 40 scans by one process, by two processes (``jobs``, not with ``--quick``), and by two workers of
   a LocalCluster, one of which is killed (SIGKILL) when ten scans are done. The folders must be
   equal to the byte, but for the seconds in them.
2. Seconds and memory a scan, of folders with 1, 10, 100 and 1000 small scans, by one process and by
   two workers; the memory of workers is the larger of the two.
3. A volume of 16 slices by several methods (``balanced``: 2 slices, times 8), and from that 10 000
   of them: core hours, GB read and written.

CPU seconds are counted, so that other programs on the machine matter little.

Prints tables, then one JSON line; exits with 1 if a folder differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dask
import torch
from bench_kills import content
from distributed import LocalCluster

import mri_ambient as ma
from mri_ambient.data_prep import SimulateConfig
from mri_ambient.recon.folder import Destination, Outcome
from mri_ambient.runtime.cluster import ClusterExecutor, cluster

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mri_ambient.recon.pipeline"])

SMALL = SimulateConfig(size=(32, 32), coils=3, acceleration=2.0, calib=8, slices=1, noise=0.01)
VOLUME = SimulateConfig(size=(256, 256), coils=8, acceleration=4.0, calib=20, slices=16, noise=0.01)
CG, CPU = ma.Recipe("cg-sense"), ma.Runtime("cpu")
METHODS = {
    "aos (default)": (ma.Recipe("aos"), 16),
    "l1-wavelet": (ma.Recipe("l1-wavelet"), 16),
    "preset balanced": (ma.Recipe("balanced"), 2),
}
"""Recipe, and of how many of the 16 slices the seconds are measured."""

PEOPLE = 10_000
"""Volumes whose cost is computed."""


@contextmanager
def two_workers() -> Iterator[ClusterExecutor]:
    """Two dask workers on this machine, one thread each."""
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local,
        cluster(local.scheduler_address) as workers,
    ):
        yield workers


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in used)


def in_child(task: Any, *args: object) -> Any:
    """What a function returns, called in a process of its own with one thread."""
    there, here = PROCESSES.Pipe()
    child = PROCESSES.Process(target=send, args=(there, task, args))
    child.start()
    there.close()
    found = here.recv()
    child.join()
    return found


def send(connection: Any, task: Any, args: tuple[object, ...]) -> None:
    """Send back what a function returns."""
    torch.set_num_threads(1)
    connection.send(task(*args))


def reconstruct(scans: list[Path], output: Path, **how: Any) -> dict[str, float]:
    """Seconds of a folder, by wall and by CPU of this process."""
    started, cpu = time.perf_counter(), cpu_seconds()
    outcomes = ma.reconstruct_folder(scans, Destination(output, listed=True), CG, CPU, **how)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert not errors, errors
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "peak_mib": peak_mib()}


def with_a_kill(
    scans: list[Path], output: Path, workers: ClusterExecutor, after: int
) -> dict[str, float]:
    """By two workers, one of which is killed when some scans are done."""
    victim = next(iter(workers.client.run(os.getpid).values()))
    n_done = 0

    def kill(_: Outcome) -> None:
        nonlocal n_done
        n_done += 1
        if n_done == after:
            os.kill(victim, signal.SIGKILL)

    return reconstruct(scans, output, jobs=workers, on_outcome=kill)


def by_workers(scans: list[Path], output: Path, workers: ClusterExecutor) -> dict[str, float]:
    """By two workers: CPU seconds of all, the memory of the larger one, and that of the caller."""
    before = sum(workers.client.run(time.process_time).values())
    figures = reconstruct(scans, output, jobs=workers)
    figures["cpu_seconds"] += sum(workers.client.run(time.process_time).values()) - before
    return figures | {"workers_mib": max(workers.client.run(peak_mib).values())}


def copies(paths: list[Path], folder: Path, n: int) -> list[Path]:
    """So many scans of different names, of which only a few differ."""
    folder.mkdir()
    return [shutil.copy(paths[k % len(paths)], folder / f"s{k:04d}.h5") for k in range(n)]


def kills(
    scratch: Path, paths: list[Path], workers: ClusterExecutor, n_scans: int, *, jobs: bool
) -> dict[str, Any]:
    """The same folder done in several ways, and whether it is the same."""
    scans = copies(paths, scratch / "study", n_scans)
    ways = {
        "one process": (reconstruct, scans, scratch / "one"),
        "two workers, one killed": (with_a_kill, scans, scratch / "two", workers, n_scans // 4),
    }
    if jobs:
        ways["--jobs 2"] = (two_jobs, scans, scratch / "jobs")
    seconds = {name: way(*args)["seconds"] for name, (way, *args) in ways.items()}
    wanted = content(scratch / "one")
    same = all(content(output) == wanted for _, _, output, *_ in ways.values())
    print(f"{n_scans} scans, the files are {'equal' if same else 'NOT EQUAL'}")
    for name, s in seconds.items():
        print(f"  {name:26s}{s:7.1f} s")
    return {"scans": n_scans, "equal": same, "seconds": seconds}


def two_jobs(scans: list[Path], output: Path) -> dict[str, float]:
    """By two processes of this machine."""
    return reconstruct(scans, output, jobs=2)


def scale(
    scratch: Path, paths: list[Path], workers: ClusterExecutor, counts: list[int]
) -> list[dict[str, float]]:
    """Seconds and memory a scan, by the number of scans."""
    everything = copies(paths, scratch / "many", max(counts))
    print("       one process       two workers")
    print("scans  CPU s a scan  MiB CPU s a scan  MiB  caller MiB")
    rows = []
    for n in counts:
        one = in_child(reconstruct, everything[:n], scratch / f"alone-{n}")
        two = by_workers(everything[:n], scratch / f"shared-{n}", workers)
        row = {
            "scans": n, "s": one["seconds"] / n, "cpu_s": one["cpu_seconds"] / n,
            "mib": one["peak_mib"], "workers_s": two["seconds"] / n,
            "workers_cpu_s": two["cpu_seconds"] / n, "workers_mib": two["workers_mib"],
            "caller_mib": two["peak_mib"],
        }  # fmt: skip
        print(
            f"{n:5d}{row['cpu_s']:14.3f}{row['mib']:5.0f}"
            f"{row['workers_cpu_s']:13.3f}{row['workers_mib']:5.0f}{row['caller_mib']:12.0f}",
            flush=True,
        )
        rows.append(row)
    return rows


def volume_cost(path: Path, output: Path, recipe: ma.Recipe) -> dict[str, float]:
    """CPU seconds and bytes of a volume."""
    started = cpu_seconds()
    (outcome,) = ma.reconstruct_folder(path, output, recipe, CPU)
    assert outcome.error is None, outcome.error
    written = sum(file.stat().st_size for file in output.iterdir())
    return {"cpu_s": cpu_seconds() - started, "bytes": written}


def costs(scratch: Path, config: SimulateConfig) -> dict[str, Any]:
    """A volume by several methods, and what very many of them cost."""
    n_slices, rows = config.slices, {}
    paths = {
        n: ma.simulate("phantom", scratch / f"slices-{n}", replace(config, slices=n), count=1)[0]
        for n in {n_slices, *(min(n, n_slices) for _, n in METHODS.values())}
    }
    read_gb = PEOPLE * paths[n_slices].stat().st_size / 1e9
    print(f"{n_slices} slices of {config.size[0]} x {config.size[1]}, {config.coils} coils")
    print(f"method            CPU s a volume   {PEOPLE} volumes: core hours   GB read  GB written")
    for name, (recipe, most) in METHODS.items():
        out, n = scratch / name.replace(" ", "-"), min(most, n_slices)
        one = in_child(volume_cost, paths[n], out, recipe)
        one = {key: value * n_slices / n for key, value in one.items()}
        hours, gb = PEOPLE * one["cpu_s"] / 3600, PEOPLE * one["bytes"] / 1e9
        print(f"{name:18s}{one['cpu_s']:14.1f}{hours:35.0f}{read_gb:10.0f}{gb:12.0f}", flush=True)
        rows[name] = {"cpu_s": one["cpu_s"], "core_hours": hours, "gb_written": gb}
    return {"slices": n_slices, "gb_read": read_gb, "methods": rows}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--costs", action="store_true", help="the third part alone")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n_scans, counts, volume = 40, [1, 10, 100, 1000], VOLUME
    if args.quick:
        n_scans, counts = 4, [2]
        volume = SMALL
        del METHODS["preset balanced"]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        forkserver.ensure_running()
        if args.costs:
            print(json.dumps({"benchmark": "cluster", "cost": costs(scratch, volume)}))
            return 0
        paths = ma.simulate("phantom", scratch / "made", SMALL, count=4)
        with two_workers() as workers:
            killed = kills(scratch, paths, workers, n_scans, jobs=not args.quick)
            workers.client.wait_for_workers(2)
            scaled = scale(scratch, paths, workers, counts)
        cost = costs(scratch, volume)
    print(json.dumps({"benchmark": "cluster", "kill": killed, "scale": scaled, "cost": cost}))
    return 0 if killed["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
