"""Collect what the figures of a page draw, as plain lists that become JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from fedalign.report.page.folders import Folder
from fedalign.report.page.numbers import Budget, rounded, rounds_shown, spread
from fedalign.report.reading import Run
from fedalign.report.tables import Row

MAX_CLIENTS = 150  # in a map of clients
CELL_DIGITS = 3
CLIENT_MEASURES = {
    "accuracy": "accuracy on own data",
    "loss": "loss on own data",
    "tuned_accuracy": "accuracy after fine-tuning",
    "tuned_loss": "loss after fine-tuning",
    "train_loss": "training loss",
}


def collect(rows: Sequence[Row], folders: Sequence[Folder]) -> dict[str, Any]:
    """Return arms, metrics and runs of a page; NaN and infinities are None.

    Args:
        rows: the arms.
        folders: the folders of their runs, in order.
    """
    shown, budget = rounds_shown([folder.run for folder in folders]), Budget(len(folders))
    arms = [i for i, row in enumerate(rows) for _ in row.runs]
    runs = [_run(arm, folder, shown, budget) for arm, folder in zip(arms, folders, strict=True)]
    metrics = dict.fromkeys(name for run in runs for name in run["metrics"])
    return {"arms": [row.arm for row in rows], "metrics": list(metrics), "runs": runs}


def _run(arm: int, folder: Folder, shown: Collection[int], budget: Budget) -> dict[str, Any]:
    run = folder.run
    kept = run.metrics["round"].isin(list(shown))
    columns = [str(column) for column in run.metrics if column != "round"]
    measured = [column for column in columns if run.metrics[column].notna().any()]
    return {
        "name": run.path.name,
        "arm": arm,
        "seed": run.settings["seed"],
        "rounds": rounded(run.metrics.loc[kept, "round"]),
        "x": {name: rounded(values[kept]) for name, values in _elapsed(run).items()},
        "metrics": {name: rounded(run.metrics.loc[kept, name]) for name in measured},
        "lines": _lines(run.landscape, budget.lines),
        "planes": _planes(folder.planes, budget.planes),
        "clients": _clients(folder, budget.cells),
        "partition": _partition(folder),
    }


def _partition(folder: Folder) -> dict[str, Any] | None:
    """Return how many examples of each class clients have, or else the picture of it."""
    table = folder.classes.set_index("client")
    if table.empty:
        return {"picture": folder.picture} if folder.picture else None
    ids = spread(sorted(table.index), MAX_CLIENTS)
    counts = [rounded(row) for row in table.loc[ids].to_numpy(float)]
    return {"ids": rounded(ids), "of": len(table), "classes": list(table), "counts": counts}


def _elapsed(run: Run) -> dict[str, pd.Series]:
    """Return what the run had sent, in MB, and how long it had taken, by round."""
    found = run.metrics
    sent = [found[name].fillna(0) for name in ("bytes_down", "bytes_up") if name in found]
    elapsed = {"megabytes": sum(sent[1:], sent[0]).cumsum() / 1e6} if sent else {}
    if "seconds" in found:
        elapsed["seconds"] = found["seconds"].fillna(0).cumsum()
    return elapsed


def _lines(landscape: pd.DataFrame, most: int) -> dict[str, Any]:
    """Return, for each kind of path, the mean line over its paths in each round."""
    kinds = landscape["path"].astype(str).str.split(":").str[0]
    found = {}
    for kind, points in landscape.groupby(kinds, sort=False):
        lines = points.groupby(["round", "alpha"])[["loss", "accuracy"]].mean().reset_index()
        rounds = spread(sorted(lines["round"].unique()), most)
        alphas = sorted(lines["alpha"].unique())
        found[str(kind)] = {"rounds": rounded(rounds), "alphas": rounded(alphas, 4)} | {
            measure: _grid(lines, measure, ("round", rounds), ("alpha", alphas), 4)
            for measure in ("accuracy", "loss")
        }
    return found


def _planes(table: pd.DataFrame, most: int) -> list[dict[str, Any]]:
    """Return the planes of the last rounds in which they were measured."""
    last = sorted(table["round"].unique())[-most:]
    by_round = {number: table[table["round"] == number] for number in last}
    return [
        _plane(int(number), str(name), points)
        for number, planes in by_round.items()
        for name, points in planes.groupby("plane", sort=False)
    ]


def _plane(number: int, name: str, points: pd.DataFrame) -> dict[str, Any]:
    corners, grid = points[points["corner"] != ""], points[points["corner"] == ""]
    xs, ys = sorted(grid["x"].unique()), sorted(grid["y"].unique())
    places = corners[["corner", "x", "y"]].to_numpy().tolist()
    return {
        "round": number,
        "name": name,
        "x": rounded(xs),
        "y": rounded(ys),
        "corners": [[str(corner), *rounded(place)] for corner, *place in places],
    } | {measure: _grid(grid, measure, ("y", ys), ("x", xs), 4) for measure in ("accuracy", "loss")}


def _clients(folder: Folder, cells: int) -> dict[str, Any] | None:
    """Return a map of clients and rounds for each measure, and what became of each reply."""
    tables = [(folder.clients, name) for name in CLIENT_MEASURES if name in folder.clients]
    tables += [(folder.sampled, name) for name in ("train_loss",) if name in folder.sampled]
    both = pd.concat([folder.clients, folder.sampled])
    if both.empty:
        return None
    everyone = sorted(both["client"].unique())
    ids = spread(everyone, MAX_CLIENTS)
    rounds = spread(sorted(both["round"].unique()), max(1, cells // len(ids)))
    at = ("client", ids), ("round", rounds)
    maps = {
        CLIENT_MEASURES[name]: _grid(table, name, *at, CELL_DIGITS)
        for table, name in tables
        if table[name].notna().any()
    }
    outcomes = list(dict.fromkeys(folder.sampled["outcome"])) if len(folder.sampled) else []
    coded = folder.sampled.assign(code=[outcomes.index(o) for o in folder.sampled["outcome"]])
    took_part = _grid(coded, "code", *at, CELL_DIGITS) if outcomes else None
    return {
        "ids": rounded(ids),
        "of": len(everyone),
        "rounds": rounded(rounds),
        "maps": maps,
        "outcomes": outcomes,
        "outcome": took_part,
    }


def _grid(
    table: pd.DataFrame,
    column: str,
    down: tuple[str, Sequence[Any]],
    across: tuple[str, Sequence[Any]],
    digits: int,
) -> list[list[int | float | None]]:
    """Return a column as a grid, a list for each value of `down`; None where there is no number."""
    grid = table.pivot_table(column, down[0], across[0], "last")
    grid = grid.reindex(index=list(down[1]), columns=list(across[1]))
    return [rounded(row, digits) for row in grid.to_numpy(float)]
