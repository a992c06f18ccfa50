"""Clients raise in the second round, after they have changed their state; one exits in the last."""

import json
import sys
import time
from pathlib import Path

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    """Count the visits; partitions 1 and 3 fail if they are told to."""
    me = context.state.setdefault("me", MetricRecord({"visits": 0}))
    me["visits"] += 1
    number = int(message.metadata.group_id)
    if number == 2 and context.node_config["partition-id"] % 2:
        raise ValueError("an odd client")
    if number == 4 and context.node_config["partition-id"] == 2:
        sys.exit("a client that leaves")
    return Message(RecordDict({"me": MetricRecord(dict(me))}), reply_to=message)


@server.main()
def main(grid, context):
    """Count errors and visits."""
    while len(nodes := sorted(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    errors, visits = [], []
    for number in range(1, 5):
        replies = list(
            grid.send_and_receive(
                [Message(RecordDict(), node, "train", group_id=str(number)) for node in nodes]
            )
        )
        good = [reply for reply in replies if reply.has_content()]
        errors.append(len(replies) - len(good))
        visits.append(sorted(reply.content["me"]["visits"] for reply in good))
    Path(context.run_config["out"]).write_text(json.dumps({"errors": errors, "visits": visits}))
