"""The callback that tells trackers of a run; one that fails never ends the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedalign.errors import in_one_line
from fedalign.files import replace_text
from fedalign.runs.paths import folder_of
from fedalign.runs.tables import metrics_in
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round
from fedalign.settings.config import Config
from fedalign.settings.layers import flatten
from fedalign.settings.result_contracts import Tracker
from fedalign.trackers.tracked import Tracked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTES = "trackers.json"  # in the run folder: what each tracker keeps, and was told
log = logging.getLogger("fedalign")


@dataclass
class _Told:
    """A tracker, the run as it sees it, and the last round that it has."""

    tracker: Tracker
    run: Tracked
    last: int = 0
    failed: bool = False


class Tracking(Callback):
    """A callback that tells each tracker of every round once, also if the run was stopped.

    As a context manager it tells them that the run begins or goes on, and how it ends. A tracker
    that lacks rounds when the run goes on is told of them from `metrics.csv`.

    Args:
        config: of the run; its `trackers` are built here.
        figures: returns the figures of the run when it has finished.

    Raises:
        InputError: the package that a tracker needs is not installed.
    """

    def __init__(self, config: Config, figures: Callable[[], Mapping[str, Figure]]):
        self._folder, self._figures = folder_of(config), figures
        self._settings = flatten(config.model_dump())
        self._trackers: dict[str, Tracker] = {part.name: part.build() for part in config.trackers}
        self._told: dict[str, _Told] = {}
        self._resumed_after = 0

    def resume(self, after: int) -> Tracking:
        """Go on with a run that was stopped, after this round; return this callback."""
        self._resumed_after = after
        return self

    def __enter__(self) -> Tracking:
        notes = _read(self._folder / NOTES) if self._resumed_after else {}
        for name, tracker in self._trackers.items():
            kept = notes.get(name, {})
            seen = self._resumed_after, kept.get("told", 0), kept.get("notes", {})
            self._told[name] = _Told(tracker, Tracked(self._folder, self._settings, *seen))
        self._tell(_start)
        for number, metrics in self._earlier():
            self._tell(lambda told: _log(told, number, metrics))  # noqa: B023
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tell the trackers how the run ended, after the figures if it has finished."""
        if error is None and self._told:
            self._draw()
        status = _status(error)
        self._tell(lambda told: told.tracker.finish(status))

    def on_round(self, outcome: Round) -> None:
        """Tell the trackers of a round."""
        self._tell(lambda told: _log(told, outcome.number, outcome.metrics))

    def _draw(self) -> None:
        try:
            figures = self._figures()
        except Exception as error:
            log.warning("trackers get no figures: %s", in_one_line(error))
            return
        for name, figure in figures.items():
            self._tell(lambda told: told.tracker.figure(name, figure))  # noqa: B023

    def _tell(self, say: Callable[[_Told], object]) -> None:
        """Call each tracker; one that fails is named, and not called again."""
        for name, told in self._told.items():
            try:
                if not told.failed:
                    say(told)
            except Exception as error:
                told.failed = True
                log.warning("tracker %s: %s; the run goes on", name, in_one_line(error))
        notes = {n: {"told": t.last, "notes": t.run.notes} for n, t in self._told.items()}
        if notes:
            replace_text(self._folder / NOTES, json.dumps(notes, indent=2) + "\n")

    def _earlier(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield the rounds that a tracker lacks of those before the run was stopped."""
        last = min((told.last for told in self._told.values()), default=self._resumed_after)
        if last >= self._resumed_after:
            return
        for metrics in metrics_in(self._folder / "metrics.csv"):
            if last < (number := int(metrics.pop("round"))) <= self._resumed_after:
                yield number, metrics


def _start(told: _Told) -> None:
    told.last = told.tracker.start(told.run)


def _log(told: _Told, number: int, metrics: Mapping[str, float]) -> None:
    if number > told.last:
        told.tracker.log(number, metrics)
        told.last = number


def _status(error: BaseException | None) -> Literal["finished", "stopped", "failed"]:
    if error is None:
        return "finished"
    return "stopped" if isinstance(error, KeyboardInterrupt) else "failed"


def _read(path: Path) -> dict[str, Any]:
    """Return the notes in a run folder; none if there are none, or they are damaged."""
    try:
        notes = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s: %s; trackers begin anew", path, error)
        return {}
    return notes if isinstance(notes, dict) else {}
