"""What doctor says about GPUs, on a machine that has none."""

import pytest
import torch

from fedalign.report import doctor
from fedalign.settings.config import read


@pytest.mark.parametrize(
    ("device", "client_gpus", "workers", "line"),
    [
        ("cuda", "auto", 1, "ray: 1 workers with 1 CPUs and 1 GPUs each (simulation.client"),
        ("cuda", "auto", 2, "; simulation.stack: auto, and so the last bits, depend on their"),
        ("cuda", 0, 4, "; all of them use the first GPU: simulation.client_gpus=auto makes"),
        ("cpu", 0, 4, "ray: 4 workers with 1 CPUs and 0 GPUs each (simulation.client_cpus"),
    ],
)
def test_how_workers_share_gpus(monkeypatch, device, client_gpus, workers, line):
    monkeypatch.setattr(doctor, "pick_device", torch.device)
    settings = {"device": device, "simulation.client_gpus": client_gpus}
    told = doctor._workers(read(None, settings), workers)
    assert line in told
    assert told.endswith("client_gpus)") == (device == "cpu" or workers == 1)
