"""Write the page of runs: one HTML file that needs nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedalign import __version__
from fedalign.errors import InputError
from fedalign.files import replace_text
from fedalign.report.comparison import Comparison
from fedalign.report.labels import label
from fedalign.report.page import claim, tables
from fedalign.report.page.collect import collect
from fedalign.report.page.folders import Folder
from fedalign.report.reading import Run
from fedalign.report.tables import Row, groups, remarks

HERE = Path(__file__).parent
SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "shared.js",
    "chart.js",
    "heat.js",
    "curves.js",
    "landscape.js",
    "clients.js",
    "start.js",
)
STYLES = ("vendor/uPlot.min.css", "page.css")
SUFFIXES = (".html", ".htm")
USUAL = Path("report.html")
MARK = '<meta name="generator" content="fedalign'  # by which a page is known
MAX_NAMED = 4  # arms in a title
SECTIONS = {  # by id, as the contents name them; one that has nothing to show is left out
    "curves": "Curves",
    "arms": "Arms and runs",
    "fusions": "Ingredients and fusions",
    "tasks": "Evaluation tasks",
    "lines": "Lines between models",
    "planes": "Planes",
    "partition": "Data",
    "clients": "Clients",
    "cost": "Cost",
    "settings": "Settings",
}
MISSING = {  # what measures it
    "lines": "lines between models: evaluation.pairs=3 measures three pairs of clients a round",
    "planes": "planes through three models: evaluation.plane=21",
    "clients": "how each client fares: evaluation.client_fraction=1 evaluation.holdout=0.2",
}
FACTS = ("data.name", "model.name", "partition.name", "num_clients", "rounds")


@dataclass(frozen=True)
class Settings:
    """The settings of one run, the command that made it and the one that repeats it."""

    run: Run
    arm: str
    config: str
    manifest: str
    command: str
    repeat: str
    clients: tables.Table | None


def write(runs: Sequence[Run], page: Path, notes: Sequence[str] = ()) -> None:
    """Write the page of runs into a file.

    Args:
        runs: the runs.
        page: the file.
        notes: further lines for the page.

    Raises:
        FedalignError: the file cannot be written.
    """
    replace_text(page, render(runs, notes))


def target(page: Path | None, no_page: bool) -> Path | None:
    """Return the file for the page; None if none is wanted.

    Args:
        page: as given; None: `report.html` in the current folder.
        no_page: whether none is wanted.

    Raises:
        InputError: it is not a file for a page, or would replace a file that is none unasked.
    """
    if no_page:
        if page is not None:
            raise InputError(f"--no-page: --page {page} asks for one")
        return None
    if page is None and USUAL.exists() and not _is_page(USUAL):
        raise InputError(f"{USUAL} here is no page of fedalign; give --page FILE or --no-page")
    page = page or USUAL
    if page.suffix.lower() not in SUFFIXES:
        raise InputError(f"--page: {str(page)!r} must end in {' or '.join(SUFFIXES)}")
    if page.is_dir() or not page.absolute().parent.is_dir():
        raise InputError(f"--page: {str(page)!r} is not a file in a folder that exists")
    return page


def _is_page(file: Path) -> bool:
    """Return whether a file is a page that fedalign wrote."""
    with suppress(OSError), file.open(encoding="utf-8", errors="replace") as text:
        return MARK in text.read(1000)
    return False


def render(runs: Sequence[Run], notes: Sequence[str] = ()) -> str:
    """Return the page as HTML."""
    comparison = claim.compared(runs)
    rows = _rows(runs, comparison)
    folders = [Folder(run) for row in rows for run in row.runs]
    data = collect(rows, folders)
    fusions, tasks = tables.of_fusions(rows), tables.of_tasks(rows)
    has = _measured(data) | {"fusions": bool(fusions.lines), "tasks": bool(tasks.lines)}
    arms = [row.arm for row in rows for _ in row.runs]
    settings = [_settings(arm, folder) for arm, folder in zip(arms, folders, strict=True)]
    notes = [
        *notes,
        *_remarks(runs, comparison),
        *(line for folder in folders for line in folder.notes),
    ]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=_title(rows),
            facts=_facts(rows),
            claims=claim.claims(comparison) if comparison else [],
            barriers=claim.barriers([row for row in rows if not row.runs[0].unfinished]),
            notes=notes,
            arms=tables.of_arms(rows, comparison),
            runs=tables.of_runs(rows),
            fusions=fusions,
            tasks=tasks,
            cost=tables.of_cost(rows),
            settings=settings,
            has=has,
            sections={key: name for key, name in SECTIONS.items() if has.get(key, True)}.items(),
            missing=[line for part, line in MISSING.items() if not has[part]],
            data=data,
            styles=Markup("\n".join(_read(name) for name in STYLES)),
            scripts=Markup("\n".join(_read(name) for name in SCRIPTS)),
            version=__version__,
            today=date.today().strftime("%-d %B %Y"),
        )
    )


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def _rows(runs: Sequence[Run], comparison: Comparison | None) -> list[Row]:
    """Return arms as they are compared, then runs that have not finished."""
    if comparison is None:
        return groups(runs)
    unfinished = groups([run for run in runs if run.unfinished])
    return [*(Row(arm.label, arm.runs) for arm in comparison.arms), *unfinished]


def _remarks(runs: Sequence[Run], comparison: Comparison | None) -> Sequence[str]:
    return remarks(runs, groups(runs)) if comparison is None else comparison.notes


def _read(name: str) -> str:
    return (HERE / name).read_text("utf-8").strip()


def _title(rows: Sequence[Row]) -> str:
    names = claim.listed(sorted({str(run.settings["name"]) for row in rows for run in row.runs}))
    arms = [row.arm.replace(" ", "\N{NO-BREAK SPACE}") for row in rows]
    if [row.arm for row in rows] == [names]:
        return names
    shown = claim.listed(arms) if len(arms) <= MAX_NAMED else f"{len(arms)} arms compared"
    return f"{names}: {shown}"


def _facts(rows: Sequence[Row]) -> list[str]:
    """Return what all runs have in common, in a few words each."""
    runs = [run for row in rows for run in row.runs]
    settings = [run.settings for run in runs]
    seeds = len({one["seed"] for one in settings})
    facts = [_count(len(runs), "run"), _count(len(rows), "arm"), _count(seeds, "seed")]
    for key in FACTS:
        values = {str(one[key]): one[key] for one in settings if key in one}
        if len(values) == 1:
            facts.append(label({key: next(iter(values.values()))}).replace("_", " "))
    return facts


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _settings(arm: str, folder: Folder) -> Settings:
    found = folder.run.manifest.get("command")
    command = [str(word) for word in found] if isinstance(found, list) else []
    command[:1] = [Path(word).name for word in command[:1]]
    manifest = json.dumps(folder.run.manifest, indent=2) if folder.run.manifest else ""
    repeat = shlex.join(["fedalign", "run", str(folder.run.path / "config.yaml"), "--again"])
    own = tables.of_clients(folder.run)
    return Settings(folder.run, arm, folder.config, manifest, shlex.join(command), repeat, own)


def _measured(data: dict[str, Any]) -> dict[str, bool]:
    """Return which parts of the page have something to show."""
    runs = data["runs"]
    return {
        "curves": any(len(run["rounds"]) > 1 for run in runs),
        **{
            part: any(run[part] for run in runs)
            for part in ("lines", "planes", "partition", "clients")
        },
    }
