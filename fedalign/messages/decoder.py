"""What was sent in a round, beside which every reply is held."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, Message
from torch import Tensor

from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import FLOATS, Codec
from fedalign.messages.records import EXTRA, TrainTask, arrays_of
from fedalign.messages.validation import (
    arrays_in,
    check_finite,
    check_record,
    check_update,
    metrics_in,
    values_of,
)


class ReplyDecoder:
    """What was sent in a round, which tells what the replies mean, and what they may be.

    Sends it as the codec does: messages that were told the same share a content, and still do.

    Args:
        codec: how models travel; None: as they are.
        messages: the round's, one a client.
        most: how far a model may move, see `Config.max_update_norm`.
    """

    def __init__(self, codec: Codec | None, messages: Iterable[Message], most: float | None = None):
        self._codec, self._most = codec, most
        self._sent: dict[int, tuple[ArrayRecord, MaskPlan]] = {}
        told: dict[int, tuple[ArrayRecord, MaskPlan]] = {}
        for message in messages:
            if id(message.content) not in told:
                arrays = arrays_of(message)
                plan = TrainTask.read(message).plan if codec else MaskPlan()
                told[id(message.content)] = arrays, plan
                if codec:
                    message.content["arrays"] = codec.shrink(arrays)
            self._sent[message.metadata.dst_node_id] = told[id(message.content)]

    def unpack(
        self, arrays: ArrayRecord, node: int, partition: int, summed: bool = False
    ) -> ArrayRecord:
        """Return the model that came from a node; `ValueError` says why it cannot be taken."""
        sent, codec = self._sent[node][0], self._codec
        most = None if summed else self._most
        if codec is None:
            return check_record(arrays, sent, most, summed)
        model = codec.unpack(arrays, sent, self._mask(codec, node, partition), summed)
        check_update(model, sent, most, {entry.name for entry in codec.layout.parameters})
        return model

    def open(self, reply: Message, partition: int, summed: bool = False) -> None:
        """Replace what came packed in a reply by what it means.

        `ValueError` says why it cannot be taken. A sum of models has no norm to be limited.
        """
        node, content = reply.metadata.src_node_id, reply.content
        metrics_in(content)
        arrays = arrays_in(content, "arrays", others=[EXTRA])
        content["arrays"] = self.unpack(arrays, node, partition, summed)
        if EXTRA in content:
            extras = arrays_in(content, EXTRA, others=["arrays"])
            content[EXTRA] = ArrayRecord(
                {key: self._extra(array, node, partition) for key, array in extras.items()}
            )

    def flaw(self, reply: Message, partition: int) -> str | None:
        """Return why a reply, which stays as it came, cannot be taken; None if it can."""
        try:
            metrics_in(reply.content)
            arrays = arrays_in(reply.content, "arrays")
            self.unpack(arrays, reply.metadata.src_node_id, partition)
        except ValueError as error:
            return str(error)
        return None

    def _extra(self, array: Array, node: int, partition: int) -> Array:
        codec = self._codec
        if codec:
            array = codec.unpack_extra(array, self._mask(codec, node, partition))
        check_finite(EXTRA, values_of(EXTRA, array, FLOATS))
        return array

    def _mask(self, codec: Codec, node: int, partition: int) -> Tensor | None:
        return update_mask(self._sent[node][1].of(partition), codec.layout)
