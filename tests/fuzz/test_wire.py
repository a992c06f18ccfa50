"""Arrays, tasks and replies that are nearly right, as they come from the network."""

import io

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedalign.data import Spec
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import Codec
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.records import EXTRA, TrainTask, train_reply, write_plan
from fedalign.network.arrays import view_of
from fedalign.network.layout import Layout
from fedalign.rng import rng
from fedalign.simulation.inline import InlineGrid
from tests.fuzz.harness import bounded, fuzzed
from tests.fuzz.mutation import ODD, bytes_of, pick

ARRAYS = [
    *(np.arange(12, dtype=kind).reshape(3, 4) for kind in ("f4", "f2", ">f8", "i8", "u1")),
    *(np.float32(3), np.zeros(0), np.asfortranarray(np.eye(3)), np.ones((2, 1, 2), bool)),
]
TOKENS = [
    *(b"(3, 4)", b"(9999999999,)", b"(-1,)", b"(True,)", b"'|O'", b"'<f4'", b"'<f8'", b"True"),
    *(b"\x93NUMPY\x02\x00", b"__import__('os')", b" ", b"\n", b"}", b"\x00" * 8),
]
NUMBERS = [0, -1, 1, 2**63, 2**70, 1 << 40, 0.5, float("nan"), float("inf"), [1.0], [], 1e308]


def spoilt(draw, array):
    """Return an array some of whose bytes or facts are other ones."""
    raw = bytes_of(draw, array.data, TOKENS) if draw.integers(3) else array.data
    dtype = pick(draw, [array.dtype] * 8 + ["float64", "x", "object"])
    shape = pick(draw, [array.shape] * 8 + [(3,), (4, 3), (-1,), (9999999999,), ()])
    return Array(dtype, shape, pick(draw, [array.stype] * 8 + ["pickle"]), raw)


@fuzzed
def test_arrays(seeds):
    for seed in seeds:
        draw = rng(seed, "fuzz", "array")
        array = spoilt(draw, Array(np.asarray(pick(draw, ARRAYS))))
        with bounded(seed, len(array.data), ValueError):
            values = view_of(array)
            stored = np.load(io.BytesIO(array.data), allow_pickle=False)  # a second reader
            assert (str(values.dtype), values.shape) == (array.dtype, tuple(array.shape))
            assert (values.dtype, values.shape) == (stored.dtype, stored.shape)
            assert values.tobytes() == stored.tobytes()


def bent(draw, record, odd):
    """Change entries of a record to what a record of this type may hold."""
    for _ in range(1 + int(draw.integers(3))):
        key = pick(draw, [*record, "x"])
        try:
            if draw.integers(5):
                record[key] = pick(draw, odd)
            else:
                record.pop(key, None)
        except (TypeError, ValueError):  # what Flower itself refuses
            continue


def same(read, written):
    """Whether a value is the one that was written, a number perhaps as text."""
    return read == (float(written) if isinstance(written, str) and read != written else written)


@fuzzed
def test_tasks(seeds):
    """What a client is told: the mask plan of a round, and the form of the examples."""
    InlineGrid(ClientApp(), 1)  # gives this process the identity that Flower's messages carry
    plan, spec = MaskPlan(3, 2, 0.4, "complement_half"), Spec((1, 2, 2), 2, (0.5,), (0.5,))
    for seed in seeds:
        draw, task, form = rng(seed, "fuzz", "task"), ConfigRecord(), ConfigRecord(spec.to_config())
        write_plan(plan, task)
        bent(draw, task, ODD)
        bent(draw, form, [*ODD, [1, 2, 2], [0.5], ["a", "b"], [0, 0, 0], [9999] * 3])
        task["server-round"] = 1
        message = Message(RecordDict({"arrays": ArrayRecord(), "config": task}), 1000, "train")
        with bounded(seed, 0, ValueError):
            read = TrainTask.read(message).plan
            for field, value in vars(read).items():
                assert same(value, task.get(f"mask-{field}", value)), field
        with bounded(seed, 0, ValueError):
            for key, value in Spec.from_config(form).to_config().items():
                assert same(value, form[key]), key


@fuzzed
def test_replies(seeds):
    """A reply is a whole model of the sizes that were sent, or left out."""
    InlineGrid(ClientApp(), 1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    layout, plan = Layout.of(module), MaskPlan(3, 1, 0.4)
    codec, mask, first = Codec(layout), update_mask(plan, layout), layout.initial_record(module)
    counters, start, task = layout.counters_of(first), layout.to_vector(first), ConfigRecord()
    write_plan(plan, task)
    task["server-round"] = 1
    message = Message(RecordDict({"arrays": first, "config": task}), 1000, "train")
    message.metadata.__dict__["_message_id"] = "1"
    for seed in seeds:
        draw = rng(seed, "fuzz", "reply")
        arrays = codec.pack(start, start, mask, counters)
        extras = {"control": codec.pack_extra(start[: layout.parameter_size], mask)}
        reply = train_reply(message, arrays, 3, {"train_loss": 1.0}, extras)
        for _ in range(int(draw.integers(3))):
            record = reply.content[pick(draw, ["arrays", "metrics", EXTRA])]
            if isinstance(record, ArrayRecord):
                key = pick(draw, list(record))
                record[pick(draw, [key] * 9 + ["x"])] = spoilt(draw, record.pop(key))
            else:
                bent(draw, record, NUMBERS)
        if draw.integers(8) == 0:
            names = ["arrays", "metrics", EXTRA, "x"]
            reply.content[pick(draw, names)] = pick(draw, [ArrayRecord(), MetricRecord()])
        size = sum(len(array.data) for array in arrays.values())
        with bounded(seed, size, ValueError):
            content = ReplyDecoder([message], codec).decode(reply, 0)
            for name, before in message.content["arrays"].items():
                values = content["arrays"][name].numpy()
                assert (values.shape, values.dtype.name) == (before.shape, before.dtype)
                assert np.isfinite(values).all()
            for vector in content.array_records.get(EXTRA, {}).values():
                assert np.isfinite(vector.numpy()).all()
