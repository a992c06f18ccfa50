"""Rounds of training, evaluation and queries, each with a message type of its own."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train("step")
def step(message, context):
    """Add the step of the run config, as often as the client was asked."""
    me = context.state.setdefault("me", MetricRecord({"visits": 0}))
    me["visits"] += 1
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    scale = context.run_config["client.scale"] * (1 + context.node_config["partition-id"])
    record = ArrayRecord([array + np.float32(scale * me["visits"])])
    return Message(RecordDict({"arrays": record}), reply_to=message)


@client.evaluate()
def evaluate(message, context):  # noqa: ARG001
    """Return the sum of the model."""
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"sum": float(array.sum())})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@client.query("who")
def who(message, context):
    """Return what the client knows of itself and of the run."""
    visits = context.state["me"]["visits"]
    kinds = [type(value).__name__ for _, value in sorted(context.run_config.items())]
    content = RecordDict({"me": MetricRecord({"visits": visits}), "c": ConfigRecord({"k": kinds})})
    return Message(content, reply_to=message)


@server.main()
def main(grid, context):
    """Three rounds over all nodes."""
    while len(nodes := sorted(grid.get_node_ids())) < 4:
        time.sleep(0.1)

    def ask(kind, content):
        return list(grid.send_and_receive([Message(content, node, kind) for node in nodes]))

    model, sums = np.zeros(3, np.float32), []
    for _ in range(context.run_config["rounds"]):
        arrays = RecordDict({"arrays": ArrayRecord([model])})
        replies = ask("train.step", arrays)
        model = np.mean([r.content["arrays"].to_numpy_ndarrays()[0] for r in replies], axis=0)
        arrays = RecordDict({"arrays": ArrayRecord([model])})
        sums.append({r.content["metrics"]["sum"] for r in ask("evaluate", arrays)})
    replies = ask("query.who", RecordDict())
    result = {
        "model": model.tolist(),
        "sums": [list(each) for each in sums],
        "visits": [reply.content["me"]["visits"] for reply in replies],
        "kinds": replies[0].content["c"]["k"],
    }
    Path(context.run_config["out"]).write_text(json.dumps(result))
