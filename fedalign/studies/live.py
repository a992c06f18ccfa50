"""Show the runs of a sweep in the terminal while they go on."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedalign.studies.state import last_round

BESIDE = 6  # lines of the terminal that are not rows of the table
ARM = 24  # columns of the terminal for the names of arms, at least
CELLS = {True: 15, False: 11}  # columns for a run, with and without its time left
SEED = re.compile(r"(?:^|, )seed (-?\d+)")  # in the name of a run


@dataclass
class Going:
    """A run that goes on.

    Attributes:
        name: as lines have it.
        rounds: of the whole run.
        done: rounds that were in its folder when it began, and those there now.
        accuracy: of the last of them, if it was measured.
    """

    name: str
    rounds: int
    done: tuple[int, int]
    accuracy: float | None = None
    began: float = field(default_factory=time.monotonic)

    def cell(self, with_left: bool) -> str:
        """Return how far the run is, such as `7/15 0.813 0:03`."""
        parts = [f"{self.done[1]}/{self.rounds}"]
        parts += [] if self.accuracy is None else [f"{self.accuracy:.3f}"]
        return " ".join([*parts, _clock(self.left)] if with_left else parts)

    @property
    def left(self) -> float | None:
        """Seconds that the run takes at its pace so far; None before its first round."""
        first, now = self.done
        pace = (time.monotonic() - self.began) / (now - first) if now > first else None
        return None if pace is None else pace * (self.rounds - now)


class Board:
    """What is said about runs: a line for each that has ended, and in a terminal a live table.

    Args:
        names: of all runs, by folder.
        rounds: of each run, by folder.
        finished: folders of runs that had finished before.
        console: where to show it; None: standard output.
    """

    def __init__(
        self,
        names: Mapping[Path, str],
        rounds: Mapping[Path, int],
        finished: Collection[Path],
        console: Console | None = None,
    ):
        self._names, self._rounds, self._console = names, rounds, console or Console()
        self._ended, self._failed, self._before = len(finished), 0, len(finished)
        self._cells = {folder: _result(folder) for folder in finished}
        self._going: dict[Path, Going] = {}
        self._began = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table in this context, if this is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        live = Live(get_renderable=self._draw, console=self._console, transient=True)
        with live:
            yield

    def watch(self, folders: Collection[Path]) -> None:
        """Note how far the runs in these folders are, which are those that go on."""
        going = {}
        for folder in folders:
            now, accuracy = last_round(folder)
            run = self._going.get(folder) or Going(
                self._names[folder], self._rounds[folder], (now, now)
            )
            # A run that starts anew empties its tables first.
            run.done, run.accuracy = (min(run.done[0], now), now), accuracy
            going[folder] = run
        self._going = going

    def end(self, folder: Path, outcome: str, failed: bool) -> None:
        """Say how a run has ended."""
        self._ended += 1
        self._failed += failed
        self._going.pop(folder, None)
        self._cells[folder] = Text("failed", "red") if failed else _result(folder)
        line = f"[{self._ended}/{len(self._names)}] {self._names[folder]}: {outcome}"
        if self._console.is_terminal:
            self._console.print(Text(line, style="red" if failed else ""))
        else:
            print(line, flush=True)

    def _draw(self) -> Group:
        failed = f", {self._failed} failed" if self._failed else ""
        foot = Table.grid(padding=(0, 1))
        foot.add_row(
            ProgressBar(len(self._names), self._ended, width=24),
            f"{self._ended} of {len(self._names)} runs{failed}, time left {_clock(self._left())}",
        )
        return Group(self._matrix() or self._list(), foot)

    def _matrix(self) -> Table | None:
        """Return a table of arms and seeds; None if the terminal is too small for it."""
        found = {folder: SEED.search(name) for folder, name in self._names.items()}
        seeds = list(dict.fromkeys(match[1] for match in found.values() if match))
        arms: dict[str, dict[str, Path]] = {}
        for folder, match in found.items():
            arm = SEED.sub("", self._names[folder]).removeprefix(", ")
            arms.setdefault(arm, {})[match[1] if match else ""] = folder
        room = (self._console.width - ARM) // max(1, len(seeds)) - 2
        if not all(found.values()) or len(arms) + BESIDE > self._console.height:
            return None
        if room < CELLS[False]:
            return None
        table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0))
        table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
        with_left = room >= CELLS[True]
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right", width=CELLS[with_left], no_wrap=True)
        for arm, folders in arms.items():
            table.add_row(arm, *(self._cell(folders.get(seed), with_left) for seed in seeds))
        return table

    def _cell(self, folder: Path | None, with_left: bool) -> Text:
        if folder is None:
            return Text("")
        if run := self._going.get(folder):
            return Text(run.cell(with_left), "bold")
        return self._cells.get(folder, Text("\N{MIDDLE DOT}", "dim"))

    def _list(self) -> Table:
        """Return a table of the runs that go on."""
        table = Table(box=box.SIMPLE_HEAD, expand=True)
        table.add_column("running", ratio=1, no_wrap=True, overflow="ellipsis")
        for title, width in {"round": 9, "accuracy": 8, "time left": 9}.items():
            table.add_column(title, justify="right", width=width, no_wrap=True)
        going = list(self._going.values())
        for run in going[: max(1, self._console.height - BESIDE)]:
            accuracy = "" if run.accuracy is None else f"{run.accuracy:.4f}"
            table.add_row(run.name, f"{run.done[1]}/{run.rounds}", accuracy, _clock(run.left))
        return table

    def _left(self) -> float | None:
        """Return the seconds that all runs take at the pace so far; None if nothing is done."""
        parts = [(run.done[1] - run.done[0]) / run.rounds for run in self._going.values()]
        done = self._ended - self._before + sum(parts)
        behind = sum(run.done[0] / run.rounds for run in self._going.values())
        ahead = len(self._names) - self._before - behind - done
        return (time.monotonic() - self._began) / done * ahead if done else None


def _result(folder: Path) -> Text:
    """Return the accuracy after the last round, or that there is none."""
    _, accuracy = last_round(folder)
    return Text("done" if accuracy is None else f"{accuracy:.4f}")


def _clock(seconds: float | None) -> str:
    """Return a time as `1:02:03` or `2:03`."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
