"""Write a table in LaTeX, for the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\ge$",
    "\N{EN DASH}": "--",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
}
MAX_SMALL = 6  # columns; more are set in smaller type, to fit an article's text
NUMBER = re.compile(r"[<+-]?[\d.,]+(e[+-]?\d+)?( ± [\d.,]+)?")


def escaped(text: str) -> str:
    """Return a text as LaTeX shows it."""
    return "".join(SPECIAL.get(character, character) for character in text)


def cell(text: str, bold: bool = False) -> str:
    """Return a cell's text in LaTeX: numbers in mathematics, so that a minus is one."""
    if not NUMBER.fullmatch(text):
        return rf"\textbf{{{escaped(text)}}}" if bold else escaped(text)
    number = text.replace(",", "{,}").replace("±", r"\pm")
    return rf"$\mathbf{{{number}}}$" if bold else f"${number}$"


def table(
    columns: Mapping[str, Sequence[str]], texts: int, starts: Collection[int], note: str
) -> str:
    """Return a `table` with a note below; it needs the package booktabs.

    Args:
        columns: cells in LaTeX, by heading as text.
        texts: number of columns at the left that hold text; numbers are set flush right.
        starts: rows above which a rule is drawn.
        note: text below the table.
    """
    rows = [" & ".join(row) + r" \\" for row in zip(*columns.values(), strict=True)]
    size = "small" if len(columns) <= MAX_SMALL else "footnotesize"
    body = [line for i, row in enumerate(rows) for line in ([r"\midrule"] * (i in starts) + [row])]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\centering\{size}\setlength{{\tabcolsep}}{{3pt}}",
            rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(columns) - texts)}}}",
            r"\toprule",
            " & ".join([*map(escaped, [*columns][:texts]), *map(_head, [*columns][texts:])])
            + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\smallskip{{\footnotesize\raggedright {escaped(note)}\par}}",
            r"\end{table}",
        ]
    )


def _head(text: str) -> str:
    """Return a heading with its words on top of one another, so that its column is narrow."""
    words = r" \\ ".join(map(escaped, text.split()))
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{words}\end{{tabular}}" if " " in text else words
