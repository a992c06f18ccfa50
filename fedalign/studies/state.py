"""Where the runs of a sweep stand: finished, stopped, failed or new, and after which round."""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedalign.runs.paths import FINISHED, DamagedManifestError, read_manifest

NEW = "new"
TAIL = 1 << 16  # bytes of a table that surely hold its last line
ACCURACY = "test_accuracy"


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        status: `new`, or the first word of the manifest's status; `unfinished` where that is
            `running`, which a run that was killed cannot take back.
        round: the last round in its tables; 0 if there is none.
        accuracy: of that round; None if it was not measured.
    """

    status: str
    round: int = 0
    accuracy: float | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether the run has begun and does not have all its results."""
        return self.status not in (NEW, FINISHED)


def state_of(folder: Path) -> State:
    """Return where the run in a folder stands, by its manifest and its tables."""
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError:
        return State("damaged")
    if manifest is None:
        return State(NEW)
    status = manifest["status"].partition(":")[0]
    return State("unfinished" if status == "running" else status, *last_round(folder))


def last_round(folder: Path) -> tuple[int, float | None]:
    """Return the last whole round in `metrics.csv`, and its test accuracy if it was measured."""
    row: dict[str, str] = {}
    with suppress(OSError, UnicodeDecodeError), (folder / "metrics.csv").open("rb") as file:
        head = file.readline().decode()
        start = file.tell()
        end = file.seek(0, 2)
        file.seek(max(start, end - TAIL))
        lines = file.read().decode().split("\n")[:-1]  # what follows the last end is half a line
        row = next(csv.DictReader([head, *lines[-1:]]), {})
    with suppress(KeyError, ValueError):
        return int(row["round"]), float(row[ACCURACY]) if row.get(ACCURACY) else None
    return 0, None
