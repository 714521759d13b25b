"""``mri-ambient audit``: whether a prior is safe to hand on and to use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    CalibLines,
    Complaints,
    Device,
    Json,
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
    claim_folder,
    complain,
    exit_code,
    merge_options,
    named,
    pick_sampling,
    print_json,
    progress_bar,
    retrospective_mask,
    say,
)

if TYPE_CHECKING:
    from mri_ambient.scan import Scan

app = typer.Typer(no_args_is_help=True, help="Check a prior before it is handed on.")


@app.callback()
def _audit() -> None:
    """Check a prior before it is handed on."""


@app.command()
def memorization(
    prior: Annotated[Path, typer.Argument(help="Prior file or run folder.", metavar="PRIOR")],
    data: Annotated[
        Path, typer.Argument(help="The prepared scans it was trained on.", metavar="DATA")
    ],
    output: Output = Path("audit"),
    samples: Annotated[int, typer.Option(help="Images to draw.")] = 16,
    steps: Annotated[int, typer.Option(help="Network evaluations an image.")] = 40,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: Json = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Are the images a prior draws copies of its training scans?

    OUT gets memorization.json and memorization.png: distances to the nearest training scan, of
    drawn images and of scans that were not trained on, and the nearest pairs.
    """
    from dataclasses import asdict

    from mri_ambient.evaluation.memorization import memorization as compare
    from mri_ambient.plots import draw_memorization
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.runtime.device import pick_device
    from mri_ambient.runtime.files import write_json

    where = pick_device(device)
    loaded = load_prior(prior, where)
    claim_folder(output, "memorization.json", overwrite=overwrite)
    damaged = Complaints()
    with progress_bar() as bars:
        task = bars.add_task("audit", total=None)
        found = compare(
            loaded,
            data,
            n_samples=samples,
            n_steps=steps,
            seed=seed,
            device=where,
            on_image=lambda done, total: bars.update(task, completed=done, total=total),
            on_damaged=damaged,
        )
    facts = {key: value for key, value in asdict(found).items() if key != "pairs"}
    facts |= {"suspects": found.n_suspects, "expected_by_chance": found.expected}
    write_json(output / "memorization.json", facts)
    draw_memorization(
        found.sample_distances, found.held_out_distances, found.pairs, output / "memorization.png"
    )
    if json_out:
        print_json(facts)
    say(found.line)
    damaged.end()


@app.command()
def stability(
    scan: Annotated[Path, typer.Argument(help="A scan, raw or prepared.", metavar="SCAN")],
    output: Output = Path("audit"),
    prior: PriorPath = None,
    method: Method = None,
    option: Set = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", help="Slice to attack; the middle one by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Its noise levels.")] = None,
    retrospective: Retrospective = None,
    mask_type: MaskType = None,
    calib_lines: CalibLines = None,
    k: Annotated[
        float, typer.Option("--k", help="Size (norm) of the change over that of the noise.")
    ] = 1.0,
    iterations: Annotated[int, typer.Option(help="Steps of the search.")] = 100,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: Json = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """How much can a change no larger than the noise change the image, at worst?

    Of a sampler, one sample with its random numbers kept fixed is attacked. OUT gets stability.json
    and stability.png: the method, CG-SENSE and L1-wavelet before and after the worst change that
    was found for each, and five times the difference of the magnitudes.
    """
    from dataclasses import asdict

    import torch

    from mri_ambient.data_prep import plan
    from mri_ambient.errors import ConfigError
    from mri_ambient.evaluation.stability import stability as attack
    from mri_ambient.evaluation.stability import verdict
    from mri_ambient.io import Undersampled, open_scan
    from mri_ambient.methods.presets import is_sampler
    from mri_ambient.plots import save_images
    from mri_ambient.priors.checkpoint import load_prior
    from mri_ambient.priors.weights import default_prior
    from mri_ambient.recon.engine import prior_sha256
    from mri_ambient.recon.warnings import doubt_prior
    from mri_ambient.runtime.device import pick_device
    from mri_ambient.runtime.files import write_json

    given = merge_options({"n_steps": steps}, option)
    chosen = pick_sampling(None, method, given, None, prior=prior).method
    spec = retrospective_mask(retrospective, mask_type, calib_lines)
    where = pick_device(device)
    loaded = load_prior(prior or default_prior(), where) if is_sampler(chosen) else None
    file = open_scan(scan)
    if spec is not None:
        file = Undersampled(file, spec, seed)
    doubt_prior(file, chosen, loaded)
    index = len(file) // 2 if slice_index is None else slice_index
    if not 0 <= index < len(file):
        raise ConfigError(f"{scan}: has slices 0 to {len(file) - 1}, not {index}")
    prepared = plan(file, device=where).apply(file[index])
    claim_folder(output, "stability.json", overwrite=overwrite)
    with progress_bar() as bars:
        task = bars.add_task("attack", total=None)
        attacks = attack(
            prepared,
            chosen,
            loaded,
            k=k,
            n_iter=iterations,
            seed=seed,
            device=where,
            on_step=lambda done, total: bars.update(task, completed=done, total=total),
        )
    facts = {
        "slice": index,
        "k": k,
        "seed": seed,
        "method_options": asdict(chosen),  # type: ignore[call-overload]
        "prior_sha256": prior_sha256(loaded),
        "acceleration": file.acceleration,
        "sigma_n": prepared.noise_std,
        "attacks": {
            one.method: {
                "size": one.size,
                "change": one.change,
                "by_noise": one.by_noise,
                "rising": one.rising,
                "amplification": one.amplification,
            }
            for one in attacks
        },
    }
    write_json(output / "stability.json", facts)
    shown, titles = [], []
    for one in attacks:
        shown += [one.img, one.attacked, 5 * (one.attacked - one.img).abs()]
        titles += [one.method, "attacked", "difference x 5"]
    top = float(attacks[0].img.max())
    save_images(torch.stack(shown), output / "stability.png", top=top, titles=titles, columns=3)
    if json_out:
        print_json(facts)
    say(verdict(attacks))


@app.command()
def calibration(
    prior: Annotated[Path, typer.Argument(help="Prior file or run folder.", metavar="PRIOR")],
    data: Annotated[
        Path,
        typer.Argument(help="Scans it was not trained on, raw or prepared.", metavar="DATA"),
    ],
    output: Output = Path("audit"),
    method: Annotated[
        str | None,
        typer.Option(help="The sampler whose spread is judged.", show_default="dds"),
    ] = None,
    preset: SamplingPreset = None,
    steps: Annotated[int | None, typer.Option(help="Its noise levels.")] = None,
    option: Set = None,
    samples: Samples = None,
    holdout: Annotated[int, typer.Option(help="Measured lines to hide in each scan.", min=1)] = 2,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: Json = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Do samples differ as much as they are wrong? If not, by which factor?

    OUT gets calibration.json, calibration.png (share of hidden measurements in predictive
    intervals) and prior.safetensors, whose card holds the factor: `reconstruct` with this prior,
    method and options multiplies `reconstruction_std` by it and says so.
    """
    from dataclasses import asdict

    from mri_ambient.data_prep import plan
    from mri_ambient.errors import ConfigError, DeviceError, MriAmbientError, ScanFormatError
    from mri_ambient.evaluation.calibration import LEVELS, calibrate, with_calibration
    from mri_ambient.io import find_scans, open_scan
    from mri_ambient.methods.presets import is_sampler
    from mri_ambient.plots import draw_calibration
    from mri_ambient.priors.checkpoint import load_prior, save_prior
    from mri_ambient.recon.checks import cut_lines
    from mri_ambient.recon.engine import Options, samples_are
    from mri_ambient.runtime.device import pick_device
    from mri_ambient.runtime.files import write_json

    given = merge_options({"n_steps": steps}, option)
    if preset is None:
        method = method or "dds"
    sampling = pick_sampling(preset, method, given, samples, prior=prior)
    chosen, samples = sampling.method, sampling.n_samples
    if not (is_sampler(chosen) and chosen.stochastic):
        raise ConfigError(
            f"{chosen.name} gives one image, which has no spread; choose dds, msm, pula or adps"
        )
    where = pick_device(device)
    loaded = load_prior(prior, where)
    claim_folder(output, "calibration.json", overwrite=overwrite)
    claim_folder(output, "prior.safetensors", overwrite=overwrite)
    paths = find_scans([data])
    failed: list[MriAmbientError] = []

    def slices() -> Iterator[Scan]:
        for path in paths:
            try:
                file = open_scan(path)
                if loaded.was_trained_on(file.source_sha256):
                    say(
                        f"warning: {path}: the prior was trained on this scan; fitted on training "
                        "scans the factor may be too small for new ones"
                    )
                preparation = plan(file, device=where)
                for scan in file:
                    prepared = preparation.apply(scan)
                    cut_lines(prepared, holdout, seed)  # before all the others are sampled
                    yield prepared
            except DeviceError:
                raise  # the next scan would fare no better
            except MriAmbientError as error:
                failed.append(error)
                complain(f"error: {named(path, str(error))}")

    options = Options(seed=seed, n_samples=samples, device=where)
    with progress_bar() as bars:
        task = bars.add_task("calibrate", total=None)
        try:
            found = calibrate(
                slices(),
                chosen,
                loaded,
                options,
                n_lines=holdout,
                on_scan=lambda done: bars.update(task, completed=done),
            )
        except ScanFormatError:
            if failed:  # and was told of
                raise typer.Exit(exit_code(failed[0])) from None
            raise
    what = samples_are(chosen, loaded)
    facts = {"method": chosen.name, "method_options": asdict(chosen), "samples_are": what}  # type: ignore[call-overload]
    facts |= {"levels": LEVELS, **asdict(found)}
    write_json(output / "calibration.json", facts)
    draw_calibration(LEVELS, found.before, found.after, output / "calibration.png")
    save_prior(with_calibration(loaded, chosen, found), output / "prior.safetensors")
    if json_out:
        print_json(facts)
    say(
        f"{chosen.name}: the spread of {samples} samples ({what}) is to be multiplied by "
        f"{found.factor:.2f}; "
        f"90 % intervals hold {100 * found.before[-2]:.0f} % of {found.n_hidden} hidden "
        f"measurements before and {100 * found.after[-2]:.0f} % after"
    )
    if failed:
        raise typer.Exit(1)
