"""What a whole run has cost, for its manifest."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

COUNTED = ("client_steps", "bytes_down", "bytes_up")  # exactly, round by round


def totals(
    table: Path, spent: Mapping[str, float], earlier: Mapping[str, float]
) -> dict[str, float | None]:
    """Return the number of rounds in `metrics.csv`, and what the run has cost.

    Args:
        table: whose columns `COUNTED` are summed; None stands for one that is empty.
        spent: `seconds`, `cpu_seconds` and `peak_memory` of the process that ends.
        earlier: the totals that an earlier process has left which began this run.
    """
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    peaks = [int(row["peak_memory"]) for row in rows if row.get("peak_memory")]
    cells = {name: [int(row[name]) for row in rows if row.get(name)] for name in COUNTED}
    return {
        "rounds": len(rows),
        "seconds": round(spent["seconds"] + (earlier.get("seconds") or 0.0), 3),
        "cpu_seconds": round(spent["cpu_seconds"] + (earlier.get("cpu_seconds") or 0.0), 3),
        "peak_memory": max(spent["peak_memory"], earlier.get("peak_memory") or 0, *peaks),
        **{name: sum(own) if own else None for name, own in cells.items()},
    }
