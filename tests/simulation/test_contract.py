"""Our grids keep what a ServerApp may rely on of Flower's own, statement by statement."""

from __future__ import annotations

import queue
import sys
import threading
from math import inf
from pathlib import Path

import pytest
from flwr.serverapp import ServerApp

from fedalign.simulation import auto
from fedalign.simulation.app import FlowerApp, load_component
from fedalign.simulation.auto import AutoGrid
from fedalign.simulation.inline import InlineGrid
from tests.simulation.contract import contents, delivery

APP = FlowerApp(
    Path(__file__).parent / "contract", "contract_client:server", "contract_client:app", {}
)
STATEMENTS = contents.STATEMENTS | delivery.STATEMENTS
PACE = {"flower": 0.5, "inline": 0.05, "auto": 0.15, "ray": 0.15}
DIFFERENCES: dict[str, tuple[str, ...]] = {
    "inline": ("pushes_overlap", "timeout_leaves_out_the_late"),
    "auto": ("timeout_leaves_out_the_late",),
    "ray": (),
}
"""By engine, the statements that it does not keep: in one process, nothing runs beside a client.

On `auto`, that depends on where the client runs.
"""


@pytest.fixture(scope="module")
def client_app():
    """Return the ClientApp, from a module that can be found by its name."""
    before = list(sys.path)
    APP.put_on_path()
    yield load_component(APP.client, APP.root)
    sys.path[:] = before


@pytest.fixture
def inline(client_app):
    """Return the Grid without workers."""
    grid = InlineGrid(client_app, 4)
    yield grid
    grid.close()


@pytest.fixture(scope="module")
def on_ray(ray, client_app):
    """Return the Grid over two workers."""
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(APP, 4)
    grid.start(client_app)
    ray.get([worker.ready.remote() for worker in grid._pool.workers])
    yield grid
    grid.close()


@pytest.fixture(scope="module")
def on_auto(ray, client_app):
    """Return the Grid over this process and two workers."""
    config = {"client_resources": {"num_cpus": 0}, "init_args": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "WORTH", inf)
        grid = AutoGrid(APP, client_app, 4, {}, None, config, 2)
        grid._hire()
        ray.get([worker.ready.remote() for worker in grid._pool.workers])
        yield grid
        grid.close()


@pytest.fixture(scope="module")
def flower(ray, client_app):
    """Return the Grid that Flower's own engine gives to a ServerApp."""
    from flwr.simulation import run_simulation

    ray.cloudpickle.register_pickle_by_value(sys.modules["contract_client"])
    grids, done, server = queue.Queue(), threading.Event(), ServerApp()

    @server.main()
    def main(grid, _context):
        while len(list(grid.get_node_ids())) < 4:
            threading.Event().wait(0.1)
        grids.put(grid)
        done.wait()

    one = {"client_resources": {"num_cpus": 1}}
    engine = threading.Thread(
        target=run_simulation, args=(server, client_app, 4), kwargs={"backend_config": one}
    )
    engine.start()
    yield grids.get(timeout=120)
    done.set()
    engine.join(60)


def cases(engine):
    """Return each statement, marked if the engine does not keep it."""
    for name, statement in STATEMENTS.items():
        differs = name in DIFFERENCES.get(engine, ())
        marks = [pytest.mark.xfail(strict=engine != "auto")] * differs
        yield pytest.param(statement, id=name, marks=marks)


def test_the_table_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "flower-apps.md").read_text()
    rows = []
    for name, statement in STATEMENTS.items():
        kept = ["no" if name in those else "yes" for those in DIFFERENCES.values()]
        rows.append(f"| {statement.__doc__} | {' | '.join(kept)} |")
    assert [row for row in rows if row not in text] == []


@pytest.mark.parametrize("statement", list(cases("inline")))
def test_inline(inline, statement):
    statement(inline, PACE["inline"])


@pytest.mark.slow  # of both parts, the contract is tested without it
@pytest.mark.parametrize("statement", list(cases("auto")))
def test_auto(on_auto, statement):
    statement(on_auto, PACE["auto"])


@pytest.mark.parametrize("statement", list(cases("ray")))
def test_ray(on_ray, statement):
    statement(on_ray, PACE["ray"])


@pytest.mark.slow
@pytest.mark.parametrize("statement", list(cases("flower")))
def test_flowers_own(last_ray, flower, statement):  # noqa: ARG001
    statement(flower, PACE["flower"])
