"""What the terminal shows while a run goes on."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedalign.rounds import Round

COLUMNS = {
    "round": "{:>5}",
    "train_loss": "{:.4f}",
    "test_loss": "{:.4f}",
    "test_accuracy": "{:.4f}",
    "client_accuracy_barrier": "{:.4f}",
    "seconds": "{:.2f}",
}
TITLES = ("round", "train loss", "test loss", "accuracy", "barrier", "seconds")
SHOWN = 12


class Progress:
    """A callback that shows the latest rounds in a live table, or a plain line a round.

    `barrier` is the mean relative accuracy barrier between sampled pairs of client models.
    """

    def __init__(self, title: str, rounds: int, console: Console | None = None):
        self._console = console or Console()
        self._title, self._rounds = title, rounds
        self._lines: list[list[str]] = []
        self._started = time.perf_counter()
        self._live = Live(console=self._console, auto_refresh=False, transient=False)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        else:
            print(self._title, flush=True)
            print("  ".join(f"{title:>10}" for title in TITLES), flush=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_round(self, outcome: Round) -> None:
        """Show the round."""
        known = {"round": outcome.number} | outcome.metrics
        line = [
            form.format(known[key]) if key in known else "–" for key, form in COLUMNS.items()
        ]
        if self._console.is_terminal:
            self._lines.append(line)
            self._live.update(self._table(outcome.number), refresh=True)
        else:
            print("  ".join(f"{cell:>10}" for cell in line), flush=True)

    def _table(self, done: int) -> Table:
        spent = time.perf_counter() - self._started
        left = spent / done * (self._rounds - done)
        bar = "━" * round(30 * done / self._rounds)
        caption = f"[green]{bar:<30}[/] {done}/{self._rounds} rounds, {left:.0f} s left"
        if done == self._rounds:
            caption = f"[green]{bar:<30}[/] {done}/{self._rounds} rounds in {spent:.1f} s"
        table = Table(title=self._title, caption=caption, title_justify="left", min_width=72)
        for title in TITLES:
            table.add_column(title, justify="right")
        for line in self._lines[-SHOWN:]:
            table.add_row(*line)
        return table
