"""What came back in a round: the replies that can be used, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedalign.messages.copies import records_in
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupReplies
from fedalign.messages.partial_sums import Mark, take_mark
from fedalign.messages.records import EXTRA, LOSS, METRICS, arrays_of, size_of
from fedalign.messages.rules import ReplyRules
from fedalign.messages.validation import metrics_in
from fedalign.network.arrays import record_of

MAX_NAMED = 5  # clients in a line about those that are left out
MAX_CHARACTERS = 200  # of the names that a client gives to its records

Decode = Callable[[Message, int, bool], RecordDict]
"""Takes a reply, its partition and whether it is a sum; returns its content, or `ValueError`."""


@dataclass
class RoundReplies:
    """The replies of a round.

    Attributes:
        replies: the usable ones, decoded, in order of partitions.
        models: by partition, the client models that a callback asked for.
        num_clients: how many clients answered.
        num_bytes: the size of the arrays that they sent.
        left_out: by partition, why a client's reply is left out; of a sum, the first client.
        num_left_out: how many clients are left out.
        used: the nodes whose models are in `replies`, on their own or in a sum.
        states: by node, the new states of those clients.
        losses: by partition, the clients' training losses, where they are known.
        outcomes: by partition, for all that were sampled, `used` or why the model was not.
    """

    replies: list[Message] = field(default_factory=list)
    models: Mapping[int, ArrayRecord] = field(default_factory=dict)
    num_clients: int = 0
    num_bytes: int = 0
    left_out: dict[int, str] = field(default_factory=dict)
    num_left_out: int = 0
    used: set[int] = field(default_factory=set)
    states: dict[int, RecordDict] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    outcomes: dict[int, str] = field(default_factory=dict)

    def leave_out(self, partition: int, reason: str, clients: int = 1) -> None:
        """Note that a reply cannot be used; it stands for `clients` clients."""
        among = f" (in a sum of {clients} clients)" if clients > 1 else ""
        self.left_out[partition] = reason + among
        self.num_left_out += clients

    def summary(self) -> str:
        """Return who is left out and why, in one line."""
        lines = [f"client {p} left out: {self.left_out[p]}" for p in sorted(self.left_out)]
        more = [f"and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
        return "; ".join(lines[:MAX_NAMED] + more)


def receive_models(
    came: GroupReplies,
    decoder: ReplyDecoder,
    partition_of: Mapping[int, int],
    models_wanted: Collection[int],
) -> RoundReplies:
    """Return the replies to train messages, decoded.

    Args:
        came: replies in order of partitions, and models beside them.
        decoder: knows what was sent.
        partition_of: partition id by node id.
        models_wanted: the nodes whose models are wanted on their own.
    """
    sums: set[int] = set()  # nodes
    round_replies = _receive(came, decoder.decode, partition_of, sums)
    models: dict[int, ArrayRecord] = {}
    for node, arrays in came.models.items():
        if partition_of[node] not in round_replies.left_out:
            with suppress(ValueError):  # then the sum that it is part of has been left out
                models[partition_of[node]] = decoder.model(arrays, node, partition_of[node])
    for reply in round_replies.replies:
        node = reply.metadata.src_node_id
        if node in models_wanted and node not in sums:
            models[partition_of[node]] = record_of(arrays_of(reply))
    round_replies.models = dict(sorted(models.items()))
    return round_replies


def receive_metrics(
    came: GroupReplies, partition_of: Mapping[int, int], rules: ReplyRules | None = None
) -> RoundReplies:
    """Return the replies to evaluate messages."""
    rules = rules or ReplyRules()

    def decode(reply: Message, partition: int, _summed: bool) -> RecordDict:
        metrics = metrics_in(reply.content)
        rules.check_metrics(metrics, partition)
        return RecordDict({METRICS: metrics})

    return _receive(came, decode, partition_of, set())


def _receive(
    came: GroupReplies, decode: Decode, partition_of: Mapping[int, int], sums: set[int]
) -> RoundReplies:
    """Return the replies that can be decoded; the nodes whose replies are sums go into `sums`."""
    round_replies = RoundReplies(num_clients=len(came.unusable))
    for node, reason in came.unusable.items():
        round_replies.leave_out(partition_of[node], reason)
    usable: list[tuple[Message, int]] = []  # each with the number of clients it stands for
    refused: set[int] = set()  # nodes
    for reply in came.replies:
        node = reply.metadata.src_node_id
        mark = take_mark(reply) if came.summed else None
        if mark is not None:
            sums.add(node)
        num_clients, num_bytes, left_out, losses = mark or Mark(1, size_of(reply), {})
        round_replies.num_clients += num_clients
        round_replies.num_bytes += num_bytes
        for own, reason in left_out.items():
            round_replies.leave_out(partition_of[own], reason)
            refused.add(own)
        remaining = num_clients - len(left_out)
        if remaining:
            try:
                reply.content = decode(reply, partition_of[node], mark is not None)
                found = losses if mark else _loss(reply, node)
                round_replies.losses |= {partition_of[n]: loss for n, loss in found.items()}
                usable.append((reply, remaining))
            except Exception as error:  # nothing that a client sends ends a run
                reason = str(error) if isinstance(error, ValueError) else repr(error)
                round_replies.leave_out(partition_of[node], reason[:MAX_CHARACTERS], remaining)
    _keep_alike(round_replies, usable, partition_of)
    for reply in round_replies.replies:
        round_replies.used.update(node for node in came.nodes_of(reply) if node not in refused)
    return round_replies


def _loss(reply: Message, node: int) -> dict[int, float]:
    """Return a client's training loss by its node; empty if its reply does not say it."""
    metrics = records_in(reply.content, MetricRecord).get(METRICS)
    loss = metrics.get(LOSS) if metrics else None
    return {node: loss} if isinstance(loss, int | float) else {}


def _keep_alike(
    round_replies: RoundReplies,
    usable: Sequence[tuple[Message, int]],
    partition_of: Mapping[int, int],
) -> None:
    """Keep the replies with the metrics that more than half of them have.

    Flower's strategies refuse to aggregate replies whose metrics differ. If no names have such a
    majority, all replies are kept, with the metrics that are in each of them.
    """
    forms = [_form(reply) for reply, _ in usable]
    usual, votes = next(iter(Counter(forms).most_common(1)), ("", 0))
    if usable and 2 * votes <= len(usable):
        common = set.intersection(*(set(reply.content[METRICS]) for reply, _ in usable))
        for reply, _ in usable:
            for name in reply.content[METRICS].keys() - common:
                del reply.content[METRICS][name]
        forms = [usual] * len(usable)
    for (reply, clients), form in zip(usable, forms, strict=True):
        if form == usual:
            round_replies.replies.append(reply)
        else:
            reason = f"came with {form[:MAX_CHARACTERS]}, and most with {usual[:MAX_CHARACTERS]}"
            partition = partition_of[reply.metadata.src_node_id]
            round_replies.leave_out(partition, reason, clients)


def _form(reply: Message) -> str:
    """Return the names of a reply's metrics, and of the vectors beside its model."""
    records = {name: reply.content[name] for name in (EXTRA, METRICS) if name in reply.content}
    return ", ".join(
        f"{name!r} of {', '.join(map(repr, sorted(record)))}" for name, record in records.items()
    )
