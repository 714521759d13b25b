"""How a denoiser is learned without clean images; one file per objective."""

from .ambient import Ambient
from .base import Loss, Objective
from .kspace import Kspace
from .supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective for objective in (Kspace, Ambient, Supervised)
}

__all__ = ["OBJECTIVES", "Ambient", "Kspace", "Loss", "Objective", "Supervised"]
