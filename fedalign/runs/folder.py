"""The run folder: `runs/<name>-<hash of the settings>/`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from flwr.app import ArrayRecord
from safetensors.numpy import save_file

from fedalign.errors import InputError
from fedalign.landscape.barriers import barriers
from fedalign.landscape.planes import rows_of
from fedalign.runs.paths import CHECKPOINT, folder_of
from fedalign.server import measure as landscape
from fedalign.server.callbacks import Callback
from fedalign.server.client_metrics import columns
from fedalign.server.round import Round
from fedalign.settings.config import Config

if TYPE_CHECKING:
    from fedalign.runs.checkpoint import Checkpoint

METRICS = (
    "round",
    "train_loss",
    "test_loss",
    "test_accuracy",
    "clients",
    "dropped",
    "bytes_down",
    "bytes_up",
    "seconds",
)
BARRIERS = (
    "round", "path", "ends_loss", "midpoint_loss", "ends_accuracy", "midpoint_accuracy",
    "loss_barrier", "accuracy_barrier", "instability", "rebasin_barrier",
    "midpoint_loss_gap", "midpoint_accuracy_gap",
)  # fmt: skip
LANDSCAPE = ("round", "path", "alpha", "loss", "accuracy")
PLANES = ("round", "plane", "corner", "x", "y", "loss", "accuracy")
CLIENTS = (
    "round", "partition", "examples", "loss", "accuracy", "tuned_loss", "tuned_accuracy",
)  # fmt: skip


class RunFolder(Callback):
    """A callback that writes each round down as soon as it is over.

    Args:
        config: the resolved configuration.
        manifest: facts about the run: versions, hardware, data source.
        resumed: the checkpoint from which the run goes on; None: it begins, in an empty folder.
    """

    def __init__(
        self,
        config: Config,
        manifest: Mapping[str, Any],
        resumed: Checkpoint | None = None,
    ):
        self.path = folder_of(config)
        self._started = time.perf_counter()
        settings = config.evaluation
        self._columns = [*METRICS, *landscape.columns(settings), *columns(settings)]
        self._has_planes = config.evaluation.plane > 0
        self._clients_tell = config.evaluation.client_fraction > 0
        self._manifest = dict(manifest) | {"status": "running", "resumed_after": []}
        try:
            if resumed is None:
                self._begin()
            else:
                self._go_on(resumed)
        except OSError as error:
            raise InputError(
                f"out: {config.out!r} cannot be written to: {error.strerror}"
            ) from None
        (self.path / "config.yaml").write_text(
            yaml.safe_dump(config.model_dump(), sort_keys=False), "utf-8"
        )
        self._write_manifest()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the manifest: finished, or failed and why; a finished run needs no checkpoint.

        Its curves are there as Parquet too.
        """
        status = "finished" if error is None else f"failed: {str(error) or type(error).__name__}"
        seconds = round(time.perf_counter() - self._started, 3)
        self._manifest |= {"status": status, "seconds": seconds}
        self._write_manifest()
        if error is None:
            (self.path / CHECKPOINT).unlink(missing_ok=True)
            curves = pd.read_csv(self.path / "landscape.csv")
            curves.to_parquet(self.path / "landscape.parquet", index=False)

    def on_round(self, outcome: Round) -> None:
        """Append the round to the folder's tables.

        `metrics.csv` has a row, in which a cell is empty that was not measured in this round;
        `landscape.csv` the points of its curves, `barriers.csv` a row for each of them;
        `planes.csv` the places of its planes, if any are measured, the corners with their names;
        `clients.csv` what each client measured itself, a row a client, if clients evaluate.
        """
        row = {"round": outcome.number, **outcome.metrics}
        self._append("metrics.csv", [[row.get(key, "") for key in self._columns]])
        for partition, own in outcome.evaluations.items():
            told = {"round": outcome.number, "partition": partition, **own}
            told["examples"] = own["num-examples"]
            self._append("clients.csv", [[told.get(key, "") for key in CLIENTS]])
        for curve in outcome.curves:
            found = barriers(curve)
            numbers = [found[key] for key in BARRIERS[2:]]
            self._append("barriers.csv", [[outcome.number, curve.path, *numbers]])
            points = zip(curve.alphas, curve.losses, curve.accuracies, strict=True)
            self._append(
                "landscape.csv",
                [[outcome.number, curve.path, *map(float, point)] for point in points],
            )

        for measured in outcome.maps:
            self._append("planes.csv", [[outcome.number, *row] for row in rows_of(measured)])

    def save(self, model: ArrayRecord) -> None:
        """Write the final model."""
        tensors = {name: array.numpy() for name, array in model.items()}
        save_file(tensors, self.path / "model.safetensors")

    def _begin(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self._append("metrics.csv", [self._columns])
        self._append("landscape.csv", [LANDSCAPE])
        self._append("barriers.csv", [BARRIERS])
        if self._has_planes:
            self._append("planes.csv", [PLANES])
        if self._clients_tell:
            self._append("clients.csv", [CLIENTS])

    def _go_on(self, resumed: Checkpoint) -> None:
        """Cut off what was written after the checkpoint, and take note in the manifest."""
        for name, size in resumed.sizes.items():
            os.truncate(self.path / name, size)
        manifest = self.path / "manifest.json"
        earlier = json.loads(manifest.read_text()) if manifest.is_file() else {}
        self._manifest["resumed_after"] = [*earlier.get("resumed_after", []), resumed.number]

    def _append(self, name: str, rows: Any) -> None:
        with (self.path / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _write_manifest(self) -> None:
        beside = self.path / "manifest.json.tmp"
        beside.write_text(json.dumps(self._manifest, indent=2) + "\n", "utf-8")
        beside.replace(self.path / "manifest.json")
