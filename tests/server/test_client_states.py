"""States of real nodes: named by their digests, and counted only if the server used the reply."""

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from safetensors.numpy import load_file

from fedalign.client_app import app as client_app
from fedalign.errors import InputError
from fedalign.federation.client_state import STATE_DIR
from fedalign.federation.federation import federation_of
from fedalign.messages.records import STATE
from fedalign.runs.checkpoint import Checkpoints, resume
from fedalign.runs.folder import RunFolder
from fedalign.server.client_states import RemoteStates, states_of, take_states
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import read
from fedalign.simulation.inline import InlineGrid
from tests.doubles import Stock, Stop, run_rounds

OPTIONS = {
    "rounds": 6, "num_clients": 4, "clients_per_round": 3, "model.width": 8, "partition": "iid",
    "data.max_examples": 120, "simulation.stack": 1, "checkpoint_every": 2,
}  # fmt: skip
SCAFFOLD = {"strategy": "scaffold", "client": "scaffold"}
STATEFUL = {
    "scaffold": SCAFFOLD,
    "feddyn": {"strategy": "feddyn", "client": "feddyn"},
    "moon": {"client": "moon"},
    "private": {"client.private": "head", "evaluation.client_fraction": 1},
}


class RealNodes(Stock):
    """A grid like a SuperLink's: nodes hold their states, in memory or in folders of their own."""

    def __init__(self, config, folder):
        self.grid = InlineGrid(client_app, config.num_clients, config.run_config())
        self.folder = folder
        context = self.grid.context

        def own(node_id):
            found = context(node_id)
            node_config = dict(found.node_config)
            if self.folder is not None:
                node_config[STATE_DIR] = str(self.folder / str(node_config["partition-id"]))
            return Context(found.run_id, node_id, node_config, found.state, found.run_config)

        self.grid.context = own


def go(config, grid, stop=None):
    """Run the rounds; return the final model and the digests of the states."""
    federation = federation_of(config.run_config())
    strategy, states = strategy_of(federation), states_of(config, grid)
    resumed = resume(config, strategy, states)
    done, model = (resumed.number, resumed.model) if resumed else (0, federation.network.initial)
    folder = RunFolder(config, {}, resumed)
    callbacks = [folder, Stop(stop), Checkpoints(config, strategy, states, 1)]
    nodes = dict(enumerate(grid.get_node_ids()))
    options = {"rounds": 6, "clients_per_round": 3, "max_update_norm": config.max_update_norm}
    options["evaluate_fraction"] = config.evaluation.client_fraction
    with folder:
        model = run_rounds(
            strategy,
            grid,
            model,
            nodes,
            federation.codec,
            callbacks,
            done + 1,
            states=states,
            **options,
        )
    vector = np.concatenate([array.numpy().ravel() for array in model.values()])
    return vector, states, done


@pytest.fixture
def config(tmp_path):
    return lambda name, **more: read(None, OPTIONS | {"out": str(tmp_path / name)} | more)


@pytest.mark.parametrize("name", STATEFUL)
def test_real_nodes_give_the_bits_of_simulated_ones_and_go_on_where_they_stood(
    config, tmp_path, name
):
    own = STATEFUL[name]
    simulated = config("simulated", **own)
    grid = InlineGrid(client_app, 4, simulated.run_config())
    expected, _, _ = go(simulated, grid)
    in_memory = config("memory", **own)
    assert np.array_equal(go(in_memory, RealNodes(in_memory, None))[0], expected)
    stopped = config("stopped", **own)
    with pytest.raises(KeyboardInterrupt):
        go(stopped, RealNodes(stopped, tmp_path / "nodes"), stop=6)  # two rounds past a checkpoint
    ends, states, done = go(stopped, RealNodes(stopped, tmp_path / "nodes"))  # new processes
    assert done == 4
    assert np.array_equal(ends, expected)
    if name == "private":  # every round, clients test with what they have trained
        halted = config("halted", **own)
        with pytest.raises(KeyboardInterrupt):
            go(halted, InlineGrid(client_app, 4, halted.run_config()), stop=5)
        assert np.array_equal(
            go(halted, InlineGrid(client_app, 4, halted.run_config()))[0], expected
        )
        tables = [pd.read_csv(one.folder / "clients.csv") for one in (simulated, stopped, halted)]
        assert len(tables[0]) == 24
        assert tables[0].equals(tables[1])
        assert tables[0].equals(tables[2])
    for partition, digest in states.snapshot().items():
        (place,) = (tmp_path / "nodes" / str(partition)).glob(f"*/{partition}")
        files = {file.name for file in place.iterdir()}
        assert digest in files
        assert len(files) <= 3


def test_another_kind_of_engine_is_refused_what_it_cannot_read(config, tmp_path):
    own = config("own", **SCAFFOLD)
    kinds = [InlineGrid(client_app, 4, own.run_config()), RealNodes(own, tmp_path / "nodes")]
    for first, other in (kinds, kinds[::-1]):
        with pytest.raises(KeyboardInterrupt):
            go(own, first, stop=3)
        with pytest.raises(InputError, match=r"after round 2 were saved by another kind of engine"):
            go(own, other)
        (checkpoint,) = tmp_path.glob("own/*/checkpoint*")
        checkpoint.unlink()


def test_without_a_folder_there_is_no_checkpoint_and_that_is_said(config, caplog, tmp_path):
    plain = config("plain", **SCAFFOLD)
    go(plain, RealNodes(plain, None))
    assert caplog.text.count("no checkpoints: nodes do not store their clients' states") == 1
    assert not list((tmp_path / "plain").glob("*/checkpoint*"))


@pytest.mark.parametrize("folder", [True, False])
def test_a_client_that_is_left_out_keeps_its_old_state(config, tmp_path, folder):
    """So SCAFFOLD's c stays the mean of the c_i that it was told of."""
    limited = config("limited", **SCAFFOLD, max_update_norm=0.0199)
    grid = RealNodes(limited, tmp_path / "nodes" if folder else None)
    simulated = InlineGrid(client_app, 4, limited.run_config())
    ends, states, _ = go(limited, grid)
    expected, held, _ = go(config("other", **SCAFFOLD, max_update_norm=0.0199), simulated)
    assert np.array_equal(ends, expected)
    (metrics,) = tmp_path.glob("limited/*/metrics.csv")
    assert 0 < pd.read_csv(metrics)["dropped"].sum() < 18
    digests = states._digests
    assert {p + 1000 for p in digests} == set(held.snapshot())
    assert 0 < len(digests) <= 4
    for partition, digest in digests.items() if folder else ():
        (file,) = (tmp_path / "nodes").rglob(digest)
        record = held.snapshot()[1000 + partition][STATE]
        assert np.array_equal(load_file(file)["control"], record["control"].numpy())


@pytest.mark.parametrize("spoil", ["remove", "damage", "forget"])
def test_a_node_that_lost_its_state_is_left_out_and_says_so(config, tmp_path, caplog, spoil):
    own = config("own", **SCAFFOLD)
    nodes = None if spoil == "forget" else tmp_path / "nodes"
    grid = RealNodes(own, nodes)
    push, told = grid.push_messages, []

    def spoiled(messages):
        told.append(len(messages))
        if len(told) == 3:
            for file in (tmp_path / "nodes").rglob("*/0/*"):
                file.unlink() if spoil == "remove" else file.write_bytes(b"\1" * 40)
            if spoil == "forget":
                grid.grid.keep_states({1000: RecordDict()})
        return push(messages)

    grid.push_messages = spoiled
    go(own, grid)
    what = "this node lost the client's state" if spoil == "forget" else "cannot be read"
    assert what in caplog.text


@pytest.mark.parametrize(
    "record",
    [
        {}, {"digest": "../../x", "lasts": True}, {"digest": 3, "lasts": True},
        {"digest": "a" * 64}, {"digest": "a" * 64, "lasts": True, "more": 1},
    ],
)  # fmt: skip
def test_what_is_no_digest_is_ignored(record):
    from flwr.app import Message

    InlineGrid(client_app, 1)  # sets what a message needs
    message = Message(RecordDict(), 1000, "train")
    reply = Message(RecordDict({STATE: ConfigRecord(record)}), reply_to=message)
    assert take_states([reply]) == {}
    assert STATE not in reply.content
    states = RemoteStates(True)
    states.keep({7: RecordDict({STATE: ConfigRecord({"digest": "b" * 64, "lasts": True})})})
    assert states.snapshot() == {}
