"""The run folder: `runs/<name>-<hash of the settings>/`."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flwr.app import ArrayRecord

from fedalign.errors import FedalignError, InputError
from fedalign.federation.client_state import STATES
from fedalign.files import replace_text, reporting, sync
from fedalign.landscape.planes import rows_of
from fedalign.runs.checkpoint import Checkpoint
from fedalign.runs.identity import changes
from fedalign.runs.lock import LOCK
from fedalign.runs.models import save_model
from fedalign.runs.paths import CHECKPOINT, FINISHED, MANIFEST, folder_of, read_manifest
from fedalign.runs.tables import barriers_row, columns, landscape_rows, metrics_in
from fedalign.runs.totals import totals
from fedalign.server.callbacks import Callback
from fedalign.server.meter import Meter
from fedalign.server.participation import Participation
from fedalign.server.round import Round
from fedalign.settings.config import Config
from fedalign.settings.yaml12 import dump

log = logging.getLogger("fedalign")


class RunFolder(Callback):
    """A callback that appends each finished round to the tables of the run folder.

    The row of `metrics.csv` comes last: a round is in the folder when its line there is complete.
    Leaving it as a context manager writes how the run ended into `manifest.json`, last of all.

    Args:
        config: the resolved configuration.
        manifest: facts about the run: versions, hardware, data source.
        resumed: the checkpoint to continue from; None empties the folder and starts anew.
        participation: who has taken part so far, for the manifest at the end.
        meter: of what the run costs, made when it started.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(
        self,
        config: Config,
        manifest: Mapping[str, Any],
        resumed: Checkpoint | None = None,
        participation: Participation | None = None,
        meter: Meter | None = None,
    ):
        self.path, self._participation = folder_of(config), participation or Participation()
        self._meter, self._earlier = meter or Meter(), dict[str, float]()
        self._columns, self._share = columns(config.evaluation), config.min_participation
        self._manifest = dict(manifest) | {"status": "running", "resumed_after": [], "changed": []}
        try:
            if resumed is None:
                self._begin()
            else:
                self._continue(resumed)
        except OSError as error:
            raise InputError(f"out: cannot write to {config.out!r}: {error.strerror}") from None
        replace_text(self.path / "config.yaml", dump(config.model_dump()))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write how the run ended and what it cost; a finished run loses its checkpoint."""
        spent = self._meter.read().metrics
        self._manifest |= {"status": _status(error), "seconds": round(spent["seconds"], 3)}
        self._manifest["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._manifest["participation"] = self._participation.facts()
        self._manifest["warning"] = self._participation.line()
        self._manifest["limped"] = self._participation.is_below(self._share)
        try:
            if error is None:
                for table in self._columns:
                    sync(self.path / table)
            metrics = self.path / "metrics.csv"
            self._manifest["totals"] = totals(metrics, spent, self._earlier)
            self._write_manifest()
        except (FedalignError, OSError) as failure:
            if error is None:
                raise
            log.warning("%s", failure)
        if error is None:
            (self.path / CHECKPOINT).unlink(missing_ok=True)
            shutil.rmtree(self.path / STATES, ignore_errors=True)

    def on_round(self, outcome: Round) -> None:
        """Append the round to the folder's tables.

        - `metrics.csv`: one row; cells of metrics that this round did not measure are empty.
        - `sampled.csv`: a row for each client that was to train.
        - `landscape.csv`: a row for each point of each curve.
        - `barriers.csv`: a row for each curve.
        - `planes.csv`: if planes are measured, a row for each point; corners have a name.
        - `clients.csv`: if clients evaluate, a row for each client.
        - what else callbacks tell, such as `fusions.csv`.
        """
        number = outcome.number
        sampled = [[number, client, *own] for client, own in outcome.sampled.items()]
        self._append("sampled.csv", sampled)
        if outcome.evaluations:
            cells = (
                {**own, "examples": own["num-examples"], "round": number, "partition": partition}
                for partition, own in outcome.evaluations.items()
            )
            self._append("clients.csv", [self._row("clients.csv", row) for row in cells])
        if curves := outcome.curves:
            self._append("barriers.csv", ([number, *barriers_row(curve)] for curve in curves))
            rows = (row for curve in curves for row in landscape_rows(curve))
            self._append("landscape.csv", ([number, *row] for row in rows))
        for name, found in outcome.tables.items():
            self._append(name, [self._row(name, {"round": number, **own}) for own in found])
        for plane in outcome.maps:
            self._append("planes.csv", [[number, *row] for row in rows_of(plane)])
        metrics_row = self._row("metrics.csv", {**outcome.metrics, "round": number})
        self._append("metrics.csv", [metrics_row])

    def save(self, model: ArrayRecord) -> None:
        """Write the final model."""
        save_model(self.path / "model.safetensors", model)

    def add(self, facts: Mapping[str, Any]) -> None:
        """Let the manifest at the end have more facts."""
        self._manifest |= facts

    def rounds(self) -> list[dict[str, float]]:
        """Return the metrics of the rounds that are there, as `metrics.csv` has them."""
        return metrics_in(self.path / "metrics.csv")

    def _begin(self) -> None:
        """Empty the folder; that the earlier run is not finished any more is written first."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_manifest()
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in (MANIFEST, LOCK):
                entry.unlink()
        for name, headings in self._columns.items():
            self._append(name, [headings])

    def _continue(self, resumed: Checkpoint) -> None:
        """Cut off the rows written after the checkpoint; record it, and what changed, too."""
        for name, size in resumed.sizes.items():
            os.truncate(self.path / name, size)
        for name in self._columns:
            self._columns[name] = self._headings(name)
        earlier = read_manifest(self.path) or {}
        self._earlier = earlier.get("totals", {})
        self._manifest["resumed_after"] = [*earlier.get("resumed_after", []), resumed.number]
        found = changes(earlier.get("identity", {}), self._manifest.get("identity", {}))
        self._manifest["changed"] = earlier.get("changed", [])
        if found:
            log.warning("since round %d, %s", resumed.number, "; ".join(found))
            self._manifest["changed"] += [{"after": resumed.number, "what": found}]
        self._write_manifest()

    def _headings(self, name: str) -> Sequence[str]:
        """Return the columns of a table as an older fedalign may have begun it."""
        path, own = self.path / name, self._columns[name]
        if not path.exists():
            self._append(name, [own])
            return own
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file))

    def _row(self, name: str, cells: Mapping[str, Any]) -> list[Any]:
        return [cells.get(key, "") for key in self._columns[name]]

    def _append(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        with (
            reporting(self.path / name),
            (self.path / name).open("a", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _write_manifest(self) -> None:
        replace_text(self.path / MANIFEST, json.dumps(self._manifest, indent=2) + "\n")


def _status(error: BaseException | None) -> str:
    if error is None:
        return FINISHED
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return f"failed: {str(error) or type(error).__name__}"
