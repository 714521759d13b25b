"""What a step of a sampler costs beside its network evaluations, in time and in memory.

    python tests/benchmarks/bench_sampling.py [--preset base] [--size 320] [--batch-size 4]

Times steps of ``dds``, ``msm`` and ``pula`` (one image, then a batch) and the denoiser's networks
alone on planes of the same size, and prints one JSON line per sampler: seconds per step, the ratio
to the bare networks, and the peak memory, of a GPU by its allocator, on a CPU of all tensors alive.
Bar: a ratio of at most 1.15 for dds with ``base`` at 320 x 320 and 8 coils on a GPU. ``--compile``
compiles the networks. ``--quick`` is tiny.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import PeakBytes, random_sense
from scoring import seconds

from mri_ambient.methods import Dds, Msm, Pula
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.physics.operators import SenseOp
from mri_ambient.priors.facts import PriorFacts
from mri_ambient.priors.prior import Prior
from mri_ambient.priors.unet import network_spec
from mri_ambient.rng import complex_normal, rng_for
from mri_ambient.runtime.device import Runtime, describe_device, pick_device
from mri_ambient.scan import Batch


def main() -> None:
    """Time, weigh, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.size, args.coils, args.batch_size, args.repeats = 32, 3, 1, 1
    steps = (2, 3) if args.quick else (2, 6)
    device = pick_device(args.device)
    facts = PriorFacts(
        objective="kspace", kind="conditioned", network=network_spec(args.preset), sigma_data=0.3,
        sigma_min=0.02, mask_conditioned=True, mask=MaskSpec("random", 4, 8), tau=0.1,
    )  # fmt: skip
    prior = Prior(facts.build().eval().requires_grad_(False).to(device), facts)
    prior.net.autocast = Runtime(device, args.precision).bf16
    if args.compile:
        prior.net.compile_networks()
    shape = (args.size, args.size)
    one = random_sense(shape, args.coils, rng_for(0))
    for n in sorted({1, args.batch_size}):
        op = SenseOp(one.maps.expand(n, -1, -1, -1), one.mask.expand(n, 1, *shape)).to(device)
        ksp = op.mask * complex_normal((n, args.coils, *shape), rng_for(1), device=device)
        noise_std = torch.full((n,), 0.02, device=device)
        planes = torch.zeros(n, prior.net.in_channels, *shape, device=device)
        sigma = torch.full((n,), 0.1, device=device)

        @torch.no_grad()
        def networks(planes: torch.Tensor = planes, sigma: torch.Tensor = sigma) -> None:
            for part in prior.net.nets:
                prior.net.run(part, [planes], sigma)

        bare = seconds(networks, device, args.repeats)
        for method in (Dds(), Msm(n_masks=1), Pula()):

            @torch.no_grad()
            def run(n_steps: int, method=method, op=op, ksp=ksp, noise_std=noise_std) -> None:
                streams = [rng_for(2, i) for i in range(len(ksp))]
                batch = Batch.of_measurement(op, ksp, noise_std)
                replace(method, n_steps=n_steps)(prior, batch, streams)

            few, many = (seconds(lambda k=k, run=run: run(k), device, args.repeats) for k in steps)
            step = (many - few) / (steps[1] - steps[0])
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
                run(2)
                peak = torch.cuda.max_memory_allocated(device) - before
            else:
                with PeakBytes() as counted:
                    run(2)
                peak = counted.peak
            row = {
                "benchmark": "sampling", "device": describe_device(device), "method": method.name,
                "preset": args.preset, "matrix": args.size, "coils": args.coils, "batch": n,
                "autocast": prior.net.autocast, "compiled": args.compile,
                "step_seconds": round(step, 4), "network_seconds": round(bare, 4),
                "ratio": round(step / bare, 3), "peak_mib": round(peak / 2**20, 1),
                "torch": torch.__version__,
            }  # fmt: skip
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
