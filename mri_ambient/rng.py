"""Random state that depends on what is computed, never on when or where."""

import hashlib

import torch


def rng_for(seed: int, *keys: object) -> torch.Generator:
    """A CPU generator seeded by sha256 of ``seed`` and ``keys`` (scan id, slice, sample, ...).

    The same arguments give the same stream in every process and on every machine, so an answer
    does not change with batch size, order or the number of devices.
    """
    text = "/".join(str(part) for part in (seed, *keys))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def complex_normal(
    shape: tuple[int, ...],
    rng: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.complex64,
) -> torch.Tensor:
    """White complex noise with standard deviation 1 **per real channel**.

    It is drawn on the generator's device (the CPU, for :func:`rng_for`) and then moved, so a GPU
    gives the same numbers.
    """
    real = dtype.to_real()
    pair = torch.randn((*shape, 2), generator=rng, dtype=real, device=rng.device)
    return torch.view_as_complex(pair).to(device)
