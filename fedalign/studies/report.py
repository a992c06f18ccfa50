"""Write the results of a sweep: its table, the same numbers and all curves as CSV, its figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedalign.errors import InputError
from fedalign.report import drawing, soups
from fedalign.report.comparison import Arm, Comparison
from fedalign.report.differences import beside_baseline
from fedalign.report.figures import over_rounds
from fedalign.report.labels import label, short
from fedalign.report.lines import along_the_line
from fedalign.report.measures import At
from fedalign.report.reading import Run, read_runs
from fedalign.report.statistics import UNKNOWN, Difference, deviation
from fedalign.report.style import save
from fedalign.report.sweeps import sweep as over_x
from fedalign.report.tables import COLUMNS, Row, differences, measured, remarks, table
from fedalign.runs.paths import MEMBERS, folder_of, is_finished
from fedalign.studies.plan import Planned, axes
from fedalign.studies.sweep import Source, Sweep

KINDS = ("fusions", "gain", "tasks")  # figures of what only some sweeps measure
NOTES = """\
Mean ± sample standard deviation over seeds. Barriers and gaps are means over the rounds in which
they were measured; MB are 10^6 bytes, summed over all rounds and clients."""
COMPARED = """
Differences are paired by seed: mean ± half the width of the 95 % confidence interval by Student's
t (not corrected); n.s. (not significant): p of the paired t test, corrected by Holm's method for
all differences of the table, is 0.05 or more."""


def write(source: Source, planned: Sequence[Planned], folder: Path, command: str) -> str:
    """Write `table.md`, `summary.csv`, `curves.csv`, `runs.txt` and the figures of finished runs.

    Args:
        source: says what the table and the figure show.
        planned: all runs of the sweep, finished or not.
        folder: where the files go; made if missing.
        command: the command that repeats the sweep, quoted in the table.

    Returns:
        The accuracy of each arm, where the files are, and how to look further.
    """
    rows = rows_of(planned)
    sweep, baseline = source.sweep, _baseline(source.sweep, rows)
    columns = sweep.table or measured(rows)
    folder.mkdir(parents=True, exist_ok=True)
    shown = table(rows, columns, baseline, sweep.compared)
    lines = [f"# {source.title}", f"`{command}`", shown]
    lines.append(NOTES + (COMPARED if baseline else ""))
    missing = sum(not _is_finished(run) for run in planned)
    if missing:
        lines.append(f"{missing} of {len(planned)} runs are missing.")
    lines += filter(None, [soups.describe(rows)])
    lines += remarks([run for row in rows for run in row.runs], rows)
    (folder / "table.md").write_text("\n\n".join(lines) + "\n", "utf-8")
    summary(rows, baseline, sweep.compared[0]).to_csv(folder / "summary.csv", index=False)
    curves(rows).to_csv(folder / "curves.csv", index=False)
    names = dict.fromkeys(run.path.name for row in rows for run in row.runs)
    (folder / MEMBERS).write_text("\n".join(names) + "\n", "utf-8")
    save(_figure(sweep, rows, baseline), folder / "figure.png", folder / "figure.pdf")
    for kind in KINDS:
        with suppress(InputError):  # of what was not measured
            save(draw(kind, rows), folder / f"{kind}.png", folder / f"{kind}.pdf")
    along = along_the_line(rows, str(sweep.figure.x)) if _is_over_x(sweep, rows) else None
    if along is not None:
        save(along, folder / "lines.png", folder / "lines.pdf")
    shown = sweep.compared[0]
    first = [_means(rows, baseline, shown)] if shown in measured(rows) else []
    quoted = shlex.quote(str(folder))
    further = f"next: fedalign compare {quoted}\n      fedalign report {quoted}"
    return "\n\n".join([*first, f"table and figure in {folder}\n{further}"])


def draw(kind: str, rows: Sequence[Row]) -> Figure:
    """Return the figure of a kind with an arm for each row; `InputError` if nothing measured it."""
    shown, at = drawing.KINDS[kind], At.read("final")
    arms = [
        Arm(
            label({"arm.name": row.arm, **row.varied}),
            {"arm.name": row.arm, **row.varied},
            row.runs,
            {run.settings["seed"]: at.of(run, shown.metric) for run in row.runs},
        )
        for row in rows
    ]
    none = [None] * len(arms)
    keys = ["arm.name", *rows[0].varied]
    return shown.draw(Comparison(shown.metric, at, keys, arms, "", none, none))


def _baseline(sweep: Sweep, rows: Sequence[Row]) -> str | None:
    """Return the baseline, if it has been run."""
    return sweep.baseline if any(row.arm == sweep.baseline for row in rows) else None


def rows_of(planned: Sequence[Planned]) -> list[Row]:
    """Return the finished runs as rows: all arms in order under each choice of varied settings."""
    finished = [run for run in planned if _is_finished(run)]
    folders = list(dict.fromkeys(folder_of(run.config) for run in finished))
    runs, keys = dict(zip(folders, read_runs(folders), strict=True)), axes(planned)
    grouped: dict[tuple[Any, ...], dict[str, list[Run]]] = {}
    for run in finished:
        by_arm = grouped.setdefault(tuple(run.chosen[key] for key in keys), {})
        by_arm.setdefault(run.arm, []).append(runs[folder_of(run.config)])
    return [
        Row(arm, seeds, dict(zip(keys, values, strict=True)))
        for values, by_arm in grouped.items()
        for arm, seeds in by_arm.items()
    ]


def summary(rows: Sequence[Row], baseline: str | None, compared: str = "accuracy") -> pd.DataFrame:
    """Return mean and deviation of every measured column and the difference, a line a row."""
    names = measured(rows)
    none: list[Difference | None] = [None] * len(rows)
    beside = differences(rows, baseline, [compared])[compared] if baseline else none
    return pd.DataFrame(
        {**row.varied, "arm": row.arm, "seeds": len(row.runs)}
        | _numbers(row, names)
        | _compared(difference)
        for row, difference in zip(rows, beside, strict=True)
    )


def curves(rows: Sequence[Row]) -> pd.DataFrame:
    """Return every measured point of every run, with the run's varied settings, arm and seed."""
    parts = [
        run.landscape.assign(**{**row.varied, "arm": row.arm, "seed": run.settings["seed"]})
        for row in rows
        for run in row.runs
    ]
    return pd.concat(parts, ignore_index=True)


def _means(rows: Sequence[Row], baseline: str | None, column: str) -> str:
    """Return a column of each row as text for a terminal."""
    keys = list(rows[0].varied)
    cells = {short(key, keys): [row.varied[key] for row in rows] for key in keys}
    cells |= {"arm": [row.arm for row in rows], "seeds": [len(row.runs) for row in rows]}
    cells[column] = [COLUMNS[column].cell(row.runs) for row in rows]
    if baseline is not None:
        beside = differences(rows, baseline, [column])[column]
        cells[f"minus {baseline}'s"] = [str(difference or UNKNOWN) for difference in beside]
    frame = pd.DataFrame(cells).astype(str)
    return frame.to_markdown(index=False, tablefmt="simple", disable_numparse=True)


def _numbers(row: Row, names: Sequence[str]) -> dict[str, float]:
    values = {name: [COLUMNS[name].of(run) for run in row.runs] for name in names}
    means = {f"{name}_mean": sum(seeds) / len(seeds) for name, seeds in values.items()}
    return means | {f"{name}_std": deviation(seeds) for name, seeds in values.items()}


def _compared(difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {}
    return {
        "difference": difference.mean,
        "half_width": difference.half_width,
        "pairs": difference.pairs,
        "p": difference.p,
        "p_holm": difference.adjusted,
        "significant": difference.significant,
    }


def _figure(sweep: Sweep, rows: Sequence[Row], baseline: str | None) -> Figure:
    shown = sweep.figure
    if _is_over_x(sweep, rows):
        return over_x(rows, str(shown.x), baseline, shown.panels, shown.log)
    if shown.kind == "differences" and baseline is not None:
        return beside_baseline(rows, baseline, sweep.compared[0])
    return over_rounds(rows, baseline)


def _is_over_x(sweep: Sweep, rows: Sequence[Row]) -> bool:
    """Return whether the figure is one over `x`, of which several values were run."""
    return sweep.figure.kind == "sweep" and sweep.figure.x in rows[0].varied


def _is_finished(run: Planned) -> bool:
    return is_finished(folder_of(run.config))
