"""Run folders that are written by hand."""

import json

import pytest
import yaml

from fedalign.report.reading import read_runs


@pytest.fixture
def made(tmp_path):
    """Return a run as read from a folder: settings, and columns of `metrics.csv` by round."""

    def made(name, columns, status="finished", landscape=(), **settings):
        path = tmp_path / name
        path.mkdir()
        tree = {"name": "x", "seed": 0, **settings}
        (path / "config.yaml").write_text(yaml.safe_dump(tree))
        rounds = range(1, 1 + max(map(len, columns.values())))
        rows = zip(rounds, *columns.values(), strict=True)
        lines = [",".join(["round", *columns]), *(",".join(map(str, row)) for row in rows)]
        (path / "metrics.csv").write_text("\n".join(lines) + "\n")
        points = [",".join(map(str, row)) for row in landscape]
        text = "\n".join(["round,path,alpha,loss,accuracy", *points]) + "\n"
        (path / "landscape.csv").write_text(text)
        (path / "manifest.json").write_text(json.dumps({"status": status}))
        return read_runs([path])[0]

    return made
