"""Flower's mean of models, whose arrays become bytes late."""

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import strategy_utils

from fedalign.messages.late_bytes import late_bytes
from fedalign.network.arrays import LazyArray


def test_flowers_mean_is_the_same_to_the_byte():
    draw = np.random.default_rng(0)
    contents = [
        RecordDict(
            {
                "arrays": ArrayRecord(
                    {
                        "weight": Array(draw.normal(size=(3, 2)).astype(np.float32)),
                        "count": Array(np.asarray(draw.integers(9))),
                    }
                ),
                "metrics": MetricRecord({"num-examples": int(draw.integers(1, 9))}),
            }
        )
        for _ in range(3)
    ]
    before = dict(vars(strategy_utils))
    plain = strategy_utils.aggregate_arrayrecords(contents, "num-examples")
    with late_bytes():
        late = strategy_utils.aggregate_arrayrecords(contents, "num-examples")
    assert vars(strategy_utils) == before
    assert all(isinstance(array, LazyArray) for array in late.values())
    assert {name: array.data for name, array in late.items()} == {
        name: array.data for name, array in plain.items()
    }
