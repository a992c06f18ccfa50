import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before anything imports flwr
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the other cores have tests of their own

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import settings
from torch import nn

from fedalign.client_app import app as client_app
from fedalign.data import Dataset
from fedalign.federation.examples import Held
from fedalign.messages.codec import Codec
from fedalign.messages.private import Private
from fedalign.network.layout import Entry, Layout
from fedalign.network.network import Network
from fedalign.report import partition
from fedalign.server.callbacks import Callback
from fedalign.simulation.inline import InlineGrid
from tests.doubles import run_rounds

settings.register_profile("quick", deadline=None, max_examples=25)  # the machine may be busy
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Put what takes longest first, and let no two Rays be up at a time, nor two SuperLinks.

    Tests that start a Ray of their own come before those that share one, which then stays up until
    those that end it.
    """
    for item in items:
        if "ray" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=_place)
    for item in items if config.getoption("loadgroup", False) else ():
        if (group := _group(item)) and hasattr(item, "_id"):
            # pytest-xdist 3.8 names the group in `_nodeid`, which pytest 9.2 no longer reads.
            item._id = type(item._id).parse(f"{item.nodeid}@{group}")


def _group(item):
    marker = item.get_closest_marker("xdist_group")
    return marker.args[0] if marker else ""


def _place(item):
    group, groups = _group(item), ("ray", "superlink")
    uses = [name in item.fixturenames for name in ("ray", "last_ray")]
    return (groups.index(group) if group in groups else len(groups), uses)


DRAW = partition.draw


@pytest.fixture(autouse=True, scope="session")
def _undrawn():
    """Spare runs what takes as long as a short run: the picture of who has what, and the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "draw", lambda *_: None)
        patch.setattr(os, "fsync", lambda _: None)  # nobody cuts the power of a test
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Let runs draw who has what."""
    monkeypatch.setattr(partition, "draw", DRAW)


@pytest.fixture(scope="session")
def ray():
    """Return Ray, started once for all tests that name it."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray = pytest.importorskip("ray")
    from fedalign.simulation.ray_lean import start_ray

    start_ray(
        {
            "num_cpus": 2,
            "num_gpus": 1,  # a logical one: Ray only counts them
            "include_dashboard": False,
            "logging_level": "ERROR",
            "log_to_driver": False,
            "_node_ip_address": "127.0.0.1",
            "_system_config": {"free_objects_batch_size": 1},  # as in our engine
        }
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def last_ray(ray):
    """Return the same Ray to the tests that come last, since Flower's engine shuts it down."""
    return ray


class Small(nn.Module):
    """A convolution, BatchNorm with its buffers, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


@pytest.fixture
def data() -> Dataset:
    """60 learnable images, 6x6, 3 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 120, (60, 1, 6, 6), generator=generator)
    images[torch.arange(60), 0, labels] += 120
    return Dataset(images.to(torch.uint8), labels, 3, (0.3,), (0.2,), "made up")


@pytest.fixture
def network(data: Dataset) -> Network:
    torch.manual_seed(0)
    return Network(Small(), data, torch.device("cpu"))


@pytest.fixture
def run(tmp_path):
    """Run the app in this process with dotted settings; returns the run folder."""
    from fedalign.runs.paths import folder_of
    from fedalign.settings.config import resolve
    from fedalign.settings.registry import HOME
    from fedalign.simulation import FlowerApp, simulate

    def run(**settings):
        dotted = {key.replace("__", "."): value for key, value in settings.items()}
        config = resolve(None, BRIEF, dotted | {"out": str(tmp_path)})
        app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        simulate(app, config.num_clients, config.run_config(), backend=config.simulation.backend)
        return folder_of(config)

    return run


class Quadratic:
    """A network double in float64, whose examples are (a, b): `sum_p a_p/2 (w_p - b_p)^2`."""

    device, graphs, stacked = torch.device("cpu"), None, "it runs any number of models"
    draws, traits = SimpleNamespace(used=False), SimpleNamespace(needs_two="")

    def __init__(self, size):
        self.layout = Layout((Entry("w", (size,), 0),), (), ())

    def restart(self):
        """It keeps nothing beside its weights."""

    def receive(self, arrays):
        return self.layout.spread(torch.from_numpy(arrays["w"].numpy()).double())

    def gradients(self, block, images, labels, sizes, out, keep=0.0, *_):  # noqa: ARG002
        a, b = images[..., 0, :], images[..., 1, :]
        counts = (torch.arange(a.shape[1]) < torch.tensor(sizes)[:, None])[..., None]
        far = block[:, None, : b.shape[-1]] - b
        mean = self.layout.spread((counts * a * far).sum(1) / torch.tensor(sizes)[:, None])
        out.copy_(keep * out + mean if keep else mean)
        return (counts * a / 2 * far**2).sum((1, 2)) / torch.tensor(sizes)


class Twin(SimpleNamespace):
    """A federation's double; like a federation it is equal to itself alone."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Rounds(Callback):
    """What became of a small federation: its global model `(P,)` after each round."""

    def __init__(self, strategy, grid, layout):
        self.strategy, self.grid, self.layout = strategy, grid, layout
        self.models, self.metrics = [], []

    def on_round(self, outcome):
        arrays = [outcome.after[entry.name].numpy() for entry in self.layout.parameters]
        self.models.append(np.concatenate([array.ravel() for array in arrays]))
        self.metrics.append(outcome.metrics)

    def client_state(self, partition):
        """A client's state, as the grid has it; empty for one that never took part."""
        record = self.grid.context(1000 + partition).state.array_records.get("fedalign", {})
        return {key: array.numpy() for key, array in record.items()}


@pytest.fixture
def federate(monkeypatch):
    """Run fedalign's own app and rounds with a network double, and so in float64.

    The strategy is made of the network's layout; `shards` says whose the rows of `data` are.
    """

    def federate(strategy, client, network, data, shards, start, rounds=1, private="", **settings):
        layout, built = network.layout, strategy(network.layout)
        kept = Private.of(private, layout)
        codec = Codec(layout, private=kept)
        twin = Twin(
            config=SimpleNamespace(seed=0, rounds=rounds, init="shared"),
            network=network,
            client_of=lambda _: client,
            algorithms=SimpleNamespace(
                of=lambda _: client, of_stack=lambda _: client, epochs=lambda _: client.epochs
            ),
            codec=codec,
            private=kept,
            held=lambda partition, _: Held(np.array(shards[partition])),
            trained_in=lambda _, partition, __: np.array(shards[partition]),
            examples=SimpleNamespace(seen=lambda _, __, rows: (data, rows)),
        )
        monkeypatch.setattr("fedalign.client_app.federation_of", lambda _: twin)
        monkeypatch.setattr("fedalign.client_app.federation_at", lambda *_: twin)
        grid = InlineGrid(client_app, len(shards))
        vector = layout.spread(torch.tensor(start, dtype=torch.float64)).numpy()
        first = {e.name: Array(vector[e.start : e.stop].reshape(e.shape)) for e in layout.entries}
        seen = Rounds(built, grid, layout)
        settings = {"rounds": rounds, "codec": codec, "callbacks": [seen]} | settings
        run_rounds(built, grid, ArrayRecord(first), grid.partitions(), **settings)
        return seen

    return federate


@pytest.fixture
def quadratics(federate):
    """Run clients with a quadratic loss each, `(a, b)`: so many copies of it are its examples."""

    def quadratics(strategy, client, losses, start=(0.0,), copies=(1, 1), **settings):
        network = Quadratic(len(start))
        rows = [np.stack(np.broadcast_arrays(a, b, start)[:2]) for a, b in losses]
        images = torch.from_numpy(np.repeat(np.stack(rows).astype(float), copies, axis=0))
        data = SimpleNamespace(images=images, labels=torch.zeros(len(images), dtype=torch.int64))
        ends = np.cumsum(copies)
        shards = [range(end - count, end) for end, count in zip(ends, copies, strict=True)]
        return federate(strategy, client, network, data, shards, start, **settings)

    return quadratics


BRIEF = {
    "rounds": 3,
    "num_clients": 4,
    "model.width": 16,
    "data.max_examples": 300,
    "partition": "iid",
    "evaluation.examples": 100,
    "evaluation.alphas": 3,
    "evaluation.pairs": 2,
}
