"""Learning rates within a round, and how far steps at such rates go."""

from math import cos, pi

import pytest
from flwr.serverapp.strategy import FedAvg

from clients.fedprox import FedProx
from clients.local import Local
from clients.rates import factors
from fedalign.settings.contracts import FLOWER_SAMPLING


@pytest.mark.parametrize(
    ("form", "warmup", "steps", "expected"),
    [
        ("constant", 0.0, 3, [1, 1, 1]),
        ("linear", 0.0, 4, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, 3, [(1 + cos(pi * n / 3)) / 2 for n in range(3)]),
        ("constant", 0.5, 4, [0.5, 1, 1, 1]),
        ("linear", 0.4, 5, [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("cosine", 1.0, 4, [0.25, 0.5, 0.75, 1]),
        ("linear", 0.3, 1, [1]),
        ("linear", 0.0, 0, []),
    ],
)
def test_rates_within_a_round(form, warmup, steps, expected):
    assert factors(form, warmup, steps) == pytest.approx(expected)


ONE = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1}


@pytest.mark.parametrize(
    ("client", "options", "model", "steps"),
    [
        # Rates of 0.5 and 0.25: 4 - 2 = 2 is left, then 2 - 0.5.
        (Local, {}, 4 - 1.5, 1.5),
        # v = -4, to 2; v = -2 - 2 = -4, to 3. Under a gradient of 1: 1 + 0.5 * 1.5.
        (Local, {"momentum": 0.5}, 3, 1.75),
        # -4, to 2; -2 + 0.5 * 2 = -1, to 2.25. 1 + 0.5 (1 - 0.5 * 0.5 * 1).
        (FedProx, {"mu": 0.5}, 2.25, 1.375),
    ],
)
def test_normalized_steps_follow_the_rates(quadratics, client, options, model, steps):
    """Also within their bounds, which the server checks."""
    told = client(**ONE | options, lr_within_round="linear")
    bounds = {"bounds": lambda _, examples: told.metric_bounds(examples)}
    seen = quadratics(lambda _: FedAvg(**FLOWER_SAMPLING), told, [(1, 4)], copies=(2,), **bounds)
    assert seen.models[0] == pytest.approx(model)
    assert seen.metrics[0]["normalized_steps"] == pytest.approx(steps)
    least, most = told.metric_bounds(2)["normalized_steps"]
    assert least <= steps <= most
