"""The run folder: `runs/<name>-<hash of the settings>/`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord
from safetensors.numpy import save_file

from fedalign.errors import InputError
from fedalign.landscape.planes import rows_of
from fedalign.runs.checkpoint import Checkpoint
from fedalign.runs.paths import CHECKPOINT, folder_of
from fedalign.runs.tables import barriers_row, columns, landscape_rows
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round
from fedalign.settings.config import Config
from fedalign.settings.yaml12 import dump


class RunFolder(Callback):
    """A callback that appends each finished round to the tables of the run folder.

    Leaving it as a context manager writes how the run ended into `manifest.json`.

    Args:
        config: the resolved configuration.
        manifest: facts about the run: versions, hardware, data source.
        resumed: the checkpoint to continue from; None empties the folder and starts anew.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(
        self,
        config: Config,
        manifest: Mapping[str, Any],
        resumed: Checkpoint | None = None,
    ):
        self.path = folder_of(config)
        self._started = time.perf_counter()
        self._columns = columns(config.evaluation)
        self._manifest = dict(manifest) | {"status": "running", "resumed_after": []}
        try:
            if resumed is None:
                self._begin()
            else:
                self._continue(resumed)
        except OSError as error:
            raise InputError(f"out: cannot write to {config.out!r}: {error.strerror}") from None
        (self.path / "config.yaml").write_text(dump(config.model_dump()), "utf-8")
        self._write_manifest()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write the run's status and seconds; a finished run loses its checkpoint."""
        status = "finished" if error is None else f"failed: {str(error) or type(error).__name__}"
        seconds = round(time.perf_counter() - self._started, 3)
        self._manifest |= {"status": status, "seconds": seconds}
        self._write_manifest()
        if error is None:
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    def on_round(self, outcome: Round) -> None:
        """Append the round to the folder's tables.

        - `metrics.csv`: one row; cells of metrics that this round did not measure are empty.
        - `landscape.csv`: a row for each point of each curve.
        - `barriers.csv`: a row for each curve.
        - `planes.csv`: if planes are measured, a row for each point; corners have a name.
        - `clients.csv`: if clients evaluate, a row for each client.
        """
        number = outcome.number
        metrics_row = self._row("metrics.csv", {**outcome.metrics, "round": number})
        self._append("metrics.csv", [metrics_row])
        for partition, metrics in outcome.evaluations.items():
            cells = {**metrics, "examples": metrics["num-examples"]}
            cells |= {"round": number, "partition": partition}
            self._append("clients.csv", [self._row("clients.csv", cells)])
        for curve in outcome.curves:
            self._append("barriers.csv", [[number, *barriers_row(curve)]])
            self._append("landscape.csv", [[number, *row] for row in landscape_rows(curve)])
        for plane in outcome.maps:
            self._append("planes.csv", [[number, *row] for row in rows_of(plane)])

    def save(self, model: ArrayRecord) -> None:
        """Write the final model."""
        tensors = {name: array.numpy() for name, array in model.items()}
        save_file(tensors, self.path / "model.safetensors")

    def _begin(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        for name, headings in self._columns.items():
            self._append(name, [headings])

    def _continue(self, resumed: Checkpoint) -> None:
        """Cut off the rows written after the checkpoint, and record it in the manifest."""
        for name, size in resumed.sizes.items():
            os.truncate(self.path / name, size)
        manifest = self.path / "manifest.json"
        earlier = json.loads(manifest.read_text()) if manifest.is_file() else {}
        self._manifest["resumed_after"] = [*earlier.get("resumed_after", []), resumed.number]

    def _row(self, name: str, cells: Mapping[str, Any]) -> list[Any]:
        return [cells.get(key, "") for key in self._columns[name]]

    def _append(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        with (self.path / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _write_manifest(self) -> None:
        new = self.path / "manifest.json.tmp"
        new.write_text(json.dumps(self._manifest, indent=2) + "\n", "utf-8")
        new.replace(self.path / "manifest.json")
