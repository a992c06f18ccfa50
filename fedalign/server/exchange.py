"""Send messages to clients, and collect what they answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

from fedalign.errors import FedalignError, InputError
from fedalign.messages.groups import GroupGrid, GroupReplies, GroupRequest
from fedalign.messages.partial_sums import clients_in, group_size
from fedalign.server.client_states import take_states
from fedalign.server.delivery import Answer, send_and_receive
from fedalign.server.sampling import Sample

MAX_REASON = 1000  # characters of an error that a client reports

log = logging.getLogger("fedalign")


class RoundFailedError(FedalignError):
    """A round in which too few clients answered with a model that can be used.

    Attributes:
        failures: by partition, why clients failed, where it is known.
    """

    def __init__(self, message: str, failures: Mapping[int, str] | None = None):
        super().__init__(message)
        self.failures = failures or {}


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    sample: Sample,
    number: int,
    timeout: float,
    request: GroupRequest | None = None,
) -> GroupReplies:
    """Return the replies with a content, ordered by partition, and the models beside them.

    Args:
        grid: any Flower grid.
        messages: one for each sampled client, in the order of their partitions.
        sample: the clients they go to.
        number: of the round, for the log.
        timeout: seconds.
        request: what is asked of groups of clients, where the grid can deal with groups.

    Raises:
        RoundFailedError: nobody answered.
    """
    request = request or GroupRequest()
    if isinstance(grid, GroupGrid):
        came = grid.exchange(messages, request, group_size(messages, request), timeout)
        answers = [Answer(reply.metadata.src_node_id, reply) for reply in came.replies]
    else:
        answers = send_and_receive(grid, messages, timeout)
        came = GroupReplies([answer.reply for answer in answers if answer.reply])
        came.unusable = {answer.node: answer.flaw for answer in answers if answer.flaw}
    summed = isinstance(grid, GroupGrid) and request.partial_sums
    failed = [(node, reply) for node, reply, _ in answers if reply and reply.has_error()]
    good = [reply for reply in came.replies if reply.has_content()]
    good.sort(key=lambda reply: sample.partition_of[reply.metadata.src_node_id])
    if not isinstance(grid, GroupGrid):
        came.states = take_states(good)
    answered = sum(map(clients_in, good)) if summed else len(good)
    answered += len(came.unusable)
    failures = {sample.partition_of[node]: reason_of(reply) for node, reply in failed}
    _report_missing(len(messages), answered, failures, number)
    return replace(came, replies=good, summed=summed, failures=failures)


def _report_missing(asked: int, answered: int, failures: Mapping[int, str], number: int) -> None:
    """Log clients without an answer; raise if nobody answered."""
    missing = asked - len(failures) - answered
    if not failures and not missing:
        return
    lost = f"{len(failures)} of {asked} clients failed, {missing} did not answer"
    for client, reason in list(failures.items())[:1]:
        lost += f"; client {client}: {reason}"
    if not answered:
        raise RoundFailedError(f"round {number}: {lost}", failures)
    log.warning("round %d: %s", number, lost)


def reason_of(reply: Message) -> str:
    """Return the first line of an error reply; for an `InputError`, its message alone."""
    reason = (reply.error.reason or "no reason given").partition("\n")[0][:MAX_REASON]
    if found := re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>:<(['\"])(.*)\2>", reason):  # Flower's way
        kind, _, message = found.groups()
        return message if kind == InputError.__name__ else f"{kind}: {message}"
    return reason
