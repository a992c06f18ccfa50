"""Write the results of a study: its table, the same numbers and all curves as CSV, its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedalign.report.differences import beside_baseline
from fedalign.report.figures import over_rounds
from fedalign.report.lines import along_the_line
from fedalign.report.reading import Run, read_runs
from fedalign.report.statistics import Difference, deviation
from fedalign.report.style import save
from fedalign.report.sweeps import sweep
from fedalign.report.tables import COLUMNS, Row, differences, measured, remarks, table
from fedalign.runs.paths import folder_of, is_finished
from fedalign.studies.study import Planned, Study, axes

NOTES = """\
Mean ± sample standard deviation over seeds. Barriers and gaps are means over the rounds in which
they were measured; MB are 10^6 bytes, summed over all rounds and clients."""
COMPARED = """
Differences are paired by seed: mean ± half the width of the 95 % confidence interval by Student's
t (not corrected); n.s. (not significant): p of the paired t test, corrected by Holm's method for
all differences of the table, is 0.05 or more."""


def write(study: Study, planned: Sequence[Planned], folder: Path, command: str) -> None:
    """Write `table.md`, `summary.csv`, `curves.csv` and the figures of the finished runs.

    Args:
        study: says what the table and the figure show.
        planned: all runs of the study, finished or not.
        folder: where the files go; made if missing.
        command: the command that repeats the study, quoted in the table.
    """
    rows = rows_of(planned)
    columns = study.table or measured(rows)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {study.title}", f"`{command}`", table(rows, columns, study.baseline)]
    lines.append(NOTES + (COMPARED if study.baseline else ""))
    missing = sum(not _is_finished(run) for run in planned)
    if missing:
        lines.append(f"{missing} of {len(planned)} runs are missing.")
    lines += remarks([run for row in rows for run in row.runs], rows)
    (folder / "table.md").write_text("\n\n".join(lines) + "\n", "utf-8")
    summary(rows, study.baseline).to_csv(folder / "summary.csv", index=False)
    curves(rows).to_csv(folder / "curves.csv", index=False)
    save(_figure(study, rows), folder / "figure.png", folder / "figure.pdf")
    along = along_the_line(rows, str(study.figure.x)) if _is_sweep(study, rows) else None
    if along is not None:
        save(along, folder / "lines.png", folder / "lines.pdf")


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


def summary(rows: Sequence[Row], baseline: str | None) -> pd.DataFrame:
    """Return mean and deviation of every measured column and the difference, a line a row."""
    names = measured(rows)
    beside = differences(rows, baseline) if baseline else [None] * len(rows)
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


def _figure(study: Study, rows: Sequence[Row]) -> Figure:
    kind, x, baseline = study.figure.kind, study.figure.x, study.baseline
    if _is_sweep(study, rows):
        return sweep(rows, str(x), baseline, study.figure.panels, study.figure.log)
    if kind == "differences" and baseline is not None:
        return beside_baseline(rows, baseline)
    return over_rounds(rows, baseline)


def _is_sweep(study: Study, rows: Sequence[Row]) -> bool:
    """Return whether the figure is a sweep and several values of its x were run."""
    return study.figure.kind == "sweep" and study.figure.x in rows[0].varied


def _is_finished(run: Planned) -> bool:
    return is_finished(folder_of(run.config))
