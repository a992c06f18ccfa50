"""The loop around the four hooks, with strategies and grids that misbehave."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from fedalign.errors import FedalignError
from fedalign.messages.groups import GroupRequest
from fedalign.messages.partial_sums import group_size
from fedalign.messages.records import train_reply
from fedalign.server.exchange import RoundFailedError
from fedalign.server.remote_nodes import RemoteNodes
from fedalign.settings.contracts import FLOWER_SAMPLING
from fedalign.simulation.inline import InlineGrid
from tests.doubles import Stock, Watch, everybody, run_rounds

START = ArrayRecord({"w": Array(np.ones(3, np.float32)), "n": Array(np.array(5))})


def client():
    app = ClientApp()

    @app.query("whoami")
    def whoami(message, context):
        ids = {k: int(context.node_config[k]) for k in ("partition-id", "num-partitions")}
        return Message(RecordDict({"whoami": MetricRecord(ids)}), reply_to=message)

    @app.train()
    def train(message, context):
        partition = int(context.node_config["partition-id"])
        w = message.content["arrays"]["w"].numpy() + np.float32(partition)
        arrays = ArrayRecord({"w": Array(w), "n": Array(np.array(6))})
        return train_reply(message, arrays, partition + 1, {"train_loss": 0.5})

    return app


def go(grid, strategy=None, wanted=lambda *_: (), **settings):
    watch, strategy = Watch(wanted), strategy or FedAvg(**FLOWER_SAMPLING)
    return run_rounds(
        strategy, grid, START, callbacks=[watch], **{"rounds": 2} | settings
    ), watch.rounds


def test_weighted_average_by_hand():
    end, rounds = go(InlineGrid(client(), 2), rounds=1)
    np.testing.assert_allclose(end["w"].numpy(), 1 + 2 / 3, rtol=1e-6)  # (1*0 + 2*1) / 3 more
    assert rounds[0].metrics["train_loss"] == 0.5


def test_integers_and_dtypes_stay():
    strategy = FedAdam(**FLOWER_SAMPLING)
    end, _ = go(InlineGrid(client(), 3), strategy, rounds=3)
    assert end["w"].numpy().dtype == np.float32
    assert end["n"].numpy() == 5


def test_clients_are_drawn_by_the_seed_alone():
    def drawn(seed):
        grid = InlineGrid(client(), 30)
        _, rounds = go(grid, clients_per_round=4, rounds=5, seed=seed, wanted=everybody)
        return [tuple(outcome.clients) for outcome in rounds]  # all are kept

    assert drawn(0) == drawn(0) != drawn(1)
    assert all(clients == tuple(sorted(set(clients))) for clients in drawn(0))
    assert len(set(drawn(0))) > 1


def test_shuffled_node_ids_and_replies_change_nothing():
    class Shuffled(Stock):
        def get_node_ids(self):
            return list(reversed(super().get_node_ids()))

        def pull_messages(self, message_ids):
            """One reply is there in three looks, whatever it answers."""
            self.looks = getattr(self, "looks", 0) + 1
            return super().pull_messages(message_ids) if self.looks % 3 == 0 else []

    ends = [go(kind(client(), 7), clients_per_round=5)[0] for kind in (InlineGrid, Shuffled)]
    assert np.array_equal(ends[0]["w"].numpy(), ends[1]["w"].numpy())


@pytest.mark.parametrize("grid", [InlineGrid, Stock])
@pytest.mark.parametrize("partial_sums", [False, True])
def test_models_are_kept_only_if_somebody_looks_at_them(grid, partial_sums):
    keep = lambda number, partitions: partitions[number : number + 2]  # noqa: E731
    _, rounds = go(grid(client(), 100), rounds=2, partial_sums=partial_sums, wanted=keep)
    assert [list(outcome.clients) for outcome in rounds] == [[1, 2], [2, 3]]
    assert rounds[0].clients[2]["w"].numpy().tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("clients", "parameters", "wanted", "size"),
    [
        (100, 10, GroupRequest(), 1),
        (100, 10, GroupRequest(stack=5), 5),
        (32, 10, GroupRequest(partial_sums=True), 1),
        (100, 10, GroupRequest(partial_sums=True), 4),
        (100, 10, GroupRequest(stack=13, partial_sums=True), 13),
        (1000, 10, GroupRequest(partial_sums=True), 32),
        (10, 11_000_000, GroupRequest(partial_sums=True), 2),  # 44 MB each
        (100, 11_000_000, GroupRequest(partial_sums=True), 13),
    ],
)
def test_groups_keep_what_comes_back_small(clients, parameters, wanted, size):
    InlineGrid(client(), 1)  # Flower wants to know whose messages they are
    arrays = ArrayRecord(
        {"w": Array("float32", (parameters,), "numpy.ndarray", bytes(4 * parameters))}
    )
    messages = [Message(RecordDict({"arrays": arrays}), node, "train") for node in range(clients)]
    assert group_size(messages, wanted) == size


def test_sums_in_groups_are_the_same_average():
    whole, some = (
        go(InlineGrid(client(), 100), partial_sums=partial_sums)[0]
        for partial_sums in (False, True)
    )
    np.testing.assert_allclose(some["w"].numpy(), whole["w"].numpy(), rtol=1e-6)
    medians = (
        go(InlineGrid(client(), 100), FedMedian(**FLOWER_SAMPLING), partial_sums=partial_sums)[0]
        for partial_sums in (False, True)
    )
    assert np.array_equal(*(end["w"].numpy() for end in medians))


@pytest.mark.parametrize("partial_sums", [False, True])
def test_bytes_are_those_of_the_arrays(partial_sums):
    _, rounds = go(InlineGrid(client(), 4), partial_sums=partial_sums)
    size = sum(len(array.data) for array in START.values())
    assert rounds[0].metrics["bytes_down"] == rounds[0].metrics["bytes_up"] == 4 * size


def test_late_nodes_are_waited_for():
    class Late(Stock):
        calls = 0

        def get_node_ids(self):
            self.calls += 1
            return super().get_node_ids()[: self.calls]

    assert list(RemoteNodes(Late(client(), 4), {}, 4, None, 5).present()) == [0, 1, 2, 3]


def test_nodes_that_never_come_are_an_error():
    class Empty(Stock):
        def get_node_ids(self):
            return []

    with pytest.raises(FedalignError, match="0 of 1 nodes came"):
        RemoteNodes(Empty(client(), 4), {}, 1, None, 0.1).present()


def test_silence_is_an_error_and_not_success():
    class Deaf(Stock):
        def push_messages(self, messages):
            if messages[0].metadata.message_type == "query.whoami":
                return super().push_messages(messages)
            return []  # ids of messages that nobody gets

    with pytest.raises(RoundFailedError, match="round 1: 0 of 3 clients failed, 3 did not answer"):
        go(Deaf(client(), 3), timeout=0.1)
