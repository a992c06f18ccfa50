"""Make a sweep, from its file to its table and figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedalign.errors import FedalignError
from fedalign.report.labels import label, varied
from fedalign.runs.paths import adopting, folder_of, is_finished
from fedalign.settings.config import Config
from fedalign.settings.layers import flatten
from fedalign.settings.sources import parse_choices
from fedalign.studies.execute import Changed, How, describe, execute
from fedalign.studies.plan import SEED, Planned, full_keys, plan, prepared
from fedalign.studies.report import write
from fedalign.studies.sweep import Source, read_sweep

__all__ = ["Changed", "How", "list_runs", "planned_of", "read_sweep", "several", "sweep"]


def sweep(name: str, words: Sequence[str] = (), how: How = How()) -> Path:  # noqa: B008 - frozen
    """Run all unfinished runs of a sweep; return the folder with its table and figure.

    A run that has finished in the same folder `out` is taken as it is, whatever its name.

    Args:
        name: the sweep's file, or a name in `configs/studies/` or `configs/`.
        words: `key=value` settings for all runs.
        how: number of runs at a time, folder, and what becomes of changed runs.

    Raises:
        InputError: there are such runs, and they are to be refused; or data cannot be read.
        FedalignError: runs have failed; the table then holds the others.
    """
    source = read_sweep(name)
    planned = planned_of(source, words, how)
    first = _first(source, how)
    if first:
        _refuse(execute(first, how), first)
    failed = execute(planned, how)
    folder = Path(planned[0].config.out).expanduser() / source.file.stem
    if any(is_finished(folder_of(run.config)) for run in planned):
        print(write(source, planned, folder, " ".join(["fedalign sweep", name, *words])))
    _refuse(failed, planned)
    return folder


def several(
    configs: Sequence[Config], how: How, dry: bool = False, words: Sequence[str] = ()
) -> None:
    """Make runs that are compared with nothing, or print where they stand.

    Args:
        configs: of the runs.
        how: number of runs at a time, and what becomes of changed runs.
        dry: make none.
        words: the `key=value,value` settings that they are made of, for their names; without,
            those in which they differ.

    Raises:
        FedalignError: runs have failed.
    """
    every = [flatten(config.model_dump()) for config in configs]
    typed = [key for key, values in full_keys(parse_choices(words)).items() if len(values) > 1]
    keys = typed or [*dict.fromkeys(key for own in varied(every) for key in own), SEED]
    planned = []
    for config, settings in zip(configs, every, strict=True):
        name = label({key: settings[key] for key in keys if key in settings})
        planned.append(Planned(name, {}, how.placed(config), name))
    if dry:
        print(describe(planned))
    else:
        _refuse(execute(planned, how), planned)


def _refuse(failed: int, planned: Sequence[Planned]) -> None:
    if failed:
        total = len({folder_of(run.config) for run in planned})
        told = f"{failed} of {total} runs failed; the same command tries them again"
        raise FedalignError(told)


def list_runs(name: str, words: Sequence[str], how: How) -> None:
    """Print the runs that a sweep has, and which of them have finished; make none."""
    source = read_sweep(name)
    if first := _first(source, how):
        print(f"made first: {describe(first)}")
    print(describe(planned_of(source, words, how)))


def planned_of(source: Source, words: Sequence[str], how: How) -> list[Planned]:
    """Return the runs of a sweep, each with the folder that it has or will have."""
    folders = {run.arm: str(folder_of(run.config)) for run in _first(source, how)}
    planned = plan(source, words, folders)
    return [replace(run, config=adopting(how.placed(run.config))) for run in planned]


def _first(source: Source, how: How) -> list[Planned]:
    """Return the runs of `sweep.prepare`; the arm of each is its key."""
    configs = prepared(source).items()
    return [Planned(k, {}, adopting(how.placed(config)), f"for {k}") for k, config in configs]
