"""The message down (global model and `TrainTask`) and the message up (`TrainReply`).

Both are plain Flower records under Flower's default keys, so that every Flower strategy can
aggregate them and every mod can look at them. What algorithms send beside the model, such as
control variates, is a record of its own under `EXTRA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fedalign.arrays import num_bytes, view_of
from fedalign.checks import check_as_sent, check_names, values_of
from fedalign.masks import MaskPlan
from fedalign.parameters import Entry, Layout

EXTRA = "extra"
FLOATS = ("float16", "float32", "float64")
_PREFIX = "mask-"
_PLAN = TypeAdapter(MaskPlan)


@dataclass(frozen=True)
class TrainTask:
    """What a client is told, beside the global arrays and the run's configuration.

    Attributes:
        server_round: from 1.
        plan: the round's mask plan.
        clipped: Flower's DP mod looks at the reply, and wants a whole model.
    """

    server_round: int
    plan: MaskPlan
    clipped: bool = False

    @classmethod
    def read(cls, message: Message) -> TrainTask:
        """Return the task in a message; `ValueError` for a mask plan that cannot be."""
        config = cast(ConfigRecord, message.content["config"])
        told = {key.removeprefix(_PREFIX): config[key] for key in config if key.startswith(_PREFIX)}
        try:
            plan = _PLAN.validate_python(told)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"not a mask plan this client knows: {place} {first['input']!r}"
            ) from None
        return cls(cast(int, config["server-round"]), plan, KEY_CLIPPING_NORM in config)


def write_plan(plan: MaskPlan, config: ConfigRecord) -> None:
    """Put a mask plan on the wire, but for what is as by default."""
    for field in fields(plan):
        value = getattr(plan, field.name)
        if value != field.default:
            config[_PREFIX + field.name] = value


def arrays_of(message: Message) -> ArrayRecord:
    """Return the model in a message, down or up."""
    return cast(ArrayRecord, message.content["arrays"])


@dataclass(frozen=True)
class Codec:
    """How models travel: of a reply, the trained weights only; in half precision, if wanted.

    A server that sends float16 keeps its own float32 weights, and what comes back is the change,
    which it adds to those: rounding does not swallow small steps.

    Attributes:
        layout: the model's.
        half: parameters as float16, and extras in replies; buffers stay float32.
    """

    layout: Layout
    half: bool = False

    def shrink(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the global model as it is sent down."""
        if not self.half:
            return arrays
        names = {entry.name for entry in self.layout.parameters}
        return ArrayRecord(
            {
                name: Array(array.numpy().astype(np.float16)) if name in names else array
                for name, array in arrays.items()
            }
        )

    def pack(
        self, vector: Tensor, start: Tensor, mask: Tensor | None, counters: Mapping[str, Array]
    ) -> ArrayRecord:
        """Return the record of a model `(F,)` that was trained from `start` `(F,)`.

        With a mask `(P,)` each parameter tensor becomes the vector of its trained entries.
        """
        if mask is None and not self.half:
            return self.layout.to_record(vector, dict(counters))
        vector, start = vector.detach().cpu(), start.cpu()
        packed: dict[str, Array] = {}
        for entry in self.layout.parameters:
            values = entry.view(vector)
            if self.half:
                values = (values - entry.view(start)).half()
            values = values if mask is None else values[entry.view(mask)]
            packed[entry.name] = Array(values.contiguous().numpy())
        for entry in self.layout.buffers:
            packed[entry.name] = Array(entry.view(vector).numpy())
        return ArrayRecord({**packed, **counters})

    def pack_extra(self, vector: Tensor, mask: Tensor | None) -> Array:
        """Return what an algorithm sends about each parameter `(P,)`, the trained ones only."""
        values = (vector if mask is None else vector[mask.to(vector.device)]).cpu().numpy()
        return Array(values.astype(np.float16) if self.half else values)

    def unpack_extra(self, array: Array, mask: Tensor | None) -> Array:
        """Return it `(P,)`, float32, zeros for the fixed ones; `ValueError` if it cannot be."""
        with np.errstate(over="ignore"):
            came = values_of(EXTRA, array, FLOATS).astype(np.float32, copy=False)
        zeros = np.zeros(self.layout.num_parameters, np.float32)
        return Array(_placed(came, zeros, None if mask is None else mask.numpy(), EXTRA, False))

    def unpack(
        self, arrays: ArrayRecord, sent: ArrayRecord, mask: Tensor | None, summed: bool = False
    ) -> ArrayRecord:
        """Return the model that a reply means, in the order in which it was sent.

        `ValueError` names an array that is not of that model, or not of its size or dtype.

        Args:
            arrays: what came, packed or whole.
            sent: the global model as the server has it.
            mask: which weights `(P,)` the client may have trained.
            summed: it is the mean of several models.
        """
        check_names(arrays, sent)
        entries = {entry.name: entry for entry in self.layout.parameters}
        whole: dict[str, Array] = {}
        for name, before in sent.items():
            if name in entries:
                whole[name] = self._parameter(entries[name], arrays[name], before, mask)
            else:
                check_as_sent(name, arrays[name], before, summed)
                whole[name] = arrays[name]
        return ArrayRecord(whole)

    def _parameter(self, entry: Entry, array: Array, sent: Array, mask: Tensor | None) -> Array:
        """Return a parameter as a reply means it."""
        came = values_of(entry.name, array, [sent.dtype, *(["float16"] if self.half else [])])
        change = came.dtype == np.float16
        if came.shape == entry.shape and not change:
            return array
        free = None if mask is None else entry.view(mask).numpy()
        return Array(_placed(came, view_of(sent), free, entry.name, change))


def _placed(
    came: np.ndarray, before: np.ndarray, free: np.ndarray | None, name: str, change: bool
) -> np.ndarray:
    """Return a tensor whose trained entries came, as values or as their change."""
    if free is not None and came.shape == (np.count_nonzero(free),):
        values = before.copy()
        values[free] = values[free] + came if change else came
        return values
    if came.shape != before.shape:
        raise ValueError(f"{name!r} came as {came.shape}, and is {before.shape}")
    return np.asarray(before + came) if change else came


def train_reply(
    message: Message,
    arrays: ArrayRecord,
    num_examples: int,
    metrics: Mapping[str, float],
    extras: Mapping[str, Array] | None = None,
) -> Message:
    """Return the reply to a train message: the client's model and what it weighs."""
    told = MetricRecord({"num-examples": num_examples, **metrics})
    content = RecordDict({"arrays": arrays, "metrics": told})
    if extras:
        content[EXTRA] = ArrayRecord(dict(extras))
    return Message(content, reply_to=message)


def round_of(message: Message) -> int:
    """Return the round that a message from the server belongs to."""
    return cast(int, cast(ConfigRecord, message.content["config"])["server-round"])


def evaluate_reply(message: Message, num_examples: int, measured: Mapping[str, float]) -> Message:
    """Return the reply to an evaluate message."""
    metrics = MetricRecord({"num-examples": num_examples, **measured})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def size_of(message: Message) -> int:
    """Return the bytes of all arrays in a message."""
    return sum(num_bytes(record) for record in message.content.array_records.values())
