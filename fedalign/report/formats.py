"""Write a comparison as text, Markdown, LaTeX or CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd

from fedalign.errors import InputError
from fedalign.files import replace_text
from fedalign.report import frames, latex
from fedalign.report.comparison import Comparison
from fedalign.report.labels import MAX_NAMED, label, short
from fedalign.report.notes import method
from fedalign.report.statistics import UNKNOWN, Difference, mean_std
from fedalign.report.tables import markdown
from fedalign.runs.tables import lower_is_better

SUFFIXES = {  # of files, by format; the longest first
    "csv-long": ".long.csv",
    "csv": ".csv",
    "text": ".txt",
    "markdown": ".md",
    "latex": ".tex",
}
WIDTH = 100  # characters of a line of notes


def format_of(file: Path) -> str:
    """Return the format that a file's name asks for; `InputError` if it asks for none."""
    for name, suffix in SUFFIXES.items():
        if file.name.endswith(suffix):
            return name
    raise InputError(f"{str(file)!r}: a table's file must end in {', '.join(SUFFIXES.values())}")


@dataclass(frozen=True)
class Shown:
    """A comparison, and what else a table says about it.

    Attributes:
        found: the comparison.
        target: a value of the metric; how long runs took to reach it is added; None: it is not.
        command: repeats the comparison; stands in Markdown and LaTeX.
    """

    found: Comparison
    target: float | None = None
    command: str = ""

    def write(self, file: Path, kind: str) -> None:
        """Write the comparison to a file in one of the formats."""
        if not file.parent.is_dir():
            raise InputError(f"{str(file)!r}: {str(file.parent)!r} is not a folder")
        replace_text(file, self.text(kind))

    def text(self, kind: str) -> str:
        """Return the comparison in one of the formats."""
        if kind.startswith("csv"):
            frame = (frames.long if kind == "csv-long" else frames.wide)(self.found, self.target)
            return str(frame.to_csv(index=False, lineterminator="\n"))
        return {"markdown": self._markdown, "latex": self._latex, "text": self._text}[kind]()

    def notes(self, mark: str = "bold") -> list[str]:
        """Return what the numbers are, then lines on what is special about them."""
        said = [method(self.found)]
        if self.target is not None:
            sign = "≤" if lower_is_better(self.found.metric) else "≥"
            said.append(
                f"Target: the first round with {self.found.metric} {sign} {self.target:g}; rounds, "
                "and MB (10^6 bytes, down and up, of all clients) until then, are means over the "
                "runs that reached it."
            )
        if any(self.found.best):
            said.append(f"The best mean among arms with one baseline is marked: {mark}.")
        return [" ".join(said), *self.found.notes]

    def _text(self) -> str:
        table = pd.DataFrame(self._cells("{} *"))
        lines = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in self.notes("*")]
        return table.to_markdown(index=False, disable_numparse=True, tablefmt="simple") + (
            "\n\n" + "\n".join(lines) + "\n"
        )

    def _markdown(self) -> str:
        table = markdown(self._cells("**{}**"))
        lines = "\n".join(f"- {note}" for note in self.notes())
        return "\n\n".join([*([f"`{self.command}`"] if self.command else []), table, lines]) + "\n"

    def _latex(self) -> str:
        bases = list(self.found.baselines)
        starts = [i for i in range(1, len(bases)) if bases[i] != bases[i - 1]]
        cells = {
            head: [
                latex.cell(text, best and head == self._metric)
                for text, best in zip(column, self.found.best, strict=True)
            ]
            for head, column in self._cells("{}").items()
        }
        note, *more = self.notes()
        lines = [r"needs \usepackage{booktabs}", *([self.command] if self.command else []), *more]
        comments = "\n".join(f"% {line}" for line in lines)
        return f"{comments}\n{latex.table(cells, len(self._names()), starts, note)}\n"

    @property
    def _metric(self) -> str:
        return self.found.metric.replace("_", " ")

    def _cells(self, mark: str) -> dict[str, list[str]]:
        """Return the columns of a table by heading; `mark` is put around the best mean."""
        found, arms = self.found, self.found.arms
        digits = _digits([arm.mean for arm in arms])
        means = [mean_std(list(arm.values.values()), digits) for arm in arms]
        cells = self._names() | {"n": [str(arm.n) for arm in arms]}
        cells[self._metric] = [
            mark.format(mean) if best else mean
            for mean, best in zip(means, found.best, strict=True)
        ]
        if any(found.differences):
            cells[f"minus {found.baseline}"] = [_beside(d, digits) for d in found.differences]
            cells["p (Holm)"] = [_p(d.adjusted if d else nan) for d in found.differences]
        return cells | (self._ways(self.target) if self.target is not None else {})

    def _names(self) -> dict[str, list[str]]:
        """Return a column for each setting by which runs are compared, or one for many of them."""
        by, arms = self.found.by, self.found.arms
        if not by or len(by) > MAX_NAMED:
            return {"arm": [arm.label for arm in arms]}
        return {
            short(key, by): [
                label({"name": arm.settings[key]}) if key in arm.settings else UNKNOWN
                for arm in arms
            ]
            for key in by
        }

    def _ways(self, target: float) -> dict[str, list[str]]:
        arms = self.found.arms
        ways = [arm.reaching(self.found.metric, target) for arm in arms]
        return {
            f"reached {target:g}": [
                f"{len(own)} of {len(arm.runs)}" for own, arm in zip(ways, arms, strict=True)
            ],
            "rounds": [_mean([way.round for way in own], 1) for own in ways],
            "MB": [_mean([way.bytes / 1e6 for way in own], 2) for own in ways],
        }


def _digits(means: Sequence[float]) -> int:
    """Return how many digits after the point are shown of numbers as large as these."""
    largest = max((abs(mean) for mean in means if not isnan(mean)), default=0)
    return 4 if largest < 10 else 2 if largest < 1000 else 0


def _beside(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return UNKNOWN
    spread = "" if isnan(difference.half_width) else f" ± {difference.half_width:,.{digits}f}"
    return f"{difference.mean:+,.{digits}f}{spread}"


def _mean(values: Sequence[float], digits: int) -> str:
    return mean_std([float(np.mean(values))] if values else [], digits)


def _p(p: float) -> str:
    return UNKNOWN if isnan(p) else f"{p:.3f}" if p >= 0.001 else "<0.001"
