"""Run a study, from its file to its table and figure."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from fedalign.errors import FedalignError
from fedalign.federation.federation import Federation
from fedalign.report.labels import label
from fedalign.report.reading import read_runs
from fedalign.report.tables import COLUMNS
from fedalign.runs.identity import changes_since, refuse_changed
from fedalign.runs.jobs import run_all
from fedalign.runs.paths import folder_of, is_finished
from fedalign.settings.config import Config
from fedalign.studies.report import write
from fedalign.studies.study import Planned, axes, find_study, plan, read_study

Changed = Literal["refuse", "repeat", "reuse"]


def reproduce(
    name: str,
    words: Sequence[str],
    jobs: int | None,
    out: str | None,
    changed: Changed = "refuse",
) -> Path:
    """Run all unfinished runs of a study; return the folder with its table and figure.

    Args:
        name: the study's file, or its name in `configs/studies/`.
        words: `key=value` settings for all runs.
        jobs: number of runs at a time; None: half the number of cores.
        out: folder for the run folders and the study's own; None: as the study says.
        changed: what becomes of finished runs whose code or data have changed since.

    Raises:
        InputError: there are such runs, and they are to be refused; or data cannot be read.
        FedalignError: runs have failed; the table then holds the others.
    """
    file = find_study(name)
    study, cores = read_study(file), os.cpu_count() or 1
    jobs = jobs or max(1, cores // 2)
    planned = [
        Planned(run.arm, run.chosen, _placed(run.config, out, max(1, cores // jobs)))
        for run in plan(study, file, words)
    ]
    if changed == "refuse":
        refuse_changed(run.config for run in planned)
    failed = _run(planned, jobs, changed == "repeat")
    folder = Path(planned[0].config.out).expanduser() / file.stem
    if any(is_finished(folder_of(run.config)) for run in planned):
        write(study, planned, folder, " ".join(["fedalign reproduce", name, *words]))
        print(f"table and figure in {folder}", flush=True)
    if failed:
        raise FedalignError(f"{failed} runs failed; run the same command to try them again")
    return folder


def _placed(config: Config, out: str | None, threads: int) -> Config:
    """Return the configuration with folder and threads set, on which no result depends."""
    update: dict[str, object] = {} if out is None else {"out": out}
    if "threads" not in config.evaluation.model_fields_set:
        update["evaluation"] = config.evaluation.model_copy(update={"threads": threads})
    return config.model_copy(update=update)


def _run(planned: Sequence[Planned], jobs: int, repeat: bool) -> int:
    """Run all unfinished runs, print a line for each, and return how many failed.

    With `repeat`, finished runs whose code or data have changed are run again.
    """
    keys = [*axes(planned), *(["seed"] if "seed" in planned[0].chosen else [])]
    names: dict[Path, str] = {}
    for run in planned:
        name = label({"arm.name": run.arm} | {key: run.chosen[key] for key in keys})
        names.setdefault(folder_of(run.config), name)
    configs = {folder_of(run.config): run.config for run in planned}
    todo = [
        config
        for folder, config in configs.items()
        if not is_finished(folder) or (repeat and changes_since(config))
    ]
    _read_data(todo)
    done, failed = len(configs) - len(todo), 0
    print(f"{len(configs)} runs, {done} of them finished; running {jobs} at a time", flush=True)
    with closing(run_all(todo, jobs)) as outcomes:
        for number, (config, error) in enumerate(outcomes, done + 1):
            failed += error is not None
            outcome = f"failed: {error}" if error else _result(folder_of(config))
            print(f"[{number}/{len(configs)}] {names[folder_of(config)]}: {outcome}", flush=True)
    return failed


def _read_data(configs: Sequence[Config]) -> None:
    """Read the data of these runs once; `InputError` before the first run if any are missing."""
    for config in {repr(config.data): config for config in configs}.values():
        federation = Federation(config.model_copy(update={"device": "cpu"}))
        federation.reference, federation.test  # noqa: B018


def _result(folder: Path) -> str:
    (run,) = read_runs([folder])
    seconds = json.loads((folder / "manifest.json").read_text("utf-8"))["seconds"]
    warning = f"; {run.warning}" if run.warning else ""
    return f"accuracy {COLUMNS['accuracy'].of(run):.4f}, {seconds:.0f} s{warning}"
