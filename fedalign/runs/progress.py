"""Show the rounds of a run in the terminal as they finish."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping

from rich import box, progress
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedalign.runs.log import note, say
from fedalign.runs.notebook import Cell
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round

# Metric, format and width in plain lines by heading.
COLUMNS = {
    "round": ("round", "{}", 5),
    "train loss": ("train_loss", "{:.4f}", 10),
    "test loss": ("test_loss", "{:.4f}", 9),
    "accuracy": ("test_accuracy", "{:.4f}", 8),
    "barrier": ("client_accuracy_barrier", "{:.4f}", 7),
    "clients": ("used", "{}", 9),
    "seconds": ("seconds", "{:.2f}", 7),
}
LEFT = {"left": ("left", "{}", 7)}
PERSONAL = {
    "own data": ("client_accuracy_mean", "{:.4f}", 8),
    "tuned": ("client_tuned_accuracy_mean", "{:.4f}", 6),
}
NUMBER = 6  # characters of a number in the live table
SHOWN = 12  # rounds in the live table
RECENT = 10  # rounds whose time says how long the others will take


class Progress(Callback):
    """A callback that shows the latest rounds in a live table, in a terminal or a notebook's cell.

    If piped, it prints a plain line per round.

    `barrier` is the mean relative accuracy barrier between sampled pairs of client models;
    `clients`, how many models were used of how many clients that were sampled. If clients evaluate,
    `own data` is their mean accuracy and `tuned` the one after fine-tuning. All fits into 80
    columns.

    Args:
        title: shown above the table.
        rounds: number of rounds of the whole run.
        console: where to show it; None: standard output.
        measured: the metrics of this run beyond those of every run.
        done: number of rounds that were finished before the run was resumed.
    """

    def __init__(
        self,
        title: str,
        rounds: int,
        console: Console | None = None,
        measured: Collection[str] = (),
        done: int = 0,
    ):
        self._console = console or Console()
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        personal = {k: v for k, v in PERSONAL.items() if v[0] in measured}
        self._columns = COLUMNS | personal
        self._title = f"{title} (resumed after round {done})" if done else title
        self._lines: list[list[str]] = []
        self._rounds, self._done, self._notice = rounds, done, ""
        self._ends: deque[float] = deque([time.monotonic()], RECENT + 1)
        self._bar = progress.Progress(progress.BarColumn(40), progress.MofNCompleteColumn())
        self._task = self._bar.add_task("", total=rounds, completed=done)
        self._live = Live(get_renderable=self._draw, console=self._console)
        self._cell = Cell(self._draw) if self._console.is_jupyter else None

    def __enter__(self) -> Progress:
        self._ends[0] = time.monotonic()
        heading = self._plain({key: key for key in self._columns} | {"left": "left"})
        if self._is_drawn:
            note(self._title)
            note(heading)
        if self._cell is not None:
            self._cell.update()
        elif self._is_live:
            self._live.start()
        else:
            say(self._title)
            say(heading)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def on_round(self, outcome: Round) -> None:
        """Show the finished round."""
        self._done = outcome.number
        self._ends.append(time.monotonic())
        cells = self._cells(outcome)
        self._lines.append([cells[heading] for heading in self._columns])
        self._bar.advance(self._task)
        (note if self._is_drawn else say)(self._plain(cells))
        if self._cell is not None:
            self._cell.update()

    @property
    def _is_drawn(self) -> bool:
        """Whether the table is shown, in a terminal or a notebook's cell, and not lines."""
        return self._is_live or self._cell is not None

    def tell(self, notice: str) -> None:
        """Show a notice; a signal handler may call this in the middle of anything."""
        self._notice = notice
        if self._cell is not None:
            self._cell.update()
        if self._is_drawn:
            return
        try:
            os.write(sys.stderr.fileno(), f"{notice}\n".encode())  # a print could meet itself
        except OSError:  # there is no file, as under pytest
            print(notice, file=sys.stderr)

    def seconds_left(self) -> float | None:
        """Return the seconds that the remaining rounds will take; None if there is no telling."""
        if len(self._ends) < 2:
            return None
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        since = time.monotonic() - self._ends[-1]
        return max(0.0, each * (self._rounds - self._done) - since)

    def _cells(self, outcome: Round) -> dict[str, str]:
        metrics = {"round": outcome.number, **outcome.metrics}
        used = int(metrics.get("clients", 0) - metrics.get("dropped", 0))
        shown = metrics | {"used": f"{used}/{len(outcome.sampled)}", "left": self._left()}
        return {
            heading: form.format(shown[key]) if key in shown else "-"
            for heading, (key, form, _) in (self._columns | LEFT).items()
        }

    def _left(self) -> str:
        left = self.seconds_left()
        if left is None:
            return "-:--:--"
        minutes, seconds = divmod(round(left), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

    def _plain(self, cells: Mapping[str, str]) -> str:
        columns = self._columns | LEFT
        if len(columns) > len(COLUMNS) + 1:  # clients evaluate
            columns.pop("seconds")
        gap = " " if len(columns) > len(COLUMNS) + 1 else "  "
        return gap.join(f"{cells[heading]:>{width}}" for heading, (_, _, width) in columns.items())

    def _draw(self) -> Group:
        table = Table(
            title=self._title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
        )
        for heading in self._columns:
            words = map(len, heading.split())  # where it may be broken
            table.add_column(heading, justify="right", min_width=max(*words, NUMBER))
        for line in self._lines[-SHOWN:]:
            table.add_row(*line)
        left = Text(f"rounds, {self._left()} left" if self._done < self._rounds else "rounds")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(self._bar, left)
        return Group(table, bar, *([Text(self._notice)] if self._notice else []))
