"""What a strategy or a client holds is its own: no later round changes it, on any engine."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedalign.simulation.app import load_component
from fedalign.simulation.inline import InlineGrid
from tests.doubles import one_file_app

CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
HELD = []

@app.train()
def train(message, context):
    record = message.content["arrays"]
    HELD.append((record, record["w"].numpy()))
    (own,) = record.to_numpy_ndarrays()
    own += 1  # in place
    same = all(np.array_equal(held["w"].numpy(), values) for held, values in HELD)
    me = MetricRecord({"same": int(same), "held": len(HELD)})
    last = HELD[-2:][0][0]
    arrays = {"arrays": ArrayRecord([own]), "last": last, "me": me}
    context.state["last"] = last
    return Message(RecordDict(arrays), reply_to=message)
"""
ROUNDS, SIZE = 5, 100_000  # numbers: enough for Ray's shared memory


@pytest.fixture
def inline_grid(tmp_path, monkeypatch):
    app = one_file_app(tmp_path, "holding_inline", CLIENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    return InlineGrid(load_component(app.client), 4)


@pytest.fixture
def ray_grid(ray, tmp_path):  # noqa: ARG001
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(one_file_app(tmp_path, "holding_ray", CLIENT), 4)
    grid.start(ClientApp())
    yield grid
    grid.close()


def test_no_round_changes_what_is_held(inline_grid):
    _check(inline_grid)


def test_no_round_changes_what_is_held_beside_ray(ray_grid):
    _check(ray_grid)


def _check(grid):
    held, states = [], []
    for number in range(ROUNDS):
        content = RecordDict({"arrays": ArrayRecord([np.full(SIZE, number, np.float32)])})
        content["arrays"]["w"] = content["arrays"].pop("0")
        sent = [Message(content, node, "train") for node in grid.get_node_ids()]
        held.append((content, grid.send_and_receive(sent)))
        states.append(grid.states())
    for number, (content, replies) in enumerate(held):
        assert content["arrays"]["w"] == Array(np.full(SIZE, number, np.float32))
        assert len(replies) == 4
        for reply in replies:
            assert reply.content["me"]["same"]
            (own,) = reply.content["arrays"].to_numpy_ndarrays()
            assert np.array_equal(own, np.full(SIZE, number + 1, np.float32))
            last = reply.content["last"]["w"].numpy()
            assert (last == last[0]).all()
            own += 1  # a strategy may write into what it was given
            assert reply.content["arrays"].to_numpy_ndarrays()[0][0] == number + 1
        kept = [state["last"]["w"].numpy() for state in states[number].values()]
        assert all((last == last[0]).all() and last[0] <= number for last in kept)
    assert max(reply.content["me"]["held"] for reply in held[-1][1]) > ROUNDS
