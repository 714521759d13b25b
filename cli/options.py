"""Options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mri_ambient.errors import ConfigError
from mri_ambient.physics.mask_spec import KINDS
from mri_ambient.priors.weights import DEFAULT
from mri_ambient.runtime.config import parse_seconds

from .choices import (
    BIDS_NAME,
    CENTRE,
    CONTRASTS,
    METHOD_OPTIONS,
    METHODS,
    PRECISIONS,
    PRESETS,
    acs_there,
    file_there,
    known,
    known_axes,
    known_method,
    named_values,
    one_of,
    readable,
    shipped_or_there,
    there,
    written,
)
from .config_file import read_config
from .console import be_quiet, log_to
from .parse import check_device, parse_map_sets, parse_shard


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, wanted a folder to write to; choose another output")
    return path


# Files.
Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Scans: files, folders with those below them, or globs.",
        metavar="INPUT",
        callback=there,
    ),
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
        callback=known_axes,
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
Centre = Annotated[
    str,
    typer.Option(
        help="Where k = 0 is: auto (found from the samples), header (as the file has it), or its "
        "row and column, and the size of the full matrix if rows or columns were not stored.",
        metavar="auto|header|Y,X[,NY,NX]",
        callback=written(CENTRE, "--centre is auto, header or Y,X[,NY,NX], e.g. 128,128"),
    ),
]
MaskPath = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        help="File with the mask of what was measured, (x,) or (y, x): numpy, HDF5 or BART.",
        metavar="FILE",
        show_default="that of the scan, or what is not zero",
        callback=file_there,
    ),
]
Acs = Annotated[
    str | None,
    typer.Option(
        "--acs",
        help="Calibration lines that lie apart: a scan file of any format, FILE:DATASET, or a "
        "folder with files called as the scans.",
        metavar="FILE",
        show_default="those of the scan, or of its dataset acs or calib",
        callback=acs_there,
    ),
]
Average = Annotated[
    bool | None,
    typer.Option(
        "--average",
        help="Average repetitions: volumes of a file, or files whose names end in 01, 02, ...",
        show_default="each is a scan of its own",
    ),
]
Maps = Annotated[
    Path | None,
    typer.Option(
        "--maps",
        help="BART scans: file of coil maps (ecalib).",
        show_default="estimated",
        callback=file_there,
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
        callback=file_there,
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
        callback=written(
            BIDS_NAME,
            "--bids is sub-LABEL[/ses-LABEL][/CONTRAST], e.g. sub-01/ses-01/T2w, with letters and "
            f"digits in labels, and {one_of(CONTRASTS)} as contrast",
        ),
    ),
]
KeepIdentifiers = Annotated[
    bool,
    typer.Option(
        "--keep-identifiers",
        help="Write all attributes and the whole ISMRMRD header, with names, dates and devices.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Work on part i of N of the inputs, e.g. 2/4; auto: the part of this task of a job "
        "array; auto/N where the batch system does not tell N.",
        metavar="i/N|auto",
        show_default="all of them",
        callback=readable(parse_shard),
    ),
]

Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a dask scheduler whose workers do the scans, e.g. tcp://head:8786.",
        metavar="ADDRESS",
        show_default="none",
    ),
]
ClusterFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        help="YAML file of jobs that do the scans: a class of dask-jobqueue and its options.",
        metavar="FILE",
        show_default="none",
        callback=file_there,
    ),
]

# Method and prior.
PriorPath = Annotated[
    Path | None,
    typer.Option(
        "-m",
        "--prior",
        help="Prior: a file, a run folder, or the name of a shipped prior.",
        show_default=f"the shipped {DEFAULT}",
        callback=shipped_or_there,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help=f"{one_of(METHODS)}.",
        show_default="aos; dds for a prior that is not mask-conditioned",
        callback=known_method,
    ),
]
SamplingPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"{one_of(PRESETS)}: a method with its options and samples.",
        show_default="none",
        callback=known("preset", *PRESETS),
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
        callback=named_values("option of a method", METHOD_OPTIONS),
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
        callback=readable(parse_map_sets),
    ),
]
Coils = Annotated[
    int | None,
    typer.Option(help="Compress to at most this many virtual coils.", show_default="all of them"),
]
Energy = Annotated[
    float | None,
    typer.Option(
        help="Compress to as few coils as keep this share of the energy, e.g. 0.999.",
        show_default="all of it",
    ),
]
CalibWidth = Annotated[int, typer.Option(help="Largest side of the calibration block, in samples.")]
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
        help=f"Retrospective mask: {one_of(KINDS)}.",
        show_default="random",
        callback=known("mask type", *KINDS),
    ),
]
CalibLines = Annotated[
    int | None,
    typer.Option(help="Retrospective mask: central lines kept.", show_default="20"),
]

# Computing.
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto (a GPU if there is one), cpu, cuda or cuda:i.",
        callback=readable(check_device),
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of networks: fp32, bf16 or auto: bf16 on a GPU and on a CPU that is faster in it.",
        callback=known("precision", *PRECISIONS),
    ),
]
Workers = Annotated[int, typer.Option(help="Processes; 0: all in this one.")]

# Training.
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="Stop the training of this call after, e.g., 90s, 10m or 2h.",
        show_default="none",
        callback=readable(parse_seconds),
    ),
]
Patches = Annotated[
    bool,
    typer.Option("--patches", help="Learn patches and their position: for few scans."),
]

# What is printed.
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help='TOML file with options, e.g. method = "dds"; those given here win. All of them are '
        "stored in OUT/config.toml.",
        metavar="FILE",
        show_default="none",
        is_eager=True,
        callback=read_config,
    ),
]
Log = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help="Append all lines that are printed to this file too.",
        metavar="FILE",
        show_default="none",
        callback=log_to,
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", callback=be_quiet, help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print more about every case.")]
