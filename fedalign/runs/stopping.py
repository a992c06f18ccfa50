"""When a run ends before its last round: `stop_when` and `patience`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from fedalign.errors import BadValueError, nearest
from fedalign.runs.tables import COSTS, columns, lower_is_better
from fedalign.server import measure
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round
from fedalign.settings.common import private_of
from fedalign.settings.config import Config
from fedalign.settings.stopping import condition


def is_better(metric: str, value: float, best: float | None, by: float = 0.0) -> bool:
    """Return whether a value of a metric is better than the best one; NaN never is."""
    if best is None:
        return not isnan(value)
    return value < best - by if lower_is_better(metric) else value > best + by


def check_metrics(config: Config) -> None:
    """Raise `InputError` for a metric that no round of this run could have.

    What a round costs is refused too, since it differs between equal runs.
    """
    known = [n for n in columns(config.evaluation)["metrics.csv"] if n not in ("round", *COSTS)]
    unmeasured = {"test_loss", "test_accuracy", *measure.columns(config.evaluation)}
    asked = {"keep_best": config.keep_best}
    asked["stop_when"] = condition(config.stop_when).metric if config.stop_when else None
    asked["patience.metric"] = config.patience.metric if config.patience else None
    for place, metric in asked.items():
        if private_of(config.client) and metric in unmeasured:
            reason = "is not measured, since the server's model lacks what client.private names"
            raise BadValueError(place, f"{metric!r} {reason} (client_accuracy)")
        if metric is not None and metric not in known:
            problem = f"{metric!r} is no metric of this run{nearest(metric, known)}"
            raise BadValueError(place, problem)


class StopRule(Callback):
    """A callback that notes after which round the run ends, and why.

    Args:
        config: of the run.
        earlier: the metrics of the rounds before this process began, by their names, in order.

    Attributes:
        reason: why the run ends before its last round; None while it does not.
    """

    def __init__(self, config: Config, earlier: Sequence[Mapping[str, float]] = ()):
        self._condition = condition(config.stop_when) if config.stop_when else None
        self._patience, self._rounds = config.patience, config.rounds
        self._best: tuple[int, float] | None = None
        self.reason: str | None = None
        self.last, self._measured = 0, set[str]()
        for metrics in earlier:
            self._see(int(metrics["round"]), metrics)

    def __bool__(self) -> bool:
        """Return whether there is any rule."""
        return self._condition is not None or self._patience is not None

    def on_round(self, outcome: Round) -> None:
        """Decide whether the run ends after this round."""
        self._see(outcome.number, outcome.metrics)

    def may_be_last(self, number: int) -> bool:
        """Return whether the run can end after the round of this number, which is to come."""
        return bool(self) or number == self._rounds

    def is_last(self, number: int) -> bool:
        """Return whether the run ends after the round of this number."""
        return number == self._rounds or (self.reason is not None and number == self.last)

    def _see(self, number: int, metrics: Mapping[str, float]) -> None:
        self.last = number
        self._measured |= metrics.keys()
        if number == self._rounds:  # it ends anyway
            return
        wanted, patience = self._condition, self._patience
        if wanted and wanted.metric in metrics and wanted.holds(metrics[wanted.metric]):
            value = metrics[wanted.metric]
            self.reason = f"{wanted.metric} is {value:.6g}, and stop_when is {wanted}"
        if patience is None or patience.metric not in metrics:
            return
        value = metrics[patience.metric]
        best = self._best[1] if self._best else None
        if is_better(patience.metric, value, best, patience.min_delta):
            self._best = number, value
        elif self._best and number - self._best[0] >= patience.rounds and not self.reason:
            since, best = self._best
            self.reason = f"{patience.metric} has not improved since round {since} ({best:.6g})"

    def end(self) -> str:
        """Return how a line on the results ends: why there are fewer rounds, or why not."""
        if self.reason is not None:
            return f"; ended after round {self.last} of {self._rounds}: {self.reason}"
        asked = [own.metric for own in (self._condition, self._patience) if own]
        missed = sorted({metric for metric in asked if metric not in self._measured})
        return f"; no round has measured {' and '.join(missed)}" if missed else ""

    def facts(self) -> dict[str, object]:
        """Return what the manifest says of it."""
        early = {"round": self.last, "of": self._rounds, "reason": self.reason}
        return {"stopped_early": early if self.reason else None}
