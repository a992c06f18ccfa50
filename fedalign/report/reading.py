"""Read run folders: those of finished runs, and of others as far as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from fedalign.errors import InputError
from fedalign.runs.paths import FINISHED, DamagedManifestError, read_manifest
from fedalign.runs.tables import CLIENTS, LANDSCAPE
from fedalign.settings.config import counted
from fedalign.settings.layers import flatten
from fedalign.settings.yaml12 import parse

TEXTS = ("path", "plane", "corner")  # columns that hold no numbers


@dataclass(frozen=True, eq=False)
class Run:
    """A run as read from its folder.

    Attributes:
        path: the run folder.
        tree: the configuration.
        metrics: `metrics.csv`, a row a round; only whole rounds.
        landscape: `landscape.csv`, a row a point of a curve, of the same rounds.
        status: see `manifest.json`.
        warning: what the run said about its clients at its end, if they were too few.
    """

    path: Path
    tree: dict[str, Any]
    metrics: pd.DataFrame
    landscape: pd.DataFrame
    status: str = FINISHED
    warning: str | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration under dotted keys."""
        return flatten(self.tree)

    @cached_property
    def counted(self) -> dict[str, Any]:
        """The settings on which results depend, under dotted keys; those of the run's hash."""
        return flatten(counted(self.tree))

    @cached_property
    def clients(self) -> pd.DataFrame:
        """`clients.csv`: a row a client that evaluated; empty if none did."""
        return self._table("clients.csv", CLIENTS)

    def _table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Return a table of the folder, of whole rounds only; an empty one if it is not there."""
        file = self.path / name
        try:
            table = read_table(file, columns, self.status)
        except FileNotFoundError:
            return pd.DataFrame(columns=list(columns))
        except ValueError as error:
            raise InputError(f"{file} cannot be read: {error}") from None
        whole: pd.DataFrame = table[table["round"].isin(self.metrics["round"])]
        return whole

    @property
    def unfinished(self) -> str | None:
        """How far a run is that has not finished, such as `stopped, round 3 of 10`."""
        if self.status == FINISHED:
            return None
        last = 0 if self.metrics.empty else int(self.metrics["round"].max())
        status = self.status.partition(":")[0]
        return f"{status}, round {last} of {self.settings.get('rounds', '?')}"

    def is_twin_of(self, other: Run) -> bool:
        """Return whether two runs have the same settings, the seed included."""
        return (self.counted, self.unfinished) == (other.counted, other.unfinished)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in these folders; `InputError` names a folder that holds no run."""
    return [_read(folder) for folder in folders]


def held(folder: Path) -> list[Path]:
    """Return the run folders that a folder holds, or the folder itself if it holds none."""
    if (folder / "config.yaml").is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob("*/config.yaml")) or [folder]


def distinct(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return folders without repetitions, and a line on each that was repeated."""
    first: dict[Path, Path] = {}
    repeated = [f for f in folders if first.setdefault(f.resolve(), f) is not f]
    lines = dict.fromkeys(f"{folder}: given more than once, counts once" for folder in repeated)
    return list(first.values()), list(lines)


def _read(folder: Path) -> Run:
    try:
        manifest = read_manifest(folder) or {"status": FINISHED}
    except DamagedManifestError:
        manifest = {"status": "manifest damaged"}
    status, warning = manifest["status"], manifest.get("warning")
    try:
        tree = parse((folder / "config.yaml").read_text("utf-8"))
        metrics = read_table(folder / "metrics.csv", ["round"], status)
        landscape = read_table(folder / "landscape.csv", LANDSCAPE, status)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise InputError(f"{folder} is not a run folder: it has no {missing}") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be read as a run folder: {error.strerror}") from None
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{folder} cannot be read as a run folder: {reason}") from None
    tree = tree if isinstance(tree, dict) else {}
    if type(tree.get("seed")) is not int or type(tree.get("name")) is not str:
        raise InputError(f"{folder / 'config.yaml'} is not the configuration of a run")
    landscape = landscape[landscape["round"].isin(metrics["round"])]
    return Run(folder, tree, metrics, landscape, status, warning)


def read_table(path: Path, columns: Sequence[str], status: str = FINISHED) -> pd.DataFrame:
    """Return a table; of a run that may be writing it, the lines that are complete.

    Raises:
        ValueError: it lacks one of these columns, or one that should hold numbers does not.
    """
    text = path.read_text("utf-8")
    table = pd.read_csv(StringIO(text if status == FINISHED else text[: text.rfind("\n") + 1]))
    for column in columns:
        if column not in table:
            raise ValueError(f"{path.name} has no column {column!r}")
    for column in table.columns.difference(list(TEXTS)):
        if not table.empty and not is_numeric_dtype(table[column]):
            raise ValueError(f"{path.name}: the column {column!r} does not hold numbers")
    return table
