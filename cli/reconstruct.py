"""``mri-ambient reconstruct``: scans in, images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    CalibLines,
    Device,
    DryRun,
    Inputs,
    MaskType,
    Method,
    Output,
    Overwrite,
    PriorPath,
    Quiet,
    Retrospective,
    Samples,
    SamplingPreset,
    Seed,
    Set,
    Shard,
    Verbose,
    merge_options,
    pick_sampling,
    pick_shard,
    progress_bar,
    retrospective_mask,
    run_cases,
    say,
)


def run(
    inputs: Inputs,
    output: Output,
    method: Method = None,
    preset: SamplingPreset = None,
    prior: PriorPath = None,
    retrospective: Retrospective = None,
    mask_type: MaskType = None,
    calib_lines: CalibLines = None,
    samples: Samples = None,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Write the samples too (reconstruction_samples).")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Noise levels of a sampler.", show_default="dds, msm 50; pula 100; adps 500"
        ),
    ] = None,
    final_dc: Annotated[
        bool, typer.Option(help="End with data consistency: aos; dds, msm, pula under masks.")
    ] = True,
    option: Set = None,
    lam: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Regularisation of cg-sense and l1-wavelet, normalised units.",
            show_default="1.0 and 0.3 times the noise",
        ),
    ] = None,
    noise_std: Annotated[
        float | None, typer.Option(help="k-space noise per real channel, in the file's units.")
    ] = None,
    coils: Annotated[int | None, typer.Option(help="Compress to at most this many coils.")] = None,
    holdout: Annotated[
        int | None,
        typer.Option(
            help="Hide so many measured lines, reconstruct again, and see what it says.",
            show_default="0, with --warn 2",
        ),
    ] = None,
    warn: Annotated[
        bool, typer.Option("--warn", help="Flag slices that do not fit the prior.")
    ] = False,
    png: Annotated[
        bool, typer.Option("--png", help="Draw the slices (at most 16) into <stem>.png too.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Slices x samples computed at once.", show_default="what fits"),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of networks: auto (bf16 on a GPU, fp32 on a CPU), fp32 or bf16.")
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Translate the networks first: minutes once, for volumes."),
    ] = False,
    cpu_fallback: Annotated[
        bool, typer.Option("--cpu-fallback", help="Go on with the CPU where a GPU is too small.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    shard: Shard = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Reconstruct scans: OUT gets <stem>.h5 (scanner units) and <stem>.json (provenance, checks).

    A scan that fails costs one line and exit code 1; the others are written.
    """
    from mri_ambient.data_prep import PrepConfig, plan
    from mri_ambient.errors import ConfigError
    from mri_ambient.io import Undersampled, find_scans, open_scan, why_no_file
    from mri_ambient.methods.presets import is_sampler, is_stochastic
    from mri_ambient.plots import draw_volume
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.priors.weights import default_prior
    from mri_ambient.recon.checks import Checking
    from mri_ambient.recon.engine import Options
    from mri_ambient.recon.reference import plan_reference
    from mri_ambient.recon.volume import (
        is_done,
        reconstruct_file,
        settings,
        slice_lines,
        summary_line,
    )
    from mri_ambient.runtime.device import pick_device

    flags = {"n_steps": steps, "lam": lam, "final_dc": None if final_dc else False}
    given, asked = merge_options(flags, option), samples
    sampling = pick_sampling(preset, method, given, asked, prior=prior)
    chosen, samples = sampling.method, sampling.n_samples
    if not is_stochastic(chosen) and ((asked or 1) > 1 or keep_samples):
        say(f"warning: {chosen.name} gives one image, so there are no samples")
    elif keep_samples and samples == 1:
        say("warning: a single sample is the image itself, and is not written a second time")
    spec = retrospective_mask(retrospective, mask_type, calib_lines)
    if holdout is None:
        holdout = 2 if warn else 0
    if holdout < 0:
        raise ConfigError(f"--holdout must be 0 or more, got {holdout}")
    checking = Checking(n_hidden=holdout, flags=warn)
    config = PrepConfig(n_coils=coils, noise_std=noise_std)
    paths = pick_shard(find_scans(inputs), shard)
    if dry_run:
        for path in paths:
            say(why_no_file(path) or f"{path} -> {output / path.stem}.h5")
        return
    where = pick_device(device)
    options = Options(
        seed=seed,
        n_samples=samples,
        batch_size=batch_size,
        device=where,
        precision=precision,
        cpu_fallback=cpu_fallback,
        keep_samples=keep_samples,
        compiled=compiled,
    )
    # Its network is moved to the device where it is used.
    loaded = load_prior(prior or default_prior()) if is_sampler(chosen) else None
    if loaded is None and prior is not None:
        say(f"warning: {chosen.name} asks no prior, so {prior} is not used")

    def draw(name: str) -> None:
        draw_volume(output / f"{name}.h5", output / f"{name}.png")

    with progress_bar() as bars:

        def one(path: Path) -> None:
            file = full = open_scan(path)
            if spec is not None:
                file = Undersampled(full, spec, seed)
            made_with = settings(
                file, chosen, loaded, options, prep=config, mask=spec, checking=checking
            )
            if is_done(output, path.stem, made_with, overwrite=overwrite):
                say(f"{path.name}: done already (--overwrite does it again)")
                if png:
                    draw(path.stem)
                return
            preparation = plan(file, config, device=where, cpu_fallback=cpu_fallback)
            reference = plan_reference(
                full,
                config,
                device=where,
                cpu_fallback=cpu_fallback,
                made=preparation if file is full else None,
            )
            n_samples = samples if is_stochastic(chosen) else 1
            n_steps = getattr(chosen, "n_steps", 1) * n_samples * (2 if holdout else 1)
            work = bars.add_task(path.name, total=len(file) * n_steps)
            try:
                report = reconstruct_file(
                    file,
                    preparation,
                    chosen,
                    loaded,
                    output,
                    options,
                    reference=reference,
                    made_with=made_with,
                    checking=checking,
                    on_slice=lambda done, _: bars.update(work, completed=done * n_steps),
                    on_step=lambda info: bars.advance(work, len(info.residual)),
                )
            finally:
                bars.remove_task(work)
            if png:
                draw(path.stem)
            say(summary_line(report))
            if verbose:
                for line in slice_lines(report):
                    say(line)

        run_cases(paths, one)
