from __future__ import annotations

from collections.abc import Callable

import pytest
from toys import Toy


@pytest.fixture
def fix_further_mask(monkeypatch: pytest.MonkeyPatch) -> Callable[[Toy], None]:
    """Has every objective use the toy's further mask."""

    def fix(toy: Toy) -> None:
        def thinned(batch, *_, **__):
            return toy.seen.expand(len(batch), 1, *toy.shape)

        for module in ("kspace", "ssdu", "consistency"):
            monkeypatch.setattr(f"mri_ambient.objectives.{module}.thinned", thinned)
        monkeypatch.setattr("mri_ambient.objectives.ambient.subsample_further", lambda *_: toy.seen)
        monkeypatch.setattr("mri_ambient.objectives.ambient.training_fraction", lambda *_: None)

    return fix
