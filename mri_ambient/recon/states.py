"""What became of the scans of a folder: ``status.jsonl``, a line for each, written as it goes."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..runtime.files import append_line, json_text

STATES = "status.jsonl"
"""Name of the file; a later line about a scan replaces the earlier ones."""

DONE, SKIPPED, FAILED, REFUSED = "done", "skipped", "failed", "refused"
"""What can become of a scan; skipped: it was finished before, or another process makes it; refused:
what is there was made with other settings, and stays."""

LEFT = "left to another process"
"""Why a scan that was not finished when it was opened is skipped."""

LONGEST_NAME, LONGEST_PATH = 255 - len(".h5"), 2048
"""Bytes of a stem, and of a path below the folder; no file has a longer name."""


@dataclass(frozen=True)
class State:
    """What became of a scan.

    Attributes:
        scan: folder and stem of its results, e.g. ``site-a/head``.
        status: :data:`DONE`, :data:`SKIPPED`, :data:`FAILED` or :data:`REFUSED`.
        reason: why it failed, was refused, left to another process, or done again; or empty.
        seconds: how long it took.
        source: the file it came from.
        at: when, in seconds since 1970.
    """

    scan: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    source: str = ""
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        texts = (self.scan, self.status, self.reason, self.source)
        if not (all(isinstance(t, str) for t in texts) and isinstance(self.at, int | float)):
            raise TypeError(f"a state of texts and numbers is wanted, got {self}")

    def write(self, folder: Path) -> None:
        """Append it to the file of a folder; several processes may do so at once.

        Raises:
            MriAmbientError: it cannot be written.
        """
        append_line(folder / STATES, json_text(asdict(self)))


def read_states(folder: Path) -> dict[str, State]:
    """The last state of every scan, by scan; lines that are damaged are left out.

    A scan that failed, was refused, or was left to another process keeps the source of the state
    before: its results were made from that, or from what is not known.
    """
    found: dict[str, State] = {}
    with suppress(OSError):
        for line in (folder / STATES).read_text("utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, RecursionError):
                state = State(**json.loads(line))
                if not _is_below(state.scan):
                    continue
                if state.status in (FAILED, REFUSED) or state.reason == LEFT:
                    before = found.get(state.scan)
                    state = replace(state, source="" if before is None else before.source)
                found[state.scan] = state
    return found


def _is_below(scan: str) -> bool:
    """Whether files below a folder can have this name.

    Raises:
        ValueError: it is no text.
    """
    path = PurePosixPath(scan)
    longest = max((len(part.encode()) for part in path.parts), default=0)
    return not (
        path.is_absolute()
        or ".." in path.parts
        or "\0" in scan
        or longest > LONGEST_NAME
        or len(scan.encode()) > LONGEST_PATH
    )
