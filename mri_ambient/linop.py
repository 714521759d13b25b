"""Linear operators: a forward map and its adjoint, proved as a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class LinearOperator(ABC):
    """A linear map between complex tensors; leading axes are batch.

    Attributes:
        ishape: trailing shape of what :meth:`forward` takes.
        oshape: trailing shape of what :meth:`forward` gives.
    """

    ishape: tuple[int, ...]
    oshape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x``, from ``(..., *ishape)`` to ``(..., *oshape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``, from ``(..., *oshape)`` to ``(..., *ishape)``."""

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``; operators override it where one pass is cheaper than two."""
        return self.adjoint(self.forward(x))

    def __call__(self, x: Tensor) -> Tensor:
        """``A x``."""
        return self.forward(x)

    @property
    def H(self) -> LinearOperator:  # noqa: N802 -- the field's name for the adjoint
        """The adjoint operator; ``op.H.H is op``."""
        return _Adjoint(self)


class _Adjoint(LinearOperator):
    """The same pair, read backwards."""

    def __init__(self, op: LinearOperator) -> None:
        self.op, self.ishape, self.oshape = op, op.oshape, op.ishape

    def forward(self, x: Tensor) -> Tensor:
        return self.op.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.forward(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        return self.op
