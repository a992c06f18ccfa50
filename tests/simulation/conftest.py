"""Flower apps, written the way Flower's own quickstarts are, and a process to run them in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedalign

WriteApp = Callable[..., Path]
RunJobs = Callable[..., tuple[list[str], dict[str, Any], str]]

MANIFEST = """
[project]
name = "{name}"
version = "1.0.0"

[tool.flwr.app]
publisher = "flwrlabs"

[tool.flwr.app.components]
serverapp = "{name}.server_app:app"
clientapp = "{name}.client_app:app"

[tool.flwr.app.config]
num-server-rounds = 3
out = "final.npz"
client.step = 0.5
"""

# Four clients of equal weight and dyadic numbers: FedAvg's sums are exact in any order.
NUMPY_SERVER = """
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
import numpy as np

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    num_rounds: int = context.run_config["num-server-rounds"]
    arrays = ArrayRecord([np.zeros((2, 3), dtype=np.float32), np.ones(4, dtype=np.float32)])
    strategy = FedAvg(min_train_nodes=4, min_available_nodes=4)
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=num_rounds)
    np.savez(context.run_config["out"], *result.arrays.to_numpy_ndarrays())
"""

NUMPY_CLIENT = """
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    ndarrays = msg.content["arrays"].to_numpy_ndarrays()
    step = context.run_config["client.step"] * (1 + context.node_config["partition-id"])
    record = ArrayRecord([array + array.dtype.type(step) for array in ndarrays])
    metrics = MetricRecord({"num-examples": 8})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    total = float(sum(array.sum() for array in msg.content["arrays"].to_numpy_ndarrays()))
    metrics = MetricRecord({"num-examples": 8, "total": total})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
"""

STATE_CLIENT = """
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable


def doubling_mod(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(msg, context)
    ndarrays = reply.content["arrays"].to_numpy_ndarrays()
    reply.content["arrays"] = ArrayRecord([2 * array for array in ndarrays])
    return reply


app = ClientApp(mods=[doubling_mod])


@app.train()
def train(msg: Message, context: Context) -> Message:
    before = context.state["me"]["visits"] if "me" in context.state else 0
    context.state["me"] = MetricRecord({"visits": before + 1})
    step = (before + 1) * context.run_config["client.step"]
    ndarrays = msg.content["arrays"].to_numpy_ndarrays()
    record = ArrayRecord([array + array.dtype.type(step) for array in ndarrays])
    metrics = MetricRecord({"num-examples": 8})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=msg)
"""

STATE_SERVER = NUMPY_SERVER.replace(
    "min_available_nodes=4", "min_available_nodes=4, fraction_evaluate=0"
)

# Sums that depend on their order, which the server therefore fixes by partition.
HAND_SERVER = """
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


def ask(grid: Grid, kind: str, content: RecordDict) -> list[Message]:
    messages = [Message(content, node, kind) for node in grid.get_node_ids()]
    waiting = set(grid.push_messages(messages))
    replies = []
    while waiting:
        for reply in grid.pull_messages(waiting):
            replies.append(reply)
            waiting = waiting - {reply.metadata.reply_to_message_id}
        time.sleep(0.01)
    return sorted(replies, key=lambda reply: reply.content["me"]["partition"])


@app.main()
def main(grid: Grid, context: Context) -> None:
    while len(list(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    model = np.linspace(0, 1, 1000, dtype=np.float32)
    for server_round in range(1, 1 + context.run_config["num-server-rounds"]):
        config = ConfigRecord({"server-round": server_round})
        content = RecordDict({"arrays": ArrayRecord([model]), "config": config})
        for reply in ask(grid, "train.walk", content):
            model = model + reply.content["arrays"].to_numpy_ndarrays()[0] / np.float32(3)
    ids = [reply.content["me"]["run"] for reply in ask(grid, "query.who", RecordDict())]
    assert set(ids) == {context.run_id}
    np.savez(context.run_config["out"], model)
"""

HAND_CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def me(context: Context) -> MetricRecord:
    return MetricRecord({"partition": context.node_config["partition-id"], "run": context.run_id})


@app.train("walk")
def walk(msg: Message, context: Context) -> Message:
    seed = [context.node_config["partition-id"], msg.content["config"]["server-round"]]
    step = np.random.default_rng(seed).normal(size=1000).astype(np.float32)
    return Message(RecordDict({"arrays": ArrayRecord([step]), "me": me(context)}), reply_to=msg)


@app.query("who")
def who(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"me": me(context)}), reply_to=msg)
"""

# With two clients a float sum is the same in any order.
TORCH_TASK = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 16)
        self.bn = nn.BatchNorm1d(16)
        self.fc2 = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.bn(self.fc1(x))))


def load_data(partition_id, batch_size):
    generator = torch.Generator().manual_seed(partition_id)
    x = torch.randn(64, 8, generator=generator)
    data = TensorDataset(x, (x[:, :3] + 0.1 * partition_id).argmax(1))
    return DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)


def train(net, loader, epochs, lr):
    torch.set_num_threads(1)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    running = 0.0
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
    return running / len(loader)
"""

TORCH_SERVER = """
import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from quicktorch.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(0)
    arrays = ArrayRecord(Net().state_dict())
    strategy = FedAvg(fraction_train=1.0)
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": 0.05}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    state_dict = result.arrays.to_torch_state_dict()
    np.savez(context.run_config["out"], **{k: v.numpy() for k, v in state_dict.items()})
"""

TORCH_CLIENT = """
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quicktorch.task import Net, load_data
from quicktorch.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loader = load_data(context.node_config["partition-id"], 16)
    train_loss = train_fn(model, loader, 1, msg.content["config"]["lr"])
    metrics = MetricRecord({"train_loss": train_loss, "num-examples": len(loader.dataset)})
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}
    return Message(content=RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    model.eval()
    loader = load_data(context.node_config["partition-id"], 16)
    with torch.no_grad():
        hits = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    metrics = MetricRecord({"eval_acc": hits / 64, "num-examples": 64})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
"""

# The client has nothing to answer a query with, and the server gives up with its words.
RAISING_SERVER = """
import time

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedalign.errors import InputError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), nodes[0], "query")])
    raise InputError(f"the client says: {reply.error.reason.splitlines()[0]}")
"""

SOURCES = {
    "quicknumpy": (NUMPY_SERVER, NUMPY_CLIENT),
    "quickstate": (STATE_SERVER, STATE_CLIENT),
    "quickhand": (HAND_SERVER, HAND_CLIENT),
    "quicktorch": (TORCH_SERVER, TORCH_CLIENT),
    "quickraise": (RAISING_SERVER, NUMPY_CLIENT),
}

# Each run has a process of its own: Flower, Ray and sys.path leave nothing behind.
RUN = """
import json
import os
import sys

from fedalign.simulation import find_app, simulate

if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        try:
            simulate(find_app(job.pop("app")), **job)
            word = "ok"
        except Exception as error:
            word = f"{type(error).__name__}: {error}"
        print("outcome", json.dumps(word), flush=True)
    print("ray", json.dumps("ray" in sys.modules), flush=True)
    print("path", json.dumps(os.environ.get("PYTHONPATH", "")), flush=True)
"""


@pytest.fixture(scope="session")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one Flower app in each folder."""
    home = tmp_path_factory.mktemp("apps")
    for name, (server, client) in SOURCES.items():
        _write_app(home / name, name, server, client)
    (home / "quicktorch" / "quicktorch" / "task.py").write_text(TORCH_TASK)
    return home


@pytest.fixture(scope="session")
def write_app() -> WriteApp:
    """Return a function that makes a folder a Flower app with a package ``name``."""
    return _write_app


def _write_app(
    root: Path, name: str, server: str = NUMPY_SERVER, client: str = NUMPY_CLIENT
) -> Path:
    package = root / name
    package.mkdir(parents=True)
    (root / "pyproject.toml").write_text(MANIFEST.format(name=name))
    (package / "__init__.py").touch()
    (package / "server_app.py").write_text(server)
    (package / "client_app.py").write_text(client)
    return root


@pytest.fixture(scope="session")
def run_jobs() -> RunJobs:
    """Return a function that simulates each job in one process of its own.

    It gives what came of each job, what the process kept, and all that it said.
    """
    return _run_jobs


def _run_jobs(cwd: Path, *jobs: dict[str, Any]) -> tuple[list[str], dict[str, Any], str]:
    repository = str(Path(fedalign.__file__).parents[1])
    (cwd / "run.py").write_text(RUN)
    env = os.environ | {
        "PYTHONPATH": repository,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    done = subprocess.run(
        [sys.executable, "run.py", json.dumps(jobs)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    outcomes = [json.loads(line[1]) for line in lines if line[0] == "outcome"]
    left = {line[0]: json.loads(line[1]) for line in lines if line[0] in ("ray", "path")}
    return outcomes, left, said


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs code in a process of its own, in an empty folder."""

    def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(fedalign.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def sha() -> Callable[[Path], str]:
    """Return a function that gives the SHA-256 of the arrays in an ``.npz`` file."""
    return _sha


def _sha(path: Path) -> str:
    digest = hashlib.sha256()
    with np.load(path) as arrays:
        for name in arrays.files:
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            digest.update(arrays[name].tobytes())
    return digest.hexdigest()
