"""The same app gives the same arrays on every engine, and its errors come out as themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.settings.sections import Simulation
from fedalign.simulation import FlowerApp, find_app, simulate
from fedalign.simulation.ray_setup import full_backend_config

LAST_WORDS = "the client says: ValueError: No query function registered with name 'default'"
NAMES = ("quicknumpy", "quickstate", "quickhand", "quicktorch")
pytestmark = pytest.mark.xdist_group("ray")


def job(apps, name, backend, **more):
    out = f"{name}-{backend}.npz"
    settings = {"out": out, "client.step": 0.25}
    return {
        "app": str(apps / name),
        "num_supernodes": 2 if name == "quicktorch" else 4,
        "run_config": settings,
        "backend": backend,
        **more,
    }


@pytest.fixture(scope="session")
def inline(apps, run_jobs, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("inline")
    jobs = [job(apps, name, "inline", run_id=7) for name in (*NAMES, "quickraise")]
    return cwd, *run_jobs(cwd, *jobs)


def test_apps_run_to_their_end_inline(inline):
    _, outcomes, left, _ = inline
    assert outcomes[:4] == ["ok"] * 4
    assert left == {"ray": False, "path": left["path"]}


def test_numpy_app_computes_what_it_says(inline):
    with np.load(inline[0] / "quicknumpy-inline.npz") as arrays:
        # Steps of 0.25 to 1, so 0.625 on average, three times.
        assert arrays["arr_0"].tolist() == [[1.875] * 3] * 2
        assert arrays["arr_1"].tolist() == [2.875] * 4


def test_state_is_kept_between_rounds(inline):
    with np.load(inline[0] / "quickstate-inline.npz") as arrays:
        # x -> 2 (x + visits / 4): 0, 0.5, 2, 5.5
        assert arrays["arr_0"].tolist() == [[5.5] * 3] * 2


def test_errors_come_out_as_themselves_inline(inline):
    assert inline[1][4] == f"InputError: {LAST_WORDS}"


@pytest.fixture
def on_our_workers(ray, apps, monkeypatch, tmp_path):  # noqa: ARG001
    """Return a function that runs an app on the Ray that is there."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def run(name):
        words = job(apps, name, "ray", run_id=7)
        simulate(find_app(words.pop("app")), **words)

    return run


@pytest.mark.parametrize(  # and quickstate by the command
    "name", ["quickhand", pytest.param("quicktorch", marks=pytest.mark.slow)]
)
def test_our_workers_give_the_same_arrays(on_our_workers, inline, sha, name):
    before = os.environ.get("PYTHONPATH")
    on_our_workers(name)
    assert sha(Path(f"{name}-ray.npz")) == sha(inline[0] / f"{name}-inline.npz")
    assert os.environ.get("PYTHONPATH") == before


def test_errors_come_out_as_themselves_of_our_workers(on_our_workers):
    with pytest.raises(InputError, match=f"^{re.escape(LAST_WORDS)}$"):
        on_our_workers("quickraise")


def test_the_command_runs_any_app_on_our_workers(apps, python, inline, sha, tmp_path):
    done = python(
        "from fedalign.cli import flower_simulation as go; go()",
        "--app", str(apps / "quickstate"), "--num-supernodes", "4",
        "--run-config", 'out="quickstate.npz" client.step=0.25',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sha(tmp_path / "quickstate.npz") == sha(inline[0] / "quickstate-inline.npz")


@pytest.mark.slow
def test_flowers_engine_gives_the_same_arrays(apps, run_jobs, inline, sha, tmp_path):
    given = {"client-resources": {"num-cpus": 1}, "init-args": {"num-cpus": 2}}
    outcomes, left, said = run_jobs(
        tmp_path, job(apps, "quickstate", "flower", run_id=7, backend_config=given)
    )
    assert outcomes == ["ok"], said
    assert sha(tmp_path / "quickstate-flower.npz") == sha(inline[0] / "quickstate-inline.npz")
    assert "deprecated" not in said
    assert "usage stats" not in said.lower()
    assert left["path"] == inline[2]["path"]


@pytest.mark.slow
def test_flowers_engine_gives_the_same_arrays_again(apps, run_jobs, inline, sha, tmp_path):
    names = ("quicknumpy", "quickhand", "quicktorch")
    outcomes, _, said = run_jobs(tmp_path, *(job(apps, name, "flower", run_id=7) for name in names))
    assert outcomes == ["ok"] * 3, said
    for name in names:
        ours = sha(inline[0] / f"{name}-inline.npz")
        assert sha(tmp_path / f"{name}-flower.npz") == ours, name


@pytest.mark.slow
def test_errors_come_out_as_themselves_of_flowers_engine(apps, run_jobs, tmp_path):
    too_big = {"client_resources": {"num_cpus": 64}, "init_args": {"num_cpus": 1}}
    outcomes, _, said = run_jobs(
        tmp_path,
        job(apps, "quickraise", "flower"),
        job(apps, "quicknumpy", "flower", backend_config=too_big),
    )
    assert outcomes[0] == f"InputError: {LAST_WORDS}", said
    assert outcomes[1].startswith("FedalignError: Flower's engine failed: ValueError: ActorPool")


APP = FlowerApp(root=None, server="a:b", client="a:c", defaults={})  # never loaded


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_supernodes": 0}, ["--num-supernodes", "0", "at least 1"]),
        (
            {"backend": "inlin"},
            ["'inlin'", "did you mean 'inline'?", "(auto, inline, ray, flower)"],
        ),
        ({"backend": "ray", "backend_config": {"actor": {}}}, ["'ray'", "'actor'", "init_args"]),
        (
            {"backend": "inline", "backend_config": {"init_args": {}}},
            ["'inline'", "'init_args'", "(client_resources)"],
        ),
        (
            {"backend": "flower", "backend_config": {"client-resource": {}}},
            ["'client-resource'", "did you mean 'client_resources'?"],
        ),
        ({"backend": "flower", "backend_config": {"init_args": 3}}, ["init_args: 3", "table"]),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(InputError) as caught:
        simulate(APP, **{"num_supernodes": 1, "run_config": {}, **options})
    assert [word for word in words if word not in str(caught.value)] == []


def test_parts_of_the_wrong_type_are_named(write_app, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_app(tmp_path, "swapped", server="app = 3")
    with pytest.raises(InputError, match=r"'swapped\.server_app:app' is a int, not a ServerApp"):
        simulate(find_app(str(tmp_path)), 1, {})


def test_backend_config_is_merged_at_depth():
    config = full_backend_config(
        {"client-resources": {"num-gpus": 0.5}, "init_args": {"num_cpus": 2}}
    )
    assert config["client_resources"] == {"num_cpus": 1, "num_gpus": 0.5}
    assert config["init_args"] == {
        "include_dashboard": False,
        "logging_level": "ERROR",
        "num_cpus": 2,
        "_node_ip_address": "127.0.0.1",
        "_system_config": {"free_objects_batch_size": 1},
    }
    joined = full_backend_config({"init_args": {"address": "auto"}})["init_args"]
    assert "_system_config" not in joined  # Ray refuses it for a cluster that runs already


@pytest.mark.parametrize(
    ("there", "device", "each"), [(0, "auto", 0), (2, "auto", 1), (2, "cpu", 0)]
)
def test_one_worker_a_gpu_by_default(monkeypatch, there, device, each):
    monkeypatch.setattr("fedalign.network.device.count_gpus", lambda: there)
    given = Simulation(backend="ray").backend_config(device)
    assert full_backend_config(given)["client_resources"]["num_gpus"] == each
    given = Simulation(backend="ray", client_gpus=0.25).backend_config(device)
    assert full_backend_config(given)["client_resources"]["num_gpus"] == 0.25


def test_a_ray_elsewhere_keeps_its_own_size():
    init_args = full_backend_config({"init_args": {"address": "auto"}})["init_args"]
    assert not {"num_cpus", "_node_ip_address"} & set(init_args)


def test_importing_the_room_imports_neither_flower_nor_ray():
    code = "import sys, fedalign.simulation; print({'flwr', 'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
