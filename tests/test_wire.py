import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedalign.masks import MaskPlan
from fedalign.simulation.inline import InlineGrid
from fedalign.wire import TrainTask, write_plan


def message(config):
    InlineGrid(ClientApp(), 1)  # gives this process the identity that Flower's messages carry
    return Message(RecordDict({"arrays": ArrayRecord({}), "config": config}), 1000, "train")


def test_a_plan_survives_the_wire():
    config, plan = ConfigRecord({"server-round": 4}), MaskPlan(2**62, 3, 0.4, "complement_half")
    write_plan(plan, config)
    assert TrainTask.read(message(config)) == TrainTask(4, plan)


def test_no_plan_means_nothing_fixed():
    assert TrainTask.read(message(ConfigRecord({"server-round": 1}))).plan.fixed_ratio == 0


@pytest.mark.parametrize(("key", "value"), [("mask-fixed_ratio", 1.5), ("mask-counts", "many")])
def test_a_plan_that_cannot_be_is_refused(key, value):
    config = ConfigRecord({"server-round": 1})
    write_plan(MaskPlan(0, 0, 0.4), config)
    config[key] = value
    with pytest.raises(ValueError, match=f"not a mask plan this client knows: {key[5:]} {value!r}"):
        TrainTask.read(message(config))
