"""Show the rounds of a run in the terminal as they finish."""

from __future__ import annotations

from collections.abc import Collection

from rich import box, progress
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from fedalign.runs.log import say
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round

COLUMNS = {  # metric and format by heading
    "round": ("round", "{}"),
    "train loss": ("train_loss", "{:.4f}"),
    "test loss": ("test_loss", "{:.4f}"),
    "accuracy": ("test_accuracy", "{:.4f}"),
    "barrier": ("client_accuracy_barrier", "{:.4f}"),
    "seconds": ("seconds", "{:.2f}"),
}
PERSONAL = {
    "own data": ("client_accuracy_mean", "{:.4f}"),
    "tuned": ("client_tuned_accuracy_mean", "{:.4f}"),
}
SHOWN = 12  # rounds in the live table


class Progress(Callback):
    """A callback that shows the latest rounds in a live table; one plain line per round if piped.

    `barrier` is the mean relative accuracy barrier between sampled pairs of client models. If
    clients evaluate, `own data` is their mean accuracy and `tuned` the one after fine-tuning.

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
        self._columns = COLUMNS | {k: v for k, v in PERSONAL.items() if v[0] in measured}
        self._title = f"{title} (resumed after round {done})" if done else title
        self._lines: list[list[str]] = []
        self._bar = progress.Progress(
            progress.BarColumn(44),
            progress.MofNCompleteColumn(),
            progress.TextColumn("rounds, time left"),
            progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        self._task = self._bar.add_task("", total=rounds, completed=done)
        self._live = Live(get_renderable=self._draw, console=self._console)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        else:
            say(self._title)
            say("  ".join(f"{title:>10}" for title in self._columns))
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_round(self, outcome: Round) -> None:
        """Show the finished round."""
        metrics = {"round": outcome.number, **outcome.metrics}
        line = [
            form.format(metrics[key]) if key in metrics else "-"
            for key, form in self._columns.values()
        ]
        self._lines.append(line)
        self._bar.advance(self._task)
        if not self._console.is_terminal:
            say("  ".join(f"{cell:>10}" for cell in line))

    def _draw(self) -> Group:
        table = Table(title=self._title, title_justify="left", box=box.SIMPLE_HEAD)
        for title in self._columns:
            table.add_column(title, justify="right", min_width=9)
        for line in self._lines[-SHOWN:]:
            table.add_row(*line)
        return Group(table, self._bar)
