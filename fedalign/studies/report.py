"""What a study leaves behind: its table, the same numbers as CSV, and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedalign.report.figures import beside_baseline, over_rounds, save, sweep
from fedalign.report.lines import along_the_line
from fedalign.report.statistics import Difference, deviation
from fedalign.report.tables import COLUMNS, Row, Run, differences, measured, read_runs, table
from fedalign.runs.paths import folder_of, is_finished
from fedalign.studies.study import Planned, Study, axes

NOTES = """\
Mean ± sample standard deviation over seeds. Barriers and gaps are means over the rounds in which
they were measured; MB are 10^6 bytes, summed over all rounds and clients."""
COMPARED = """
Differences are paired by seed: mean ± half of the 95 % interval by Student's t; n.s. is not
significant: the interval contains 0. They are not corrected for the number of comparisons."""


def write(study: Study, planned: Sequence[Planned], folder: Path, command: str) -> None:
    """Write table, summary, all curves and the figure from what is finished."""
    rows = rows_of(planned)
    columns = study.table or measured(rows)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {study.title}", f"`{command}`", table(rows, columns, study.baseline)]
    lines.append(NOTES + (COMPARED if study.baseline else ""))
    missing = sum(not _is_finished(run) for run in planned)
    if missing:
        lines.append(f"{missing} of {len(planned)} runs are missing.")
    (folder / "table.md").write_text("\n\n".join(lines) + "\n", "utf-8")
    summary(rows, study.baseline).to_csv(folder / "summary.csv", index=False)
    curves(rows).to_parquet(folder / "curves.parquet", index=False)
    save(_figure(study, rows), folder / "figure.png", folder / "figure.pdf")
    along = along_the_line(rows, str(study.figure.x)) if _is_sweep(study, rows) else None
    if along is not None:
        save(along, folder / "lines.png", folder / "lines.pdf")


def rows_of(planned: Sequence[Planned]) -> list[Row]:
    """Return the finished runs, seeds together: the arms in order, under each combination."""
    finished = [run for run in planned if _is_finished(run)]
    folders = list(dict.fromkeys(folder_of(run.config) for run in finished))
    found, keys = dict(zip(folders, read_runs(folders), strict=True)), axes(planned)
    grouped: dict[tuple[Any, ...], dict[str, list[Run]]] = {}
    for run in finished:
        together = grouped.setdefault(tuple(run.chosen[key] for key in keys), {})
        together.setdefault(run.arm, []).append(found[folder_of(run.config)])
    return [
        Row(arm, runs, dict(zip(keys, values, strict=True)))
        for values, arms in grouped.items()
        for arm, runs in arms.items()
    ]


def summary(rows: Sequence[Row], baseline: str | None) -> pd.DataFrame:
    """Return every measured number of every row, for other programs."""
    names = measured(rows)
    beside = differences(rows, baseline) if baseline else [None] * len(rows)
    return pd.DataFrame(
        {**row.varied, "arm": row.arm, "seeds": len(row.runs)} | _numbers(row, names) | _told(told)
        for row, told in zip(rows, beside, strict=True)
    )


def curves(rows: Sequence[Row]) -> pd.DataFrame:
    """Return every measured point of every run, with the run's arm, settings varied, and seed."""
    parts = [
        run.landscape.assign(**{**row.varied, "arm": row.arm, "seed": run.settings["seed"]})
        for row in rows
        for run in row.runs
    ]
    return pd.concat(parts, ignore_index=True)


def _numbers(row: Row, names: Sequence[str]) -> dict[str, float]:
    values = {name: [COLUMNS[name].of(run) for run in row.runs] for name in names}
    means = {f"{name}_mean": sum(found) / len(found) for name, found in values.items()}
    return means | {f"{name}_std": deviation(found) for name, found in values.items()}


def _told(difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {}
    known = {"difference": difference.mean, "half_width": difference.half_width}
    return known | {"pairs": difference.pairs, "significant": difference.significant}


def _figure(study: Study, rows: Sequence[Row]) -> Figure:
    kind, x, baseline = study.figure.kind, study.figure.x, study.baseline
    if _is_sweep(study, rows):
        return sweep(rows, str(x), baseline, study.figure.panels, study.figure.log)
    if kind == "differences" and baseline is not None:
        return beside_baseline(rows, baseline)
    return over_rounds(rows, baseline)


def _is_sweep(study: Study, rows: Sequence[Row]) -> bool:
    """Return whether there are several values of x, and not one set on the command line."""
    return study.figure.kind == "sweep" and study.figure.x in rows[0].varied


def _is_finished(run: Planned) -> bool:
    return is_finished(folder_of(run.config))
