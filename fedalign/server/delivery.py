"""Send messages to nodes that nobody vouches for, and take each answer for what it is.

Flower's grids believe what a reply says about itself: who sent it, and what it answers. Here each
reply is asked for by the id of its message, so it counts for the node that the message went to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from fedalign.errors import FedalignError
from fedalign.messages.records import size_of
from fedalign.server.metered import TooLargeError, metered

MAX_PAUSE = 1.0  # seconds between two looks at which replies are there
SPARE = 1 << 20  # bytes that a reply may have beside arrays
# Errors of the connection to the SuperLink, whatever a node sent.
CONNECTION = ("httpx", "httpcore", "grpc")


class Answer(NamedTuple):
    """What came in answer to a message to a node; `reply` is None if it cannot be used."""

    node: int
    reply: Message | None
    flaw: str = ""


def send_and_receive(grid: Grid, messages: Sequence[Message], timeout: float) -> list[Answer]:
    """Return the answers that come within the timeout, in seconds."""
    until, pause = time.monotonic() + timeout, 0.05
    limit = max(map(reply_limit, messages), default=SPARE)
    waiting = push(grid, messages)
    answers: list[Answer] = []
    while True:
        answers += take_answers(grid, waiting, limit)
        if not waiting or time.monotonic() >= until:
            return answers
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE)


def push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; return by message id the nodes they went to, but for nodes that have left."""
    accepted = set(grid.push_messages(messages)) if messages else set()
    sent = (message.metadata for message in messages)
    return {data.message_id: data.dst_node_id for data in sent if data.message_id in accepted}


def take_answers(grid: Grid, waiting: dict[str, int], limit: int = SPARE) -> Iterator[Answer]:
    """Yield the answers that have come, and remove their messages from those waited for.

    Args:
        grid: the run's.
        waiting: node id by message id.
        limit: bytes that an answer may have; what is larger is not read to its end.
    """
    for key, node in list(waiting.items()):
        try:
            with metered(grid, limit):
                replies = list(grid.pull_messages([key]))
        except Exception as error:
            if isinstance(error, FedalignError | OSError) or _is_connection(error):
                raise
            replies, flaw = None, _reason(error)
        if replies == []:
            continue
        del waiting[key]
        if replies is not None:
            flaw = _flaw(replies, key, node)
        yield Answer(node, None if flaw or not replies else replies[0], flaw)


def reply_limit(message: Message) -> int:
    """Return how many bytes the reply to a message may have: twice what was sent, and a bit."""
    return 2 * size_of(message) + SPARE


def _flaw(replies: Sequence[Message], key: str, node: int) -> str:
    """Return why what came is no reply to a message; the empty text if it is.

    If a node is gone, the SuperLink answers in its place, with its own node id.
    """
    reply = replies[0]
    if len(replies) > 1:
        return f"{len(replies)} replies came, not one"
    if reply.has_error():
        return ""
    if (sender := reply.metadata.src_node_id) != node:
        return f"its reply says that node {sender} sent it, and node {node} was asked"
    if reply.metadata.reply_to_message_id != key:
        return "its reply says that it answers another message"
    return ""


def _is_connection(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in CONNECTION


def _reason(error: Exception) -> str:
    if isinstance(error, TooLargeError):
        return str(error)
    line = str(error).partition("\n")[0]
    return f"its reply cannot be read: {type(error).__name__}: {line}"
