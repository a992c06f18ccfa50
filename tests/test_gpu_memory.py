"""A real GPU with little memory: stacks are halved until they fit, and train as they would have."""

import gc

import pytest
import torch
from flwr.app import Message, RecordDict

from fedalign.client_app import app
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.messages.records import TrainTask
from fedalign.network.device import gpu_memory
from fedalign.settings.config import read
from fedalign.simulation.inline import InlineGrid
from fedalign.training import trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
CLIENTS, FEW = 32, 4


def train(count, device="cuda", width=2000):
    """Models `(K, F)` of clients of one stack; by default each takes some 70 MB to train."""
    settings = {"num_clients": CLIENTS, "partition": "iid", "model.width": width, "device": device}
    config = read(None, settings)
    federation, grid = Federation(config), InlineGrid(app, CLIENTS, config.run_config())
    contexts = [grid.context(node) for node in grid.get_node_ids()[:count]]
    message = Message(RecordDict({"arrays": federation.network.initial}), 1000, "train")
    task = TrainTask(1, MaskPlan(fixed_ratio=0.4))
    models = list(trainer.train(federation, task, message, contexts, count))
    pairs = [pair for part in models for pair in zip(part.clients, part.block.cpu(), strict=True)]
    return torch.stack([vector for _, vector in sorted(pairs, key=lambda pair: pair[0].place)])


def peak(count):
    """The most memory that PyTorch took from the GPU for a stack, in bytes."""
    free()
    torch.cuda.reset_peak_memory_stats()
    train(count)
    return torch.cuda.max_memory_reserved()


def free():
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def limit():
    """Limit the memory of this process, in bytes."""

    def limit(size):
        free()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(size / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    free()


def test_a_stack_is_halved_until_it_fits(limit, caplog):
    expected, few, many = train(CLIENTS), peak(FEW), peak(CLIENTS)
    assert many > 3 * few
    limit(few + (many - few) // 4)  # room for some eleven
    found = train(CLIENTS)
    assert f"no room for a stack of {CLIENTS}; next try: {CLIENTS // 2}" in caplog.text
    assert f"no room for a stack of {CLIENTS // 2}; next try: {CLIENTS // 4}" in caplog.text
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_what_an_earlier_run_took_is_free_for_the_next():
    train(FEW)  # once, so that libraries have what they keep
    free()
    before, _ = gpu_memory(torch.device("cuda"))
    train(CLIENTS)
    gc.collect()
    after, _ = gpu_memory(torch.device("cuda"))
    assert abs(before - after) < 1 << 26


def test_one_client_that_does_not_fit_says_so(limit):
    limit(peak(1) // 16)
    with pytest.raises(torch.OutOfMemoryError):
        train(1)
