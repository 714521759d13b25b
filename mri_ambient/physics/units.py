r"""From normalised images back to the units of the file.

Prep multiplies the coils by ``W = Q^H L^{-1}`` (whitening ``L^{-1}``, then a rotation ``Q^H`` that
puts the strongest virtual coil first), keeps the first ``V`` of them and divides by a scale ``c``.
The normalised image ``x`` therefore stands for the coil images ``c (W^{-1})_V S x``, with
``(W^{-1})_V`` the first ``V`` columns of the inverse, and what the file calls the image is their
root sum of squares,

.. math:: c \, |x| \, \Big(\sum_c |((W^{-1})_V S)_c|^2\Big)^{1/2}.

``W`` is kept whole, because the dropped rows are needed to invert it: the Moore-Penrose inverse of
the first ``V`` rows alone is another matrix wherever the coils are not equally noisy.
"""

import torch
from torch import Tensor


def rss_weight(maps: Tensor, coil_transform: Tensor | None) -> Tensor:
    """RSS of the measured coils' sensitivities, as seen through the virtual coils.

    ``img.abs() * scale * rss_weight(maps, coil_transform)`` is an RSS-equivalent image in the
    units of the file.

    Args:
        maps: sensitivities of the virtual coils, complex ``(..., virtual coil, y, x)``.
        coil_transform: all of ``W``, complex ``(coil, coil)``; its first rows made the virtual
            coils. None if the coils are as measured.

    Returns:
        Real ``(..., y, x)``, zero outside the support.

    Raises:
        ValueError: there are more virtual coils than ``coil_transform`` has rows.
    """
    if coil_transform is None:
        return maps.abs().square().sum(dim=-3).sqrt()
    n_virtual, n_coils = maps.shape[-3], coil_transform.shape[-2]
    if coil_transform.shape[-1] != n_coils or n_virtual > n_coils:
        raise ValueError(
            f"{n_virtual} virtual coils need a square coil transform of at least that size, "
            f"got {tuple(coil_transform.shape)}"
        )
    inverse = torch.linalg.inv(coil_transform.to(torch.complex128))[:, :n_virtual]
    # |E S|^2 = S^H (E^H E) S: one small Gram matrix instead of an image for every measured coil.
    gram = (inverse.mH @ inverse).to(maps.device, maps.dtype)
    mixed = torch.einsum("vw,...wyx->...vyx", gram, maps)
    return (maps.conj() * mixed).sum(dim=-3).real.clamp_min(0).sqrt()
