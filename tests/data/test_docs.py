"""What docs/data.md shows can be run as it stands."""

import re
import shlex

import pandas as pd
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.settings.registry import HOME

PAGE = (HOME / "docs" / "data.md").read_text("utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^fedalign run .*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(
    ("number", "file", "data"), [(0, "", "data=folder"), (1, "my_data.py", "data=my_data:Points")]
)
def test_a_table_as_the_page_shows_it(tmp_path, monkeypatch, number, file, data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if file:
        (tmp_path / file).write_text(SCRIPTS[number])
    else:
        exec(compile(SCRIPTS[number], "script", "exec"), {"__name__": "__main__"})
    (command,) = (line for line in COMMANDS if f"{data} " in line and "cat dog" not in line)
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    (metrics,) = tmp_path.glob("runs/*/metrics.csv")
    assert pd.read_csv(metrics)["test_accuracy"].iloc[-1] > 0.7
