"""Replies that cannot be used are left out, named and counted, and the round goes on."""

import logging
import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedalign.messages.records import EXTRA, evaluate_reply, train_reply
from fedalign.server.exchange import RoundFailedError
from fedalign.settings.contracts import FLOWER_SAMPLING
from fedalign.simulation.inline import InlineGrid
from tests.doubles import Stock, Watch, everybody, run_rounds

START = ArrayRecord({"w": Array(np.ones(3, np.float32)), "n": Array(np.array(5))})


def app_of(spoil, spoiled=(2,)):
    """Clients that add their partition to `w`; some of their replies are spoilt."""
    app = ClientApp()

    def answer(reply, context):
        partition = int(context.node_config["partition-id"])
        return (spoil(reply) or reply) if partition in spoiled else reply

    @app.query("whoami")
    def whoami(message, context):
        ids = {k: int(context.node_config[k]) for k in ("partition-id", "num-partitions")}
        ids["tests"] = 1
        return Message(RecordDict({"whoami": MetricRecord(ids)}), reply_to=message)

    @app.train()
    def train(message, context):
        partition = int(context.node_config["partition-id"])
        w = message.content["arrays"]["w"].numpy() + np.float32(partition)
        arrays = ArrayRecord({"w": Array(w), "n": message.content["arrays"]["n"]})
        return answer(train_reply(message, arrays, partition + 1, {"train_loss": 0.5}), context)

    @app.evaluate()
    def evaluate(message, context):
        partition = int(context.node_config["partition-id"])
        told = {"loss": float(partition), "accuracy": partition / 10}
        return answer(evaluate_reply(message, partition + 1, told), context)

    return app


def go(grid, **settings):
    watch, strategy = Watch(everybody), FedAvg(**FLOWER_SAMPLING)
    options = {"rounds": 1, "callbacks": [watch]} | settings
    return run_rounds(strategy, grid, START, **options)["w"].numpy(), watch.rounds[-1]


def put(name, array):
    return lambda reply: reply.content["arrays"].update({name: array})


def tell(**numbers):
    told = {
        key.replace("_", "-") if key == "num_examples" else key: n for key, n in numbers.items()
    }
    return lambda reply: reply.content["metrics"].update(told)


def without(name, record=None):
    return lambda reply: (reply.content[record] if record else reply.content).pop(name) and None


def also(name, record):
    return lambda reply: reply.content.update({name: record})


def w(*values, dtype=np.float32):
    return Array(np.array(values, dtype))


LYING = Array("float32", (3,), "numpy.ndarray", w(1, 2, 3, 4).data)
OTHER = Array("float32", (3,), "pickle", w(1, 2, 3).data)
WHOLE = "not a whole number from 1 to"
MODEL = {
    "nan": (put("w", w(1, np.nan, 1)), "'w' holds NaN"),
    "infinity": (put("w", w(1, -np.inf, 1)), "'w' holds infinity"),
    "float64": (put("w", w(1, 2, 3, dtype=float)), "'w' is 'float64', not float32"),
    "float16": (put("w", w(1, 2, 3, dtype=np.float16)), "'w' is 'float16', not float32"),
    "integers": (put("w", w(1, 2, 3, dtype=np.int64)), "'w' is 'int64', not float32"),
    "shape": (put("w", w(1, 2)), r"'w' came as \(2,\), and is \(3,\)"),
    "axes": (put("w", Array(np.ones((3, 1), np.float32))), r"'w' came as \(3, 1\), and is \(3,\)"),
    "counter": (put("n", w(5)), "'n' is 'float32', not int64"),
    "counters": (put("n", Array(np.array([5, 5]))), r"'n' came as \(2,\), and is \(\)"),
    "lie": (put("w", LYING), "'w' is of another shape or dtype than it states"),
    "other": (put("w", OTHER), "'w' is serialised as 'pickle', not as 'numpy.ndarray'"),
    "more": (put("v", w(1)), "an array 'v' came that was not sent"),
    "less": (without("w", "arrays"), "no array 'w' came"),
    "no model": (without("arrays"), "'arrays' is missing, not a record of arrays"),
    "a text": (also("arrays", ConfigRecord()), "'arrays' is a ConfigRecord, not a record of arr"),
    "two models": (also("b", START), "arrays came under 'b', where nobody looks for any"),
}
NUMBERS = {
    "no metrics": (without("metrics"), "0 records of metrics came, not one"),
    "two metrics": (also("b", MetricRecord()), "2 records of metrics came, not one"),
    "loss": (tell(loss=float("nan")), "'loss' is nan, not a finite number"),
    "huge": (tell(loss=10**400), "'loss' is 1000.*, not a finite number"),
    "list": (tell(loss=[1.0]), r"'loss' is \[1.0\], not a finite number"),
    "no examples": (tell(num_examples=0), f"'num-examples' is 0, {WHOLE}"),
    "negative": (tell(num_examples=-3), f"'num-examples' is -3, {WHOLE}"),
    "half": (tell(num_examples=1.5), f"'num-examples' is 1.5, {WHOLE}"),
    "many": (tell(num_examples=1 << 60), f"'num-examples' is {1 << 60}, {WHOLE}"),
    "untold": (without("num-examples", "metrics"), f"'num-examples' is None, {WHOLE}"),
    "another": (tell(mood=1.0), "came with 'metrics' of .*'mood', .*, and most with"),
}
EXTRAS = {
    "extra": (also(EXTRA, ArrayRecord({"c": w(1)})), ".*"),
    "no extra": (also(EXTRA, MetricRecord()), "2 records of metrics came, not one"),
}


def dropped(caplog):
    """The warnings about clients that were left out."""
    return [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]


@pytest.mark.parametrize(
    ("grid", "partial_sums"), [(Stock, False), (InlineGrid, False), (InlineGrid, True)]
)
@pytest.mark.parametrize("kind", MODEL | NUMBERS | EXTRAS)
def test_a_bad_reply_is_left_out(grid, partial_sums, kind, caplog):
    spoil, told = (MODEL | NUMBERS | EXTRAS)[kind]
    end, outcome = go(grid(app_of(spoil), 4), partial_sums=partial_sums)
    np.testing.assert_allclose(end, 1 + (1 * 0 + 2 * 1 + 4 * 3) / 7, rtol=1e-6)
    assert (outcome.metrics["clients"], outcome.metrics["dropped"]) == (4, 1)
    assert list(outcome.clients) == [0, 1, 3]
    (line,) = dropped(caplog)
    assert line.startswith("round 1: client 2 left out: ")
    assert re.search(f"out: {told}", line), line


def test_nobody_is_dropped_where_nothing_is_wrong(caplog):
    for partial_sums in (False, True):
        assert (
            go(InlineGrid(app_of(None, ()), 4), partial_sums=partial_sums)[1].metrics["dropped"]
            == 0
        )
    assert not dropped(caplog)


@pytest.mark.parametrize("partial_sums", [False, True])
def test_if_nobody_is_left_the_round_fails(partial_sums):
    grid = InlineGrid(app_of(MODEL["nan"][0], range(7)), 7)
    told = "round 1: no reply is usable: client 0 left out: 'w' holds NaN; .*; and 2 more"
    with pytest.raises(RoundFailedError, match=told):
        go(grid, partial_sums=partial_sums)


def test_a_model_that_no_client_can_train_is_named_beside_them():
    """It is the server's, such as one step too long made it, and no client is to blame."""
    grid, huge = InlineGrid(app_of(MODEL["nan"][0], range(4)), 4), w(1, -3e9, 2)
    start = ArrayRecord({"w": huge, "n": START["n"]})
    with pytest.raises(
        RoundFailedError, match=r"the model they were sent has numbers up to 3e\+09$"
    ):
        run_rounds(FedAvg(**FLOWER_SAMPLING), grid, start, rounds=1)


@pytest.mark.parametrize("partial_sums", [False, True])
@pytest.mark.parametrize(("limit", "left"), [(1.7, 1), (1.8, 2), (3.4, 2), (3.5, 3), (None, 4)])
def test_the_norm_by_hand(partial_sums, limit, left, caplog):
    """Clients move each of 3 numbers by 0, 1, 2, 3: by 0, 1.732, 3.464 and 5.196 in all."""
    end, outcome = go(
        InlineGrid(app_of(None, ()), 4), partial_sums=partial_sums, max_update_norm=limit
    )
    assert outcome.metrics["dropped"] == 4 - left
    assert list(outcome.clients) == list(range(left))
    steps = [(k + 1) * k for k in range(left)]
    np.testing.assert_allclose(end, 1 + sum(steps) / sum(range(left + 1)), rtol=1e-6)
    if left < 4:
        (line,) = dropped(caplog)
        assert line.endswith(f"client 3 left out: moved by 5.19615, and max_update_norm is {limit}")


def test_a_whole_group_is_left_out(caplog):
    """Groups of four: one has nobody left, another has one less."""
    ill = [8, 9, 10, 11, 50]
    end, outcome = go(InlineGrid(app_of(MODEL["nan"][0], ill), 100), partial_sums=True)
    well = np.setdiff1d(np.arange(100), ill)
    np.testing.assert_allclose(end, 1 + np.average(well, weights=well + 1), rtol=1e-6)
    assert (outcome.metrics["clients"], outcome.metrics["dropped"]) == (100, 5)
    assert list(outcome.clients) == list(well)
    size = sum(len(array.data) for array in START.values())
    assert outcome.metrics["bytes_up"] == 100 * size
    assert dropped(caplog)[0].count("'w' holds NaN") == 5


def test_a_client_cannot_speak_for_others():
    """Marks of sums count only where the engine sums."""
    forged = ConfigRecord({"clients": 1000, "bytes": -5, "nodes": [1000], "why": ["no"]})
    for grid in (Stock, InlineGrid):
        _, outcome = go(grid(app_of(also("partial-sum", forged)), 4))
        assert (outcome.metrics["clients"], outcome.metrics["dropped"]) == (4, 0)
        assert outcome.metrics["bytes_up"] > 0


def test_arrays_in_another_order_are_put_in_order():
    def turn(reply):
        arrays = reply.content["arrays"]
        reply.content["arrays"] = ArrayRecord({name: arrays[name] for name in ("n", "w")})

    _, outcome = go(InlineGrid(app_of(turn), 4))
    assert all(list(model) == ["w", "n"] for model in outcome.clients.values())


MEASURED = NUMBERS | {
    "far below": (tell(accuracy=-1e6), "'accuracy' is -1000000.0, not from 0 to 1"),
    "far above": (tell(accuracy=1e308), r"'accuracy' is 1e\+308, not from 0 to 1"),
    "just above": (tell(accuracy=1.001), "'accuracy' is 1.001, not from 0 to 1"),
    "just below": (tell(accuracy=-1e-9), "'accuracy' is -1e-09, not from 0 to 1"),
    "tuned": (tell(tuned_accuracy=7.0), "'tuned_accuracy' is 7.0, not from 0 to 1"),
    "large loss": (tell(loss=1e308), r"'loss' is 1e\+308, not from -1e\+06 to 1e\+06"),
    "2^40": (tell(num_examples=1 << 40), f"'num-examples' is {1 << 40}, {WHOLE}"),
    "too many": (tell(num_examples=10**9), "'num-examples' is 1000000000, and the client has 3"),
    "too few": (tell(num_examples=1), "'num-examples' is 1, and the client has 3"),
}


@pytest.mark.parametrize("grid", [Stock, InlineGrid])
@pytest.mark.parametrize("kind", MEASURED)
def test_a_bad_evaluation_is_left_out(kind, grid, caplog):
    spoil, told = MEASURED[kind]
    only = lambda reply: None if "arrays" in reply.content else spoil(reply)  # noqa: E731
    engine = grid(app_of(only), 4)
    known = {
        "nodes": dict(enumerate(engine.get_node_ids())),
        "examples": {p: p + 1 for p in range(4)},
    }
    _, outcome = go(engine, evaluate_fraction=1.0, **known)
    assert list(outcome.evaluations) == [0, 1, 3]
    weighted = (2 * 0.1 + 4 * 0.3) / 7
    wanted = {"": weighted, "_mean": 0.4 / 3, "_std": np.std([0, 0.1, 0.3]), "_worst10": 0}
    for key, value in wanted.items():
        assert outcome.metrics[f"client_accuracy{key}"] == pytest.approx(value)
    assert outcome.metrics["client_loss"] == pytest.approx((2 * 1 + 4 * 3) / 7)
    assert outcome.metrics["dropped"] == 0
    (line,) = dropped(caplog)
    assert re.search(f"round 1: of those that evaluate, client 2 left out: {told}", line), line


def test_a_round_goes_on_without_any_evaluation(caplog):
    only = lambda reply: None if "arrays" in reply.content else tell(loss=np.inf)(reply)  # noqa: E731
    _, outcome = go(InlineGrid(app_of(only, range(4)), 4), evaluate_fraction=1.0)
    assert not outcome.evaluations
    assert not any(key.startswith("client_") for key in outcome.metrics)
    assert len(dropped(caplog)) == 1


def test_a_round_goes_on_if_everybody_fails_to_evaluate(caplog):
    app = app_of(None, ())
    app._registered_funcs["evaluate.default"] = None  # raises where it is called
    _, outcome = go(InlineGrid(app, 4), evaluate_fraction=1.0)
    assert not outcome.evaluations
    assert "nobody evaluates: round 1: 4 of 4 clients failed" in caplog.text


def test_flowers_server_may_answer_for_a_client(caplog):
    """It does, by its own node id, where the parts of a reply are lost."""

    class Lossy(Stock):
        def pull_messages(self, ids):
            replies = self.grid.pull_messages(ids)
            for reply in [
                r for r in replies if r.metadata.src_node_id == 1000 and "arrays" in r.content
            ]:
                instead = {"_error": Error(code=3, reason="lost"), "_content": None}
                reply.__dict__.update(instead)
                reply.metadata.__dict__["_src_node_id"] = 1
            return replies

    with caplog.at_level(logging.WARNING):
        _, outcome = go(Lossy(app_of(None, ()), 4))
    assert "1 of 4 clients failed, 0 did not answer; client 0: lost" in caplog.text
    assert outcome.metrics["clients"] == 3
