import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before anything imports flwr
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import pytest
import torch
from torch import nn

from fedalign.data import Dataset
from fedalign.network import Network


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
    from fedalign.config import resolve
    from fedalign.registry import HOME
    from fedalign.runs.folder import folder_of
    from fedalign.simulation import FlowerApp, simulate

    def run(**settings):
        dotted = {key.replace("__", "."): value for key, value in settings.items()}
        config = resolve(None, BRIEF, dotted | {"out": str(tmp_path)})
        app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        simulate(app, config.num_clients, config.run_config(), backend=config.simulation.backend)
        return folder_of(config)

    return run


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
