"""Where a training step spends its time: waiting for data, physics, network.

    python tests/benchmarks/bench_training.py [--preset base] [--size 320] [--images 200]

simulates and prepares scans, trains on them with the ``kspace`` objective, and prints one JSON
line: images a second, the share of the time spent waiting for data, the share of a step that is not
the network (masks, noise, transforms, conjugate gradients, loss), measured by timing the networks
alone on inputs of the same size, forwards and backwards, and the peak memory. ``--compile`` has the
networks compiled. Bars: waiting below 5 %; for ``base`` on a GPU at 320 x 320 with 8 coils, physics
below 20 %. ``--quick`` runs tiny networks on 32 x 32.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import warnings
from pathlib import Path

import torch
from scoring import seconds

from mri_ambient.data_prep import SimulateConfig, prepare, simulate
from mri_ambient.objectives import Kspace
from mri_ambient.priors.denoisers import DENOISERS, Denoiser
from mri_ambient.priors.unet import network_spec
from mri_ambient.rng import rng_for
from mri_ambient.runtime.device import Runtime, describe_device, pick_device
from mri_ambient.scan import Batch
from mri_ambient.training.config import Hooks, Progress, TrainConfig, TrainJob
from mri_ambient.training.dataset import BatchSequence, load_dataset
from mri_ambient.training.loop import run_training
from mri_ambient.training.preflight import plan


def step_times(
    net: Denoiser, batch: Batch, device: torch.device, repeats: int
) -> tuple[float, float]:
    """Seconds of a loss with its gradients, and of the networks' part of it."""
    objective = Kspace()

    def step() -> None:
        net.zero_grad()
        streams = [rng_for(0, "bench", i) for i in range(len(batch))]
        objective(net, batch, streams).backward.backward()

    n, shape = len(batch), batch.ksp.shape[-2:]
    planes = torch.zeros(n, net.in_channels, *shape, device=device)
    sigma = torch.full((n,), 0.1, device=device)

    def networks() -> None:
        net.zero_grad()
        total = torch.zeros((), device=device)
        for part in net.nets:
            leaf = planes.clone().requires_grad_()  # the physics wants gradients of the input too
            total = total + net.run(part, [leaf], sigma).abs().square().sum()
        total.backward()

    return seconds(step, device, repeats), seconds(networks, device, repeats)


def main() -> None:
    """Simulate, train, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.size, args.coils, args.scans, args.images, args.batch_size = 32, 3, 3, 4, 2
        args.repeats = 1
    warnings.simplefilter("ignore")
    device = pick_device(args.device)
    config = TrainConfig(
        preset=args.preset, batch_size=args.batch_size, precision=args.precision,
        check_every=10**9, save_every=10**9, n_validation=1,
    )  # fmt: skip
    last: list[Progress] = []
    with tempfile.TemporaryDirectory() as folder:
        scans = SimulateConfig(
            size=(args.size, args.size), coils=args.coils, calib=max(8, args.size // 16),
            acceleration=4.0 if args.size > 64 else 2.0, noise=0.01,
        )  # fmt: skip
        raw = simulate("phantom", Path(folder) / "raw", scans, count=args.scans)
        prepare(raw, Path(folder) / "prepared", runtime=Runtime(device))
        job = TrainJob(
            Path(folder) / "prepared", Path(folder) / "run", config, images=args.images,
            device=device, workers=args.workers,
        )  # fmt: skip
        run_training(plan(job), Hooks(on_progress=last.append))
        data = load_dataset(Path(folder) / "prepared", n_validation=0, seed=0)
        (group,) = BatchSequence(data, args.batch_size, seed=0)[0].groups
    # The first step starts the loader; what it waits for is not the rate of the run.
    first, end = last[0], last[-1]
    waited = end.waiting * end.seconds - first.waiting * first.seconds
    elapsed = end.seconds - first.seconds
    net = DENOISERS[Kspace.wrapper](network_spec(args.preset), 0.3).to(device).train()
    net.autocast = config.autocast_on(job.runtime, config.network)
    batch = group.batch.to(device)
    whole, network = step_times(net, batch, device, args.repeats)
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "benchmark": "training",
        "device": describe_device(device),
        "preset": args.preset,
        "matrix": args.size,
        "coils": args.coils,
        "batch_size": args.batch_size,
        "workers": args.workers,
        "autocast": net.autocast,
        "images_per_second": round((end.images - first.images) / elapsed, 2),
        "waiting_share": round(waited / elapsed, 4),
        "step_seconds": round(whole, 4),
        "physics_share": round(1 - network / whole, 3),
        "peak_gpu_gib": round(peak / 2**30, 2),
        "peak_resident_gib": round(resident / 2**30, 2),
        "torch": torch.__version__,
    }
    if args.compile:  # the step alone: `train` has no such option
        net.compile_networks()
        whole, network = step_times(net, batch, device, args.repeats)
        row |= {
            "step_seconds_compiled": round(whole, 4),
            "physics_share_compiled": round(1 - network / whole, 3),
        }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
