"""The commands that compare, as a user types them."""

import pytest
from typer.testing import CliRunner

from fedalign.cli import app


@pytest.fixture
def folder(made):
    for name in ("fedavg", "fedpfn"):
        for seed in range(2):
            columns = {"test_accuracy": [0.1 * seed, 0.5 + 0.1 * (name > "fedb")]}
            path = made(f"{name}-{seed}", columns, seed=seed, strategy={"name": name}).path
    return path.parent


def told(*words):
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.output


def test_a_folder_of_runs_is_compared_and_written(folder, tmp_path):
    files = [tmp_path / f"t{suffix}" for suffix in (".txt", ".md", ".tex", ".csv", ".long.csv")]
    outs = [word for file in files for word in ("--out", file)]
    code, output = told("compare", folder, folder / "fedavg-0", "--at", "final", *outs)
    assert code == 0, output
    assert "fedpfn      2    0.6000 ± 0.0000 *  +0.1000 ± 0.0000  <0.001" in output
    assert f"{folder / 'fedavg-0'}: given more than once, counts once" in output
    assert [f"table in {file}" in output for file in files] == [True] * 5
    assert files[0].read_text() in output
    long = files[4].read_text().splitlines()
    assert long[0] == "arm,strategy.name,metric,at,seed,value,run"
    assert len(long) == 5


def test_a_format_says_what_is_printed_or_written(folder, tmp_path):
    code, output = told("compare", folder, "--format", "csv-long", "--out", tmp_path / "t.csv")
    assert code == 0, output
    assert "seed,value,run" in (tmp_path / "t.csv").read_text().partition("\n")[0]
    code, output = told("compare", folder, "--format", "latex")
    assert output.startswith(r"% needs \usepackage{booktabs}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "x.xls"], "error: 'x.xls': a table's file must end in .long.csv, .csv, .txt"),
        (["--by", "alpha"], "error: by: 'alpha' is a setting of no run"),
        (["--at", "last"], "error: at: 'last' must be one of lastN, best"),
    ],
)
def test_what_is_wrong_is_one_line(folder, words, says):
    code, output = told("compare", folder, *words)
    assert code == 2
    assert output.startswith(says)
