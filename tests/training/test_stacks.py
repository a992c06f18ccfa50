"""Groups of clients: summed by hand, trained together, and what happens if one of them fails."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    QFedAvg,
)

from clients.local import Local
from fedalign.client_app import app as own_app
from fedalign.federation.federation import Federation, adopt, federation_of
from fedalign.masks.plan import MaskPlan
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupApp, GroupRequest
from fedalign.messages.partial_sums import (
    BLOCK,
    Mark,
    averages,
    clients_in,
    sum_replies,
    take_mark,
)
from fedalign.messages.records import TrainTask, train_reply
from fedalign.server.sampling import sample
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import read
from fedalign.simulation.grouping import groups
from fedalign.simulation.inline import InlineGrid
from fedalign.simulation.serving import serve
from fedalign.training import trainer


def reply(node, w, weight, n=5):
    InlineGrid(GroupApp(), 1)  # Flower wants to know whose message it is
    asked = Message(RecordDict(), node, "train")
    asked.metadata.__dict__["_message_id"] = str(node)
    arrays = ArrayRecord({"w": Array(np.array(w, np.float32)), "n": Array(np.array(n))})
    return train_reply(asked, arrays, weight, {"train_loss": float(node)})


def test_mean_by_hand():
    replies = [reply(1, [0, 1], 1), reply(2, [4, 5], 3), reply(3, [9, 9], 4)]
    answers = sum_replies(replies, GroupRequest(partial_sums=True, models_of=frozenset({2})), {})
    (one,) = answers.replies
    assert one.content["arrays"]["w"].numpy().tolist() == [6.0, 6.5]  # (0 + 12 + 36) / 8, …
    assert one.content["arrays"]["w"].numpy().dtype == np.float32
    assert one.content["metrics"] == MetricRecord({"num-examples": 8, "train_loss": 19 / 8})
    assert {n: m["w"].numpy().tolist() for n, m in answers.models.items()} == {2: [4.0, 5.0]}
    size = 3 * sum(len(a.data) for a in reply(1, [0, 1], 1).content["arrays"].values())
    assert clients_in(one) == 3
    assert take_mark(one) == Mark(3, size, {}, {1: 1.0, 2: 2.0, 3: 3.0})
    assert set(one.content) == {"arrays", "metrics"}
    assert take_mark(one) is None


@pytest.mark.parametrize("weights", [[7, 7], [5, 5, 5], [1, 3], [2, 9, 4], [0.3, 0.3]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_short_cuts_change_no_bit_of_a_mean(weights, dtype):
    rng = np.random.default_rng(7)
    models = [(9 * rng.normal(size=BLOCK + 9)).astype(dtype) for _ in weights]
    total, *others = [np.float64(w) * m for w, m in zip(weights, models, strict=True)]
    for other in others:
        total += other
    expected = (total / sum(weights)).astype(np.float64 if dtype is np.int64 else dtype)
    replies = [reply(k, m, w) for k, (m, w) in enumerate(zip(models, weights, strict=True))]
    for one, model in zip(replies, models, strict=True):
        one.content["arrays"]["w"] = Array(model)
    (mean,) = sum_replies(replies, GroupRequest(partial_sums=True), {}).replies
    assert np.array_equal(mean.content["arrays"]["w"].numpy(), expected)


def test_one_model_keeps_its_bits():
    w = np.float32([0.1, 1e-30, 3e7])
    (one,) = sum_replies([reply(1, w, 7)], GroupRequest(partial_sums=True), {}).replies
    assert one.content["arrays"]["w"].numpy().tobytes() == w.tobytes()


def test_what_cannot_be_averaged_is_left_alone():
    replies = [reply(1, [0], 1), reply(2, [0], 1)]
    replies[1].content["more"] = ArrayRecord({"w": Array(np.zeros(1))})
    assert sum_replies(replies, GroupRequest(partial_sums=True), {}).replies == replies
    assert sum_replies(replies[:1] * 2, GroupRequest(), {}).replies == replies[:1] * 2


@pytest.mark.parametrize("kind", [FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi])
def test_these_average(kind):
    options = {"proximal_mu": 0.1} if kind is FedProx else {}
    assert averages(kind(**options))
    own = kind(**options, train_metrics_aggr_fn=lambda *_: MetricRecord())
    assert not averages(own)
    assert not averages(kind(**options, weighted_by_key="weight"))


class Mine(FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)


@pytest.mark.parametrize(
    "strategy",
    [
        FedMedian(),
        FedTrimmedAvg(),
        Krum(),
        QFedAvg(client_learning_rate=0.1),
        DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 5),
        Mine(),
    ],
)
def test_these_do_not(strategy):
    assert not averages(strategy)


@pytest.mark.parametrize("name", ["fedpfn", "fedpnu"])
@pytest.mark.parametrize(("base", "whether"), [("fedadam", True), ("fedmedian", False)])
def test_masked_strategies_do_if_their_base_does(name, base, whether):
    config = read(None, {"strategy": name, "strategy.base": base})
    assert averages(strategy_of(federation_of(config.run_config()))) is whether


SETTINGS = {
    "num_clients": 12,
    "data.max_examples": 600,
    "partition": "dirichlet",
    "partition.min_size": 5,
    "model.width": 16,
    "client.batch_size": 8,
}


def ask(strategy, wanted, group, **more):
    config = read(None, SETTINGS | {"strategy": strategy} | more)
    federation = federation_of(config.run_config())
    grid = InlineGrid(own_app, 12, config.run_config())
    clients = sample(grid.partitions(), None, 0, "sample", 1)
    messages = strategy_of(federation).configure_train(
        1, federation.network.initial, ConfigRecord(), clients.grid(grid)
    )
    ordered = clients.ordered(messages)
    decoder = ReplyDecoder(ordered, federation.codec)
    answers = grid.exchange(ordered, wanted, group, None)
    assert not any(r.has_error() for r in answers.replies)
    for reply in answers.replies:
        partition = reply.metadata.src_node_id - ordered[0].metadata.dst_node_id
        reply.content = decoder.decode(reply, partition)
    return federation.network.layout, answers


def vectors(layout, answers):
    return torch.stack([layout.to_vector(r.content["arrays"]) for r in answers.replies])


@pytest.mark.parametrize("strategy", ["fedavg", "fedpfn", "fedpnu"])
@pytest.mark.parametrize("more", [{}, {"client.optimizer": "adam", "client.lr": 0.001}])
def test_a_stack_is_its_clients_one_by_one(strategy, more):
    layout, alone = ask(strategy, GroupRequest(), 1, **more)
    _, together = ask(strategy, GroupRequest(5), 5, **more)
    assert len(alone.replies) == len(together.replies) == 12
    torch.testing.assert_close(
        vectors(layout, together), vectors(layout, alone), rtol=1e-4, atol=1e-5
    )
    for one, other in zip(alone.replies, together.replies, strict=True):
        assert one.metadata.src_node_id == other.metadata.src_node_id
        ours, theirs = one.content["metrics"], other.content["metrics"]
        assert ours["num-examples"] == theirs["num-examples"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("client", "state"), [("scaffold", "control"), ("feddyn", "gradient"), ("moon", "model")]
)
def test_clients_store_their_vectors_without_padding(client, state, monkeypatch):
    """So states are those of versions that had none, and are read with padding."""
    strategy = "fedavg" if client == "moon" else client
    config = read(None, SETTINGS | {"client": client, "strategy": strategy, "model.width": 5})
    federation, task = Federation(config), TrainTask(1, MaskPlan())
    layout = federation.network.layout
    grid = InlineGrid(own_app, 12, config.run_config())
    contexts = [grid.context(node) for node in grid.get_node_ids()[:3]]
    message = Message(RecordDict({"arrays": federation.network.initial}), 1000, "train")
    stacks, train = [], Local.train
    monkeypatch.setattr(Local, "train", lambda *own: stacks.append(own[1]) or train(*own))
    for _ in range(2):
        (models,) = trainer.train(federation, task, message, contexts, 3)
        assert len(models.clients) == 3
    (stored,) = (context.state["fedalign"][state].numpy() for context in contexts[:1])
    assert layout.num_parameters < layout.parameter_size
    assert stored.shape == (layout.num_parameters,)
    for earlier in stacks[1].client_states:
        vector = earlier[state]
        assert vector.shape == (layout.parameter_size,)
        assert layout.compact(vector).any()
        assert torch.equal(layout.spread(layout.compact(vector)), vector)


def test_a_stack_is_repeatable():
    layout, first = ask("fedpnu", GroupRequest(5, True), 5)
    _, second = ask("fedpnu", GroupRequest(5, True), 5)
    assert torch.equal(vectors(layout, first), vectors(layout, second))


def test_sums_by_group_and_models_beside_them():
    layout, alone = ask("fedavg", GroupRequest(), 1)
    _, partial_sums = ask("fedavg", GroupRequest(1, True, frozenset({1003})), 5)
    assert [clients_in(r) for r in partial_sums.replies] == [4, 4, 4]
    weights = torch.tensor([float(r.content["metrics"]["num-examples"]) for r in alone.replies])
    models = vectors(layout, alone).double()
    expected = (weights[:4, None] * models[:4]).sum(0) / weights[:4].sum()
    torch.testing.assert_close(
        vectors(layout, partial_sums)[0], expected.float(), rtol=1e-6, atol=1e-8
    )
    assert torch.equal(layout.to_vector(partial_sums.models[1003]).double(), models[3])


class Failing(GroupApp):
    def train_many(self, *_):
        raise ValueError("somebody in the group is ill")


def failing_app():
    app = Failing()

    @app.train()
    def train(message, context):
        partition = int(context.node_config["partition-id"])
        if partition == 2:
            raise ValueError("client 2 is ill")
        arrays = ArrayRecord({"w": Array(np.full(2, partition, np.float32))})
        return train_reply(message, arrays, 1, {"train_loss": 0.0})

    return app


@pytest.mark.parametrize("partial_sums", [False, True])
def test_who_fails_in_a_group_fails_alone(partial_sums):
    app = failing_app()
    grid = InlineGrid(app, 4)
    content = RecordDict()
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    came = grid.exchange(messages, GroupRequest(4, partial_sums), 4, None)
    replies = came.replies
    failed = [r for r in replies if r.has_error()]
    assert [r.metadata.src_node_id for r in failed] == [1002]
    assert failed[0].error.reason.startswith("ValueError: client 2 is ill")
    assert sum(clients_in(r) for r in replies if r.has_content()) == 3
    assert len(replies) == (2 if partial_sums else 4)
    assert came.notes == [
        "clients of a group were called one by one, since together: "
        "ValueError: somebody in the group is ill"
    ]


def test_a_full_gpu_halves_the_stack(monkeypatch, caplog):
    """Training more than three at once runs out of memory."""
    train, seen = Local.train, []

    def scarce(self, stack):
        seen.append(len(stack.block))
        if len(stack.block) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(self, stack)

    layout, whole = ask("fedavg", GroupRequest(12, True), 12, seed=5)
    monkeypatch.setattr(Local, "train", scarce)
    federation_of.__globals__["_federations"].clear()
    _, halved = ask("fedavg", GroupRequest(12, True), 12, seed=5)
    assert seen == [12, 6, 3, 3, 3, 3]
    assert "no room for a stack of 12; next try: 6" in caplog.text
    torch.testing.assert_close(vectors(layout, halved), vectors(layout, whole))


def test_grouping_does_not_touch_what_differs():
    app = failing_app()
    grid = InlineGrid(app, 6)
    one, other = RecordDict(), RecordDict()
    contents = [one, one, other, one, one, one]
    messages = [
        Message(content, node, "train")
        for content, node in zip(contents, grid.get_node_ids(), strict=True)
    ]
    sizes = [[m.metadata.dst_node_id - 1000 for m in group] for group in groups(messages, 2)]
    assert sizes == [[0, 1], [2], [3], [4, 5]]
    twice = [Message(one, 1000, "train") for _ in range(3)]
    assert [len(group) for group in groups(twice, 3)] == [1, 1, 1]


def test_only_training_is_done_together():
    app = failing_app()

    @app.query("who")
    def who(message, _):
        return Message(RecordDict(), reply_to=message)

    grid = InlineGrid(app, 2)
    content = RecordDict()
    messages = [Message(content, node, "query.who") for node in grid.get_node_ids()]
    for index, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(index)
    contexts = [grid.context(node) for node in grid.get_node_ids()]
    assert not any(r.has_error() for r in serve(app, messages, contexts, GroupRequest(2)).replies)


def test_a_worker_takes_the_data_that_is_shared(monkeypatch):
    config = read(None, SETTINGS)
    shared = Federation(config).train.to_numpy()
    assert isinstance(shared["images"], np.ndarray)
    shared["images"].flags.writeable = False  # as Ray's are
    monkeypatch.setattr(Federation, "_load", lambda *_: pytest.fail("read from disk"))
    worker = adopt(config.run_config(), shared)
    assert federation_of(config.run_config()) is worker
    assert np.shares_memory(worker.train.images.numpy(), shared["images"])
    assert torch.equal(worker.train.images, torch.tensor(shared["images"]))
    assert len(worker.shards(12)) == 12
