"""fedalign in Python: `fedalign.run`, `fedalign.load` and `fedalign.sweep`.

What goes wrong is an exception: `fedalign.InputError` for what you gave, another
`fedalign.FedalignError` for a run that failed. Nothing here ends the process.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fedalign.errors import FedalignError
from fedalign.report.reading import Run, read_runs
from fedalign.runs.identity import refuse_changed
from fedalign.runs.launch import launch
from fedalign.runs.models import missing_models
from fedalign.runs.paths import folder_of
from fedalign.server.participation import LimpingRunError
from fedalign.settings.builtin import KINDS
from fedalign.settings.config import Config, read
from fedalign.settings.sources import combinations, is_inline
from fedalign.studies import make

SECTIONS = (*KINDS, "evaluation", "simulation")
Source = str | Path | Mapping[str, Any]


def run(
    config: Source,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    again: bool = False,
    reuse: bool = False,
    **more: Any,
) -> Run:
    """Run a federation and return its results; those of a finished run without repeating it.

    `fedalign.run("quickstart", {"partition.alpha": 0.1}, rounds=5, strategy="fedavg")`

    A run that was stopped, as by Ctrl-C or by interrupting a notebook's cell, goes on from its last
    checkpoint when the same call is made again.

    Args:
        config: a YAML file, the name of one in `configs/`, the text of a configuration, or a dict
            of its settings.
        settings: settings over these, by dotted key.
        again: repeat a finished run, and start an unfinished one from the first round.
        reuse: return a finished run even if its code or data have changed since.
        **more: settings without a dot, over all others; a section may be a table, such as
            `partition={"name": "dirichlet", "alpha": 0.1}`.

    Raises:
        InputError: a setting is wrong, or code or data of the finished run have changed.
        FedalignError: the run failed.
    """
    with _in_python():
        planned = configuration(config, {**(settings or {}), **more})
        if not again and not reuse:
            refuse_changed([planned])
        try:
            if not launch(planned, again) and (lacking := missing_models(planned)):
                line = f"{lacking}; again=True repeats the run and keeps them"
                warnings.warn(line, stacklevel=2)
        except LimpingRunError as error:  # it has finished
            warnings.warn(str(error), stacklevel=2)
        return load(folder_of(planned))


def load(folder: str | Path) -> Run:
    """Return the results of a run from its folder, also while it goes on.

    Raises:
        InputError: the folder holds no run.
    """
    return read_runs([Path(folder).expanduser()])[0]


def sweep(
    config: Source,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    jobs: int | None = None,
    address: str | None = None,
    again: bool = False,
    reuse: bool = False,
    trackers: Sequence[str] = (),
    **more: Any,
) -> list[Run]:
    """Run all combinations of the settings that are lists, several at a time; return all runs.

    `fedalign.sweep("quickstart", {"partition.alpha": [0.1, 1.0]}, seed=[0, 1, 2], jobs=2)`

    A file is taken as `fedalign sweep` takes it: with its block `sweep`, and with a table and a
    figure beside the run folders. Finished runs are not repeated, and stopped ones go on.

    Args:
        config: as for `run`.
        settings: as for `run`, but a list holds the values of an axis.
        jobs: number of runs at a time; None: half the number of cores, or as many as the cluster
            has room for.
        address: of a Ray cluster, over whose nodes the runs are spread: `HOST:PORT`, or `auto`.
        again: start all runs from the first round.
        reuse: keep finished runs whose code or data have changed since.
        trackers: names of those that all runs are reported to; none: as the configuration says.
        **more: as for `run`, with lists as in `settings`.

    Raises:
        InputError: a setting is wrong, or code or data of finished runs have changed.
        FedalignError: runs failed, after all others have been made.
    """
    changed: make.Changed = "all" if again else "reuse" if reuse else "refuse"
    how = make.How(jobs, changed=changed, trackers=trackers, address=address)
    choices = _flat({**(settings or {}), **more})
    with _in_python():
        if isinstance(config, Mapping) or is_inline(str(config)):
            axes = {k: v if isinstance(v, list) else [v] for k, v in choices.items()}
            configs = [configuration(config, chosen) for chosen in combinations(axes)]
            make.several(configs, how)
        else:
            words = [f"{key}={_word(value)}" for key, value in choices.items()]
            make.sweep(str(config), words, how)
            planned = make.planned_of(make.read_sweep(str(config)), words, how)
            configs = [run.config for run in planned]
        return read_runs(list(dict.fromkeys(map(folder_of, configs))))


def _word(value: Any) -> str:
    """Return a value, or a list of values, as in a word of the command line."""
    return ",".join(map(json.dumps, value)) if isinstance(value, list) else json.dumps(value)


def configuration(config: Source, settings: Mapping[str, Any]) -> Config:
    """Return the configuration that `run` is given; see there."""
    layers = [config, settings] if isinstance(config, Mapping) else [settings]
    source = None if isinstance(config, Mapping) else str(config)
    return read(source, *map(_flat, layers), said="settings")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in SECTIONS and isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": _plain(own) for inner, own in value.items()}
        else:
            flat[key] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    """Return a value as YAML could hold it, which knows no numbers of NumPy and no paths."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value


@contextmanager
def _in_python() -> Iterator[None]:
    """Let errors name arguments of Python instead of options of the command line."""
    try:
        yield
    except FedalignError as error:
        text = re.sub(r"--(again|reuse)\b", r"\1=True", str(error)).replace("--out", "out")
        text = text.replace("command line: ", "settings: ")
        if text == str(error):
            raise
        error.args = (text,)
        raise
