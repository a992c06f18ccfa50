"""Whole runs with a client whose model is not finite, or moves too far."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord
from safetensors.numpy import load_file

from clients.local import Local
from fedalign.client_app import app as own_app
from fedalign.errors import InputError
from fedalign.federation.federation import federation_of
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupRequest
from fedalign.messages.partial_sums import take_mark
from fedalign.runs.paths import folder_of
from fedalign.runs.tables import COSTS
from fedalign.server.rounds import RoundFailedError
from fedalign.server.sampling import Sample
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import read
from fedalign.simulation import FlowerApp, simulate
from fedalign.simulation.inline import InlineGrid

TRAIN = Local.train

SICK = """
from clients.local import Local


class Sick(Local):
    def train(self, stack):
        result = super().train(stack)
        for row, own in zip(stack.block, stack.rows, strict=True):
            if 0 in own:
                row[:100] = float("nan")
        return result
"""


def sick(self, stack):
    """Local training, after which whoever has the first example has NaN in its model."""
    result = TRAIN(self, stack)
    for row, own in zip(stack.block, stack.rows, strict=True):
        if 0 in own:
            row[:100] = float("nan")
    return result


WAYS = {
    "apart": {"simulation__partial_aggregation": False, "simulation__stack": 1},
    "summed one by one": {"simulation__partial_aggregation": True, "simulation__stack": 1},
    "stacks": {"simulation__partial_aggregation": True, "simulation__stack": 2},
    "half": {"wire": "float16"},
    "masks": {"strategy": "fedpfn", "simulation__stack": 2},
    "own masks": {"strategy": "fedpfn", "strategy__per_client": True},
    "scaffold": {"strategy": "scaffold"},
    "state, summed": {"client": "moon", "simulation__stack": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_one_of_four_is_left_out(run, monkeypatch, caplog, way):
    monkeypatch.setattr("fedalign.messages.partial_sums.MAX_SUMS", 2)  # so groups have two clients
    monkeypatch.setattr(Local, "train", sick)
    stored = set()
    monkeypatch.setattr(
        InlineGrid,
        "keep_states",
        lambda _, states: stored.update(k for k in states if states[k]),
    )
    more = WAYS[way] | ({"client": "scaffold"} if way == "scaffold" else {})
    folder = run(**{"strategy": "fedavg"} | more)
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics["clients"]) == [4, 4, 4]
    assert list(metrics["dropped"]) == [1, 1, 1]
    assert list(metrics.columns)[2:7] == [
        "test_loss", "test_accuracy", "clients", "dropped", "bytes_down",
    ]  # fmt: skip
    assert metrics["test_loss"].notna().all()
    told = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(told) == 3
    shards = federation_of(read(str(folder / "config.yaml"), {}).run_config()).shards(4)
    (ill,) = [k for k, rows in enumerate(shards) if 0 in rows]
    assert told[0].startswith(f"round 1: client {ill} left out: ")
    assert told[0].endswith("holds NaN")
    participation = json.loads((folder / "manifest.json").read_text())["participation"]
    assert participation["never_took_part"] == [ill]
    assert list(participation["failures"].values()) == [3]
    stateful = way in ("scaffold", "state, summed")
    assert stored == ({1000 + k for k in range(4) if k != ill} if stateful else set())
    landscape = pd.read_csv(folder / "landscape.csv")
    assert not landscape["path"].str.contains(rf"^clients:.*\b{ill}\b").any()


def test_sums_leave_out_who_is_left_out_otherwise(run, monkeypatch, tmp_path):
    monkeypatch.setattr("fedalign.messages.partial_sums.MAX_SUMS", 2)
    monkeypatch.setattr(Local, "train", sick)
    ends = []
    for way in ("apart", "summed one by one", "stacks"):
        folder = run(strategy="fedavg", **WAYS[way])
        ends.append(load_file(folder.rename(tmp_path / way) / "model.safetensors"))
    for other in ends[1:]:
        for name, value in ends[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fuse", [False, True])
def test_if_all_diverge_the_run_fails_and_says_why(run, fuse):
    told = r"round \d: no reply is usable: client 0 left out: .* (NaN|infinity|not a finite number)"
    with pytest.raises(RoundFailedError, match=told):
        run(strategy="fedavg", client__lr=1e30, simulation__partial_aggregation=fuse)


def norms(asked, layout, replies):
    start = layout.to_vector(asked.content["arrays"])[: layout.parameter_size]
    ends = [layout.to_vector(r.content["arrays"])[: layout.parameter_size] for r in replies]
    return [float((end - start).norm()) for end in ends]


@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_workers_measure_as_the_server_does(model):
    settings = {"num_clients": 6, "data.max_examples": 120, "model": model, "partition": "iid"}
    config = read(None, settings | {"client.batch_size": 8, "strategy": "fedpfn"})
    federation = federation_of(config.run_config())
    grid = InlineGrid(own_app, 6, config.run_config())
    clients = Sample(grid.partitions())

    def ask(wanted, group):
        configured = strategy_of(federation).configure_train(
            1, federation.network.initial, ConfigRecord(), clients.grid(grid)
        )
        messages = clients.ordered(configured)
        decoder = ReplyDecoder(messages, federation.codec)
        return messages, decoder, grid.exchange(messages, wanted, group, None).replies

    messages, decoder, replies = ask(GroupRequest(), 1)
    for partition, reply in enumerate(replies):
        reply.content = decoder.decode(reply, partition)
    found = norms(messages[0], federation.network.layout, replies)
    limit = float(np.mean(sorted(found)[3:5]))
    far = {1000 + k for k, norm in enumerate(found) if norm > limit}
    assert len(far) == 2
    for stack, group in ((1, 1), (1, 3), (3, 3)):
        sums = ask(GroupRequest(stack, True, max_update_norm=limit), group)[2]
        left_out = [take_mark(reply).left_out for reply in sums]
        assert {node for own in left_out for node in own} == far
        for own in left_out:
            for node, why in own.items():
                assert float(why.split()[2].strip(",")) == pytest.approx(
                    found[node - 1000], rel=1e-3
                )


def test_a_clipped_model_is_measured_as_it_came(run):
    clipped = {"strategy": "dp-client-fixed", "strategy__clipping_norm": 0.01, "rounds": 1}
    clipped |= {"strategy__noise_multiplier": 0.0, "evaluation__alphas": 0}
    wide = pd.read_csv(run(**clipped, max_update_norm=0.0101) / "metrics.csv")
    assert list(wide["dropped"]) == [0]
    with pytest.raises(RoundFailedError, match=r"moved by 0\.01, and max_update_norm is 0\.0099"):
        run(**clipped, max_update_norm=0.0099)


def test_first_weights_of_ones_own_are_far_from_what_was_sent(run):
    with pytest.raises(RoundFailedError, match="no reply is usable: client 0 left out: moved by"):
        run(init="own", client__lr=1e-6, max_update_norm=1.0)
    run(client__lr=1e-6, max_update_norm=1.0)


@pytest.mark.parametrize("value", [0, -1, "nan", "inf"])
def test_a_limit_that_cannot_be_is_refused(value):
    with pytest.raises(InputError, match="max_update_norm"):
        read(None, {"max_update_norm": value})


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("sums", [False, True])
def test_workers_of_ray_leave_out_the_same(tmp_path, monkeypatch, caplog, sums):
    """Of 33 clients one is alone in its group, and the others are in pairs."""
    (tmp_path / "sick.py").write_text(SICK)
    monkeypatch.setattr(sys, "path", list(sys.path))
    app = FlowerApp(tmp_path, "fedalign.server_app:app", "fedalign.client_app:app", {})
    settings = {"rounds": 2, "num_clients": 33, "model.width": 16, "partition": "iid"}
    settings |= {"strategy": "fedavg", "client": "sick:Sick", "evaluation.pairs": 1}
    settings |= {"simulation.stack": 1, "simulation.partial_aggregation": sums}
    app.put_on_path()
    tables = []
    for backend in ("inline", "ray"):
        config = read("quickstart", settings | {"out": str(tmp_path / backend)})
        caplog.clear()
        simulate(app, 33, config.run_config(), backend=backend)
        assert "holds NaN" in caplog.text
        tables.append(pd.read_csv(folder_of(config) / "metrics.csv").drop(columns=[*COSTS]))
    assert list(tables[0]["dropped"]) == [1, 1]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
