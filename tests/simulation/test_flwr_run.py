"""`flwr run` and `flower-simulation` on the same app give the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import fedalign
from fedalign.deploy.processes import free_port

APPS = Path(__file__).parents[1] / "apps"
NAMES = ("kinds", "legacy")
SIZE = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a command with a SuperLink of its own, which is ended."""
    home = tmp_path_factory.mktemp("flwr")
    env = os.environ | {
        "PYTHONPATH": str(Path(fedalign.__file__).parents[1]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }

    def call(folder, *words):
        return subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False
        )

    yield call
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == str(home):
                process.kill()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers(name, run, tmp_path):
    app = shutil.copytree(APPS / name, tmp_path / name)  # `flwr run` rewrites its pyproject.toml
    go = [sys.executable, "-c", "from fedalign.cli import flower_simulation as go; go()"]
    ours = run(tmp_path, *go, "--app", name)
    assert ours.returncode == 0, ours.stderr
    assert f"wrote {name}.json" in ours.stderr
    out = tmp_path / "flwr.json"
    given = ["--federation-config", SIZE, "--run-config", f"out={json.dumps(str(out))}"]
    theirs = run(app, "flwr", "run", ".", "--stream", *given)
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr
    assert out.exists(), theirs.stdout + theirs.stderr
    assert json.loads(out.read_text()) == json.loads((tmp_path / f"{name}.json").read_text())
