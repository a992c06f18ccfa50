"""Serve clients in this process: what all engines do, wherever the process is."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedalign.messages.contexts import states_of
from fedalign.messages.copies import private_copy
from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest
from fedalign.messages.partial_sums import sum_replies
from fedalign.simulation.stacks import check_device, flaws, train_together

FAILED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def serve(
    app: ClientApp,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    request: GroupRequest,
    threads: int = 1,
) -> GroupReplies:
    """Return the replies of a group, from one call of the app if it can, else client by client.

    The states of clients that raised are not among those returned.

    Args:
        app: what serves them.
        messages: of the group.
        contexts: of the clients, in the same order.
        request: what is asked of the group.
        threads: on which PyTorch computes a client of an app that is not a `GroupApp`.
    """
    answers, reason = train_together(app, messages, contexts, request)
    failed: set[int] = set()
    if answers is None:
        pairs = zip(messages, contexts, strict=True)
        replies = [call(app, private_copy(one), context, threads) for one, context in pairs]
        failed = {reply.metadata.src_node_id for reply in replies if reply.has_error()}
        answers = sum_replies(replies, request, flaws(app, messages, contexts, replies, request))
        answers.notes += [reason] if reason else []
    states = states_of(contexts)
    answers.states = {node: state for node, state in states.items() if node not in failed}
    return answers


def call(app: ClientApp, message: Message, context: Context, threads: int = 1) -> Message:
    """Return the client's reply to a message; an exception becomes an Error reply, as in Flower.

    The error's reason has `ExceptionType: message` on its first line, then the traceback. So does
    that of a client that calls `sys.exit`.

    Raises:
        DeviceError: the GPU failed.
        KeyboardInterrupt: passed on, as is the end of a worker that Ray stops.
    """
    run_config = dict(context.run_config)
    try:
        with _torch_threads(app, threads):
            reply = app(message=message, context=context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        if reply.metadata.reply_to_message_id != message.metadata.message_id:
            raise ValueError("the ClientApp's Message has no reply_to=, or that of another message")
        if context.run_config != run_config:
            raise ValueError("the ClientApp has changed context.run_config, which is the run's")
    except (Exception, SystemExit) as error:
        if hasattr(error, "ray_terminate_msg"):
            raise
        check_device(error, [context])
        headline = f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = f"{headline}\n{''.join(traceback.format_exception(error))}"
        return error_reply(message, FAILED, reason)
    return private_copy(reply)  # the client may have stored its records in its state


def error_reply(message: Message, code: int, reason: str) -> Message:
    """Return an Error reply to a message."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def unknown_reply(message_id: str, run_id: int) -> Message:
    """Return Flower's Error reply to a message that it does not know."""
    from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_ins_message

    return create_message_error_unavailable_ins_message(message_id, run_id)


def _torch_threads(app: ClientApp, count: int) -> AbstractContextManager[None]:
    """Return the context of `count` torch threads, if an app uses PyTorch and does not choose."""
    if "torch" not in sys.modules or isinstance(app, GroupApp):
        return nullcontext()
    from fedalign.network.device import torch_threads  # imports torch, which an app may not need

    return torch_threads(count)
