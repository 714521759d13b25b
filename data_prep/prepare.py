"""The preparation chain: from a raw scan to normalised slices with coil maps.

Two passes over a volume, a slice in memory at a time. The first (:func:`plan`) learns what belongs
to the whole volume: noise covariance, virtual coils, scale. The second (:meth:`Preparation.apply`)
prepares slices, in any order. Both see undersampled data only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, DeviceError, NumericalWarning, PrepError
from ..io import PreparedFile, ScanFile
from ..physics.coil_maps import pack_maps, unpack_maps
from ..physics.fourier import center_crop
from ..physics.masks import calibration_block
from ..runtime.device import lost, out_of_memory
from ..scan import Scan
from .compress import Compression, coil_covariance, compress_coils, plan_compression
from .espirit import CROP, EspiritMaps, espirit
from .noise import NoiseEstimate, NoiseEstimator, from_noise_scan, from_user
from .normalise import RunningPercentile, calibration_image, normalise
from .oversampling import remove_oversampling, rows_without_oversampling
from .qc import check_slices, slice_doubts
from .whiten import mix_coils, whiten, whitening_matrix

MIN_CALIB = 8
"""Fewest calibration lines that maps and scale can be taken from."""

FAR_OFF = 3.0
"""Noise that is given is doubted if the scan shows so many times more or less."""

MIN_NOISE, MAX_NOISE = 1e-15, 1e15
"""Standard deviations of noise that are believed, in the units of the file."""

MAX_SNR = 1e12
"""Images are larger or smaller than the noise by no more than this."""

MAX_SAMPLE = 1e9
"""No prepared sample is larger. Within the four limits, single precision holds every energy and the
way back to the units of the file."""


@dataclass(frozen=True)
class PrepConfig:
    """Options of the preparation chain.

    Attributes:
        n_coils: keep at most this many virtual coils; None keeps all.
        energy: keep as few virtual coils as hold this share of the signal energy, e.g. 0.999;
            with ``n_coils``, whichever keeps fewer.
        calib_width: largest side of the calibration block, in samples.
        noise_std: noise per real channel in the units of the file, instead of an estimate; the
            coils then count as equally noisy and uncorrelated.
        kernel_width: side of ESPIRiT's k-space kernel.
        threshold: ESPIRiT keeps singular vectors above this share of the largest singular value.
        crop: pixels with a smaller ESPIRiT eigenvalue lie outside the support.
    """

    n_coils: int | None = None
    energy: float | None = None
    calib_width: int = 24
    noise_std: float | None = None
    kernel_width: int = 6
    threshold: float = 0.02
    crop: float = CROP

    def __post_init__(self) -> None:
        if self.n_coils is not None and self.n_coils < 1:
            raise ConfigError(f"at least 1 virtual coil must remain, got n_coils={self.n_coils}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(f"the energy to keep is a share from 0 to 1, got {self.energy}")
        if self.calib_width < MIN_CALIB:
            raise ConfigError(
                f"the calibration block needs at least {MIN_CALIB} samples a side, "
                f"got calib_width={self.calib_width}"
            )
        if self.noise_std is not None and not MIN_NOISE <= self.noise_std <= MAX_NOISE:
            raise ConfigError(
                f"noise_std must be positive, from {MIN_NOISE:g} to {MAX_NOISE:g}, "
                f"got {self.noise_std}"
            )


@dataclass(frozen=True)
class Preparation:
    """What :func:`plan` learned about a volume, ready to be applied to its slices.

    Attributes:
        path: the file, for messages.
        config: the options.
        n_rows: rows that remain when readout oversampling is removed.
        noise: noise of the measured coils.
        compression: how whitened coils become virtual coils.
        calib_shape: sides ``(y, x)`` of the calibration block.
        scale: what normalised images are multiplied with to get back to whitened units.
        doubts: numerical doubts, a sentence each.
        device: where coil maps are computed.
        cpu_fallback: compute them on the CPU where the device has no room.
    """

    path: Path
    config: PrepConfig
    n_rows: int
    noise: NoiseEstimate
    compression: Compression
    calib_shape: tuple[int, int]
    scale: float
    doubts: tuple[str, ...] = ()
    device: torch.device | str = "cpu"
    cpu_fallback: bool = False

    @property
    def noise_std(self) -> float:
        """Noise of the measured coils per real channel, in the units of the file."""
        return self.noise.std

    def apply(self, scan: Scan) -> Scan:
        """Prepare slices of the planned volume.

        A scan that has maps was prepared before and passes through unchanged. Slices that one set
        of maps cannot explain are warned about, and so are those without anything to take maps
        from, of which maps and images are zero.

        Raises:
            PrepError: a slice holds samples too large to be true.
        """
        if scan.maps is not None:
            return scan
        scan, found = self.apply_espirit(scan)
        for doubt in slice_doubts(scan.scan_id, check_slices(scan, found, self.calib_shape)):
            warnings.warn(doubt, NumericalWarning, stacklevel=2)
        return scan

    def apply_espirit(self, scan: Scan) -> tuple[Scan, EspiritMaps | None]:
        """Prepare slices, and hand over ESPIRiT's eigenvalues too (None for a single coil)."""
        with naming(self.path, self.device):
            scan = remove_oversampling(scan, self.n_rows)
            scan = whiten(scan, self.noise)
            scan = compress_coils(scan, self.compression)
            check_samples(scan, self.scale)
            scan, found = self._estimate_maps(scan)
            return normalise(scan, self.scale), found

    def _estimate_maps(self, scan: Scan) -> tuple[Scan, EspiritMaps | None]:
        """On the device, or on the CPU if it has no room and that is wanted."""
        try:
            return estimate_maps(scan, self.calib_shape, self.config, device=self.device)
        except RuntimeError as error:
            here = torch.device(self.device).type == "cpu"
            if here or not self.cpu_fallback or not out_of_memory(error):
                raise
        warnings.warn(
            f"out of memory on {self.device}, coil maps are computed on the CPU",
            NumericalWarning,
            stacklevel=2,
        )
        return estimate_maps(scan, self.calib_shape, self.config)


@contextmanager
def naming(path: Path, device: torch.device | str = "cpu") -> Iterator[None]:
    """Errors of the chain's steps become errors that name the file, or a device that was lost."""
    try:
        yield
    except PrepError as error:
        raise PrepError(f"{path}: {error}") from error
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch's stubs lack it
        raise PrepError(
            f"{path}: a coil covariance cannot be decomposed, its numbers span too wide a range; "
            "the k-space or its noise is damaged, export the scan again"
        ) from error
    except RuntimeError as error:
        if out_of_memory(error):
            raise DeviceError(
                f"{path}: out of memory: {str(error).splitlines()[0]}; use --device cpu (or, to "
                "reconstruct, --cpu-fallback)"
            ) from error
        if told := lost(error, device):
            raise told from error
        raise


def check_samples(scan: Scan, scale: float) -> None:
    """Refuse samples that are not finite or, divided by ``scale``, beyond :data:`MAX_SAMPLE`.

    Raises:
        PrepError: a slice holds some.
    """
    for index, ksp in zip(scan.slices, scan.ksp, strict=True):
        lowest, highest = (float(value) / scale for value in torch.view_as_real(ksp).aminmax())
        if not max(-lowest, highest) <= MAX_SAMPLE:  # NaN is not
            raise PrepError(
                f"slice {index} holds samples of {max(-lowest, highest):.3g} where images are "
                f"about 1, wanted at most {MAX_SAMPLE:g}; the k-space is damaged, export the scan "
                "again"
            )


def estimate_maps(
    scan: Scan,
    calib_shape: tuple[int, int],
    config: PrepConfig,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Scan, EspiritMaps | None]:
    """ESPIRiT maps on the full field of view; a single coil sees everything equally.

    They are zero where the calibration block of a slice holds only zeros, and rounded to what a
    prepared file keeps of them. ``device`` computes them; they come back to where the k-space is.
    """
    if scan.n_coils == 1:
        seen = center_crop(scan.ksp, calib_shape).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        return scan.with_step("unit-map", maps=torch.ones_like(scan.ksp) * seen), None
    found = espirit(
        scan.ksp.to(device),
        calib_shape,
        kernel_width=config.kernel_width,
        threshold=config.threshold,
        crop=config.crop,
    )
    found = found.to(scan.ksp.device)
    return scan.with_step("espirit", maps=unpack_maps(pack_maps(found.maps))), found


def plan(
    file: ScanFile,
    config: PrepConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    cpu_fallback: bool = False,
) -> Preparation:
    """Learn noise, virtual coils and scale of a volume, reading it slice by slice.

    Args:
        file: the scan, as measured. For a prepared file there is nothing to learn, and what comes
            back hands its slices through.
        config: options of the chain.
        device: where the coil maps are to be computed.
        cpu_fallback: compute them on the CPU where the device has no room.

    Raises:
        PrepError: no calibration block, nothing but zeros, or samples and noise that are too large
            or too small to be true.
        ConfigError: options for a file that is prepared already.
    """
    config = config or PrepConfig()
    if isinstance(file, PreparedFile):
        return _prepared_already(file, config)
    with naming(file.path):
        first = FirstPass(file, config)
        for index in range(len(file)):  # no slice outlives its turn
            first.add(file[index])
        preparation = replace(first.preparation(), device=device, cpu_fallback=cpu_fallback)
    for doubt in preparation.doubts:
        warnings.warn(doubt, NumericalWarning, stacklevel=2)
    return preparation


class FirstPass:
    """Collects what belongs to a whole volume, slice by slice.

    Args:
        file: the scan.
        config: options of the chain.
    """

    def __init__(self, file: ScanFile, config: PrepConfig) -> None:
        self.file, self.config = file, config
        n_coils, n_rows = file.shape[1:3]
        self.n_rows = rows_without_oversampling(n_rows, file.readout_oversampling, file.mask)
        self.calib_shape = find_calibration(file, self.n_rows, config.calib_width)
        self.shown: NoiseEstimator | Tensor  # where the scan shows its noise
        if file.noise is None:
            self.shown = NoiseEstimator(
                file.mask,
                n_coils,
                fully_sampled=file.fully_sampled,
                oversampling=file.readout_oversampling,
            )
        else:
            self.shown = file.noise
        self.cov = torch.zeros(n_coils, n_coils, dtype=torch.complex128)
        self.calib: list[Tensor] = []

    def add(self, scan: Scan) -> None:
        """Look at some slices, as read; empty ones say nothing, not even about noise."""
        held = [index for index, ksp in enumerate(scan.ksp) if bool(ksp.any())]
        if isinstance(self.shown, NoiseEstimator):
            for index in held:
                self.shown.add(scan.ksp[index])
        scan = remove_oversampling(scan, self.n_rows)
        for index in held:
            self.cov += coil_covariance(scan.ksp[index])
            self.calib.append(center_crop(scan.ksp[index], self.calib_shape).clone())

    def preparation(self) -> Preparation:
        """What the slices say together.

        Raises:
            PrepError: all of them are zero, or so large or small that no scale can be found.
        """
        file, config = self.file, self.config
        if not self.calib:
            raise PrepError("every sample is zero; nothing can be reconstructed from it")
        noise, doubts = self._noise()
        if not MIN_NOISE <= noise.std <= MAX_NOISE:
            raise PrepError(
                f"the noise ({noise.source}) has a standard deviation of {noise.std:.3g}, wanted "
                f"{MIN_NOISE:g} to {MAX_NOISE:g}; export the scan in other units, or pass "
                "--noise-std if that is not its noise"
            )
        white = whitening_matrix(noise.cov)
        n_samples = len(self.calib) * int(file.mask[:, : self.n_rows].sum())
        compression = plan_compression(
            white @ self.cov @ white.mH, n_samples, n_coils=config.n_coils, energy=config.energy
        )
        return Preparation(
            path=file.path,
            config=config,
            n_rows=self.n_rows,
            noise=noise,
            compression=compression,
            calib_shape=self.calib_shape,
            scale=self._scale(compression.rotation[: compression.n_coils] @ white),
            doubts=(*doubts, *([_one_coil(file)] if compression.n_coils == 1 else [])),
        )

    def _noise(self) -> tuple[NoiseEstimate, list[str]]:
        """The noise that is given, or that the scan shows; a doubt where these are far apart."""
        if self.config.noise_std is None:
            return self._shown_noise(), []
        given = from_user(self.config.noise_std, self.file.shape[1])
        try:
            shown = self._shown_noise()
        except PrepError:  # there is nothing to compare with
            return given, []
        ratio = given.std / max(shown.std, MIN_NOISE)
        if ratio <= FAR_OFF and (ratio >= 1 / FAR_OFF or shown.is_bound):
            return given, []
        return given, [
            f"{self.file.path}: the noise given ({given.std:.3g}) is {ratio:.2g} times what the "
            f"scan shows ({shown.std:.3g}, {shown.source}); the image and its error bars rest on it"
        ]

    def _shown_noise(self) -> NoiseEstimate:
        if isinstance(self.shown, NoiseEstimator):
            return self.shown.estimate()
        return from_noise_scan(self.shown)

    def _scale(self, to_virtual: Tensor) -> float:
        """The percentile of the volume's calibration images, whitened and compressed."""
        shape = (self.n_rows, self.file.shape[3])
        blocks = [block for block in self.calib if bool(block.any())]
        if not blocks:
            raise PrepError(
                f"the {self.calib_shape[0]} x {self.calib_shape[1]} calibration block holds only "
                "zeros in every slice; check that k = 0 is at the centre of the matrix"
            )
        percentile = RunningPercentile(len(blocks) * shape[0] * shape[1])
        for block in blocks:
            percentile.add(calibration_image(mix_coils(block, to_virtual), shape))
        scale = percentile.value()
        if not 1 / MAX_SNR <= scale <= MAX_SNR:
            raise PrepError(
                f"images are {scale:.3g} times as large as the noise, wanted {1 / MAX_SNR:g} to "
                f"{MAX_SNR:g}; the k-space or its noise is damaged: export the scan again, or "
                "pass --noise-std"
            )
        return scale


def _prepared_already(file: PreparedFile, config: PrepConfig) -> Preparation:
    """What a prepared file says about itself; its coils are white and virtual already."""
    if config != PrepConfig():
        raise ConfigError(
            f"{file.path}: is prepared already, so options of prep (coils, noise, calibration) "
            "come too late; give the scan it was made from, or leave them out"
        )
    n_coils = file.shape[1]
    eye = torch.eye(n_coils, dtype=torch.complex128)
    return Preparation(
        path=file.path,
        config=config,
        n_rows=file.shape[2],
        noise=NoiseEstimate(
            float(file.qc.get("noise_std_file", 1.0)) ** 2 * eye, file.noise_source or "unknown", 0
        ),
        compression=Compression(eye, n_coils, 1.0),
        calib_shape=file.calib_shape,
        scale=file.scale,
    )


def find_calibration(file: ScanFile, n_rows: int, limit: int) -> tuple[int, int]:
    """Sides ``(y, x)`` of the calibration block once the readout has ``n_rows`` rows.

    Raises:
        PrepError: it is too small.
    """
    # Rows are cut only where all of them are sampled, so any n_rows of them show the mask.
    height, width = calibration_block(file.mask[:, :n_rows], limit)
    if min(height, width) < MIN_CALIB:
        raise PrepError(
            f"no calibration block: the fully sampled centre of k-space is "
            f"{height}x{width} samples, but coil maps and scale need at least "
            f"{MIN_CALIB}x{MIN_CALIB}; acquire (or, for a retrospective mask, keep) more central "
            "lines"
        )
    return height, width


def _one_coil(file: ScanFile) -> str:
    return (
        f"{file.path}: a single coil: its map is 1 everywhere, and nothing but the mask tells "
        "aliased images apart: what was not measured is the prior's, and a prior learns it from "
        "scans with many different masks only"
    )
