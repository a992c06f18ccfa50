"""What lies between models from files, as a table, as CSV and as a figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedalign.landscape.barriers import Curve, barriers
from fedalign.landscape.connect import Connection

SHOWN = {
    "ends_accuracy": "mean accuracy",
    "midpoint_accuracy": "half way",
    "loss_barrier": "loss barrier",
    "accuracy_barrier": "accuracy barrier",
    "instability": "instability (Frankle)",
    "rebasin_barrier": "loss barrier (Git Re-Basin)",
}


def told(found: Connection) -> str:
    """Return the barriers as a Markdown table, and the mean of all models below it."""
    lines = [["path", *SHOWN.values()], ["---"] * (len(SHOWN) + 1)]
    for curve in found.curves:
        numbers = barriers(curve)
        lines.append([curve.path, *(f"{numbers[key]:.4f}" for key in SHOWN)])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    single = ", ".join(f"{name} {accuracy:.4f}" for name, (_, accuracy) in found.points.items())
    rows.append(f"\naccuracy on {found.examples} test images: {single}")
    rows.append(f"their mean: {found.fused[1]:.4f}, {found.gap[1]:+.4f} below theirs")
    return "\n".join(rows)


def write(found: Connection, folder: Path) -> None:
    """Write `landscape.csv` and `barriers.csv` as a run has them, and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    table(found.curves).to_csv(folder / "landscape.csv", index=False)
    rows = [{"path": curve.path} | barriers(curve) for curve in found.curves]
    pd.DataFrame(rows).to_csv(folder / "barriers.csv", index=False)


def table(curves: list[Curve]) -> pd.DataFrame:
    """Return the points of curves: path, alpha, loss, accuracy."""
    parts = [
        pd.DataFrame(
            {"path": c.path, "alpha": c.alphas, "loss": c.losses, "accuracy": c.accuracies}
        )
        for c in curves
    ]
    return pd.concat(parts, ignore_index=True)
