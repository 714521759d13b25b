"""Options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mri_ambient.errors import ConfigError

from .console import be_quiet


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, wanted a folder to write to; choose another output")
    return path


# Files.
Inputs = Annotated[
    list[str], typer.Argument(help="Scans: files, folders or globs.", metavar="INPUT")
]
VolumeName = Annotated[
    str | None,
    typer.Option(
        "--volume",
        help="Only this volume of files with several, e.g. con-1_rep-2.",
        show_default="all of them",
    ),
]
AxisNames = Annotated[
    str | None,
    typer.Option(
        "--axes",
        help="Names of the axes of k-space arrays, e.g. slice,coil,y,x.",
        metavar="LIST",
        show_default="those of the format",
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Name of the k-space array, or of the group of an ISMRMRD file.",
        metavar="NAME",
        show_default="kspace, or the only complex array",
    ),
]
Maps = Annotated[
    Path | None,
    typer.Option(
        "--maps", help="BART scans: file of coil maps (ecalib).", show_default="estimated"
    ),
]
Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder to write to.", metavar="OUT", callback=_folder),
]
DicomTemplate = Annotated[
    Path | None,
    typer.Option(
        "--dicom-template",
        help="Folder with a DICOM series of this scan: --save dicom takes over its patient, study "
        "and geometry.",
        show_default="none",
    ),
]
BidsName = Annotated[
    str | None,
    typer.Option(
        "--bids",
        help="Subject, session and contrast for --save bids, e.g. sub-01/ses-01/T2w; the last two "
        "may be left out.",
        metavar="NAME",
        show_default="none",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Work on part i of N of the inputs, e.g. 2/4.",
        metavar="i/N",
        show_default="all of them",
    ),
]

# Method and prior.
PriorPath = Annotated[
    Path | None,
    typer.Option(
        "-m",
        "--prior",
        help="Prior: a file, a run folder, or the name of a shipped prior.",
        show_default="the shipped brain-kspace-tiny",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="aos, dds, msm, pula, adps, zero-filled, cg-sense or l1-wavelet.",
        show_default="aos; dds for a prior that is not mask-conditioned",
    ),
]
SamplingPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="fast, balanced or quality: a method with its options and samples.",
        show_default="none",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Number of noise levels of a sampler.",
        show_default="dds, msm 50; pula 100; adps 500",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "-O",
        "--option",
        metavar="NAME=VALUE",
        help="Another option of the method; may be repeated.",
        show_default="the method's defaults",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        help="Samples per slice of a stochastic method; their mean is the image.",
        show_default="4, or the preset's",
    ),
]
HeldOutLines = Annotated[
    int, typer.Option("--holdout", help="Measured outer lines to hold out in each scan.", min=1)
]

# Preparation and retrospective masks.
MapSets = Annotated[
    str,
    typer.Option(
        "--map-sets",
        help="Sets of coil maps: auto (2 where the object is larger than the field of view), 1, 2.",
        metavar="auto|1|2",
    ),
]
Coils = Annotated[
    int | None,
    typer.Option(help="Compress to at most this many virtual coils.", show_default="all of them"),
]
NoiseStd = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of the k-space noise per real channel, in the file's units.",
        show_default="estimated",
    ),
]
Retrospective = Annotated[
    float | None,
    typer.Option(
        help="Undersample a fully sampled scan to this acceleration first.", show_default="none"
    ),
]
MaskType = Annotated[
    str | None,
    typer.Option(
        help="Retrospective mask: random, equispaced, gaussian or poisson.",
        show_default="random",
    ),
]
CalibLines = Annotated[
    int | None,
    typer.Option(help="Retrospective mask: central lines kept.", show_default="20"),
]

# Computing.
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda or cuda:i.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Precision = Annotated[
    str, typer.Option(help="Of networks: auto (bf16 on a GPU, fp32 on a CPU), fp32 or bf16.")
]
Workers = Annotated[int, typer.Option(help="Processes; 0: all in this one.")]

# Training.
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="Stop the training of this call after, e.g., 90s, 10m or 2h.", show_default="none"
    ),
]
Patches = Annotated[
    bool,
    typer.Option("--patches", help="Learn patches and their position: for few scans."),
]

# What is printed.
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", callback=be_quiet, help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print more about every case.")]
