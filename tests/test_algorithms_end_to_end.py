"""Every algorithm with both halves through the whole app: engine, wire, state of clients."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedalign.federation.federation import Federation
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.settings.config import read

PAIRS = {
    "scaffold": {"strategy": "scaffold", "client": "scaffold"},
    "feddyn": {"strategy": "feddyn", "client": "feddyn"},
    "fednova": {"strategy": "fednova"},
    "fedexp": {"strategy": "fedexp"},
    "moon": {"client": "moon"},
    "fedsam": {"client": "fedsam"},
}
PART = {
    "num_clients": 6,
    "clients_per_round": 4,
    "partition": "dirichlet",
    "partition__min_size": 3,
    "evaluation__alphas": 0,
    "evaluation__pairs": 0,
    "client__batch_size": 16,
}


@pytest.fixture
def models(run):
    """Return what a run of these settings ends with, and its folder."""

    def models(**settings):
        folder = run(**PART | settings)
        (folder / "manifest.json").unlink()  # or the same settings on another engine were done
        return load_file(folder / "model.safetensors"), folder

    return models


def masked(pair):
    """The same around which masks are planned."""
    return pair | {"strategy": "fedpfn", "strategy__base": pair.get("strategy", "fedavg")}


def apart(one, other):
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


@pytest.mark.parametrize("name", PAIRS)
def test_one_mask_for_the_run(models, name):
    """Fixed weights are those of the start, one by one, in a stack, and by half precision.

    Those ways are one but for rounding: so what clients keep, of whom four of six take part in a
    round, is not lost or mixed up.
    """
    settings = masked(PAIRS[name]) | {"strategy__refresh": 0}
    alone, folder = models(**settings, simulation__stack=1)
    together, _ = models(**settings, simulation__stack=3)
    rough, _ = models(**settings, wire="float16")
    assert 0 < apart(alone, together) < 1e-4
    assert 0 < apart(alone, rough) < 3e-3
    network = Federation(read(str(folder / "config.yaml"), {})).network
    free = update_mask(MaskPlan(0, 0, 0.4), network.layout)
    for entry in network.layout.parameters:
        own, before = entry.view(free).numpy(), network.initial[entry.name].numpy()
        for model in (alone, together, rough):
            assert np.array_equal(before[~own], model[entry.name][~own])
            assert (before[own] != model[entry.name][own]).mean() > 0.5


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_fixed_is_the_algorithm_itself_to_the_bit(models, name):
    plain, _ = models(**PAIRS[name])
    none, _ = models(**masked(PAIRS[name]), strategy__fixed_ratio=0)
    assert apart(plain, none) == 0
