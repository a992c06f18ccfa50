"""Read run folders: those of finished runs, and of others as far as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype

from fedalign.errors import InputError
from fedalign.runs.client_settings import FILE as CLIENT_SETTINGS
from fedalign.runs.paths import FINISHED, MEMBERS, DamagedManifestError, read_manifest
from fedalign.runs.tables import BARRIERS, CLIENTS, LANDSCAPE, PLANES, SAMPLED
from fedalign.server import corrupted, fusing, tasks
from fedalign.settings.digest import compared
from fedalign.settings.layers import flatten
from fedalign.settings.yaml12 import parse

if TYPE_CHECKING:  # these take a second to import, and tables need none of them
    from matplotlib.figure import Figure
    from torch import Tensor, nn

# Columns that hold no numbers.
TEXTS = (
    "path", "plane", "corner", "outcome", "fusion", "ingredients", "model", "corruption", "task",
    "way",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run as read from its folder.

    Attributes:
        path: the run folder.
        tree: the configuration.
        metrics: `metrics.csv`, a row a round; only whole rounds.
        landscape: `landscape.csv`, a row a point of a curve, of the same rounds.
        status: see `manifest.json`.
        warning: what the run said about its clients at its end, if they were too few.
        ended_early: why it has fewer rounds than its configuration, if it was to stop.
    """

    path: Path
    tree: dict[str, Any]
    metrics: pd.DataFrame
    landscape: pd.DataFrame
    status: str = FINISHED
    warning: str | None = None
    ended_early: str | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration under dotted keys."""
        return flatten(self.tree)

    @cached_property
    def counted(self) -> dict[str, Any]:
        """The settings on which results depend, under dotted keys, see `compared`."""
        return flatten(compared(self.tree))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Versions, hardware, data, and how the run went; empty if it cannot be read."""
        try:
            return read_manifest(self.path) or {}
        except DamagedManifestError:
            return {}

    @cached_property
    def barriers(self) -> pd.DataFrame:
        """`barriers.csv`: a row a curve, of whole rounds, as in all of these tables."""
        return self._table("barriers.csv", BARRIERS)

    @cached_property
    def clients(self) -> pd.DataFrame:
        """`clients.csv`: a row a client that evaluated; empty if none did."""
        return self._table("clients.csv", CLIENTS)

    @cached_property
    def sampled(self) -> pd.DataFrame:
        """`sampled.csv`: a row a client that was sampled; empty in folders without it."""
        return self._table("sampled.csv", SAMPLED)

    @cached_property
    def client_settings(self) -> pd.DataFrame:
        """`client_settings.csv`: a row a client, a column each option in which clients differ."""
        file = self.path / CLIENT_SETTINGS
        return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["client"])

    @cached_property
    def planes(self) -> pd.DataFrame:
        """`planes.csv`: a row a point of a plane; empty if none was measured."""
        table = self._table("planes.csv", PLANES)
        return table.fillna({"corner": ""})

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """`tasks.csv`: a row a task and way of a round; round 0 is the start. Empty without."""
        return self._table(tasks.FILE, tasks.ROW)

    @cached_property
    def fusions(self) -> pd.DataFrame:
        """`fusions.csv`: a row an ingredient or a fusion; empty if none was measured."""
        return self._table(fusing.FILE, fusing.ROW).astype({"ingredients": str})

    @cached_property
    def corruptions(self) -> pd.DataFrame:
        """`corruptions.csv`: a row a model on a corrupted copy of the test images."""
        return self._table(corrupted.FILE, corrupted.ROW)

    def model(self, which: Literal["final", "best"] = "final") -> nn.Module:
        """Return the final global model, or the best one if the run kept it, to evaluate with.

        It takes examples as `examples` returns them, and runs on the CPU. The data set need not be
        here.

        Raises:
            InputError: the run has no such model.
        """
        from fedalign.report.models import global_model

        return global_model(self, which)

    def client_models(self, number: int) -> dict[int, nn.Module]:
        """Return the clients' models after their training in a round, by client.

        Raises:
            InputError: the run kept none of that round, see `keep_models`.
        """
        from fedalign.report.models import client_models

        return client_models(self, number)

    def examples(self, part: Literal["train", "test"] = "test") -> tuple[Tensor, Tensor]:
        """Return the inputs of `model()` and the labels `(N,)` of a part of the run's data set.

        Raises:
            InputError: the data set is not here, or has no such part.
        """
        from fedalign.report.models import examples

        return examples(self, part)

    def figure(self, kind: str = "curves", metric: str | None = None) -> Figure:
        """Return a figure of the run as far as it is; see `fedalign.figure`.

        Args:
            kind: `curves`, `bytes`, `barriers`, `lines`, `planes`, `clients`, `fusions`, `gain`,
                `tasks` or `partition`.
            metric: of curves over rounds or bytes, a column of `metrics.csv`.

        Raises:
            InputError: there is no such kind, or the run has not measured what it shows.
        """
        from fedalign.report.gallery import figure_of

        return figure_of(self, kind, metric)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.unfinished or FINISHED})"

    def _repr_html_(self) -> str:
        from fedalign.report.card import card

        return card(self)

    def _table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Return a table of the folder, of whole rounds only; an empty one if it is not there."""
        file = self.path / name
        try:
            table = read_table(file, columns, self.status)
        except FileNotFoundError:
            return pd.DataFrame(columns=list(columns))
        except ValueError as error:
            raise InputError(f"{file} cannot be read: {error}") from None
        whole: pd.DataFrame = table[table["round"].isin([0, *self.metrics["round"]])]
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
    """Return the run folders that a folder holds, or the folder itself if it holds none.

    The folder of a sweep stands for its runs, which lie beside it.
    """
    if (folder / "config.yaml").is_file():
        return [folder]
    if (members := folder / MEMBERS).is_file():
        return [folder.parent / name for name in members.read_text("utf-8").split("\n") if name]
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
    return Run(folder, tree, metrics, landscape, status, warning, _ended_early(manifest))


def _ended_early(manifest: Mapping[str, Any]) -> str | None:
    early = manifest.get("stopped_early")
    if not early:
        return None
    return f"ended after round {early['round']} of {early['of']}: {early['reason']}"


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
