"""What came back in a round: who is taken, who is left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, MetricRecord

from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupReplies
from fedalign.messages.partial_sums import Mark, unmark
from fedalign.messages.records import arrays_of, size_of
from fedalign.messages.validation import metrics_in

NAMED = 5  # clients, in a line about those that are left out
LONGEST = 200  # characters of what a client calls its numbers


@dataclass
class RoundReplies:
    """The answers of a round's clients, of which those are left out that cannot be used.

    Attributes:
        partition_of: by node, those that were asked.
        replies: those that are taken.
        models: by partition, those that were asked for.
        clients: how many answered.
        size: the bytes of the arrays that they sent.
        dropped: how many of them are left out.
        why: by partition, what is wrong with those.
    """

    partition_of: Mapping[int, int]
    replies: list[Message] = field(default_factory=list)
    models: dict[int, ArrayRecord] = field(default_factory=dict)
    clients: int = 0
    size: int = 0
    dropped: int = 0
    why: dict[int, str] = field(default_factory=dict)
    _parts: dict[int, int] = field(default_factory=dict)

    def add(self, reply: Message, mark: Mark | None = None) -> None:
        """Put in a reply, or one that stands for several clients."""
        node = reply.metadata.src_node_id
        told = mark or Mark(1, size_of(reply), {})
        self.clients, self.size = self.clients + told.clients, self.size + told.sent
        self.dropped += len(told.left_out)
        self.why |= {self.partition_of[own]: why for own, why in told.left_out.items()}
        if len(told.left_out) < told.clients:
            self.replies.append(reply)
        if mark:
            self._parts[node] = told.clients - len(told.left_out)

    def is_sum(self, node: int) -> bool:
        """Return whether a node's reply was summed where clients train."""
        return node in self._parts

    def keep_if(self, check: Callable[[Message, int], object]) -> None:
        """Leave out the replies, each with its partition, for which `check` raises `ValueError`."""
        kept = []
        for reply in self.replies:
            node = reply.metadata.src_node_id
            parts = self._parts.get(node, 1)
            try:
                check(reply, self.partition_of[node])
                kept.append(reply)
            except ValueError as error:
                self.dropped += parts
                among = f" (in a sum of {parts} clients)" if parts > 1 else ""
                self.why[self.partition_of[node]] = f"{error}{among}"
        self.replies = kept

    def keep_alike(self) -> None:
        """Leave out replies with other records than most; at a tie those of the first one count.

        Flower's strategies refuse to work on replies that differ.
        """
        forms = Counter(map(_form, self.replies))
        usual = max(forms, key=lambda form: forms[form], default="")

        def check(reply: Message, _partition: int) -> None:
            if _form(reply) != usual:
                came, told = _form(reply)[:LONGEST], usual[:LONGEST]
                raise ValueError(f"came with {came}, and most with {told}")

        self.keep_if(check)

    def told(self) -> str:
        """Return who is left out and why, in one line."""
        said = [f"client {partition} left out: {self.why[partition]}" for partition in self.why]
        more = [f"and {len(said) - NAMED} more"] if len(said) > NAMED else []
        return "; ".join(said[:NAMED] + more)


def received(
    answers: GroupReplies, outbox: ReplyDecoder, drawn: Mapping[int, int], keep: frozenset[int]
) -> RoundReplies:
    """Return what came of train messages, opened; `keep` are nodes whose models are wanted."""
    inbox = RoundReplies({node: partition for partition, node in drawn.items()})
    for reply in answers.replies:
        inbox.add(reply, unmark(reply) if answers.summed else None)

    def open_it(reply: Message, partition: int) -> None:
        outbox.open(reply, partition, inbox.is_sum(reply.metadata.src_node_id))

    inbox.keep_if(open_it)
    inbox.keep_alike()
    models: dict[int, ArrayRecord] = {}
    for node, arrays in answers.models.items():
        partition = inbox.partition_of[node]
        if partition not in inbox.why:
            with suppress(ValueError):  # then the sum that it is in has been left out
                models[partition] = outbox.unpack(arrays, node, partition)
    for reply in inbox.replies:
        node = reply.metadata.src_node_id
        if node in keep and not inbox.is_sum(node):
            models[inbox.partition_of[node]] = ArrayRecord(dict(arrays_of(reply)))
    inbox.models = dict(sorted(models.items()))
    return inbox


def measured(replies: Sequence[Message], drawn: Mapping[int, int]) -> RoundReplies:
    """Return what came of evaluate messages."""
    inbox = RoundReplies({node: partition for partition, node in drawn.items()})
    for reply in replies:
        inbox.add(reply)
    inbox.keep_if(lambda reply, _partition: metrics_in(reply.content))
    inbox.keep_alike()
    return inbox


def _form(reply: Message) -> str:
    """Return the names of a reply's records of metrics and arrays, and what is in them."""
    records: dict[str, ArrayRecord | MetricRecord] = {
        **reply.content.array_records,
        **reply.content.metric_records,
    }
    records.pop("arrays", None)  # known to be what was sent
    told = [
        f"{name!r} of {', '.join(map(repr, sorted(records[name])))}" for name in sorted(records)
    ]
    return ", ".join(told)
