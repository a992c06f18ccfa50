"""Runs in MLflow, on a tracking server or in a local store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fedalign.trackers.tracked import Tracked, needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST = 100  # parameters that MLflow takes at a time
ROUND = "round"  # logged last, so that a round is there as a whole when it is


class MLflow:
    """Metrics by round, settings as parameters, and figures as artifacts of one MLflow run."""

    def __init__(
        self,
        uri: Annotated[
            str, Field(description="of the tracking server; empty: MLFLOW_TRACKING_URI decides")
        ] = "",
        experiment: Annotated[
            str, Field(description="lists runs; empty: MLFLOW_EXPERIMENT_NAME, or fedalign")
        ] = "",
    ):
        self._module, self._uri = needed("mlflow", "mlflow"), uri
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedalign")
        self._client: Any = None
        self._id = ""

    def start(self, run: Tracked) -> int:
        """Begin a run, or go on with the one in the notes."""
        self._client = client = self._module.MlflowClient(self._uri or None)
        if known := run.notes.get("run_id"):
            self._id = known
            client.update_run(known, "RUNNING")
            rounds = [metric.step for metric in client.get_metric_history(known, ROUND)]
            return max(rounds, default=0)
        found = client.get_experiment_by_name(self._experiment)
        place = found.experiment_id if found else client.create_experiment(self._experiment)
        self._id = client.create_run(place, run_name=run.folder.name).info.run_id
        run.notes["run_id"] = self._id
        entities = self._module.entities
        given = [entities.Param(key, str(value)) for key, value in run.settings.items()]
        for some in range(0, len(given), MOST):
            client.log_batch(self._id, params=given[some : some + MOST])
        return 0

    def log(self, number: int, metrics: Mapping[str, float]) -> None:
        """Log a round's metrics."""
        kind, now = self._module.entities.Metric, int(time.time() * 1000)
        values = {**metrics, ROUND: number}
        found = [kind(key, float(value), now, number) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=found)

    def figure(self, name: str, figure: Figure) -> None:
        """Log a figure as an image."""
        self._client.log_figure(self._id, figure, f"figures/{name}.png")

    def finish(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self._id, STATUS[status])
