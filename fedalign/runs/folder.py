"""The run folder: `runs/<name>-<hash of the settings>/`."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from flwr.app import ArrayRecord
from safetensors.numpy import save_file

from fedalign.config import Config
from fedalign.errors import InputError
from fedalign.landscape.measure import Measure
from fedalign.rounds import Round

METRICS = (
    "round",
    "train_loss",
    "test_loss",
    "test_accuracy",
    "global_loss_barrier",
    "global_accuracy_barrier",
    "client_loss_barrier",
    "client_accuracy_barrier",
    "clients",
    "bytes_down",
    "bytes_up",
    "seconds",
)
FUSION = ("fusion_gap", "fusion_gap_accuracy")  # where `evaluation.fusion_gap` asks for them,
CLIENTS = ("client_loss", "client_accuracy")  # and `evaluation.client_fraction` for these
LANDSCAPE = ("round", "path", "alpha", "loss", "accuracy")


def folder_of(config: Config) -> Path:
    """Return where the run's results go."""
    return Path(config.out).expanduser() / f"{config.name}-{config.digest()}"


def is_finished(folder: Path) -> bool:
    """Return whether a run folder holds a run that came to its end."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished"


class RunFolder:
    """A callback that writes each round down as soon as it is over.

    Args:
        config: the resolved configuration.
        manifest: facts about the run: versions, hardware, data source.
        measure: whose curves go into `landscape.csv`.
    """

    def __init__(self, config: Config, manifest: Mapping[str, Any], measure: Measure):
        self.path = folder_of(config)
        self._measure = measure
        self._manifest = dict(manifest) | {"status": "running"}
        self._started = time.perf_counter()
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"out: {config.out!r} cannot be written to: {error.strerror}"
            ) from None
        (self.path / "config.yaml").write_text(
            yaml.safe_dump(config.model_dump(), sort_keys=False), "utf-8"
        )
        self._write_manifest()
        self._columns = [*METRICS]
        self._columns += FUSION if config.evaluation.fusion_gap else ()
        self._columns += CLIENTS if config.evaluation.client_fraction else ()
        self._append("metrics.csv", [self._columns])
        self._append("landscape.csv", [LANDSCAPE])

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the manifest: finished, or failed and why."""
        status = "finished" if error is None else f"failed: {str(error) or type(error).__name__}"
        seconds = round(time.perf_counter() - self._started, 3)
        self._manifest |= {"status": status, "seconds": seconds}
        self._write_manifest()

    def on_round(self, outcome: Round) -> None:
        """Append the round to `metrics.csv` and its curves to `landscape.csv`.

        What was not measured in this round is an empty cell.
        """
        row = {"round": outcome.number} | outcome.metrics
        self._append("metrics.csv", [[row.get(key, "") for key in self._columns]])
        for curve in self._measure.curves:
            points = zip(curve.alphas, curve.losses, curve.accuracies, strict=True)
            self._append(
                "landscape.csv",
                [[outcome.number, curve.path, *map(float, point)] for point in points],
            )

    def save(self, model: ArrayRecord) -> None:
        """Write the final model."""
        tensors = {name: array.numpy() for name, array in model.items()}
        save_file(tensors, self.path / "model.safetensors")

    def _append(self, name: str, rows: Any) -> None:
        with (self.path / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _write_manifest(self) -> None:
        beside = self.path / "manifest.json.tmp"
        beside.write_text(json.dumps(self._manifest, indent=2) + "\n", "utf-8")
        beside.replace(self.path / "manifest.json")
