"""Stand-ins that the tests of several rooms share."""

from types import SimpleNamespace

from fedalign.server.callbacks import Callback, CallbackRunner
from fedalign.server.nodes import SimulatedNodes
from fedalign.server.remote_nodes import RemoteNodes
from fedalign.server.round import RoundSettings
from fedalign.server.rounds import RoundLoop
from fedalign.simulation import auto
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.inline import InlineGrid


def one_file_app(folder, name, source):
    """A Flower app of one module in a folder, with `app` as its ClientApp."""
    (folder / f"{name}.py").write_text(source)
    return FlowerApp(folder, f"{name}:server", f"{name}:app", {})


class Stock:
    """A grid that knows nothing of groups, as Flower's own."""

    def __init__(self, app, count):
        self.grid = InlineGrid(app, count)

    def push_messages(self, messages):
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids):
        return self.grid.pull_messages(message_ids)

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        return self.grid.send_and_receive(messages, timeout=timeout)


class Watch(Callback):
    """Keeps every round, and asks for the models that `wanted` returns of partitions."""

    def __init__(self, wanted=lambda _number, _partitions: ()):
        self.rounds, self.models_wanted = [], wanted

    def on_round(self, outcome):
        self.rounds.append(outcome)


class Stop(Callback):
    """Stops a run as Ctrl-C does, in the round of this number."""

    def __init__(self, number):
        self.number = number

    def on_round(self, outcome):
        if outcome.number == self.number:
            raise KeyboardInterrupt


def everybody(_number, partitions):
    return partitions


def run_rounds(
    strategy, grid, model, nodes=None, codec=None, callbacks=(), first=1, examples=None,
    bounds=None, states=None, **settings,
):  # fmt: skip
    """The model after all rounds; `nodes` are node ids by partition, or asked if not given.

    With `examples`, of each partition, replies must state these numbers.
    """
    if nodes is None:
        nodes = RemoteNodes(grid, {}, len(list(grid.get_node_ids())), None, 5)
    else:
        counts = (examples or dict.fromkeys(nodes, 1)).values()
        nodes = SimulatedNodes(nodes, counts, counts)
    settings = RoundSettings(**{"seed": 0} | settings)
    loop = RoundLoop(
        strategy, grid, nodes, settings, codec, CallbackRunner(callbacks), examples is not None,
        bounds, states=states,
    )  # fmt: skip
    return loop.run(model, first)


class AtOnce:
    """In place of a thread: workers join before the next client."""

    def __init__(self, target, daemon):
        assert daemon
        self.target = target

    def start(self):
        import ray

        self.target()
        ray.get([worker.ready.remote() for worker in self.target.__self__._pool.workers])

    def join(self):
        """Nothing is left to wait for."""


def join_at_once(monkeypatch):
    """Let workers join the engine `auto` after the first client that others wait for."""
    monkeypatch.setattr(auto, "WORTH", 0.0)
    monkeypatch.setattr(auto, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(auto, "threading", SimpleNamespace(Thread=AtOnce))
