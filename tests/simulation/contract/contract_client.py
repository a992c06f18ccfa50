"""The ClientApp of the contract: each action shows one thing that a Flower client may do."""

import sys
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app import Message as Reply
from flwr.clientapp import ClientApp


def app_mod(message, context, call_next):
    """Note in the message that the app's mod ran; mark the reply."""
    message.content.setdefault("trace", ConfigRecord({"mods": []}))["mods"].append("app")
    reply = call_next(message, context)
    reply.content["outer"] = MetricRecord({"seen": 1})
    return reply


def action_mod(message, context, call_next):
    """Note in the message that the action's mod ran."""
    message.content["trace"]["mods"].append("action")
    return call_next(message, context)


app = ClientApp(mods=[app_mod])


def visit(message, context):
    """Count a visit under the key that the message names; return the new count."""
    key = str(message.content["config"]["key"])
    visits = context.state[key]["visits"] + 1 if key in context.state else 1
    context.state[key] = MetricRecord({"visits": visits})
    return visits


def who(message, context):
    """Reply with what a client sees of the message and of its context."""
    meta, visits = message.metadata, visit(message, context)
    numbers = MetricRecord(
        {
            "partition": context.node_config["partition-id"],
            "partitions": context.node_config["num-partitions"],
            "visits": visits,
            "ttl": meta.ttl,
        }
    )
    texts = ConfigRecord(
        {
            "node": str(context.node_id),
            "run": str(context.run_id),
            "id": meta.message_id,
            "reply-to": meta.reply_to_message_id,
            "src": str(meta.src_node_id),
            "dst": str(meta.dst_node_id),
            "group": meta.group_id,
            "type": meta.message_type,
            "metadata-run": str(meta.run_id),
            "run-config": sorted(context.run_config),
        }
    )
    content = RecordDict({"numbers": numbers, "texts": texts})
    content.update({key: value for key, value in message.content.items() if key != "config"})
    return Reply(content, reply_to=message)


for register in (app.train, app.evaluate, app.query):
    register()(who)
    register("other")(who)


@app.train("sleep")
def sleep(message, context):
    """Take as long as the message says."""
    time.sleep(message.content["config"]["seconds"])
    return who(message, context)


@app.train("modded", mods=[action_mod])
def modded(message, context):
    """Have a mod of its own beside the app's."""
    return who(message, context)


@app.train("fail")
def fail(message, context):
    """Raise after the state has been changed."""
    key = str(message.content["config"]["key"])
    context.state[key]["visits"] = 99
    context.state["failed"] = MetricRecord({"visits": 1})
    raise ValueError("a bug in the client")


@app.train("exit")
def leave(message, context):  # noqa: ARG001
    """Leave as a script does."""
    sys.exit(3)


@app.train("nothing")
def nothing(message, context):  # noqa: ARG001
    """Forget to reply."""
    return


@app.train("spoil")
def spoil(message, context):  # noqa: ARG001
    """Change what came; the next client must not see it."""
    seen = message.content["arrays"]["w"].numpy().tolist(), len(message.content)
    message.content["config"]["key"] = "spoilt"
    message.content["arrays"]["w"].data = b"rubbish"
    message.content["arrays"]["more"] = Array(np.zeros(1))
    message.content["mine"] = MetricRecord({"a": 1})
    return Reply(RecordDict({"seen": MetricRecord({"w": seen[0], "n": seen[1]})}), reply_to=message)


@app.train("config")
def config(message, context):
    """Change the run config, which belongs to the run."""
    context.run_config["mine"] = 1
    return who(message, context)


@app.train("store")
def store(message, context):
    """Store records of all kinds, and reply with the same objects."""
    context.state["array"] = ArrayRecord({"w": Array(np.arange(3.0))})
    context.state["config"] = ConfigRecord({"b": b"\x00\x01", "s": ["x", "y"]})
    context.state["metric"] = MetricRecord({"m": [1, 2]})
    return Reply(RecordDict(dict(context.state)), reply_to=message)


@app.query("stored")
def stored(message, context):
    """Reply with the whole state."""
    return Reply(RecordDict(dict(context.state)), reply_to=message)


at_work = 0


@app.train("alone")
def alone(message, context):  # noqa: ARG001
    """Reply with the number of clients that are at work in this process."""
    global at_work
    at_work += 1
    time.sleep(message.content["config"]["seconds"])
    together, at_work = at_work, at_work - 1
    return Reply(RecordDict({"me": MetricRecord({"together": together})}), reply_to=message)
