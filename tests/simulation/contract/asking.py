"""How the statements of the contract ask clients, on any Grid."""

import threading
import time
import uuid

from flwr.app import ConfigRecord, Message, RecordDict

PATIENCE = 10.0  # seconds for any reply


def content(key=None, seconds=0.0, **records):
    """Return a message's content, whose visits are counted under a key of its own."""
    settings = ConfigRecord({"key": key or uuid.uuid4().hex, "seconds": float(seconds)})
    return RecordDict({"config": settings, **records})


def nodes_of(grid):
    """Return the nodes, in a fixed order."""
    return sorted(grid.get_node_ids())


def to_all(grid, kind="train", record=None, nodes=None):
    """Return a message for each node."""
    record = record or content()
    return [Message(record, node, kind) for node in nodes or nodes_of(grid)]


def ask(grid, kind="train", record=None, nodes=None, **options):
    """Return the reply of each node, by node."""
    replies = grid.send_and_receive(to_all(grid, kind, record, nodes), **options)
    return {reply.metadata.src_node_id: reply for reply in replies}


def await_all(grid, ids):
    """Return the reply to each message, pulled as they come."""
    waiting, came, end = set(ids), {}, time.monotonic() + PATIENCE
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(waiting):
            came[reply.metadata.reply_to_message_id] = reply
        waiting -= came.keys()
        time.sleep(0.01)
    assert not waiting, "replies are missing"
    return came


def visits_of(reply):
    """Return how often a client says that it was visited."""
    return reply.content["numbers"]["visits"]


def in_threads(work, nodes):
    threads = [threading.Thread(target=work, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


def statements(module):
    """Return the statements of a module by name: its functions of a Grid and a pace."""
    return {
        name: value
        for name, value in module.items()
        if getattr(value, "__module__", "") == module["__name__"]
        and value.__code__.co_varnames[:2] == ("grid", "pace")
    }
