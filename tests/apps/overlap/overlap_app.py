"""Each node is asked again as soon as it has answered."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    """Take longer the higher the partition; count the visits."""
    me = context.state.setdefault("me", MetricRecord({"visits": 0}))
    me["visits"] += 1
    partition = context.node_config["partition-id"]
    time.sleep(context.run_config["pace"] * (1 + partition) / 40)
    said = {"visits": me["visits"], "number": message.content["config"]["number"]}
    return Message(RecordDict({"me": MetricRecord(said)}), reply_to=message)


@server.main()
def main(grid, context):
    """Ask each node three times, without waiting for the others."""
    while len(nodes := sorted(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    asked, waiting, came = dict.fromkeys(nodes, 0), {}, []

    def push(node):
        asked[node] += 1
        content = RecordDict({"config": ConfigRecord({"number": asked[node]})})
        (key,) = grid.push_messages([Message(content, node, "train")])
        waiting[key] = node

    for node in nodes:
        push(node)
    while waiting:
        for reply in list(grid.pull_messages(list(waiting))):
            node = waiting.pop(reply.metadata.reply_to_message_id)
            came.append([reply.content["me"]["visits"], reply.content["me"]["number"]])
            if asked[node] < 3:
                push(node)
        time.sleep(0.01)
    Path(context.run_config["out"]).write_text(json.dumps({"came": sorted(came)}))
