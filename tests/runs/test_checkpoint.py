"""A run that was stopped and goes on ends with the bits of one that was not."""

import json

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    QFedAvg,
)
from typer.testing import CliRunner

from clients.local import Local
from fedalign.cli import app
from fedalign.errors import FedalignError
from fedalign.federation.federation import Federation
from fedalign.messages.records import train_reply
from fedalign.runs.checkpoint import Checkpoints, lost_of, resume, state_of
from fedalign.runs.folder import RunFolder
from fedalign.runs.paths import CHECKPOINT, folder_of
from fedalign.runs.progress import Progress
from fedalign.runs.tables import COSTS
from fedalign.runs.trees import read as read_tree
from fedalign.runs.trees import write as write_tree
from fedalign.server.client_states import states_of
from fedalign.server.round import Round
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import read
from fedalign.settings.contracts import FLOWER_SAMPLING
from fedalign.simulation.inline import InlineGrid
from tests.doubles import Stop, run_rounds

BRIEF = {"rounds": 6, "checkpoint_every": 2}
START = ArrayRecord({"w": Array(np.linspace(0, 1, 5, dtype=np.float32))})


@pytest.fixture
def interrupt(run, monkeypatch):
    """Start a run, and interrupt it in the round of this number, when its rows are written."""
    show = Progress.on_round

    def interrupt(number, start=run, **settings):
        def on_round(self, outcome):
            show(self, outcome)
            if outcome.number == number:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "on_round", on_round)
            with pytest.raises(KeyboardInterrupt):
                start(**settings)

    return interrupt


def results(folder):
    """All that a run ends with, but for the seconds that it took."""
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str).drop(columns=[*COSTS])
    landscape = (folder / "landscape.csv").read_text()
    return metrics.to_csv(), landscape, (folder / "model.safetensors").read_bytes()


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    "settings",
    [
        {"client__round_examples": 50, "per_client__lr__uniform": [0.01, 0.1]},
        {"strategy": "fedavgm", "strategy__server_momentum": 0.9},
        {"strategy": "fedadam", "model__frozen": "body"},
        {"strategy": "fedpfn", "strategy__base": "fedyogi"},
        {"strategy": "fedpnu", "clients_per_round": 2, "evaluation__client_fraction": 0.5},
        {"strategy": "scaffold", "client": "scaffold", "clients_per_round": 2},
        {"strategy": "feddyn", "client": "feddyn", "clients_per_round": 2},
        {"strategy": "fedavg", "client": "moon", "clients_per_round": 2},
        {"strategy": "matched", "strategy__base": "fedavgm", "init": "own"},
    ],
    ids=lambda settings: settings.get("client", settings.get("strategy", "per client")),
)
def test_stopped_and_resumed_is_never_stopped(run, interrupt, settings):
    settings = BRIEF | settings
    folder = run(**settings)
    whole = results(folder)
    interrupt(3, **settings)
    interrupt(6, **settings)
    with (folder / "metrics.csv").open("a") as file:
        file.write("7,0.12")  # a row that was being written
    run(**settings)
    assert results(folder) == whole
    assert manifest(folder)["status"] == "finished"
    assert manifest(folder)["resumed_after"] == [2, 5]
    assert not list(folder.glob("checkpoint*"))


def test_a_resumed_run_says_so(run, interrupt, capsys):
    interrupt(3, **BRIEF)
    assert "resumed after" not in capsys.readouterr().out
    run(**BRIEF)
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith("(resumed after round 2)")
    assert [line.split()[0] for line in lines[:-1]] == ["3", "4", "5", "6"]


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(run, interrupt):
    folder = run(**BRIEF)
    whole = results(folder)
    interrupt(1, **BRIEF)
    run(**BRIEF)
    assert results(folder) == whole
    assert manifest(folder)["resumed_after"] == []


def test_checkpoint_every_0_is_never_and_does_not_name_a_run(interrupt, tmp_path):
    interrupt(3, **(BRIEF | {"checkpoint_every": 0}))
    (folder,) = tmp_path.iterdir()
    assert not (folder / CHECKPOINT).exists()
    interrupt(3, **BRIEF)
    assert (folder / CHECKPOINT).is_file()


@pytest.mark.parametrize("every", ["auto", 100])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ZeroDivisionError])
def test_whatever_stops_a_run_it_goes_on_after_its_last_round(
    run, monkeypatch, capsys, tmp_path, every, failure
):
    settings = BRIEF | {"checkpoint_every": every}
    whole = results(run(**settings).rename(tmp_path / "whole"))
    train, calls = Local.train, []

    def stop(self, stack):
        calls.append(stack.server_round)
        if stack.server_round == 5:
            raise failure
        return train(self, stack)

    with monkeypatch.context() as patch:
        patch.setattr(Local, "train", stop)
        patch.setattr("sys.argv", ["/bin/fedalign", "run", "x.yaml", "--again", "name=a b"])
        with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else FedalignError):
            run(**settings)
    (folder,) = (path.parent for path in tmp_path.glob(f"*/{CHECKPOINT}"))
    line = f"round 4 of 6 is kept in {folder}; to go on: fedalign run x.yaml 'name=a b'\n"
    assert capsys.readouterr().err.endswith(line)
    status = manifest(folder)["status"]
    assert status == "stopped" if failure is KeyboardInterrupt else status.startswith("failed: ")
    run(**settings)
    assert results(folder) == whole
    assert manifest(folder)["resumed_after"] == [4]


def test_auto_writes_when_rounds_took_fifty_times_as_long_as_writing(tmp_path, monkeypatch):
    config = read(None, {"out": str(tmp_path), "rounds": 30})
    folder_of(config).mkdir()
    strategy, now, written = FedAvg(**FLOWER_SAMPLING), [0.0], []

    def slowly(_, tree):
        now[0] += 2
        written.append(dict(tree.tree["dict"])["number"])

    monkeypatch.setattr("fedalign.runs.checkpoint.write", slowly)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(config, strategy, states_of(config, InlineGrid(visited(), 4)), 1)
    for number in range(1, 30):
        now[0] += 8  # two seconds of writing are two percent of thirteen rounds
        outcome = Round(number, START, START, {})
        checkpoints.capture(outcome)
        checkpoints.on_round(outcome)
    assert written == [1, 14, 27]


def test_a_crash_while_writing_a_checkpoint_leaves_the_one_before(run, monkeypatch):
    folder = run(**BRIEF)
    whole = results(folder)

    calls = []

    def fall(path, tree):
        calls.append(path)
        if len(calls) > 1:
            path.with_name(f"{path.name}.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write_tree(path, tree)

    with monkeypatch.context() as patch:
        patch.setattr("fedalign.runs.checkpoint.write", fall)
        with pytest.raises(KeyboardInterrupt):
            run(**BRIEF)
    run(**BRIEF)
    assert results(folder) == whole
    assert manifest(folder)["resumed_after"] == [2]
    assert not list(folder.glob("checkpoint*"))


def damage(folder):
    path = folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1])


def change(**fields):
    def change(folder):
        write_tree(folder / CHECKPOINT, read_tree(folder / CHECKPOINT) | fields)

    return change


OF_NO_USE = [
    (damage, "cannot be read"),
    (change(settings="12345678"), "belongs to other settings"),
    (change(strategy={"own": {}, "inner": {}}), "belongs to another strategy"),
    (change(later="field"), "another version"),
    (lambda folder: (folder / "landscape.csv").write_text(""), "landscape.csv lacks rounds"),
    (lambda folder: (folder / "metrics.csv").unlink(), "metrics.csv lacks rounds"),
]


def test_a_checkpoint_that_is_of_no_use_is_named(run, interrupt, caplog):
    settings = BRIEF | {"strategy": "fedpfn", "rounds": 4}
    folder = run(**settings)
    whole = results(folder)
    for spoil, told in OF_NO_USE:
        interrupt(3, **settings)
        spoil(folder)
        caplog.clear()
        run(**settings)
        assert results(folder) == whole, told
        assert manifest(folder)["resumed_after"] == []
        (warning,) = (line.getMessage() for line in caplog.records if line.name == "fedalign")
        assert warning.startswith(f"{folder / CHECKPOINT}: ")
        assert told in warning
        assert warning.endswith("; the run starts from round 1")


def test_the_same_command_goes_on_and_again_starts_from_nothing(interrupt, tmp_path):
    words = ["run", "quickstart", "rounds=3", "checkpoint_every=1", "evaluation.pairs=0"]
    words += ["model.width=8", "num_clients=3", "--out", str(tmp_path)]

    def fedalign(*more):
        result = CliRunner().invoke(app, [*words, *more])
        if result.exit_code == 130:
            raise KeyboardInterrupt
        return result.stdout.splitlines()[0]

    interrupt(2, fedalign)
    assert "resumed after round 1" in fedalign()
    assert "is finished already" in fedalign()
    assert "resumed after" not in fedalign("--again")
    (folder,) = tmp_path.iterdir()
    (folder / "manifest.json").unlink()
    interrupt(2, fedalign)
    assert "resumed after" not in fedalign("--again")
    assert manifest(folder)["resumed_after"] == []


def test_the_stack_is_kept(run, interrupt, monkeypatch, tmp_path):
    settings = BRIEF | {"num_clients": 24}
    with monkeypatch.context() as patch:
        patch.setattr("fedalign.training.stacks.BLOCK", 4 * 3466)
        interrupt(3, **settings)
    (folder,) = tmp_path.iterdir()
    assert manifest(folder)["stack"] == 3
    monkeypatch.setattr("fedalign.training.stacks.BLOCK", 0)
    run(**settings)
    assert manifest(folder)["stack"] == 3


# Any Flower strategy, and clients with a state of their own.


class Halting(FedAvg):
    """A wrapper as somebody else would write it: state of every kind, in names of its own."""

    def __init__(self, around, notify):
        super().__init__(**FLOWER_SAMPLING)
        self.around, self.notify = around, notify
        self.seen, self.scale, self.history, self.last = {}, np.float32(1), [], None

    def configure_train(self, server_round, arrays, config, grid):
        config["scale"] = float(self.scale)
        return self.around.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for reply in replies:
            node = reply.metadata.src_node_id
            self.seen[node] = self.seen.get(node, 0) + 1
        arrays, metrics = self.around.aggregate_train(server_round, replies)
        self.history.append((server_round, arrays["w"].numpy()))
        self.scale *= np.float32(0.9)
        drift = np.float32(sum(past.sum() for _, past in self.history))
        arrays["w"] = Array(arrays["w"].numpy() + self.scale / drift)
        self.last = arrays.copy()
        return arrays, metrics


def visited():
    """A ClientApp whose clients count their visits and remember where they have been."""
    client = ClientApp()

    @client.train()
    def train(message, context):
        sent, state = message.content["arrays"]["w"].numpy(), context.state
        visits = state["me"]["visits"] + 1 if "me" in state else 1
        past = state["past"]["control"].numpy() if "past" in state else np.zeros_like(sent)
        moved = sent + np.float32(0.1) * (visits + int(context.node_config["partition-id"])) + past
        state["me"] = MetricRecord({"visits": visits})
        state["past"] = ArrayRecord({"control": Array(np.sin(moved))})
        return train_reply(
            message, ArrayRecord({"w": Array(moved)}), visits, {"train_loss": float(moved.mean())}
        )

    return client


def go(out, strategy, stop=None, grid=None, **settings):
    """Run 7 rounds with a checkpoint every 3; return the model, the strategy and the states."""
    config = read(None, {"out": str(out), "rounds": 7, "checkpoint_every": 3} | settings)
    grid = grid or InlineGrid(visited(), 4)
    states = states_of(config, grid)
    resumed = resume(config, strategy, states)
    done, model = (resumed.number, resumed.model) if resumed else (0, START)
    folder = RunFolder(config, {}, resumed)
    callbacks = [folder, Stop(stop), Checkpoints(config, strategy, states, 1)]
    options = {"rounds": 7, "first": done + 1, "clients_per_round": 3, "states": states}
    with folder:
        nodes = grid.partitions() if hasattr(grid, "partitions") else dict(enumerate(grid.nodes))
        model = run_rounds(strategy, grid, model, nodes, callbacks=callbacks, **options)
    return model, state_of(strategy), grid.states()


STRATEGIES = {
    "fedavg": lambda: FedAvg(**FLOWER_SAMPLING),
    "fedavgm": lambda: FedAvgM(**FLOWER_SAMPLING, server_momentum=0.9),
    "fedadam": lambda: FedAdam(**FLOWER_SAMPLING),
    "fedyogi": lambda: FedYogi(**FLOWER_SAMPLING),
    "fedadagrad": lambda: FedAdagrad(**FLOWER_SAMPLING),
    "qfedavg": lambda: QFedAvg(**FLOWER_SAMPLING, client_learning_rate=0.1),
    "clipping": lambda: DifferentialPrivacyServerSideAdaptiveClipping(
        FedAdam(**FLOWER_SAMPLING), noise_multiplier=0, num_sampled_clients=3
    ),
    "somebody's": lambda: Halting(FedAvgM(**FLOWER_SAMPLING, server_momentum=0.9), print),
}


@pytest.mark.parametrize("build", STRATEGIES.values(), ids=STRATEGIES)
def test_strategies_and_clients_go_on_where_they_stood(tmp_path, build):
    whole = go(tmp_path / "whole", build())
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped", build(), stop=5)
    resumed = go(tmp_path / "stopped", build())
    assert resumed[0] == whole[0]
    np.testing.assert_equal(resumed[1], whole[1])
    assert list(resumed[2]) == list(whole[2])
    assert resumed[2] == whole[2]
    fresh = state_of(build())
    assert build is STRATEGIES["fedavg"] or str(fresh) != str(whole[1])  # there was a state to keep


@pytest.mark.parametrize(("name", "forgotten"), [("somebody's", "around"), ("fedadam", "m_t")])
def test_what_is_forgotten_makes_a_difference(tmp_path, name, forgotten):
    """The comparison above can fail."""
    whole = go(tmp_path / "whole", STRATEGIES[name]())
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped", STRATEGIES[name](), stop=5)
    (path,) = tmp_path.glob(f"stopped/*/{CHECKPOINT}")
    tree = read_tree(path)
    if forgotten in tree["strategy"]["inner"]:
        tree["strategy"]["inner"][forgotten]["own"]["momentum_vector"] = None
    else:
        tree["strategy"]["own"][forgotten] = None
    write_tree(path, tree)
    assert go(tmp_path / "stopped", STRATEGIES[name]())[0] != whole[0]


def test_what_a_strategy_holds_and_cannot_keep_is_said_once(tmp_path, caplog):
    strategy = STRATEGIES["somebody's"]()
    strategy.around.generator = np.random.default_rng(0)
    assert list(lost_of(strategy)) == ["FedAvgM.generator"]
    go(tmp_path, strategy)
    assert caplog.text.count("cannot store FedAvgM.generator of the strategy") == 1
    for name in ("fedpfn", "matched"):
        assert not list(lost_of(strategy_of(Federation(read(None, {"strategy": name})))))


class Stock:
    """A grid that holds no client's state, as those of Flower's own engine and of a SuperLink."""

    def __init__(self, app):
        self.inside = InlineGrid(app, 4)
        self.nodes, self.states = self.inside.get_node_ids(), dict
        self.get_node_ids = self.inside.get_node_ids
        self.push_messages, self.pull_messages = (
            self.inside.push_messages,
            self.inside.pull_messages,
        )


def test_clients_that_keep_nothing_need_no_engine_that_holds_it(tmp_path):
    def stateless():
        client = ClientApp()

        @client.train()
        def train(message, context):
            moved = np.cos(message.content["arrays"]["w"].numpy())
            weight = 1 + int(context.node_config["partition-id"])
            return train_reply(message, ArrayRecord({"w": Array(moved)}), weight, {})

        return Stock(client)

    def strategy():
        return FedAvgM(**FLOWER_SAMPLING, server_momentum=0.9)

    whole, state, _ = go(tmp_path / "whole", strategy(), grid=stateless())
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped", strategy(), stop=5, grid=stateless())
    assert list(tmp_path.glob(f"stopped/*/{CHECKPOINT}"))
    again, also, _ = go(tmp_path / "stopped", strategy(), grid=stateless())
    assert again == whole
    np.testing.assert_equal(also, state)
