"""Run what has been planned, several runs at a time, and say how each has ended."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Literal

from fedalign.federation.federation import Federation
from fedalign.report.reading import read_runs
from fedalign.report.tables import COLUMNS
from fedalign.runs.checkpoint import command
from fedalign.runs.identity import changes_since, refuse_changed
from fedalign.runs.jobs import Crew, run_all
from fedalign.runs.models import missing_models
from fedalign.runs.paths import CHECKPOINT, MANIFEST, folder_of, forget, is_finished
from fedalign.runs.processes import Processes
from fedalign.settings.config import Config
from fedalign.settings.fields import trackers_of
from fedalign.studies.live import Board
from fedalign.studies.plan import Planned
from fedalign.studies.state import state_of

Changed = Literal["refuse", "repeat", "reuse", "all"]


@dataclass(frozen=True)
class How:
    """How runs are made; no result depends on it.

    Attributes:
        jobs: number of runs at a time; None: half the number of cores, or as many as the cluster
            has room for.
        out: folder for the run folders; None: as the configuration says.
        changed: what becomes of finished runs whose code or data have changed since; `all`: those
            and all others start from their first round.
        stalled: seconds without a new round after which a run has failed; None: never.
        trackers: names of those that runs are reported to; none: as the configuration says.
        address: of the Ray cluster whose nodes make the runs; None: this machine does.
    """

    jobs: int | None = None
    out: str | None = None
    changed: Changed = "refuse"
    stalled: float | None = None
    trackers: Sequence[str] = ()
    address: str | None = None

    @property
    def at_a_time(self) -> int:
        """The number of runs at a time."""
        return self.jobs or max(1, (os.cpu_count() or 1) // 2)

    def placed(self, config: Config) -> Config:
        """Return the configuration with all set on which no result depends."""
        update: dict[str, object] = {} if self.out is None else {"out": self.out}
        update |= {"trackers": trackers_of(self.trackers)} if self.trackers else {}
        if self.address is None and "threads" not in config.evaluation.model_fields_set:
            threads = max(1, (os.cpu_count() or 1) // self.at_a_time)
            update["evaluation"] = config.evaluation.model_copy(update={"threads": threads})
        return config.model_copy(update=update)

    @contextmanager
    def crew(self, configs: Sequence[Config]) -> Iterator[Crew]:
        """Yield what makes these runs."""
        if self.address is None or not configs:
            yield Processes(min(self.at_a_time, len(configs)))
            return
        from fedalign.runs.cluster import cluster  # imports Ray

        with cluster(self.address, configs, self.jobs) as crew:
            yield crew


def execute(planned: Sequence[Planned], how: How) -> int:
    """Run all unfinished runs, say how each has ended, and return how many have failed.

    On Ctrl-C the runs keep their last round, and it is said how to go on.

    Raises:
        InputError: data cannot be read, or finished runs are not what they would be now.
    """
    if how.changed == "refuse":
        refuse_changed(run.config for run in planned)
    configs = {folder_of(run.config): run.config for run in planned}
    todo = [config for config in configs.values() if _is_due(config, how.changed)]
    _read_data(todo)
    done = len(configs) - len(todo)
    _say_what_lacks(configs.keys() - set(map(folder_of, todo)), configs)
    try:
        with how.crew(todo) as crew:
            going = f"; running {crew.jobs} at a time{crew.place}" if todo else ""
            print(f"{counted(len(configs))}, {done} of them finished{going}", flush=True)
            if how.changed == "all":
                for config in todo:
                    forget(config)
            return _run(planned, todo, how, crew)
    except KeyboardInterrupt:
        finished = sum(map(is_finished, configs))
        kept = sum((folder / CHECKPOINT).is_file() for folder in configs)
        told = f"{finished} of {len(configs)} runs are finished, {kept} stopped after a whole round"
        print(f"{told}; to go on: {command()}", file=sys.stderr, flush=True)
        raise


def _say_what_lacks(finished: Collection[Path], configs: Mapping[Path, Config]) -> None:
    """Print which finished runs have not kept models that are asked for now."""
    found = [line for folder in sorted(finished) if (line := missing_models(configs[folder]))]
    if found:
        more = f" (and {len(found) - 1} more such runs)" if len(found) > 1 else ""
        print(f"{found[0]}{more}; a run whose folder you remove is made again")


def describe(planned: Sequence[Planned]) -> str:
    """Return a line for each run: where it stands, its folder and its name; first their number."""
    runs = {folder_of(run.config): run for run in planned}
    states = {folder: state_of(folder) for folder in runs}
    counts = Counter(state.status for state in states.values())
    lines = [f"{counted(len(runs))}: " + ", ".join(f"{n} {status}" for status, n in counts.items())]
    width = max(map(len, map(str, runs)))
    for folder, run in runs.items():
        state = states[folder]
        reached = f", round {state.round} of {run.config.rounds}" if state.is_under_way else ""
        lines.append(f"{folder!s:{width}}  {run.name}: {state.status}{reached}")
    return "\n".join(lines)


def counted(runs: int) -> str:
    """Return a number of runs in words."""
    return f"{runs} run" if runs == 1 else f"{runs} runs"


def _is_due(config: Config, changed: Changed) -> bool:
    """Return whether a run is to be made."""
    if changed == "all" or not is_finished(folder_of(config)):
        return True
    return changed == "repeat" and bool(changes_since(config))


def _run(planned: Sequence[Planned], todo: Sequence[Config], how: How, crew: Crew) -> int:
    names: dict[Path, str] = {}
    for run in planned:
        names.setdefault(folder_of(run.config), run.name)
    rounds = {folder_of(run.config): run.config.rounds for run in planned}
    board = Board(names, rounds, names.keys() - {folder_of(config) for config in todo})
    failed = 0

    def watch(configs: Collection[Config]) -> None:
        board.watch([folder_of(config) for config in configs])

    with board.shown(), closing(run_all(todo, crew, how.stalled, watch)) as outcomes:
        for config, error in outcomes:
            if how.address is not None and error is None and (found := changes_since(config)):
                error = f"made with other code or data than there is here: {'; '.join(found)}"
            failed += error is not None
            folder = folder_of(config)
            board.end(folder, f"failed: {error}" if error else _result(folder), error is not None)
    return failed


def _read_data(configs: Sequence[Config]) -> None:
    """Read the data of these runs once; `InputError` before the first run if any are missing."""
    for config in {repr(config.data): config for config in configs}.values():
        federation = Federation(config.model_copy(update={"device": "cpu"}))
        federation.reference, federation.test  # noqa: B018


def _result(folder: Path) -> str:
    (run,) = read_runs([folder])
    seconds = json.loads((folder / MANIFEST).read_text("utf-8"))["seconds"]
    accuracy = COLUMNS["accuracy"].of(run)
    told = [] if isnan(accuracy) else [f"accuracy {accuracy:.4f}"]
    warning = f"; {run.warning}" if run.warning else ""
    return f"{', '.join([*told, f'{seconds:.0f} s'])}{warning}"
