"""Serve all clients of a group with one call of the app."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedalign.errors import DeviceError, is_device_error
from fedalign.messages.contexts import Contexts
from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest
from fedalign.messages.validation import flaw_of


def train_together(
    app: ClientApp,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    request: GroupRequest,
) -> tuple[GroupReplies | None, str | None]:
    """Return the replies of a group that the app served in one call, or None.

    After an exception the clients have their old states back. They must then be called one by one,
    so that the error becomes that of the client who caused it, and of no other.

    Returns:
        The replies; None if the clients must be called one by one. And why, if an exception was
        raised.

    Raises:
        DeviceError: the GPU cannot be used any more.
    """
    training = messages[0].metadata.message_type == MessageType.TRAIN
    if not isinstance(app, GroupApp) or not training or len(messages) == 1:
        return None, None
    restore = _snapshot(contexts)
    try:
        return app.train_many(messages, contexts, request), None
    except Exception as error:
        check_device(error, contexts)
        restore()  # some clients may have been trained already
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None, f"clients of a group were called one by one, since together: {reason}"


def _snapshot(contexts: Sequence[Context]) -> Callable[[], None]:
    """Return what gives contexts the states back that they have now."""
    if isinstance(contexts, Contexts):
        return contexts.restore
    states = [dict(context.state) for context in contexts]

    def restore() -> None:
        for context, state in zip(contexts, states, strict=True):
            context.state = RecordDict(state)

    return restore


def check_device(error: BaseException, contexts: Sequence[Context]) -> None:
    """Raise `DeviceError`, which names these clients, if an error ends the use of the GPU."""
    if is_device_error(error):
        nodes = {context.node_id: context.node_config["partition-id"] for context in contexts}
        raise DeviceError(error, nodes) from error


def flaws(
    app: ClientApp,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    replies: Sequence[Message],
    request: GroupRequest,
) -> dict[int, str]:
    """Return by node why a reply cannot be summed, if replies are to be summed; errors aside."""
    if not request.partial_sums:
        return {}
    found: dict[int, str] = {}
    for message, context, reply in zip(messages, contexts, replies, strict=True):
        if reply.has_error():
            continue
        if isinstance(app, GroupApp):
            flaw = app.flaw(message, context, reply, request.max_update_norm)
        else:
            flaw = flaw_of(message, reply, request.max_update_norm)
        if flaw:
            found[message.metadata.dst_node_id] = flaw
    return found
