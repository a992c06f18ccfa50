"""Which messages form a group, and for whom the reply of a group stands."""

from __future__ import annotations

from itertools import groupby, pairwise

from flwr.app import Message

from fedalign.messages.copies import node_of
from fedalign.messages.groups import GroupReplies


def members(answers: GroupReplies) -> dict[int, list[int]]:
    """Return the nodes for which the only reply of a group stands; those that failed aside."""
    replies = [reply for reply in answers.replies if reply.has_content()]
    if len(replies) != 1 or len(answers.states) < 2:
        return {}
    return {replies[0].metadata.src_node_id: list(answers.states)}


def groups(messages: list[Message], size: int) -> list[list[Message]]:
    """Return consecutive messages of one content and type in even groups of at most `size`.

    A node occurs once in a group, since its state goes from one of its messages to the next.
    """
    found: list[list[Message]] = []
    for _, run in groupby(messages, lambda m: (id(m.content), m.metadata.message_type)):
        alike = list(run)
        nodes = set(map(node_of, alike))
        parts = -(-len(alike) // size) if len(nodes) == len(alike) else len(alike)
        cuts = [len(alike) * part // parts for part in range(parts + 1)]
        found += [alike[start:stop] for start, stop in pairwise(cuts)]
    return found
