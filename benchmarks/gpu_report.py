"""The tables of `gpu_check.py`: what was measured, beside what was aimed at."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from processes import HERE, Outcome

TARGETS = {
    ("rounds", "W1", "inline"): 35.0,
    ("rounds", "W1", "inline, bf16"): 20.0,
    ("rounds", "W2", "inline"): 6.0,
    ("rounds", "W3", "inline"): 45.0,
}
"""Milliseconds a round on one H100."""
RATIOS = {
    ("algorithms", "W2", "FedPNU"): 1.15,
    ("algorithms", "CNN", "FedPNU"): 1.15,
    ("landscape", "W1", "landscape"): 1.15,
}
"""Times the first row of the part and workload."""
COLUMNS = ("part", "workload", "engine or algorithm", "ms a round", "rounds", "of the first",
           "GPU MB", "host MB", "same bits twice", "aim")  # fmt: skip


@dataclass
class Row:
    """One row of the table of rounds.

    Attributes:
        part: of the check.
        process: the engine whose process runs it.
    """

    part: str
    workload: str
    name: str
    process: str
    outcome: Outcome = field(default_factory=Outcome)


def rounds_table(rows: Sequence[Row]) -> list[str]:
    """Return the table's lines; ratios are to the first row of a part and workload."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    first: dict[tuple[str, str], float | None] = {}
    for row in rows:
        base = first.setdefault((row.part, row.workload), row.outcome.milliseconds)
        lines.append(f"| {' | '.join(_cells(row, base))} |")
    return lines


def _cells(row: Row, base: float | None) -> list[str]:
    outcome, taken = row.outcome, row.outcome.milliseconds
    ratio = taken / base if taken is not None and base else None
    return [
        *(row.part, row.workload, row.name),
        "-" if taken is None else f"{taken:.1f}",
        str(len(outcome.seconds)),
        "-" if ratio is None else f"{ratio:.3f}",
        f"{outcome.peaks.get('gpu_mb', 0):.0f}",
        f"{outcome.peaks.get('host_mb', 0):.0f}",
        _bits(outcome),
        "; ".join(filter(None, [aim(row, ratio), outcome.error or _untried(outcome)])),
    ]


def _untried(outcome: Outcome) -> str:
    return "" if outcome.seconds else "not run: no time left"


def _bits(outcome: Outcome) -> str:
    """Return whether all runs came to the same model."""
    if len(outcome.hashes) < 2:
        return "-"
    return (
        "yes" if len(set(outcome.hashes)) == 1 else f"NO: {' '.join(sorted(set(outcome.hashes)))}"
    )


def aim(row: Row, ratio: float | None) -> str:
    """Return what a row was to reach, and whether it has; "" where nothing was aimed at."""
    place, taken = (row.part, row.workload, row.name), row.outcome.milliseconds
    found = []
    if place in TARGETS:
        found.append((f"≤ {TARGETS[place]:g} ms", taken, TARGETS[place]))
    if place in RATIOS:
        found.append((f"≤ {RATIOS[place]:g} of the first", ratio, RATIOS[place]))
    return "; ".join(
        f"{text}: {'not measured' if value is None else 'met' if value <= most else 'missed'}"
        for text, value, most in found
    )


PROFILE = {
    "per_step": "launches a step",
    "launches": "launches",
    "graphs": "graphs",
    "copies": "copies",
    "waits": "waits",
    "round_ms": "round ms",
    "outside_ms": "of it outside training and evaluation",
}


def profile_table(profiles: Mapping[str, Outcome]) -> list[str]:
    """Return the lines of the table of launches and the host's time, a round."""
    if not profiles:
        return []
    lines = ["A round, without overlap; steps are those of its longest client.", ""]
    lines += [
        f"| workload | {' | '.join(PROFILE.values())} | error |",
        "|---" * (len(PROFILE) + 2) + "|",
    ]
    for workload, outcome in profiles.items():
        cells = [f"{outcome.facts[key]:.1f}" if key in outcome.facts else "-" for key in PROFILE]
        lines.append(f"| {workload} | {' | '.join(cells)} | {outcome.error} |")
    return lines


def machine() -> str:
    """Return the machine, the versions and the commit, in a line."""
    gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if gpu else "no GPU"
    versions = [f"{name} {version_of(name)}" for name in ("torch", "flwr", "ray", "jax")]
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE,
                          capture_output=True, text=True, check=False)  # fmt: skip
    commit = done.stdout.strip() or "unknown commit"
    return f"{where}, {os.cpu_count()} cores, Python {platform.python_version()}, " + ", ".join(
        [*versions, f"fedalign at {commit}"]
    )


def version_of(package: str) -> str:
    """Return a package's version, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
