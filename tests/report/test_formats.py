import io
import re
import shutil
import subprocess

import pandas as pd
import pytest

from fedalign.errors import InputError
from fedalign.report import latex
from fedalign.report.comparison import compare
from fedalign.report.formats import Shown

BYTES = {"bytes_down": [3_000_000] * 3, "bytes_up": [1_000_000] * 3}


@pytest.fixture
def shown(made):
    """Two arms under two alphas; one of the first reaches 0.8 in round 3."""
    accuracies = {
        ("a_1%&b", 0.1): [0.70, 0.72, 0.84],
        ("other", 0.1): [0.60, 0.63, 0.73],
        ("a_1%&b", 1.0): [0.5],
    }
    runs = [
        made(
            f"{name[0]}-{alpha}-{seed}",
            {"test_accuracy": [0.1, 0.2, value], **BYTES},
            seed=seed,
            strategy={"name": name},
            partition={"alpha": alpha},
        )
        for (name, alpha), values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return Shown(compare(runs, at="final"), 0.8, "fedalign compare x")


def rows(text):
    return [re.split(r"  +", line) for line in text.split("\n\n")[0].splitlines()]


def test_a_text_table_by_hand(shown):
    head, _, first, second, third = rows(shown.text("text"))
    assert head == [
        *("strategy", "alpha", "n", "test accuracy", "minus a_1%&b", "p (Holm)"),
        *("reached 0.8", "rounds", "MB"),
    ]
    # 0.70, 0.72, 0.84: deviation sqrt((0.0533^2 + 0.0333^2 + 0.0867^2) / 2) = 0.0757
    # -0.10, -0.09, -0.11: 4.3027 * 0.01 / sqrt(3) = 0.0248; p = 0.00332
    best = ["0.7533 ± 0.0757 *", "–", "–", "1 of 3", "3.0", "12.00"]  # noqa: RUF001
    assert first == ["a_1%&b", "0.1", "3", *best]
    none = ["0 of 3", "–", "–"]  # noqa: RUF001
    assert second[2:] == ["3", "0.6533 ± 0.0681", "-0.1000 ± 0.0248", "0.003", *none]
    assert third[:4] == ["a_1%&b", "1.0", "1", "0.5000"]
    notes = " ".join(shown.text("text").split("\n\n")[1].split())
    assert "arm minus a_1%&b with the same other settings" in notes
    assert "corrected for 1 comparison by Holm's method" in notes
    assert "the first round with test_accuracy ≥ 0.8" in notes


def test_markdown_has_the_best_in_bold_and_the_command(shown):
    text = shown.text("markdown")
    assert text.startswith("`fedalign compare x`\n\n| strategy")
    assert "| **0.7533 ± 0.0757** |" in text
    assert "\n- without seeds 1, 2, which others have: a_1%&b, alpha 1.0\n" in text


def test_a_wide_table_has_a_row_an_arm_and_reads_back(shown):
    table = pd.read_csv(io.StringIO(shown.text("csv"))).set_index("arm")
    other = table.loc["other, alpha 0.1"]
    assert other[["mean", "difference", "low95", "high95"]].tolist() == pytest.approx(
        [0.65333, -0.1, -0.12484, -0.07516], abs=1e-5
    )
    assert other[["p", "p_holm"]].tolist() == pytest.approx([0.0033167] * 2, abs=1e-6)
    assert other[["metric", "at", "n", "pairs", "reached", "of"]].tolist() == [
        *("test_accuracy", "final", 3, 3, 0, 3)
    ]
    mine = table.loc["a_1%&b, alpha 0.1"]
    assert mine[["rounds_to_target", "bytes_to_target", "best"]].tolist() == [3, 12e6, True]


def test_a_long_table_has_a_row_a_run(shown):
    table = pd.read_csv(io.StringIO(shown.text("csv-long")))
    assert table[["strategy.name", "partition.alpha", "seed", "value"]].values.tolist() == [
        *(["a_1%&b", 0.1, seed, value] for seed, value in enumerate([0.70, 0.72, 0.84])),
        *(["other", 0.1, seed, value] for seed, value in enumerate([0.60, 0.63, 0.73])),
        ["a_1%&b", 1.0, 0, 0.5],
    ]
    assert table["rounds_to_target"].dropna().tolist() == [3]


def test_latex_escapes_and_sets_numbers_in_mathematics(shown):
    text = shown.text("latex")
    line = next(line for line in text.splitlines() if line.startswith("a"))
    cells = r"& $0.1$ & $3$ & $\mathbf{0.7533 \pm 0.0757}$ & -- & -- & 1 of 3 & $3.0$ & $12.00$ \\"
    assert line == rf"a\_1\%\&b {cells}"
    assert text.count(r"\midrule") == 2  # one below the headings, one between the alphas
    assert latex.cell("-1,234.5 ± 2.0") == r"$-1{,}234.5 \pm 2.0$"
    assert latex.cell("<0.001") == "$<0.001$"
    assert latex.escaped("a_b{c}~^\\#$") == (
        r"a\_b\{c\}\textasciitilde{}\textasciicircum{}\textbackslash{}\#\$"
    )


@pytest.mark.slow
def test_latex_is_compiled(shown, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed; the table is checked by its text above")
    shown.write(tmp_path / "table.tex", "latex")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}"
    (tmp_path / "x.tex").write_text(document + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_a_file_that_is_no_table_is_refused(shown, tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        shown.write(tmp_path / "none" / "x.md", "markdown")
