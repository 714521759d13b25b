"""The preparation chain: from a raw scan to normalised slices with coil maps.

Two passes over a volume, a few slices in memory at a time. The first (:func:`plan_preparation`)
determines what belongs to the whole volume: noise covariance, virtual coils, scale. The second
(:meth:`Preparation.apply`) prepares slices, in any order. Both use undersampled data only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DeviceError, NumericalWarning, PrepError, issue, warn
from ..io import ArrayFile, PreparedFile, ScanFile, name_of
from ..physics.coil_maps import pack_maps, unpack_maps
from ..physics.crop import center_crop, center_pad
from ..physics.map_sets import split_sets
from ..physics.patterns import calibration_block
from ..runtime.config import check_number
from ..runtime.device import at_once, device_error, out_of_memory
from ..runtime.prefetch import in_order, prefetch
from ..scan import UPPER_BOUND, Scan
from .compress import Compression, compress_coils, plan_compression
from .espirit import CROP, EspiritMaps, espirit_maps
from .faults.noise_coils import as_dead, noise_coils, without_coils
from .faults.scan_faults import ScanFaults
from .faults.spikes import apart, without_spikes
from .map_set_choice import choose_sets
from .noise import NoiseEstimate, from_noise_scan, from_user, outer_products
from .noise_estimator import SHOWN, NoiseEstimator
from .normalise import RunningPercentile, calibration_image, normalise
from .oversampling import remove_oversampling
from .qc import slice_checks, slice_warnings
from .set_basis import smooth_basis
from .whiten import mix_coils, whiten, whitening_matrix

MIN_CALIB = 8
"""Fewest calibration lines that maps and scale need."""

SILENT = 1e-8
"""Energy of a coil, over that of the strongest, below which it received nothing."""

FAR_OFF = 3.0
"""Ratio between the given noise and that of the scan, or its inverse, above which to warn."""

MIN_FILE_NOISE, MAX_FILE_NOISE = 1e-15, 1e15
"""Plausible standard deviations of noise, in the units of the file."""

MAX_SNR = 1e12
"""Largest plausible ratio between images and noise, or its inverse."""

LOW_NOISE = 1e-4
"""Noise below this share of images (their 99th percentile) is that of no scanner."""

MAX_SAMPLE = 1e9
"""Largest plausible prepared sample. Within the four limits, single precision holds every energy,
also in the units of the file."""


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
        map_sets: sets of coil maps: "auto", two where the object is larger than the field of view
            (:func:`~mri_ambient.data_prep.map_set_choice.choose_sets`), 1 or 2. Maps that come with
            the scan are all used with "auto".
    """

    n_coils: int | None = None
    energy: float | None = None
    calib_width: int = 24
    noise_std: float | None = None
    kernel_width: int = 6
    threshold: float = 0.02
    crop: float = CROP
    map_sets: Literal["auto", 1, 2] = "auto"

    def __post_init__(self) -> None:
        if self.map_sets not in ("auto", 1, 2):
            raise ConfigError(f"sets of coil maps are auto, 1 or 2, got map_sets={self.map_sets!r}")
        if self.n_coils is not None:
            check_number("n_coils", self.n_coils, 1, whole=True)
        check_number("calib_width", self.calib_width, MIN_CALIB, whole=True)
        check_number("kernel_width", self.kernel_width, 1, whole=True)
        check_number("threshold", self.threshold, above=0, at_most=1)
        check_number("crop", self.crop, 0, at_most=1)
        if self.energy is not None:
            check_number("energy", self.energy, above=0, at_most=1)
        if self.noise_std is not None:
            check_number("noise_std", self.noise_std, MIN_FILE_NOISE, at_most=MAX_FILE_NOISE)

    def as_dict(self) -> dict[str, Any]:
        """The options as files hold them; those of files from before there were sets are equal."""
        values = asdict(self)
        if self.map_sets == "auto":
            del values["map_sets"]
        return values


@dataclass(frozen=True)
class Preparation:
    """The preparation of one volume, ready to be applied to its slices.

    Attributes:
        path: the file, for messages.
        config: the options.
        n_rows: rows that remain when readout oversampling is removed.
        noise: noise of the measured coils.
        compression: how whitened coils become virtual coils.
        calib_shape: sides ``(y, x)`` of the calibration block, of the image or of calibration lines
            of their own.
        scale: normalised images times this are in whitened units.
        n_sets: sets of coil maps.
        spikes: where slices hold spikes, bool ``(y, x)`` by index; these samples become 0.
        noise_coils: measured coils that hold loud noise alone; they become 0.
        one_phase: whether the strongest virtual coil of the volume gives the maps of all slices
            their phase, so that it does not jump between slices of a 3-D scan.
        warnings: what is questionable about the volume.
        device, cpu_fallback: see :func:`plan_preparation`.
    """

    path: Path
    config: PrepConfig
    n_rows: int
    noise: NoiseEstimate
    compression: Compression
    calib_shape: tuple[int, int]
    scale: float
    n_sets: int = 1
    spikes: Mapping[int, Tensor] = field(default_factory=dict)
    noise_coils: tuple[int, ...] = ()
    one_phase: bool = False
    warnings: tuple[NumericalWarning, ...] = ()
    device: torch.device | str = "cpu"
    cpu_fallback: bool = False

    def cleaned(self, scan: Scan) -> Scan:
        """Raw slices with zeros in place of spikes and of coils that hold loud noise alone."""
        scan = without_spikes(scan, self.spikes)
        if not self.noise_coils:
            return scan
        calib = None if scan.calib is None else without_coils(scan.calib, self.noise_coils)
        return replace(scan, ksp=without_coils(scan.ksp, self.noise_coils), calib=calib)

    def apply(self, scan: Scan) -> Scan:
        """Prepare slices of the planned volume; a scan that has maps is returned unchanged.

        Raises:
            PrepError: a slice holds implausibly large samples.

        Warns:
            NumericalWarning: of :func:`~mri_ambient.data_prep.qc.slice_warnings`.
        """
        if scan.maps is not None:
            return scan
        scan, found = self.apply_espirit(scan)
        checks = slice_checks(scan, found, self.calib_shape)
        for warning in slice_warnings(self.path.name, checks):
            issue(warning)
        return scan

    def apply_espirit(self, scan: Scan) -> tuple[Scan, EspiritMaps | None]:
        """Prepare slices, and return ESPIRiT's eigenvalues too (None for a single coil)."""
        with _errors_of(self.path, self.device):
            scan = remove_oversampling(self.cleaned(scan), self.n_rows)
            scan = _cut_calibration(scan, self.calib_shape)
            scan = whiten(scan, self.noise)
            scan = compress_coils(scan, self.compression)
            _check_samples(scan, self.scale)
            scan, found = self._estimate_maps(scan)
            return normalise(scan, self.scale), found

    def _estimate_maps(self, scan: Scan) -> tuple[Scan, EspiritMaps | None]:
        try:
            return self._maps_on(scan, self.device)
        except RuntimeError as error:
            here = torch.device(self.device).type == "cpu"
            if here or not self.cpu_fallback or not out_of_memory(error):
                raise
        text = f"{self.path.name}: out of memory on {self.device} for its coil maps"
        warn("W-CPU-FALLBACK", text)
        return self._maps_on(scan, "cpu")

    def _maps_on(self, scan: Scan, device: torch.device | str) -> tuple[Scan, EspiritMaps | None]:
        """ESPIRiT maps, rounded as in a prepared file; 1 for a single coil.

        They are zero in slices whose calibration block holds only zeros. Maps that come with the
        scan are used instead.
        """
        if scan.n_coils == 1:
            filled = scan.calibration(self.calib_shape).flatten(1).any(dim=1).view(-1, 1, 1, 1)
            return scan.with_step("unit-map", maps=torch.ones_like(scan.ksp) * filled), None
        if scan.given_maps is not None:
            maps = self._rounded(_given_maps(scan, self.n_sets))
            return scan.with_step("given-maps", maps=maps, given_maps=None), None
        source = scan.ksp if scan.calib is None else center_pad(scan.calib, scan.shape)
        config = self.config
        strongest = torch.zeros(scan.n_coils, dtype=torch.complex64, device=device)
        strongest[0] = 1
        found = espirit_maps(
            source.to(device),
            self.calib_shape,
            kernel_width=config.kernel_width,
            threshold=config.threshold,
            crop=config.crop,
            n_sets=self.n_sets,
            reference=strongest if self.one_phase else None,
        )
        found = found.to(scan.ksp.device)
        return scan.with_step("espirit", maps=self._rounded(found.maps)), found

    def _rounded(self, maps: Tensor) -> Tensor:
        return unpack_maps(pack_maps(smooth_basis(maps) if self.n_sets == 2 else maps))


@contextmanager
def _errors_of(path: Path, device: torch.device | str = "cpu") -> Iterator[None]:
    """Errors of the steps become errors that name the file and say what to do."""
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
        if found := device_error(error, device):
            raise DeviceError(f"{path}: {found}") from error
        raise


def _check_samples(scan: Scan, scale: float) -> None:
    """Refuse samples that are not finite or, divided by ``scale``, above :data:`MAX_SAMPLE`."""
    for index, ksp in zip(scan.slices, scan.ksp, strict=True):
        lowest, highest = (float(value) / scale for value in torch.view_as_real(ksp).aminmax())
        if not max(-lowest, highest) <= MAX_SAMPLE:  # NaN is not
            raise PrepError(
                f"slice {index} holds samples of {max(-lowest, highest):.3g} where images are "
                f"about 1, wanted at most {MAX_SAMPLE:g}; the k-space is damaged, export the scan "
                "again"
            )


def _cut_calibration(scan: Scan, shape: tuple[int, int]) -> Scan:
    """Of separate calibration data, only the block that is used."""
    return scan if scan.calib is None else replace(scan, calib=center_crop(scan.calib, shape))


def _given_maps(scan: Scan, n_sets: int) -> Tensor:
    """The first sets of the maps that came with the scan, for its virtual coils, orthonormal."""
    assert scan.given_maps is not None and scan.coil_transform is not None
    n_given = scan.given_maps.shape[-2] // scan.shape[0]
    if n_given < n_sets:
        raise PrepError(
            f"{n_sets} sets of coil maps are wanted (map_sets, --map-sets) and the file of maps "
            f"holds {n_given}; make them with `bart ecalib -m{n_sets}`"
        )
    mixed = mix_coils(scan.given_maps, scan.coil_transform[: scan.n_coils])
    sets = split_sets(mixed, n_given).unbind(dim=-3)[:n_sets]
    return torch.cat(orthonormal(sets), dim=-2)


def orthonormal(sets: Sequence[Tensor]) -> list[Tensor]:
    """Maps ``(slice, coil, y, x)`` that span the same (Gram-Schmidt); sum_c |S_c|^2 = 1 or 0.

    A set that is a mixture of the sets before it, but for rounding, is 0 there.
    """
    found: list[Tensor] = []
    for maps in sets:
        rest = maps
        for other in found:
            rest = rest - other * (other.conj() * rest).sum(dim=1, keepdim=True)
        size, whole = (m.abs().square().sum(dim=1, keepdim=True).sqrt() for m in (rest, maps))
        found.append(torch.where(size > (1e-3 * whole if found else 0), rest / size, 0))
    return found


def plan_preparation(
    file: ScanFile,
    config: PrepConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    cpu_fallback: bool = False,
) -> Preparation:
    """Determine noise, virtual coils and scale of a volume, reading it slice by slice.

    Args:
        file: the scan. The preparation of a prepared file leaves its slices unchanged.
        config: options of the chain.
        device: where coil maps are computed.
        cpu_fallback: compute them on the CPU if the device runs out of memory.

    Raises:
        PrepError: no calibration block, only zeros, or implausible samples or noise.
        ConfigError: options for a file that is prepared already.

    Warns:
        NumericalWarning: the :attr:`Preparation.warnings`.
    """
    config = config or PrepConfig()
    if isinstance(file, PreparedFile | ArrayFile) and file.prepared:
        return _prepared_already(file, config)
    with _errors_of(file.path):
        first = FirstPass(file, config)
        with (
            closing(prefetch(file[index] for index in range(len(file)))) as scans,
            closing(prefetch(map(apart, scans))) as cleaned,
        ):
            for scan, spikes in cleaned:
                first.add(scan, spikes)
        preparation = replace(first.preparation(), device=device, cpu_fallback=cpu_fallback)
    for warning in preparation.warnings:
        issue(warning)
    return preparation


class FirstPass:
    """Collects what determines the preparation of a volume, slice by slice."""

    def __init__(self, file: ScanFile, config: PrepConfig) -> None:
        self.file, self.config = file, config
        n_coils, n_rows = file.shape[1:3]
        self.n_rows = round(n_rows / file.readout_oversampling)
        self.calib_shape = _find_calibration(file, self.n_rows, config.calib_width)
        self.n_at_once = at_once(8 * math.prod(file.shape[1:]))
        self.faults = ScanFaults(file, self.n_rows, self.n_at_once)
        self.estimator = NoiseEstimator.of(file)
        self.cov = torch.zeros(n_coils, n_coils, dtype=torch.complex128)
        self.calib: list[Tensor] = []
        self.n_given = 0  # sets of maps that come with the scan
        self.n_compared = 0  # slices of which the estimator knows
        self.energies = torch.zeros(2, dtype=torch.float64)

    def add(self, scan: Scan, spikes: Mapping[int, Tensor]) -> None:
        """Add slices without their spikes; empty ones are left out: their zeros are not noise."""
        filled = [index for index, ksp in enumerate(scan.ksp) if bool(ksp.any())]
        for index in filled:
            if self.file.noise is None or scan.slices[index] in self.faults.compared:
                self.estimator.add(scan.ksp[index])
                self.n_compared += 1
        raw, scan = scan, remove_oversampling(scan, self.n_rows)
        self.faults.add(raw, scan, spikes, filled)
        calib = scan.calibration(self.calib_shape)
        if scan.calib is not None:
            self.energies += _shared_energies(scan, calib)
        for index in filled:
            self.cov += outer_products(scan.ksp[index].flatten(1))
            self.calib.append(calib[index].clone())
        if scan.given_maps is not None:
            self.n_given = scan.given_maps.shape[-2] // scan.shape[0]

    def preparation(self) -> Preparation:
        """The preparation, after all slices were added."""
        file, config = self.file, self.config
        if not self.calib:
            raise PrepError("every sample is zero; nothing can be reconstructed from it")
        noise, found = self._noise()
        if not MIN_FILE_NOISE <= noise.std <= MAX_FILE_NOISE:
            raise PrepError(
                f"the noise ({noise.source}) has a standard deviation of {noise.std:.3g}, wanted "
                f"{MIN_FILE_NOISE:g} to {MAX_FILE_NOISE:g}; export the scan in other units, or "
                "give noise_std (--noise-std) if that is not its noise"
            )
        noise, coils = self._without_noise_coils(noise)
        white = whitening_matrix(noise.cov)
        n_samples = len(self.calib) * int(file.mask[:, : self.n_rows].sum())
        compression = plan_compression(
            white @ self.cov @ white.mH, n_samples, n_coils=config.n_coils, energy=config.energy
        )
        to_virtual = compression.rotation[: compression.n_coils] @ white
        found += self.faults.warnings(self.calib, to_virtual, coils)
        n_sets = self._n_sets(to_virtual)
        if n_sets == 2 and config.map_sets == "auto" and not self.n_given:
            text = (
                f"{name_of(file.path)}: two places of the object share a pixel, as where it is "
                "larger than the field of view; two sets of coil maps are used"
            )
            found.append(NumericalWarning("W-MAP-SETS", text))
        scale = self._scale(to_virtual)
        if config.noise_std is None and 1 / scale < LOW_NOISE:
            text = (
                f"{name_of(file.path)}: images are {scale:.1g} times as large as the noise "
                f"({noise.source}): k-space was filtered, or simulated without noise"
            )
            found.append(NumericalWarning("W-NOISE-LOW", text))
        return Preparation(
            path=file.path,
            config=config,
            n_rows=self.n_rows,
            noise=noise,
            compression=compression,
            calib_shape=self.calib_shape,
            scale=scale,
            n_sets=n_sets,
            spikes=self.faults.spikes,
            noise_coils=coils,
            one_phase=file.is_3d,
            warnings=tuple(found),
        )

    def _without_noise_coils(self, noise: NoiseEstimate) -> tuple[NoiseEstimate, tuple[int, ...]]:
        """Take coils of loud noise alone for dead ones, and say which these are."""
        coils = noise_coils(noise.cov, self.calib)
        if not coils:
            return noise, coils
        self.cov[list(coils)], self.cov[:, list(coils)] = 0, 0
        self.calib = [without_coils(block, coils) for block in self.calib]
        return as_dead(noise, coils), coils

    def _n_sets(self, to_virtual: Tensor) -> int:
        """Sets of coil maps: as wanted, as they came with the scan, or as the object needs."""
        if len(to_virtual) == 1:
            return 1
        if self.config.map_sets != "auto":
            return self.config.map_sets
        if self.n_given:
            return self.n_given
        blocks = (mix_coils(block, to_virtual) for block in self.calib)
        return choose_sets(blocks, self.config.kernel_width, self.n_at_once)

    def _noise(self) -> tuple[NoiseEstimate, list[NumericalWarning]]:
        """The noise given, or that of the scan; a warning where these are far apart."""
        if self.config.noise_std is None:
            noise = self._scan_noise()
            return noise, self._other_noise(noise)
        given = from_user(self.config.noise_std, self.file.shape[1])
        try:
            own = self._own_noise()
        except PrepError:  # nothing to compare with
            return given, []
        ratio = given.std / max(own.std, MIN_FILE_NOISE)
        if ratio <= FAR_OFF and (ratio >= 1 / FAR_OFF or own.source == UPPER_BOUND):
            return given, []
        text = (
            f"{name_of(self.file.path)}: the noise given ({given.std:.3g}) is {ratio:.2g} times "
            f"that of the scan ({own.std:.3g}, {own.source})"
        )
        return given, [NumericalWarning("W-NOISE-GIVEN", text)]

    def _other_noise(self, noise: NoiseEstimate) -> list[NumericalWarning]:
        """W-NOISE-GIVEN for a noise scan that is far from the noise in k-space.

        Filters of k-space leave little noise in its outer samples, which show nothing.
        """
        if self.file.noise is None or not self.n_compared:
            return []
        try:
            own = self.estimator.estimate()
        except PrepError:  # nothing to compare with
            return []
        ratio = noise.std / max(own.std, MIN_FILE_NOISE)
        if own.source not in SHOWN or 1 / FAR_OFF <= ratio <= FAR_OFF:
            return []
        text = (
            f"{name_of(self.file.path)}: the noise scan ({noise.std:.3g}) has {ratio:.2g} times "
            f"the noise of the k-space ({own.std:.3g}, {own.source})"
        )
        return [NumericalWarning("W-NOISE-GIVEN", text)]

    def _scan_noise(self) -> NoiseEstimate:
        noise = self.file.noise
        if noise is None:
            return self.estimator.estimate()
        found = from_noise_scan(torch.from_numpy(noise))
        power, energy = found.cov.diagonal().real, self.cov.diagonal().real
        silent = (power < SILENT * power.max()) & (energy > SILENT * energy.max())
        if bool(silent.any()):
            coils = torch.nonzero(silent).flatten().tolist()
            raise PrepError(
                f"the noise scan holds no noise of coils {coils} (counted from 0), which receive "
                "signal; give noise_std (--noise-std), the noise per real channel, or leave the "
                "noise scan out of the file"
            )
        return found

    def _own_noise(self) -> NoiseEstimate:
        """The noise in k-space, where that shows, rather than in a noise scan."""
        if self.file.noise is not None and self.n_compared:
            with suppress(PrepError):
                own = self.estimator.estimate()
                if own.source in SHOWN:
                    return own
        return self._scan_noise()

    def _scale(self, to_virtual: Tensor) -> float:
        """The percentile of the volume's calibration images, whitened and compressed."""
        shape = (self.n_rows, self.file.shape[3])
        blocks = [block for block in self.calib if bool(block.any())]
        if not blocks:
            raise PrepError(
                f"the {self.calib_shape[0]} x {self.calib_shape[1]} calibration block holds only "
                "zeros in every slice; check that k = 0 is at the centre of the matrix"
            )

        def image(block: Tensor) -> Tensor:
            return calibration_image(mix_coils(block, to_virtual), shape)

        percentile = RunningPercentile(len(blocks) * shape[0] * shape[1])
        for values in in_order(image, blocks, self.n_at_once):
            percentile.add(values)
        scale = percentile.value() * self._gain()
        if not 1 / MAX_SNR <= scale <= MAX_SNR:
            raise PrepError(
                f"images are {scale:.3g} times as large as the noise, wanted {1 / MAX_SNR:g} to "
                f"{MAX_SNR:g}; the k-space or its noise is damaged: export the scan again, or "
                "give noise_std (--noise-std)"
            )
        return scale

    def _gain(self) -> float:
        """Image over calibration signal, from the places where both were measured."""
        if self.file.calib_mask is None:
            return 1.0
        image, calib = self.energies.tolist()
        if not (image > 0 and calib > 0):
            raise PrepError(
                "the separate calibration lines share no place with the image, so that their "
                "units cannot be compared; a scan whose own centre is sampled is needed"
            )
        return math.sqrt(image / calib)


def _shared_energies(scan: Scan, calib: Tensor) -> Tensor:
    """Energy of image and calibration data where both were measured, ``(2,)``."""
    size = (calib.shape[-2], calib.shape[-1])
    both = center_crop(scan.mask, size) & (calib != 0)
    image = center_crop(scan.ksp, size)
    energies = [part[both].abs().double().square().sum() for part in (image, calib)]
    return torch.stack(energies)


def _prepared_already(file: PreparedFile | ArrayFile, config: PrepConfig) -> Preparation:
    """The preparation of a prepared file, whose coils are white and virtual already."""
    if config != PrepConfig():
        raise ConfigError(
            f"{file.path}: is prepared already, so options of prep (coils, noise, calibration) "
            "have no effect; give the scan it was made from, or leave them out"
        )
    n_coils = file.shape[1]
    eye = torch.eye(n_coils, dtype=torch.complex128)
    noise_std = file.qc.get("noise_std_file")  # of the measured coils, where it is known
    if noise_std is None:
        noise_std = float(file.noise_std or 0.0) * file.scale
    return Preparation(
        path=file.path,
        config=config,
        n_rows=file.shape[2],
        noise=NoiseEstimate(float(noise_std) ** 2 * eye, file.noise_source or "unknown", 0),
        compression=Compression(eye, n_coils, 1.0),
        calib_shape=file.calib_shape,
        scale=file.scale,
    )


def _find_calibration(file: ScanFile, n_rows: int, limit: int) -> tuple[int, int]:
    """Sides ``(y, x)`` of the calibration block once the readout has ``n_rows`` rows."""
    if file.calib_mask is None:
        # Rows are cut only where all of them are sampled, so any n_rows of them show the mask.
        mask = file.mask[:, :n_rows]
    else:  # shorter readouts fill a part of the rows
        factor = file.shape[2] / n_rows
        rows = factor * (np.arange(n_rows) - n_rows // 2) + file.shape[2] // 2
        mask = file.calib_mask[:, np.rint(rows).astype(int).clip(0, file.shape[2] - 1)]
    height, width = calibration_block(mask, limit)
    if min(height, width) < MIN_CALIB:
        lost = _missing_columns(mask)
        cause = f", since columns {lost} hold no samples" if lost else ""
        remedy = "if they were lost, export the scan again; otherwise " if lost else ""
        raise PrepError(
            f"no calibration block: the fully sampled centre of k-space is "
            f"{height}x{width} samples{cause}, but coil maps and scale need at least "
            f"{MIN_CALIB}x{MIN_CALIB}; {remedy}acquire (or, for a retrospective mask, keep) more "
            "central lines, say where k = 0 is if it is not in the middle of the matrix (centre, "
            "--centre Y,X), or give lines that were acquired apart (acs, --acs FILE)"
        )
    return height, width


def _missing_columns(mask: NDArray[np.bool_]) -> list[int]:
    """Single columns missing among those in the middle of k-space; none where many are."""
    first = mask.shape[-1] // 2 - MIN_CALIB
    lines = np.asarray(mask.any(axis=(0, 1)))[max(first, 0) : first + 2 * MIN_CALIB]
    held = np.flatnonzero(lines)
    gaps = np.setdiff1d(np.arange(held[0], held[-1] + 1), held) if len(held) else held
    return (max(first, 0) + gaps).tolist() if 4 * len(gaps) <= len(held) else []
