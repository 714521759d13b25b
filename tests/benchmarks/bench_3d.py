"""A 3-D scan with two phase encodes: quality under 2-D masks, and whether coil maps jump.

    python tests/benchmarks/bench_3d.py IMAGES.zip [--slices 24] [--pictures DIR]

simulates a volume of 128 x 128 with 8 coils around it, whose slices lie across the readout (each
is another picture; fields of the coils and the phase of the object are smooth along it), samples
the two phase encodes by three masks (CAIPI, the same within an ellipse, Poisson disc of variable
density within an ellipse; 24 x 24 calibration samples), and reconstructs it with the default prior,
CG-SENSE and L1-wavelet (which bench_classical.py compares with sigpy's and BART's). Prints mean and
worst PSNR over 8 of the slices in dB, against the RSS without noise, inside the support.

Then the maps of neighbouring slices are compared, where both have support: mean over pixels of the
likeness of their coil sensitivities ``|sum_c conj(S) S'|`` (1 if only phases differ), and the jump
of the phase, ``angle(sum_c conj(S) S')`` as RMS in degrees, after its mean is removed. So for the
true fields, for maps of separate slices, for those of a 3-D scan (as the library makes them: one
virtual coil gives the phase of all), and for 3-D ESPIRiT of sigpy, kernel 4 x 4 x 4. Ends with one
JSON line. ``--quick`` says nothing about quality.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path

import numpy as np
import sigpy
import sigpy.mri
import torch
from scoring import psnr
from torch import Tensor

import mri_ambient as ma
from mri_ambient.data_prep import plan_preparation
from mri_ambient.data_prep.simulation.images import Anatomy, open_images
from mri_ambient.data_prep.simulation.scan_model import ScanModel, SimulateConfig
from mri_ambient.errors import NumericalWarning
from mri_ambient.io import ArrayFile
from mri_ambient.physics.axis_fourier import fftc
from mri_ambient.physics.crop import center_crop
from mri_ambient.physics.fourier import ifft2c
from mri_ambient.physics.mask_spec import MaskSpec
from mri_ambient.plots import save_figure
from mri_ambient.rng import rng_for

METHODS = ("zero-filled", "cg-sense", "l1-wavelet", "aos")


def volume(images: str, n: int, size: int, coils: int) -> ScanModel:
    """Of every k-th picture, a slice; 2.5 mm apart."""
    source = open_images(images)
    names = source.names(n, 1)
    names = names[:: max(1, len(names) // n)][:n]
    slices = [source.read(name, (size, size), 1, rng_for(0, name)).img[0] for name in names]
    img = torch.stack([one / one.max() for one in slices])
    config = SimulateConfig((size, size), coils, noise=0.008, full=True, units=1.0, slices=n)
    return ScanModel(Anatomy(img, "volume", 240 / img.shape[-1], 2.5), config, "volume")


def masks(size: int, rate: float, calib: int) -> dict[str, Tensor]:
    """Bool ``(y, x)`` by name; R counts the whole matrix."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = square(size, calib)
    step = round(math.sqrt(rate))
    caipi = (y % step == 0) & ((x + y // step) % step == 0)
    ellipse = ((2 * y / size - 1) ** 2 + (2 * x / size - 1) ** 2) < 1
    poisson = MaskSpec("poisson", rate, calib).draw((size, size), rng_for(0, "3-D"))[0]
    return {
        "CAIPI": caipi | centre,
        "CAIPI, ellipse": (caipi & ellipse) | centre,
        "Poisson, variable density, ellipse": poisson,
    }


def square(size: int, side: int) -> Tensor:
    """The square in the middle, bool ``(y, x)``."""
    plane = torch.zeros(size, size, dtype=torch.bool)
    center_crop(plane, (side, side)).fill_(True)
    return plane


def jumps(maps: Tensor, support: Tensor) -> tuple[float, float]:
    """Likeness, and RMS of the jump of the phase in degrees, of maps ``(slice, coil, y, x)``."""
    maps = maps / maps.norm(dim=1, keepdim=True).clamp_min(1e-12)
    products = (maps[:-1].conj() * maps[1:]).sum(dim=1)
    both = support[:-1] & support[1:] & (products != 0)
    angles = []
    for product, inside in zip(products, both, strict=True):
        turned = product[inside] * product[inside].sum().conj()
        angles.append(turned.angle())
    return float(products.abs()[both].mean()), float(torch.cat(angles).square().mean().sqrt())


def maps_3d(ksp: Tensor, calib: int) -> Tensor:
    """Maps by sigpy's ESPIRiT of 3-D k-space; slices ``(slice, coil, y, x)`` in and out."""
    whole = fftc(ksp, dim=0).movedim(1, 0).numpy()
    app = sigpy.mri.app.EspiritCalib(whole, calib, kernel_width=4, show_pbar=False)
    return torch.from_numpy(app.run()).movedim(0, 1)


def main() -> None:
    """Print quality by mask, then the maps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--pictures", type=Path, help="draw the images of a slice here")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    size, coils, calib = (48, 4, 16) if args.quick else (128, 8, 24)
    n = 2 if args.quick else args.slices
    model = volume("phantom" if args.quick else args.images, n, size, coils)
    ksp = torch.stack([model.measure(index) for index in range(n)])
    shown = slice(0, n, max(1, n // 8))
    truth = torch.stack([ifft2c(model.clean(k)).abs().square().sum(dim=0).sqrt() for k in range(n)])
    recipes = {name: ma.Recipe(name).resolve() for name in METHODS}
    rows = []
    for rate in (4,) if args.quick else (4, 9):
        for kind, mask in list(masks(size, rate, calib).items())[-1 if args.quick else 0 :]:
            row = {"mask": kind, "R": round(float(1 / mask.double().mean()), 2)}
            for name, recipe in recipes.items():
                rec = ma.reconstruct(ma.Scan.from_numpy((ksp[shown] * mask).numpy(), mask), recipe)
                img = torch.from_numpy(rec.magnitude)
                scores = [psnr(*pair) for pair in zip(img, truth[shown], strict=True)]
                row[name] = (round(sum(scores) / len(scores), 2), round(min(scores), 2))
                if args.pictures:
                    draw(
                        args.pictures,
                        f"{kind} R{rate} {name}",
                        img[len(img) // 2],
                        truth[shown][len(img) // 2],
                    )
            rows.append(row)
            print(row, flush=True)
    found = compared(model, ksp, truth, calib)
    print(found)
    print(json.dumps({"benchmark": "3d", "slices": n, "psnr": rows, "maps": found}))


def compared(model: ScanModel, ksp: Tensor, truth: Tensor, calib: int) -> dict[str, object]:
    """Likeness and jump of the phase of neighbouring maps, by where these come from."""
    n, size = len(ksp), ksp.shape[-1]
    file = ArrayFile(ma.Scan.from_numpy(ksp.numpy()))
    prepared = plan_preparation(file).apply(file[:])
    file.is_3d = True
    volume_maps = plan_preparation(file).apply(file[:]).maps
    white = torch.einsum("vc,scyx->svyx", prepared.coil_transform.to(ksp.dtype), ksp)
    fields = torch.stack([model.maps(index) for index in range(n)])
    true = torch.einsum(
        "vc,scyx->svyx", prepared.coil_transform.to(ksp.dtype), fields * model.gains[:, None, None]
    )
    scaled = torch.nn.functional.interpolate
    true = torch.complex(*(scaled(part, (size, size)) for part in (true.real, true.imag)))
    support = truth > 0.1 * truth.amax(dim=(1, 2), keepdim=True)
    each = {"true": true, "separate slices": prepared.maps, "3-D scan": volume_maps}
    if n >= calib:
        each["3-D ESPIRiT"] = maps_3d(white, calib)
    found = {}
    for name, maps in each.items():
        likeness, jump = jumps(maps, support)
        found[name] = {"likeness": round(likeness, 4), "degrees": round(math.degrees(jump), 2)}
    return found


def draw(folder: Path, name: str, img: Tensor, truth: Tensor) -> None:
    """The image beside the truth, and the error times 5."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2))
    top = float(truth.max())
    for k, picture in enumerate((truth, img, 5 * (img - truth).abs())):
        axes = figure.add_subplot(1, 3, k + 1)
        axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=top)
        axes.set_axis_off()
    figure.suptitle(name)
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(figure, folder / f"{name.replace(', ', '-').replace(' ', '-')}.png", dpi=80)


if __name__ == "__main__":
    main()
