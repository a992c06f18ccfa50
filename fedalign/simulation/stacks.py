"""Serve all clients of a group with one call of the app."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest
from fedalign.messages.validation import flaw_of

log = logging.getLogger("fedalign")


def flaws(
    app: ClientApp,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    replies: Sequence[Message],
    wanted: GroupRequest,
) -> dict[int, str]:
    """Return by node why its reply cannot be summed, where replies are; errors are told already."""
    found: dict[int, str] = {}
    for message, context, reply in zip(messages, contexts, replies, strict=True):
        if not wanted.partial_sums or reply.has_error():
            continue
        if isinstance(app, GroupApp):
            flaw = app.flaw(message, context, reply, wanted.max_update_norm)
        else:
            flaw = flaw_of(message, reply, wanted.max_update_norm)
        found |= {message.metadata.dst_node_id: flaw} if flaw else {}
    return found


def train_together(
    app: ClientApp, messages: Sequence[Message], contexts: Sequence[Context], wanted: GroupRequest
) -> GroupReplies | None:
    """Return what the app makes of a group in one call; None if they must be called one by one.

    So after an error too: it is then the error of the client who caused it, and of no other.
    """
    training = messages[0].metadata.message_type == MessageType.TRAIN
    if not isinstance(app, GroupApp) or not training or len(messages) == 1:
        return None
    states = [RecordDict(dict(context.state)) for context in contexts]
    try:
        return app.train_many(messages, contexts, wanted)
    except Exception as error:
        log.debug("one by one, since together: %r", error)
        for context, state in zip(contexts, states, strict=True):
            context.state = state  # some may have been trained already
        return None
