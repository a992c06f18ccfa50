import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import Codec
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.records import EXTRA, TrainTask, train_reply, write_plan
from fedalign.network.arrays import num_bytes, view_of
from fedalign.network.layout import Layout
from fedalign.simulation.inline import InlineGrid


class Odd(nn.Module):
    """A weight used twice, BatchNorm with its integer buffer, and a number without axes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.temperature = nn.Parameter(torch.tensor(1.0))


MODULES = [
    Odd(),
    nn.Linear(7, 1),
    nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.GroupNorm(3, 3)),
]
plans = st.builds(
    MaskPlan,
    seed=st.integers(0, 9),
    fixed_ratio=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
    schedule=st.sampled_from(["hold", "complement_half", '{"name": "growing", "over": "rounds"}']),
    server_round=st.integers(1, 5),
    granularity=st.sampled_from(["weight", "neuron", "layer"]),
    sampling=st.sampled_from(["bernoulli", "exact"]),
    per_client=st.booleans(),
)
cases = given(
    module=st.sampled_from(MODULES), plan=plans, client=st.integers(0, 2), seed=st.integers(0, 99)
)


def message(config):
    InlineGrid(ClientApp(), 1)  # gives this process the identity that Flower's messages carry
    return Message(RecordDict({"arrays": ArrayRecord({}), "config": config}), 1000, "train")


def test_a_plan_survives_the_wire():
    config, plan = ConfigRecord({"server-round": 4}), MaskPlan(2**62, 3, 0.4, "complement_half")
    write_plan(plan, config)
    assert TrainTask.read(message(config)) == TrainTask(4, plan)


def test_no_plan_means_nothing_fixed():
    assert TrainTask.read(message(ConfigRecord({"server-round": 1}))).plan.fixed_ratio == 0


@pytest.mark.parametrize(("key", "value"), [("mask-fixed_ratio", 1.5), ("mask-sampling", "many")])
def test_a_plan_that_cannot_be_is_refused(key, value):
    config = ConfigRecord({"server-round": 1})
    write_plan(MaskPlan(0, 0, 0.4), config)
    config[key] = value
    with pytest.raises(ValueError, match=f"not a mask plan this client knows: {key[5:]} {value!r}"):
        TrainTask.read(message(config))


def spread_randn(layout, draw):
    """A random model `(F,)`."""
    return layout.spread(torch.randn(layout.num_values, generator=draw))


def trained_apart(module, plan, client, seed, half):
    """A model, and what becomes of it at a client that was sent it by a codec."""
    layout, draw = Layout.of(module), torch.Generator().manual_seed(seed)
    codec, mask = Codec(layout, half), update_mask(plan.of(client), Layout.of(module))
    sent = spread_randn(layout, draw)
    counters = layout.counters_of(layout.initial_record(module))
    record = layout.to_record(sent, counters)
    start = layout.to_vector(codec.shrink(record))
    end = start + spread_randn(layout, draw) * 10.0 ** -(seed % 6)
    if mask is not None:
        end[: len(mask)][~mask] = start[: len(mask)][~mask]
    return codec, mask, record, start, end, counters


@cases
def test_what_is_packed_comes_out_to_the_bit(module, plan, client, seed):
    codec, mask, record, start, end, counters = trained_apart(module, plan, client, seed, False)
    packed = codec.pack(end, start, mask, counters)
    opened = codec.unpack(packed, record, mask)
    assert list(opened) == list(record)
    assert torch.equal(codec.layout.to_vector(opened), end)
    assert all(opened[name].numpy().dtype == record[name].numpy().dtype for name in record)
    told = sum(packed[entry.name].numpy().size for entry in codec.layout.parameters)
    assert told == (codec.layout.num_parameters if mask is None else int(mask.sum()))


@cases
def test_half_precision_rounds_the_change_and_not_the_model(module, plan, client, seed):
    codec, mask, record, start, end, counters = trained_apart(module, plan, client, seed, True)
    packed = codec.pack(end, start, mask, counters)
    assert {packed[e.name].numpy().dtype for e in codec.layout.parameters} == {np.dtype("float16")}
    opened = codec.layout.to_vector(codec.unpack(packed, record, mask))
    sent, count = codec.layout.to_vector(record), codec.layout.parameter_size
    change = (end - start)[:count].double()
    off = (opened[:count].double() - sent[:count].double() - change).abs()
    # 11 bits of the change, float16's smallest steps, and float32's rounding of sums.
    allowed = 2**-11 * change.abs() + 2**-25 + 2**-23 * (sent[:count].abs() + change.abs())
    assert (off <= allowed).all()
    assert torch.equal(opened[count:], end[count:])
    if mask is not None:
        assert torch.equal(opened[:count][~mask], sent[:count][~mask])


@cases
def test_extras_are_zero_where_nothing_trained(module, plan, client, seed):
    codec, mask, _, _, end, _ = trained_apart(module, plan, client, seed, False)
    vector = end[: codec.layout.parameter_size]
    opened = torch.from_numpy(codec.unpack_extra(codec.pack_extra(vector, mask), mask).numpy())
    expected = vector if mask is None else torch.where(mask, vector, 0)
    assert torch.equal(opened, codec.layout.compact(expected))
    half = Codec(codec.layout, True)
    rough = torch.from_numpy(half.unpack_extra(half.pack_extra(vector, mask), mask).numpy())
    torch.testing.assert_close(rough, opened, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_bytes_shrink_to_the_trained_share(half, ratio):
    module = nn.Linear(300, 100)
    plan = MaskPlan(fixed_ratio=ratio, sampling="exact")
    codec, mask, record, start, end, _ = trained_apart(module, plan, 0, 0, half)
    share = (1 - ratio) * (0.5 if half else 1)
    assert num_bytes(codec.pack(end, start, mask, {})) == pytest.approx(
        share * num_bytes(record), rel=0.05
    )
    assert num_bytes(codec.shrink(record)) == pytest.approx(
        num_bytes(record) * (0.5 if half else 1), rel=0.05
    )


def test_each_clients_own_mask_says_what_its_reply_means():
    plan = MaskPlan(fixed_ratio=0.5, sampling="exact", per_client=True)
    codec, _, record, start, _, _ = trained_apart(nn.Linear(4, 2), plan, 0, 0, False)
    InlineGrid(ClientApp(), 3)
    config = ConfigRecord({"server-round": 1})
    write_plan(plan, config)
    content = RecordDict({"arrays": record, "config": config})
    messages = [Message(content, 1000 + k, "train") for k in range(3)]
    decoder = ReplyDecoder(messages, codec)
    for k, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(k)
        mask = update_mask(plan.of(k), codec.layout)
        end = start + codec.layout.spread(1.0 + k + torch.zeros(10)) * mask
        extras = {"control": codec.pack_extra(end - start, mask)}
        reply = train_reply(message, codec.pack(end, start, mask, {}), 1, {}, extras)
        assert reply.content["arrays"]["weight"].numpy().shape == (4,)
        reply.content = decoder.decode(reply, k)
        assert torch.equal(codec.layout.to_vector(reply.content["arrays"]), end)
        assert reply.content[EXTRA]["control"].numpy().tolist() == (
            codec.layout.compact(end - start).tolist()
        )


@pytest.mark.parametrize("size", [3, 5, 9])
def test_a_reply_of_a_wrong_size_is_refused(size):
    plan = MaskPlan(fixed_ratio=0.5, sampling="exact")
    codec, mask, record, *_ = trained_apart(nn.Linear(8, 1, bias=False), plan, 0, 0, False)
    reply = ArrayRecord({"weight": Array(np.zeros(size, np.float32))})
    with pytest.raises(ValueError, match=rf"'weight' came as \({size},\), and is \(1, 8\)"):
        codec.unpack(reply, record, mask)


@cases
def test_the_norm_is_that_of_the_trained_parameters(module, plan, client, seed):
    """However the model travels; buffers, which move too, do not count."""
    for half in (False, True):
        codec, mask, record, start, end, counters = trained_apart(module, plan, client, seed, half)
        for entry in codec.layout.buffers:
            entry.view(end).abs_()  # no variance is negative
        packed, count = codec.pack(end, start, mask, counters), codec.layout.parameter_size
        opened = codec.layout.to_vector(codec.unpack(packed, record, mask))
        sent = codec.layout.to_vector(record)
        norm = float(torch.linalg.vector_norm((opened - sent)[:count].double()))
        for most in (norm * 1.001 + 1e-12, norm * 0.999):
            asked = message(ConfigRecord({"server-round": 1}))
            write_plan(plan, asked.content["config"])
            asked.content["arrays"] = record
            decoder = ReplyDecoder([asked], codec, most)
            if norm <= most:
                decoder.model(packed, 1000, client)
            else:
                with pytest.raises(ValueError, match=r"moved by .*, and max_update_norm is"):
                    decoder.model(packed, 1000, client)


def spoilt(array, draw):
    """An array with other bytes, or another shape or dtype, than it should have."""
    try:
        values = np.array(view_of(array))
    except ValueError:  # spoilt already
        values = np.ones(array.shape if len(array.shape) < 5 else 1, np.float32)
    way = draw(st.sampled_from(["bytes", "cut", "dtype", "shape", "value", "field", "stype"]))
    if way == "bytes" and array.data:
        raw = bytearray(array.data)
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
        return Array(array.dtype, array.shape, array.stype, bytes(raw))
    if way == "cut":
        kept = array.data[: draw(st.integers(0, len(array.data)))]
        return Array(array.dtype, array.shape, array.stype, kept)
    if way == "dtype":
        return Array(values.astype(draw(st.sampled_from(["f2", "f4", "f8", "i8", "?", "S3"]))))
    if way == "shape":
        return Array(np.resize(values, draw(st.lists(st.integers(0, 3), max_size=3))))
    if way == "value" and values.size:
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from([0, 1, 9]))
        return Array(np.asarray(values * draw(st.sampled_from([1, 2]))))
    if way == "field":
        return Array(draw(st.sampled_from(["float32", "x"])), (2,), array.stype, array.data)
    return Array(array.dtype, array.shape, draw(st.text()), array.data)


NUMBER = st.integers(-(1 << 70), 1 << 70) | st.floats() | st.lists(st.floats(), max_size=2)
TEXT = (
    st.sampled_from(["arrays", "metrics", EXTRA, "num-examples", "weight", "control"]) | st.text()
)


@given(module=st.sampled_from(MODULES), plan=plans, half=st.booleans(), data=st.data())
def test_whatever_comes_is_taken_whole_or_refused(module, plan, half, data):
    """A reply that is spoilt in any way is a model of the right sizes, or a `ValueError`."""
    codec, mask, record, start, end, counters = trained_apart(module, plan, 0, 3, half)
    asked = message(ConfigRecord({"server-round": 1}))
    write_plan(plan, asked.content["config"])
    asked.content["arrays"] = record
    decoder = ReplyDecoder([asked], codec, data.draw(st.none() | st.floats(0.1, 100)))
    asked.metadata.__dict__["_message_id"] = "1"
    extras = {"control": codec.pack_extra(end[: codec.layout.parameter_size], mask)}
    reply = train_reply(asked, codec.pack(end, start, mask, counters), 3, {"loss": 1.0}, extras)
    content = reply.content
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from([*content, "none"]))
        old = content.get(name)
        way = data.draw(st.sampled_from(["inside", "inside", "rename", "drop", "add"]))
        if way == "inside" and isinstance(old, ArrayRecord) and old:
            key = data.draw(st.sampled_from(list(old)))
            new = data.draw(st.just(key) | TEXT)
            with np.errstate(all="ignore"):
                old[new] = spoilt(old.pop(key), data.draw)
        elif way == "inside" and isinstance(old, MetricRecord):
            old[data.draw(TEXT)] = data.draw(NUMBER)
        elif way == "rename" and old is not None:
            content[data.draw(TEXT)] = content.pop(name)
        elif way == "drop" and old is not None:
            del content[name]
        elif way == "add":
            kinds = [ArrayRecord(), MetricRecord(), ConfigRecord()]
            content[data.draw(TEXT)] = data.draw(st.sampled_from(kinds))
    try:
        reply.content = decoder.decode(reply, 0)
    except ValueError:
        return
    opened = reply.content["arrays"]
    assert list(opened) == list(record)
    for name, before in record.items():
        values = opened[name].numpy()
        assert (values.shape, values.dtype) == (before.shape, before.dtype)
        assert np.isfinite(values).all()
    for array in reply.content.array_records.get(EXTRA, {}).values():
        assert array.numpy().shape == (codec.layout.num_parameters,)
        assert np.isfinite(array.numpy()).all()
